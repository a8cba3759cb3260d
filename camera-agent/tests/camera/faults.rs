//! What breaks: the agent, the broker, the command, the input.

use std::process::Command;

use crate::support::{Broker, Got, Lens, Observer, Setup, free_port, jpeg, name, numbered, output, put};
use microlambda_wire::{CameraStatus, ChainClass, Record, Topic, from_payload};

const FOLDER: &str = "kind = \"folder\"\npath = \"FOLDER/pictures\"\n[image]\ninterval-s = 0";

/// With `max_queued_messages 0`, which the other tests use, mosquitto 2.0.11 ends a connection instead of dropping what it denies.
const BOUNDED_QUEUE: &str = "max_queued_messages 1000\n";

/// The pictures of some tests are all the same.
const EVERY_PICTURE: &str = "[motion]\nstill-interval-s = 0";

#[tokio::test]
async fn a_folder_agent_killed_again_and_again_numbers_every_picture_once() {
    let broker = Broker::start();
    let setup = Setup::new(broker.port, FOLDER);
    let files = numbered(60);
    put(&setup, &files);
    let mut observer = Observer::new(broker.port).await;
    let mut chains = Vec::new();
    for killed_at in [1, 7, 20, 21, 40, 59] {
        let mut agent = setup.run(&[]);
        let head = observer.head(|head| head.next >= killed_at).await;
        agent.kill();
        chains.push(head.chain);
    }
    let _agent = setup.run(&[]);
    let head = observer.head(|head| head.end.is_some()).await;
    chains.push(head.chain.clone());
    chains.dedup();
    assert_eq!(chains.len(), 1);
    observer.want("n1", 0, 100, 0);
    for (n, (label, bytes)) in files.iter().enumerate() {
        let (meta, jpeg) = observer.frame("n1", n as u64).await;
        assert_eq!((&meta.label, &jpeg), (label, bytes));
    }
    assert!(matches!(observer.note("n1").await.record, Record::End { count: 60, .. }));
}

#[tokio::test]
async fn a_live_agent_killed_keeps_its_frames_and_goes_on_counting() {
    let broker = Broker::start();
    let setup = Setup::new(broker.port, &Lens::source(""));
    let mut observer = Observer::new(broker.port).await;
    let mut shown = 0;
    for round in 0..4 {
        // A new pipe each time: the former command may not have ended yet and would read from the same one.
        Lens::make(&setup);
        let mut agent = setup.run(&[]);
        let mut lens = Lens::open(&setup).await;
        for _ in 0..3 {
            lens.show(&jpeg(64, 48, shown));
            shown += 1;
        }
        let next = u64::from(shown);
        observer.head(|head| head.next == next).await;
        observer.want("n1", 0, 100, 0);
        for n in 0..next {
            assert_eq!(observer.frame("n1", n).await.1, jpeg(64, 48, n as u32), "round {round}");
        }
        agent.kill();
    }
}

#[tokio::test]
async fn a_live_camera_set_back_to_an_older_spool_begins_a_new_chain_and_loses_nothing_it_sees_from_then_on() {
    let broker = Broker::start();
    let setup = Setup::new(broker.port, &Lens::source(""));
    let mut observer = Observer::new(broker.port).await;
    let (state, copy) = (setup.folder.path().join("state"), setup.folder.path().join("copy"));
    let mut shown = 0;
    let mut record = async |observer: &mut Observer, count: u64, next: u64| {
        Lens::make(&setup);
        let agent = setup.run(&[]);
        let mut lens = Lens::open(&setup).await;
        for _ in 0..count {
            lens.show(&jpeg(64, 48, shown));
            shown += 1;
        }
        (observer.head(|head| head.next == next).await, agent, lens)
    };
    let (_, mut agent, _lens) = record(&mut observer, 2, 2).await;
    agent.kill();
    assert!(Command::new("cp").arg("-r").args([&state, &copy]).status().unwrap().success());
    let (before, mut agent, _lens) = record(&mut observer, 4, 6).await;
    agent.kill();
    std::fs::remove_dir_all(&state).unwrap();
    std::fs::rename(&copy, &state).unwrap();
    // The broker has forgotten what it kept: the numbers 2 to 4 are used a second time, until a node tells that it has taken others
    // under them.
    observer.forget_head().await;
    let (_, _agent, _lens) = record(&mut observer, 3, 5).await;
    observer.want("n1", 6, 10, 6);
    let head = observer.head(|head| head.chain != before.chain).await;
    assert_eq!((head.oldest, head.next), (0, 3));
    observer.want("n1", 0, 10, 0);
    for n in 0..3 {
        let (meta, picture) = observer.frame("n1", n).await;
        assert_eq!((&meta.chain, picture), (&head.chain, jpeg(64, 48, 6 + n as u32)));
    }
    observer.status(|status| status.counters.begun_anew == 1).await;
}

