//! How a job ends: nobody takes its frames, or some of its pictures could not be read.

use crate::support::{Broker, Observer, Setup, free_port, jpeg, numbered, put};

const FOLDER: &str = "kind = \"folder\"\npath = \"FOLDER/pictures\"\n[image]\ninterval-s = 0";

#[tokio::test]
async fn frames_that_no_edge_node_of_the_site_takes_are_told_of_until_one_comes() {
    let broker = Broker::start();
    let setup = Setup::new(broker.port, FOLDER);
    put(&setup, &numbered(2));
    let mut observer = Observer::new(broker.port).await;
    let agent = setup.run(&["--exit-when-done"]);
    let status = observer.status(|status| !status.trouble.is_empty()).await;
    let told = "no edge node of site `test` takes the frames: start one (`edge-agent run`), or check `site` on both sides, or the broker's \
                access rules";
    assert_eq!(status.trouble, told);
    observer.want("n1", 0, 1, 0);
    observer.status(|status| status.trouble.is_empty()).await;
    agent.wait_for_line("an edge node of the site is there");
    assert_eq!(agent.log().matches(told).count(), 1, "{}", agent.log());
}

#[tokio::test]
async fn a_last_picture_that_a_finite_command_cut_short_is_named_and_counted() {
    let broker = Broker::start();
    let source = "kind = \"command\"\ncommand = [\"/bin/sh\", \"-c\", \"cat FOLDER/a.jpg; head -c 1000 FOLDER/a.jpg\"]\nfinite = true";
    let setup = Setup::new(broker.port, source);
    std::fs::write(setup.folder.path().join("a.jpg"), jpeg(320, 240, 1)).unwrap();
    let agent = setup.run(&[]);
    let mut observer = Observer::new(broker.port).await;
    observer.head(|head| head.end.is_some_and(|end| end.count == 1)).await;
    observer.status(|status| status.counters.unreadable == 1 && status.counters.frames == 1).await;
    agent.wait_for_line("the input has ended count=1 passed_over=1");
    assert!(agent.log().contains("1000 bytes were left"), "{}", agent.log());
}

/// Runs a job to its end, with two nodes that take everything at once.
async fn run_to_the_end(source: &str, prepare: impl FnOnce(&Setup)) -> (Option<i32>, String, Setup) {
    let broker = Broker::start();
    let setup = Setup::new(broker.port, source);
    prepare(&setup);
    let mut agent = setup.run(&["--exit-when-done"]);
    let mut observer = Observer::new(broker.port).await;
    let next = observer.head(|head| head.end.is_some()).await.next;
    for node in ["n1", "n2"] {
        observer.want(node, next, 1, next);
    }
    observer.head(|head| head.oldest == next).await;
    let code = agent.wait().code();
    (code, agent.log(), setup)
}

#[tokio::test]
async fn a_job_of_which_nothing_could_be_read_ends_without_success_and_says_so() {
    let text = || b"this is no picture".to_vec();
    let (code, log, setup) =
        run_to_the_end(FOLDER, |setup| drop(setup.pictures(&[("a.jpg", text()), ("b.png", text())]))).await;
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("the input has ended count=0 passed_over=2"), "{log}");
    assert!(log.contains("the job is done: 0 frames; 2 pictures could not be read (above)"), "{log}");
    let mut again = setup.run(&["--exit-when-done"]);
    assert_eq!(again.wait().code(), Some(1));
    assert!(again.log().contains("0 frames; 2 pictures could not be read (the log"), "{}", again.log());

    let garbage = "kind = \"command\"\ncommand = [\"echo\", \"garbage\"]\nfinite = true";
    let (code, log, _) = run_to_the_end(garbage, |_| {}).await;
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("the job is done: 0 frames; 1 picture could not be read (above)"), "{log}");

    let nothing = "kind = \"command\"\ncommand = [\"true\"]\nfinite = true";
    let (code, log, _) = run_to_the_end(nothing, |_| {}).await;
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("the job is done: 0 frames; the input gave no picture"), "{log}");
}

#[test]
fn a_finite_command_that_gives_nothing_ends_a_run_that_was_to_end_with_it() {
    let script = "echo no such clip >&2; exit 1";
    let source = format!("kind = \"command\"\ncommand = [\"/bin/sh\", \"-c\", \"{script}\"]\nfinite = true");
    let setup = Setup::new(free_port(), &source);
    let mut agent = setup.run(&["--exit-when-done"]);
    assert_eq!(agent.wait().code(), Some(1), "{}", agent.log());
    let failed = "ended (exit status: 1) after 0 pictures: no such clip; try its command line";
    assert!(agent.log().contains(failed), "{}", agent.log());
    assert!(agent.log().contains("failed 3 times in a row without a new picture"), "{}", agent.log());
}

#[tokio::test]
async fn a_job_that_passed_something_over_says_at_its_end_how_much() {
    let text = || b"this is no picture".to_vec();
    let some = |setup: &Setup| drop(setup.pictures(&[("a.jpg", text()), ("b.jpg", jpeg(64, 48, 1))]));
    let (code, log, _) = run_to_the_end(FOLDER, some).await;
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("the job is done: 1 frame; 1 picture could not be read (above)"), "{log}");
    let (code, log, _) = run_to_the_end(FOLDER, |setup| put(setup, &numbered(2))).await;
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("the job is done: every frame was committed and freed"), "{log}");
}
