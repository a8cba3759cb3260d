//! A camera that more people pass than its gallery holds.

use edge_agent::store::{SqliteStore, Store};
use microlambda_demo::Note;
use microlambda_faces::fold::{FoldState, PEOPLE_MAX, event_id};
use microlambda_faces::{FACES_MAX, FaceAt, FaceParams};
use microlambda_tests::histories::{crowd, extend_with};
use microlambda_tests::{Site, name};
use microlambda_wire::{EventKind, Topic};

#[test]
fn a_node_whose_gallery_is_full_reports_who_is_new_and_withdraws_who_was_seen_longest_ago() {
    let full = PEOPLE_MAX / FACES_MAX;
    let mut site = Site::new();
    let mut paths = vec!["faceless/coffee.png"; full];
    paths.push("people/obama2.jpg");
    let photos = site.photos(&paths);
    site.start_node("a", 400, "stay");
    site.wait_for("the node", |tally, _| tally.nodes.contains_key(&name("a")));
    site.end_node("a");

    // What the node has seen of this camera already: as many people as it can remember.
    site.start_camera(&photos);
    site.wait_for("the camera", |tally, _| tally.camera.as_ref().is_some_and(|head| head.next > full as u64));
    let head = site.tally.camera.clone().expect("its head");
    let chain = head.chain;
    let state_dir = site.state_dir("a");
    let mut store = SqliteStore::open(&state_dir).expect("its database");
    let genesis = FoldState::genesis(FaceParams::default()).head();
    store.add_chain(&chain, &head.camera, head.class, genesis).expect("a chain");
    extend_with(&mut store, &chain, FaceParams::default(), full as u64, crowd).expect("a crowd");
    loop {
        let told = store.events_not_on_bus().expect("events").into_iter().map(|event| event.id.to_string());
        let told: Vec<String> = told.collect();
        if told.is_empty() {
            break;
        }
        store.note_bus(&told, &[]).expect("a note");
    }
    drop(store);

    site.node("a").respawn().expect("its return");
    let (mut reported, mut withdrawn) = (false, Vec::new());
    site.wait_for("an event, and a face withdrawn", |_, seen| {
        match seen.map(|seen| (&seen.note, &seen.topic)) {
            Some((Note::Event(event), _)) => {
                reported |= event.kind == EventKind::NewFace && event.sequence == full as u64;
            }
            Some((Note::Cleared, Topic::Face { face })) => withdrawn.push(face.to_string()),
            _ => {}
        }
        reported && !withdrawn.is_empty()
    });
    let first = FaceAt { sequence: 0, face_index: 0 };
    assert_eq!(withdrawn, [event_id(chain.as_str(), first)], "the first face of the first frame was seen longest ago");
    assert_eq!(site.refused, 0);
}