#[tokio::test]
async fn a_live_camera_set_back_learns_of_it_from_its_own_last_head_though_no_node_is_there() {
    let broker = Broker::start();
    let setup = Setup::new(broker.port, &Lens::source(""));
    let mut observer = Observer::new(broker.port).await;
    let (state, copy) = (setup.folder.path().join("state"), setup.folder.path().join("copy"));
    Lens::make(&setup);
    let mut agent = setup.run(&[]);
    let mut lens = Lens::open(&setup).await;
    lens.show(&jpeg(64, 48, 0));
    observer.head(|head| head.next == 1).await;
    agent.kill();
    assert!(Command::new("cp").arg("-r").args([&state, &copy]).status().unwrap().success());
    Lens::make(&setup);
    let mut agent = setup.run(&[]);
    let mut lens = Lens::open(&setup).await;
    lens.show(&jpeg(64, 48, 1));
    let before = observer.head(|head| head.next == 2).await;
    agent.kill();
    std::fs::remove_dir_all(&state).unwrap();
    std::fs::rename(&copy, &state).unwrap();
    Lens::make(&setup);
    let _agent = setup.run(&[]);
    let mut lens = Lens::open(&setup).await;
    let head = observer.head(|head| head.chain != before.chain).await;
    assert_eq!((head.oldest, head.next), (0, 0));
    lens.show(&jpeg(64, 48, 2));
    observer.head(|head| head.chain != before.chain && head.next == 1).await;
    observer.status(|status| status.counters.begun_anew == 1).await;
}

#[tokio::test]
async fn a_broker_that_comes_late_and_goes_away_loses_no_frame() {
    let port = free_port();
    let setup = Setup::new(port, &Lens::source(""));
    Lens::make(&setup);
    let agent = setup.run(&[]);
    agent.wait_for_line("start the broker");
    let mut lens = Lens::open(&setup).await;
    lens.show(&jpeg(64, 48, 0));
    let broker = Broker::start_on(port);
    let mut observer = Observer::new(port).await;
    observer.head(|head| head.next == 1).await;
    observer.want("n1", 0, 10, 0);
    observer.frame("n1", 0).await;
    drop(broker);
    agent.wait_for_line("closed the connection");
    lens.show(&jpeg(64, 48, 1));
    let _broker = Broker::start_on(port);
    observer.connected().await;
    observer.head(|head| head.next == 2).await;
    observer.status(|status| status.online).await;
    observer.want("n1", 0, 10, 0);
    for n in 0..2 {
        assert_eq!(observer.frame("n1", n).await.1, jpeg(64, 48, n as u32));
    }
}

#[tokio::test]
async fn stopping_says_good_bye_and_takes_the_command_along() {
    let broker = Broker::start();
    let setup = Setup::new(
        broker.port,
        "kind = \"command\"\ncommand = [\"/bin/sh\", \"-c\", \"echo $$ > FOLDER/pid.new; mv FOLDER/pid.new FOLDER/pid; sleep 1000\"]",
    );
    let mut agent = setup.run(&[]);
    let mut observer = Observer::new(broker.port).await;
    observer.status(|status| status.online && status.source.contains("/bin/sh")).await;
    let pid_file = setup.folder.path().join("pid");
    let pid = loop {
        match std::fs::read_to_string(&pid_file) {
            Ok(pid) => break pid.trim().to_owned(),
            Err(_) => tokio::task::yield_now().await,
        }
    };
    assert!(agent.terminate().success(), "{}", agent.log());
    observer.status(|status| !status.online).await;
    assert!(!is_running(&pid));
}

