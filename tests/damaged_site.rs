//! A node that loses its database on a site of two loses nothing else.

use std::fs;
use std::time::Duration;

use edge_agent::store::SqliteStore;
use microlambda::Version;
use microlambda_demo::Note;
use microlambda_runtime::last_end::note_running;
use microlambda_tests::histories::{LONG_FRAMES, extend, spoil_record};
use microlambda_tests::{Site, long_run, name};
use microlambda_wire::Name;

/// So short that the photos take several steps.
const R_LIMIT_MS: u64 = 400;
const PHOTOS: [&str; 4] = ["people/obama2.jpg", "people/t1.jpg", "faceless/coffee.png", "people/biden.jpg"];

fn boot(site: &Site, node: &str) -> Option<Name> {
    site.tally.nodes.get(&name(node)).map(|status| status.boot.clone())
}

/// Waits until a new incarnation of the node has reached this version.
fn returned(site: &mut Site, node: &str, before: Option<Name>, version: Version) {
    site.wait_for("the node's state from its peer", |_, seen| match seen.map(|seen| &seen.note) {
        Some(Note::NodeStatus(status)) => {
            let reached = status.chains.iter().any(|chain| chain.version >= version);
            status.node.as_str() == node && status.online && Some(&status.boot) != before.as_ref() && reached
        }
        _ => false,
    });
}

#[test]
fn a_node_whose_database_is_damaged_or_destroyed_gets_everything_from_its_peer() {
    let long = long_run(&PHOTOS);
    let mut site = Site::new();
    let photos = site.photos(&PHOTOS);
    for node in ["a", "b"] {
        site.start_node(node, R_LIMIT_MS, "spread");
    }
    site.wait_for("both nodes", |tally, _| tally.nodes.len() == 2);
    site.start_camera(&photos);

    // In the middle of the job: pages of the database are overwritten while the node is down.
    site.wait_for("the middle of the job", |tally, _| tally.front() >= Version::at(2));
    let before = boot(&site, "b");
    // A node that ends in order leaves everything in the database and nothing in its log.
    site.end_node("b");
    let path = site.state_dir("b").join("edge.sqlite");
    let mut bytes = fs::read(&path).expect("a database");
    bytes.iter_mut().skip(4_096).step_by(7).for_each(|byte| *byte = !*byte);
    fs::write(&path, &bytes).expect("a damaged database");
    site.node("b").respawn().expect("its return");
    returned(&mut site, "b", before, Version::at(2));
    assert_eq!(site.counter("b", "databases-kept-aside"), 1);
    let trouble = site.tally.nodes[&name("b")].trouble.clone();
    assert!(trouble.contains("damaged-1"), "{trouble}");
    let kept = site.state_dir("b").join("damaged-1/edge.sqlite");
    assert!(fs::metadata(kept).expect("the damaged database").len() >= 4_096);
    assert!(site.node("b").log_tail(200).contains("the database is damaged"));
    assert_eq!(site.outcome(&["a", "b"]), long);

    // When all is done and the frames are freed: the whole state directory is gone.
    site.end_node("a");
    let state = site.state_dir("a");
    for entry in fs::read_dir(&state).expect("its files") {
        let path = entry.expect("a file").path();
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.expect("its removal");
    }
    let before = boot(&site, "a");
    site.node("a").respawn().expect("its return");
    let version = site.tally.done.as_ref().expect("a finished job").head.version;
    returned(&mut site, "a", before, version);
    assert_eq!(site.counter("a", "databases-kept-aside"), 0, "nothing was damaged: there was nothing");
    assert_eq!(site.outcome(&["a", "b"]), long);
    site.stop_and_check();
}

#[test]
fn damage_that_is_found_beside_the_work_ends_the_node_and_its_next_start_begins_anew() {
    let mut site = Site::new();
    site.start_node("a", R_LIMIT_MS, "spread");
    site.wait_for("the node", |tally, _| tally.nodes.contains_key(&name("a")));
    site.end_node("a");
    let state = site.state_dir("a");
    let mut store = SqliteStore::open(&state).expect("its database");
    extend(&mut store, &name("door-1"), LONG_FRAMES).expect("a long history");
    drop(store);
    spoil_record(&state, LONG_FRAMES - 1_000);
    note_running(&state, 0).expect("a mark, as after a power cut");

    site.node("a").respawn().expect("its return");
    let status = site.node("a").wait(Duration::from_secs(120)).expect("an end by itself");
    assert!(!status.success());
    assert!(site.node("a").log_tail(20).contains("is damaged"), "{}", site.node("a").log_tail(20));
    site.wait_for_status("a", "its last words", |status| !status.online && status.trouble.contains("database"));
    site.node("a").respawn().expect("what its supervisor does");
    site.wait_for_status("a", "the new database", |status| {
        status.online && status.counters.contains(&("databases-kept-aside".into(), 1))
    });
    assert!(state.join("damaged-1/edge.sqlite").exists());
    site.stop_and_check();
}

#[test]
fn when_every_disk_is_lost_the_chain_goes_on_behind_what_was_released_and_says_so() {
    const MANY: [&str; 8] = [
        "people/obama2.jpg",
        "people/t1.jpg",
        "faceless/coffee.png",
        "people/biden.jpg",
        "people/obama2.jpg",
        "people/t1.jpg",
        "people/biden.jpg",
        "people/obama2.jpg",
    ];
    let mut site = Site::new();
    let photos = site.photos(&MANY);
    for node in ["a", "b"] {
        site.start_node(node, R_LIMIT_MS, "spread");
    }
    site.wait_for("both nodes", |tally, _| tally.nodes.len() == 2);
    let spool: toml::Table = [("restart-after-s".to_owned(), 1.into())].into_iter().collect();
    site.start_camera_with(&photos, [("spool".to_owned(), spool.into())].into_iter().collect());
    site.wait_for("released frames", |tally, _| tally.camera.as_ref().is_some_and(|head| head.oldest >= 2));
    for node in ["a", "b"] {
        site.node(node).kill();
    }
    for node in ["a", "b"] {
        let state = site.state_dir(node);
        fs::remove_dir_all(&state).expect("its removal");
        fs::create_dir(&state).expect("an empty disk");
        site.node(node).respawn().expect("its return");
    }
    let (mut done, mut lost) = (None, 0);
    site.wait_for("the end of the job in a new generation, and the camera's word on what is lost", |tally, seen| {
        if let Some(Note::CameraStatus(status)) = seen.map(|seen| &seen.note) {
            lost = status.counters.lost;
        }
        done = tally.done.clone().filter(|done| done.head.version.generation == 1);
        done.is_some() && lost > 0
    });
    let frames = done.expect("a finished job").frames;
    assert!(frames >= 1 && lost >= 2 && frames + lost == MANY.len() as u64, "{frames} frames, {lost} lost");
    site.wait_for("agreement", |tally, _| tally.agreed(&[name("a"), name("b")]).is_some());
    for node in ["a", "b"] {
        site.end_node(node);
        let report = site.node(node).ask(&["check", "--json"]).expect("a sound database");
        assert!(report.contains("\"sound\": true"), "{node}: {report}");
    }
}
