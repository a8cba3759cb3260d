//! Settings of recognition that change: what was recorded is folded again, and the work goes on.

use std::collections::BTreeSet;
use std::fs;

use edge_agent::store::{Depth, SqliteStore, Store};
use microlambda::Version;
use microlambda_faces::{FaceParams, FrameAnalysis};
use microlambda_tests::histories::{extend_with, somebody, spoil_record};
use microlambda_tests::{Site, long_run, name};

const FRAMES: u64 = 60;
const PHOTOS: [&str; 4] = ["people/obama2.jpg", "people/t1.jpg", "faceless/coffee.png", "people/biden.jpg"];

/// Settings under which a person who has turned is somebody else.
fn strict() -> FaceParams {
    FaceParams { distance_max: 0.4, ..FaceParams::default() }
}

/// Three people, each of whom has turned by half a unit in every second picture.
fn visits(sequence: u64) -> FrameAnalysis {
    let turned = if sequence.is_multiple_of(2) { 0.0 } else { 0.5 };
    FrameAnalysis { faces: vec![somebody(sequence / 2 % 3, 0, turned)], ..FrameAnalysis::default() }
}

/// A store with a chain of [`FRAMES`] frames, folded with these settings.
fn store(params: FaceParams) -> (tempfile::TempDir, SqliteStore) {
    let dir = tempfile::tempdir().expect("a folder");
    let mut store = SqliteStore::open(dir.path()).expect("a store");
    extend_with(&mut store, &name("door-1"), params, FRAMES, visits).expect("frames");
    (dir, store)
}

fn events_to_publish(store: &SqliteStore) -> BTreeSet<String> {
    store.events_not_on_bus().expect("events").into_iter().map(|event| event.id.to_string()).collect()
}

#[test]
fn records_folded_again_lead_to_what_they_had_led_to_with_these_settings_from_the_start() {
    let chain = name("door-1");
    for (from, to) in [(FaceParams::default(), strict()), (strict(), FaceParams::default())] {
        let (_dir, store) = self::store(from);
        let (_other, expected) = self::store(to);
        let people = store.people(&chain, 100).expect("people");
        let to_publish = events_to_publish(&store);
        let gone: BTreeSet<String> = store.fold_again(&to).expect("records folded again").into_iter().collect();
        let now = store.people(&chain, 100).expect("people");
        assert_ne!(now, people, "the settings make a difference");
        assert_eq!(gone, people.into_iter().filter(|face| !now.contains(face)).collect());
        assert_eq!(store.chains().expect("chains"), expected.chains().expect("chains"));
        assert_eq!(store.locator(&chain).expect("a locator"), expected.locator(&chain).expect("a locator"));
        assert_eq!(store.faces(None).expect("faces"), expected.faces(None).expect("faces"));
        for sequence in 0..=FRAMES {
            let (held, wanted) = (store.gallery_at(&chain, sequence), expected.gallery_at(&chain, sequence));
            assert_eq!(held.expect("a gallery"), wanted.expect("a gallery"), "before record {sequence}");
        }
        let checked = store.check(&to, Depth::Everything, None).expect("a check");
        assert!(checked.sound && checked.records == FRAMES, "{checked:?}");
        let still: BTreeSet<String> = events_to_publish(&store);
        assert!(still.is_subset(&to_publish), "of the past nothing new is told: {still:?}");
        assert!(!still.is_empty(), "what was to be told and is still so is told");
        store.fold_again(&from).expect("records folded again");
        assert!(events_to_publish(&store).is_subset(&still), "what has been dropped is no news when it comes back");
    }
}

#[test]
fn damage_does_not_become_the_truth_when_records_are_folded_again() {
    let (dir, store) = store(FaceParams::default());
    let before = store.chains().expect("chains");
    drop(store);
    spoil_record(dir.path(), 17);
    let store = SqliteStore::open(dir.path()).expect("a store");
    assert!(store.fold_again(&strict()).expect_err("a damaged record").is_damage());
    assert_eq!(store.chains().expect("chains"), before, "nothing has changed");
}

#[test]
fn nodes_whose_settings_change_in_the_middle_of_a_job_come_to_what_they_had_come_to_with_these_from_the_start() {
    let long = long_run(&PHOTOS);
    let mut site = Site::new();
    let photos = site.photos(&PHOTOS);
    for node in ["a", "b"] {
        site.start_node_with(node, 400, "spread", [("faces", "distance-max", 0.58.into())]);
    }
    site.wait_for("both nodes", |tally, _| tally.nodes.len() == 2);
    site.start_camera(&photos);
    site.wait_for("the middle of the job", |tally, _| tally.front() >= Version::at(2));
    for node in ["a", "b"] {
        site.end_node(node);
        let config = site.node(node).config().to_owned();
        let text = fs::read_to_string(&config).expect("its configuration");
        assert!(text.contains("distance-max = 0.58"), "{text}");
        fs::write(&config, text.replace("distance-max = 0.58", "distance-max = 0.6")).expect("a change");
    }
    for node in ["a", "b"] {
        site.node(node).respawn().expect("its return");
    }
    assert_eq!(site.outcome(&["a", "b"]), long);
    for node in ["a", "b"] {
        let log = site.node(node).log_tail(200);
        assert!(log.contains("folded again"), "{node}: {log}");
    }
    site.stop_and_check();
}