fn is_running(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

#[tokio::test]
async fn an_agent_that_is_killed_leaves_its_last_will_and_no_command_behind() {
    let broker = Broker::start();
    let script =
        "echo $$ > FOLDER/pid.new; mv FOLDER/pid.new FOLDER/pid; while :; do cat FOLDER/frame.jpg; sleep 0.05; done";
    let source = format!("kind = \"command\"\ncommand = [\"/bin/sh\", \"-c\", \"{script}\"]\n{EVERY_PICTURE}");
    let setup = Setup::new(broker.port, &source);
    std::fs::write(setup.folder.path().join("frame.jpg"), jpeg(64, 48, 1)).unwrap();
    let mut agent = setup.run(&[]);
    let mut observer = Observer::new(broker.port).await;
    observer.head(|head| head.next >= 3).await;
    let pid = std::fs::read_to_string(setup.folder.path().join("pid")).unwrap();
    agent.kill();
    observer.status(|status| !status.online).await;
    let began = std::time::Instant::now();
    while is_running(pid.trim()) {
        assert!(began.elapsed() < crate::support::PATIENCE, "the command outlives its reader");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_command_that_fails_is_started_again_and_told_of() {
    let broker = Broker::start();
    let setup = Setup::new(
        broker.port,
        &format!(
            "kind = \"command\"\ncommand = [\"/bin/sh\", \"-c\", \"cat FOLDER/frame.jpg; echo lens cap on >&2; exit 7\"]\n{EVERY_PICTURE}"
        ),
    );
    std::fs::write(setup.folder.path().join("frame.jpg"), jpeg(64, 48, 1)).unwrap();
    let _agent = setup.run(&[]);
    let mut observer = Observer::new(broker.port).await;
    let status = observer.status(|status| status.counters.reopened >= 2 && !status.trouble.is_empty()).await;
    assert!(status.trouble.contains("exit status: 7"), "{}", status.trouble);
    observer.head(|head| head.class == ChainClass::Live && head.next >= 3).await;
}

#[tokio::test]
async fn the_password_of_a_camera_is_in_no_status_log_or_validation() {
    let broker = Broker::start();
    let script = "echo cannot open rtsp://me:secret@x >&2; exit 1";
    let setup = Setup::new(broker.port, &format!("kind = \"command\"\ncommand = [\"/bin/sh\", \"-c\", \"{script}\"]"));
    let mut agent = setup.run(&["-vv"]);
    let mut observer = Observer::new(broker.port).await;
    let status = observer.status(|status| status.trouble.contains("cannot open rtsp://me:***@x")).await;
    assert!(status.source.contains("rtsp://me:***@x") && !format!("{status:?}").contains("secret"), "{status:?}");
    agent.terminate();
    assert!(agent.log().contains("me:***@x") && !agent.log().contains("secret"), "{}", agent.log());
    let config = setup.config.to_str().unwrap();
    for arguments in [&["validate", "--config", config][..], &["validate", "--json", "--config", config]] {
        let (code, out, log) = output(arguments);
        assert_eq!(code, Some(0), "{log}");
        assert!(out.contains("me:***@x") && !(out + &log).contains("secret"));
    }
}

#[tokio::test]
async fn a_command_that_hangs_is_started_again_and_told_of() {
    let broker = Broker::start();
    let command = |script: &str| {
        format!("kind = \"command\"\ncommand = [\"/bin/sh\", \"-c\", \"{script}\"]\nsilence-s = 1\n{EVERY_PICTURE}")
    };
    let setup = Setup::new(broker.port, &command("cat FOLDER/frame.jpg; sleep 1000"));
    std::fs::write(setup.folder.path().join("frame.jpg"), jpeg(64, 48, 1)).unwrap();
    let mut observer = Observer::new(broker.port).await;
    let mut agent = setup.run(&[]);
    observer.head(|head| head.next >= 3).await;
    observer.status(|status| status.trouble.contains("no whole picture for 1 s")).await;
    agent.terminate();
    setup.write(broker.port, &command("sleep 1000"));
    let _agent = setup.run(&[]);
    let status =
        observer.status(|status| status.online && status.counters.frames == 0 && !status.trouble.is_empty()).await;
    assert!(status.trouble.contains("silence-s in [source]"), "{}", status.trouble);
}

#[tokio::test]
async fn a_finite_command_killed_in_the_middle_gives_every_picture_once() {
    let broker = Broker::start();
    let script = "for f in FOLDER/pictures/*; do cat $f; done";
    let source = format!(
        "kind = \"command\"\ncommand = [\"/bin/sh\", \"-c\", \"{script}\"]\nfinite = true\n[image]\ninterval-s = 0"
    );
    let setup = Setup::new(broker.port, &source);
    let files = numbered(30);
    put(&setup, &files);
    let mut observer = Observer::new(broker.port).await;
    for killed_at in [3, 12] {
        let mut agent = setup.run(&[]);
        observer.head(|head| head.next >= killed_at).await;
        agent.kill();
    }
    let _agent = setup.run(&[]);
    observer.head(|head| head.end.is_some_and(|end| end.count == 30)).await;
    observer.want("n1", 0, 100, 0);
    for (n, (_, bytes)) in files.iter().enumerate() {
        assert_eq!(&observer.frame("n1", n as u64).await.1, bytes);
    }
}

#[tokio::test]
async fn bad_pictures_are_named_counted_and_passed_over_and_the_good_ones_come() {
    let broker = Broker::start();
    let setup = Setup::new(broker.port, FOLDER);
    let good = jpeg(160, 120, 1);
    let folder = setup.pictures(&[
        ("a-good.jpg", good.clone()),
        ("b-empty.jpg", Vec::new()),
        ("c-text.png", b"this is no picture".to_vec()),
        ("d-cut-header.jpg", good[..80].to_vec()),
        ("e-one-pixel.jpg", jpeg(1, 1, 1)),
        ("f-cut-body.jpg", good[..good.len() - 500].to_vec()),
        ("g-good.jpg", jpeg(160, 120, 2)),
    ]);
    std::fs::create_dir(folder.join("h-folder.jpg")).unwrap();
    let agent = setup.run(&[]);
    let mut observer = Observer::new(broker.port).await;
    observer.head(|head| head.end.is_some_and(|end| end.count == 2)).await;
    observer.want("n1", 0, 10, 0);
    let mut labels = Vec::new();
    while let Got::Frame { meta, .. } = observer.record().await {
        labels.push(meta.label);
    }
    assert_eq!(labels, ["a-good.jpg", "g-good.jpg"]);
    observer.status(|status| status.counters.unreadable == 5 && status.counters.frames == 2).await;
    let log = agent.log();
    for part in [
        "b-empty.jpg: it is empty",
        "c-text.png: it is neither",
        "d-cut-header.jpg: its header",
        "e-one-pixel.jpg: 1×1",
        "f-cut-body.jpg: it is cut short",
        "1 subfolder is not searched",
    ] {
        assert!(log.contains(part), "{part} in:\n{log}");
    }
}

#[tokio::test]
async fn a_picture_over_the_bound_is_reencoded_and_counted() {
    let broker = Broker::start();
    let setup = Setup::new(broker.port, &format!("{FOLDER}\n[frame]\nbytes-max = 16384"));
    let large = jpeg(640, 480, 1);
    assert!(large.len() > 16_384);
    setup.pictures(&[("a.jpg", large)]);
    let _agent = setup.run(&[]);
    let mut observer = Observer::new(broker.port).await;
    observer.head(|head| head.end.is_some()).await;
    observer.want("n1", 0, 1, 0);
    let (_, jpeg) = observer.frame("n1", 0).await;
    assert!(jpeg.len() <= 16_384 && image::load_from_memory(&jpeg).is_ok());
    observer.status(|status| status.counters.reencoded == 1).await;
}

#[tokio::test]
async fn a_frame_that_the_broker_does_not_take_is_told_of_and_not_sent_without_end() {
    let broker = Broker::start_with(free_port(), "max_packet_size 100000\n");
    let setup = Setup::new(broker.port, FOLDER);
    let large = jpeg(1280, 960, 1);
    assert!(large.len() > 150_000, "{}", large.len());
    setup.pictures(&[("a.jpg", large)]);
    let agent = setup.run(&[]);
    let mut observer = Observer::new(broker.port).await;
    let trouble = loop {
        // The head is said again on each new connection.
        let said = observer.until(|topic, payload| match topic {
            Topic::CameraHead { .. } => Some(String::new()),
            Topic::CameraStatus { .. } => Some(from_payload::<CameraStatus>(payload).unwrap().trouble),
            _ => None,
        });
        match said.await {
            nothing if nothing.is_empty() => observer.want("n1", 0, 1, 0),
            trouble => break trouble,
        }
    };
    assert!(trouble.contains("bytes-max in [frame]"), "{trouble}");
    assert!(agent.log().contains("bytes was under way"), "{}", agent.log());
    let ends = || agent.log().matches("not connected to the broker").count();
    let ends_before = ends();
    // The connection holds, though the node asks again.
    observer.want("n1", 0, 1, 0);
    observer.head(|_| true).await;
    assert_eq!(ends(), ends_before);
}

#[tokio::test]
async fn a_frame_that_the_broker_takes_and_does_not_pass_on_is_told_of() {
    let broker = Broker::start_with(free_port(), &format!("{BOUNDED_QUEUE}message_size_limit 100000\n"));
    let setup = Setup::new(broker.port, FOLDER);
    setup.pictures(&[("a.jpg", jpeg(800, 600, 1))]);
    let agent = setup.run(&[]);
    let mut observer = Observer::new(broker.port).await;
    let until = std::time::Instant::now() + std::time::Duration::from_secs(120);
    let told = loop {
        assert!(std::time::Instant::now() < until, "nothing was told: {}", agent.log());
        // A node that waits asks again and again.
        let said = observer.until(|topic, payload| match topic {
            Topic::CameraHead { .. } => Some(String::new()),
            Topic::CameraStatus { .. } => Some(from_payload::<CameraStatus>(payload).unwrap().trouble),
            _ => None,
        });
        let trouble = said.await;
        if trouble.contains("message_size_limit") {
            break trouble;
        }
        if observer.chain.is_some() {
            observer.want("n1", 0, 1, 0);
        }
    };
    assert!(told.contains("took frame 0 (") && told.contains("n1 did not get it"), "{told}");
    agent.wait_for_line("n1 did not get it");
}

#[test]
fn a_broker_that_takes_what_the_camera_says_and_drops_it_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("acl");
    std::fs::write(&rules, "topic read #\n").unwrap();
    // Started by root it would become another user, who may not read the rules.
    let settings = format!("{BOUNDED_QUEUE}user root\nacl_file {}\n", rules.display());
    let broker = Broker::start_with(free_port(), &settings);
    let setup = Setup::new(broker.port, FOLDER);
    put(&setup, &numbered(2));
    let agent = setup.run(&[]);
    agent.wait_for_line("what this camera publishes does not come back");
    assert!(agent.log().contains("`microlambda/test/camera/door/head`"), "{}", agent.log());
}

#[tokio::test]
async fn a_restart_is_kept_for_those_who_come_late_whatever_those_who_went_had_reported() {
    let broker = Broker::start();
    let setup = Setup::new(broker.port, &Lens::source("[spool]\nrestart-after-s = 1"));
    Lens::make(&setup);
    let _agent = setup.run(&[]);
    let mut observer = Observer::new(broker.port).await;
    observer.head(|_| true).await;
    let mut lens = Lens::open(&setup).await;
    (0..5).for_each(|n| lens.show(&jpeg(64, 48, n)));
    observer.head(|head| head.next == 5).await;
    for node in ["n1", "n2"] {
        observer.want(node, 4, 0, 4);
    }
    observer.head(|head| head.oldest == 4).await;
    for node in ["n1", "n2"] {
        observer.publish_raw(&Topic::NodeStatus { node: name(node) }, b"");
    }
    observer.want("n3", 1, 1, 1);
    observer.status(|status| status.counters.lost == 3).await;
    observer.want("n4", 2, 2, 2);
    let note = observer.note("n4").await;
    assert_eq!((note.sequence, note.record), (1, Record::Restart { count: 3, generation: 1 }));
    assert_eq!(observer.frame("n4", 4).await.1, jpeg(64, 48, 4));
}

#[test]
fn a_folder_without_pictures_ends_the_agent_with_a_clear_error() {
    let setup = Setup::new(free_port(), FOLDER);
    setup.pictures(&[("readme.txt", b"none".to_vec())]);
    let mut agent = setup.run(&[]);
    assert_eq!(agent.wait().code(), Some(1));
    assert!(agent.log().contains("there are no pictures in"), "{}", agent.log());
}

#[tokio::test]
async fn why_a_source_has_failed_stays_on_the_bus() {
    let broker = Broker::start();
    let setup = Setup::new(broker.port, FOLDER);
    setup.pictures(&[("readme.txt", b"none".to_vec())]);
    let mut observer = Observer::new(broker.port).await;
    let mut agent = setup.run(&[]);
    assert_eq!(agent.wait().code(), Some(1));
    let status = observer.status(|status| !status.online && !status.trouble.is_empty()).await;
    assert!(status.trouble.contains("there are no pictures in"), "{}", status.trouble);
    assert_eq!(status.counters.bus_connections, 1);
}

#[tokio::test]
async fn a_folder_that_changed_behind_the_agent_is_refused() {
    let broker = Broker::start();
    let setup = Setup::new(broker.port, &format!("{FOLDER}\n[spool]\nframes-max = 8"));
    put(&setup, &numbered(12));
    let mut agent = setup.run(&[]);
    let mut observer = Observer::new(broker.port).await;
    observer.head(|head| head.next == 8).await;
    agent.kill();
    std::fs::remove_file(setup.folder.path().join("pictures/003.jpg")).unwrap();
    let mut agent = setup.run(&[]);
    assert_eq!(agent.wait().code(), Some(1));
    assert!(agent.log().contains("003.jpg") && agent.log().contains("--new-job"), "{}", agent.log());
}

#[tokio::test]
async fn a_folder_that_is_still_being_filled_is_one_job() {
    let broker = Broker::start();
    let setup = Setup::new(broker.port, FOLDER);
    let folder = setup.pictures(&[("a.jpg", jpeg(64, 48, 1))]);
    let agent = setup.run(&[]);
    let began = std::time::Instant::now();
    while !agent.log().contains("still being filled") {
        assert!(began.elapsed() < crate::support::PATIENCE, "the folder is not waited for:\n{}", agent.log());
        // Its time alone: a disk that is written without a pause holds up the agent that is to see this.
        let file = std::fs::File::open(folder.join("a.jpg")).unwrap();
        file.set_modified(std::time::SystemTime::now()).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    std::fs::write(folder.join("b.jpg"), jpeg(64, 48, 2)).unwrap();
    let mut observer = Observer::new(broker.port).await;
    let head = observer.head(|head| head.end.is_some()).await;
    assert_eq!(head.end.map(|end| end.count), Some(2));
}

#[tokio::test]
async fn a_folder_that_goes_away_in_the_middle_of_a_job_is_waited_for() {
    let broker = Broker::start();
    let setup = Setup::new(broker.port, &format!("{FOLDER}\n[spool]\nframes-max = 8"));
    put(&setup, &numbered(12));
    let _agent = setup.run(&[]);
    let mut observer = Observer::new(broker.port).await;
    observer.head(|head| head.next == 8).await;
    let (pictures, elsewhere) = (setup.folder.path().join("pictures"), setup.folder.path().join("elsewhere"));
    std::fs::rename(&pictures, &elsewhere).unwrap();
    observer.want("n1", 0, 100, 0);
    for n in 0..8 {
        observer.frame("n1", n).await;
    }
    for node in ["n1", "n2"] {
        observer.want(node, 8, 100, 8);
    }
    observer.status(|status| status.trouble.contains("bring the folder back")).await;
    std::fs::rename(&elsewhere, &pictures).unwrap();
    let head = observer.head(|head| head.end.is_some()).await;
    assert_eq!(head.end.map(|end| end.count), Some(12));
    observer.status(|status| status.counters.unreadable == 0 && status.trouble.is_empty()).await;
}

#[test]
fn one_state_folder_serves_one_agent() {
    let setup = Setup::new(free_port(), FOLDER);
    put(&setup, &numbered(2));
    let first = setup.run(&[]);
    first.wait_for_line("the input has ended");
    let mut second = setup.run(&[]);
    assert_eq!(second.wait().code(), Some(1));
    assert!(second.log().contains("in use by another process"), "{}", second.log());
}

#[tokio::test]
async fn a_camera_that_is_not_there_is_told_of_and_waited_for() {
    let broker = Broker::start();
    let setup = Setup::new(broker.port, "kind = \"v4l2\"\ndevice = \"/dev/video-none\"");
    let _agent = setup.run(&[]);
    let mut observer = Observer::new(broker.port).await;
    let status = observer.status(|status| status.counters.reopened >= 1 && !status.trouble.is_empty()).await;
    assert!(status.trouble.contains("/dev/video-none") && status.trouble.contains("plugged in"), "{}", status.trouble);
}
