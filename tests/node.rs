//! One edge node, without a process: what it does with strange input and in a strange world.

use std::rc::Rc;
use std::sync::{Arc, Mutex};

use edge_agent::store::Store;
use microlambda::{Claim, Digest, Head, Stop, Version};
use microlambda_faces::content::Entry;
use microlambda_faces::fold::event_id;
use microlambda_faces::plan::Plan;
use microlambda_faces::proto::{CLASS_ENCODE, FromWorker, StepTimes, ToWorker, UnitOutcome};
use microlambda_faces::{
    Analysis, ENCODING_LEN, Encoding, Face, FaceAt, FaceOutcome, FaceParams, Partial, Rect, SeenFace,
};
use microlambda_runtime::Message;
use microlambda_tests::name;
use microlambda_tests::sim::bench::{Bench, add_chain, camera, peer_status};
use microlambda_tests::sim::camera::SimCamera;
use microlambda_tests::sim::disk::{Media, SimStore};
use microlambda_tests::sim::prefix;
use microlambda_tests::sim::truth;
use microlambda_tests::sim::world::Order;
use microlambda_wire::{
    Blob, CameraHead, ChainClass, ClaimNote, Continuation, EventNote, FaceNote, FrameMeta, Record, RecordNote, Topic,
    Want, from_payload, to_payload, write_frame_meta,
};

#[test]
fn numbers_beyond_all_bounds_are_refused_and_crash_nobody() {
    let mut bench = Bench::new();
    bench.hears_head("gate", 0, u64::MAX);
    bench.hears_head("gate", u64::MAX, u64::MAX);
    assert_eq!(bench.counter("refused-messages"), 2);
    bench.hears_head("gate", 0, 1 << 53);
    bench.hears_head("yard", 0, 1 << 53);
    assert!(bench.status().chains.iter().all(|chain| chain.lag == 1 << 53));
}

#[test]
fn chains_in_which_nothing_happened_make_room_for_a_new_job() {
    let mut bench = Bench::new();
    for number in 0..200 {
        bench.hears_head(&format!("stranger-{number}"), 0, 0);
    }
    let mut camera = camera();
    bench.serve(&mut camera);
    bench.pass_us(1_000_000);
    bench.serve(&mut camera);
    assert!(bench.starts() > 0, "the new camera's chain is open and runs");
    assert_eq!(bench.counter("chains-refused"), 0);
}

#[test]
fn open_chains_are_bounded() {
    let mut bench = Bench::new();
    for number in 0..65 {
        bench.hears_head(&format!("camera-{number}"), 0, 5);
    }
    assert_eq!(bench.status().chains.len(), 64);
}

#[test]
fn a_peer_that_comes_back_is_told_of_the_running_step_and_how_long_its_lease_still_is() {
    let mut bench = Bench::new();
    let mut camera = camera();
    let claims = |bench: &mut Bench| {
        let said = std::mem::take(&mut bench.said);
        let claims = said.iter().filter(|message| message.topic.ends_with("/claim"));
        claims.map(|message| from_payload::<ClaimNote>(&message.payload).expect("a claim").claim).collect::<Vec<_>>()
    };
    bench.hears(&peer_status("b", true));
    assert_eq!(claims(&mut bench), [], "nothing runs");
    bench.serve(&mut camera);
    bench.pass_us(100_000);
    bench.serve(&mut camera);
    assert_eq!(bench.starts(), 1);
    bench.said.clear();
    bench.hears(&peer_status("b", true));
    assert_eq!(claims(&mut bench), [], "it was there when the claim was made");
    bench.hears(&peer_status("b", false));
    bench.hears(&peer_status("b", true));
    let [first] = claims(&mut bench).try_into().expect("one claim");
    assert_eq!((first.step, first.node.as_str()), (Version::default(), "a"));
    bench.pass_us(300_000);
    bench.hears(&peer_status("b", false));
    bench.hears(&peer_status("b", true));
    let [second] = claims(&mut bench).try_into().expect("one claim");
    assert_eq!(second, Claim { lease_ms: first.lease_ms - 300, ..first });
}

#[test]
fn a_node_without_its_broker_rests() {
    let mut bench = Bench::new();
    let mut camera = camera();
    bench.serve(&mut camera);
    bench.io.borrow_mut().connected = false;
    bench.pass_us(60_000_000);
    let now_us = bench.io.borrow().local_us;
    assert!(bench.node.next_wake_us() > now_us, "else its loop would spin");
}

/// Ends the running step after one unit.
fn end_step(bench: &mut Bench, step: u64, partial: &Partial, outcome: UnitOutcome, jpeg: Option<&[u8]>) {
    assert!(outcome.follows(Some(partial).filter(|partial| partial.units() > 0), FaceParams::default().picture_px_max));
    let run = (CLASS_ENCODE, 1, 20_000);
    let thumbnail = jpeg.map(<[u8]>::to_vec);
    bench.worker_says(FromWorker::Unit { step, sequence: 0, prepare: None, run, outcome, thumbnail });
    let report = StepTimes { units: 1, ..StepTimes::default() };
    bench.worker_says(FromWorker::Stopped { step, stop: Stop::Limit, report });
    bench.pass_us(1_000_000);
}

#[test]
fn a_face_keeps_the_picture_that_a_former_step_took_of_it() {
    let mut bench = Bench::new();
    let mut camera = camera();
    bench.serve(&mut camera);
    bench.pass_us(1_000_000);
    bench.serve(&mut camera);
    let plan = Plan::of(320, 240, FaceParams::default().picture_px_max);
    let rect = |left| Rect { left, top: 10, right: left + 60, bottom: 70 };
    let seen = [10, 150].map(|left| SeenFace { rect: rect(left), score: 2.0 - left as f32 / 200.0 });
    let face = |index: usize| {
        let values: Vec<f32> = (0..ENCODING_LEN).map(|at| if at == index { 1.0 } else { 0.0 }).collect();
        let outcome = FaceOutcome::Encoded(Encoding::try_from(values).expect("an encoding"));
        Face { seen: seen[index], sharpness: 50.0, outcome }
    };
    let before = plan.begin();
    let mut searched = before.clone();
    plan.tile_done(&mut searched, &seen);
    let mut one = searched.clone();
    one.faces.push(face(0));
    let mut both = one.clone();
    both.faces.push(face(1));
    end_step(&mut bench, 1, &before, UnitOutcome::Partial(searched.clone()), None);
    end_step(&mut bench, 2, &searched, UnitOutcome::Partial(one.clone()), Some(b"first"));
    let done = Analysis::Frame(plan.finished(&both).expect("nothing is left"));
    end_step(&mut bench, 3, &one, UnitOutcome::Done(done), Some(b"second"));
    let faces = bench.said.iter().filter(|message| message.topic.contains("/face/"));
    let pictures = faces.map(|message| from_payload::<FaceNote>(&message.payload).expect("a face").thumbnail.0);
    assert_eq!(pictures.collect::<Vec<_>>(), [b"first".to_vec(), b"second".to_vec()]);
}

#[test]
fn a_face_that_was_published_without_its_picture_gets_it_from_whoever_has_it() {
    let media = disk_with(9, 0);
    let mut store = SimStore::new(media.clone(), 1);
    let events = store.events_not_on_bus().expect("events").into_iter().map(|event| event.id.to_string());
    store.note_bus(&events.collect::<Vec<_>>(), &[]).expect("a transaction");
    let mut bench = Bench::open("a", media);
    let face = name(&event_id("door-1", FaceAt { sequence: 0, face_index: 0 }));
    let topic = Topic::Face { face: face.clone() }.build(&prefix());
    let note = |jpeg: &[u8]| FaceNote {
        face: face.clone(),
        name: String::new(),
        camera: name("door"),
        chain: name("door-1"),
        first_sequence: 0,
        first_seen_ms: 1,
        last_seen_ms: 1,
        frames: 1,
        label: String::new(),
        thumbnail: Blob(jpeg.to_vec()),
    };
    let message =
        |jpeg: &[u8]| Message { topic: topic.clone(), payload: to_payload(&note(jpeg)).expect("a face"), retain: true };
    bench.hears(&message(b""));
    assert!(bench.said.drain(..).all(|said| said.topic != topic), "it has none itself");
    bench.hears(&message(b"jpeg"));
    bench.pass_us(5_000_000);
    assert!(bench.said.drain(..).all(|said| said.topic != topic), "it is there");
    bench.hears(&message(b""));
    let said: Vec<_> = bench.said.iter().filter(|said| said.topic == topic).collect();
    assert_eq!(from_payload::<FaceNote>(&said[0].payload).expect("a face").thumbnail.0, b"jpeg");
}

/// A disk that holds the first records of a chain, as an engine of some kernel saw them.
fn disk_with(records: u64, kernel: u32) -> Arc<Mutex<Media>> {
    disk_of((0..records).map(|number| truth::entry(5, 0, number, kernel)).collect())
}

/// A disk that holds these records of a chain.
fn disk_of(entries: Vec<Entry>) -> Arc<Mutex<Media>> {
    let media: Arc<Mutex<Media>> = Arc::default();
    add_chain(&media, "door", ChainClass::Live, "door-1", &entries);
    media
}

fn head_of(media: &Arc<Mutex<Media>>) -> Head {
    media.lock().expect("nobody panicked").disk.chains[&name("door-1")].head
}

#[test]
fn a_branch_that_lost_long_ago_is_replaced_part_by_part() {
    let (short, long) = (disk_with(1_500, 1), disk_with(1_600, 0));
    let mut loser = Bench::open("loser", short.clone());
    let mut winner = Bench::open("winner", long.clone());
    assert_ne!(head_of(&short), head_of(&long));
    let mut parts = 0;
    for _ in 0..200 {
        winner.pass_us(3_000_000);
        loser.pass_us(3_000_000);
        let (from_winner, from_loser) = (std::mem::take(&mut winner.said), std::mem::take(&mut loser.said));
        parts += from_winner.iter().filter(|message| message.topic.ends_with("/have")).count();
        from_winner.iter().for_each(|message| loser.hears(message));
        from_loser.iter().for_each(|message| winner.hears(message));
    }
    assert!(parts > 3, "the branch does not fit one answer");
    assert_eq!(head_of(&short), head_of(&long));
    assert_eq!(loser.counter("suffixes-replaced"), 1);
    assert_eq!(loser.counter("forks-too-deep"), 0);
    assert_eq!(winner.counter("suffixes-replaced"), 0);
}

#[test]
fn a_node_with_an_empty_disk_learns_from_a_peer_of_a_chain_whose_camera_is_gone() {
    let (whole, empty) = (disk_with(20, 0), Arc::default());
    let mut peer = Bench::open("peer", whole.clone());
    let mut fresh = Bench::open("fresh", Arc::clone(&empty));
    for _ in 0..20 {
        peer.pass_us(1_000_000);
        fresh.pass_us(1_000_000);
        let (from_peer, from_fresh) = (std::mem::take(&mut peer.said), std::mem::take(&mut fresh.said));
        from_peer.iter().for_each(|message| fresh.hears(message));
        from_fresh.iter().for_each(|message| peer.hears(message));
    }
    assert!(empty.lock().expect("nobody panicked").disk.chains.contains_key(&name("door-1")), "it knows the chain");
    assert_eq!(head_of(&empty), head_of(&whole));
}

#[test]
fn a_node_with_an_empty_disk_publishes_only_the_events_that_its_peer_has_not_seen_on_the_bus() {
    let (whole, empty) = (disk_with(40, 0), Arc::default());
    let mut store = SimStore::new(whole.clone(), 1);
    let mut ids: Vec<String> =
        store.events_not_on_bus().expect("events").iter().map(|event| event.id.to_string()).collect();
    let unpublished = ids.pop().expect("an event");
    assert!(!ids.is_empty());
    store.note_bus(&ids, &[]).expect("a transaction");
    let mut peer = Bench::open("peer", whole.clone());
    let mut fresh = Bench::open("fresh", Arc::clone(&empty));
    let mut published = Vec::new();
    for _ in 0..20 {
        peer.pass_us(1_000_000);
        fresh.pass_us(1_000_000);
        let (from_peer, from_fresh) = (std::mem::take(&mut peer.said), std::mem::take(&mut fresh.said));
        let is_event = |message: &&Rc<Message>| message.topic.ends_with("/event");
        let events = from_fresh.iter().filter(is_event);
        published.extend(events.map(|said| from_payload::<EventNote>(&said.payload).expect("an event").id.to_string()));
        // The peer's own word of its event is lost.
        from_peer.iter().filter(|message| !is_event(message)).for_each(|message| fresh.hears(message));
        from_fresh.iter().filter(|message| !is_event(message)).for_each(|message| peer.hears(message));
    }
    assert_eq!(head_of(&empty), head_of(&whole));
    published.dedup();
    assert_eq!(published, [unpublished]);
}

#[test]
fn live_cameras_take_turns_though_one_alone_would_keep_the_node_busy() {
    let mut bench = Bench::new();
    let mut cameras = [0, 1].map(|index| SimCamera::new(index, ChainClass::Live, 100, 200, None));
    cameras.iter_mut().for_each(|camera| (0..100).for_each(|_| assert!(camera.take_picture(1_000_000))));
    bench.serve_all(&mut cameras);
    for _ in 0..10 {
        bench.pass_us(100_000);
        bench.serve_all(&mut cameras);
        bench.end_step();
    }
    bench.serve_all(&mut cameras);
    let lags: Vec<u64> = bench.status().chains.iter().map(|chain| chain.lag).collect();
    assert_eq!(lags, [95, 95]);
}

#[test]
fn a_step_that_only_prepared_keeps_its_turn_but_not_for_ever() {
    let mut bench = Bench::new();
    let mut cameras = [0, 1].map(|index| SimCamera::new(index, ChainClass::Live, 100, 200, None));
    cameras.iter_mut().for_each(|camera| (0..100).for_each(|_| assert!(camera.take_picture(1_000_000))));
    bench.serve_all(&mut cameras);
    // Of which camera the worker got its last frame.
    let camera_served = |bench: &Bench| {
        let jpeg = bench.orders.iter().rev().find_map(|order| match order {
            Order::Tell(message) => match &**message {
                ToWorker::Frame { jpeg, .. } => Some(jpeg.clone()),
                _ => None,
            },
            _ => None,
        });
        (0..2).find(|index| (0..100).any(|number| jpeg == Some(truth::jpeg(*index, number))))
    };
    let mut prepare = |bench: &mut Bench, step: u64| {
        bench.pass_us(100_000);
        bench.serve_all(&mut cameras);
        bench.worker_says(FromWorker::Stopped { step, stop: Stop::Prepared, report: StepTimes::default() });
        bench.pass_us(100_000);
        bench.serve_all(&mut cameras);
        camera_served(bench)
    };
    let first = prepare(&mut bench, 1);
    let next: Vec<_> = (2..8).map(|step| prepare(&mut bench, step)).collect();
    assert!(next.starts_with(&[first; 3]), "what it prepared is of use: {first:?}, {next:?}");
    assert!(next.iter().any(|camera| *camera != first), "the other camera is not forgotten: {first:?}, {next:?}");
}

#[test]
fn a_chain_whose_camera_began_another_one_is_not_tried_any_more() {
    let mut bench = Bench::open("a", disk_with(3, 0));
    let head = |chain: &str, next| {
        let (camera, chain) = (name("door"), name(chain));
        let topic = Topic::CameraHead { camera: camera.clone() }.build(&prefix());
        let head = CameraHead { camera, chain, class: ChainClass::Live, oldest: 0, next, end: None };
        Message { topic, payload: to_payload(&head).expect("a payload"), retain: true }
    };
    let lag = |bench: &mut Bench| {
        let chains = bench.status().chains;
        chains.iter().find(|chain| chain.chain.as_str() == "door-1").expect("it is open").lag
    };
    bench.hears(&head("door-1", 7));
    assert_eq!(lag(&mut bench), 4);
    bench.hears(&head("door-2", 0));
    assert_eq!(lag(&mut bench), 0, "its frames are gone");
    bench.hears(&head("door-1", 7));
    assert_eq!(lag(&mut bench), 4, "the camera has its former spool back");
}

#[test]
fn chains_of_cameras_that_are_gone_make_room() {
    let media: Arc<Mutex<Media>> = Arc::default();
    for number in 0..64 {
        let (camera, chain) = (format!("camera-{number}"), format!("chain-{number}"));
        add_chain(&media, &camera, ChainClass::Live, &chain, &[truth::entry(5, 0, 0, 0)]);
    }
    let mut bench = Bench::open("a", media);
    let has_room = |bench: &mut Bench| {
        bench.hears_head("door", 0, 5);
        let status = bench.status();
        (
            status.chains.iter().any(|chain| chain.chain.as_str() == "door-spool"),
            status.trouble.contains("chains are under way"),
        )
    };
    assert_eq!(has_room(&mut bench), (false, true), "their cameras may be quiet");
    bench.pass_us(600_000_000);
    assert_eq!(has_room(&mut bench), (true, false));
}

#[test]
fn notes_that_name_another_chain_or_node_than_their_topic_are_counted() {
    let mut bench = Bench::open("a", disk_with(3, 0));
    let claim = Claim { step: Version::default(), epoch: 0, node: "b".into(), lease_ms: 100 };
    let note = ClaimNote { chain: name("door-2"), boot: name("b1"), claim, failed: None };
    let topic = Topic::Claim { chain: name("door-1") }.build(&prefix());
    bench.hears(&Message { topic, payload: to_payload(&note).expect("a payload"), retain: false });
    let status = peer_status("b", true);
    let topic = Topic::NodeStatus { node: name("c") }.build(&prefix());
    bench.hears(&Message { topic, ..status });
    assert_eq!(bench.counter("refused-messages"), 2);
}

#[test]
fn a_camera_has_no_say_in_another_ones_chain() {
    let mut bench = Bench::open("a", disk_with(3, 0));
    let head = |camera: &str, next| {
        let (camera, chain) = (name(camera), name("door-1"));
        let topic = Topic::CameraHead { camera: camera.clone() }.build(&prefix());
        let head = CameraHead { camera, chain, class: ChainClass::Live, oldest: 0, next, end: None };
        Message { topic, payload: to_payload(&head).expect("a payload"), retain: true }
    };
    bench.hears(&head("door", 3));
    bench.hears(&head("yard", 9));
    let (yard, node) = (name("yard"), name("a"));
    let record = Record::End { count: 3, manifest: Digest::default() };
    let end = RecordNote { chain: name("door-1"), sequence: 3, record };
    let topic = Topic::CameraRecord { camera: yard.clone(), node: node.clone() }.build(&prefix());
    bench.hears(&Message { topic, payload: to_payload(&end).expect("a payload"), retain: false });
    let jpeg = truth::jpeg(1, 0);
    let meta = FrameMeta {
        v: 1,
        camera: yard.clone(),
        boot: name("boot"),
        chain: name("door-1"),
        sequence: 3,
        captured_at_ms: 1,
        digest: Digest::of(&jpeg),
        label: String::new(),
        moved: None,
    };
    let topic = Topic::CameraFrame { camera: yard, node }.build(&prefix());
    bench.hears(&Message { topic, payload: write_frame_meta(&jpeg, &meta).expect("a frame"), retain: false });
    let status = bench.status();
    assert_eq!(status.chains.iter().map(|chain| chain.lag).collect::<Vec<_>>(), [0]);
    assert!(status.counters.contains(&("refused-messages".into(), 3)), "{:?}", status.counters);
}

#[test]
fn what_a_person_takes_off_the_broker_is_no_strange_message() {
    let mut bench = Bench::open("a", disk_with(3, 0));
    bench.hears(&peer_status("b", true));
    let (node, camera, chain) = (name("b"), name("door"), name("door-1"));
    for topic in [Topic::NodeStatus { node }, Topic::CameraHead { camera }, Topic::Done { chain }] {
        bench.hears(&Message { topic: topic.build(&prefix()), payload: Vec::new(), retain: true });
    }
    assert_eq!(bench.counter("refused-messages"), 0);
}

#[test]
fn a_node_with_other_settings_and_one_with_the_same_name_are_told_of_in_words() {
    let mut peer = Bench::open("peer", disk_with(3, 0));
    peer.pass_us(10_000_000);
    let said = peer.said.iter().find(|message| message.topic.ends_with("/continuation"));
    let said = Message::clone(said.expect("its head"));
    let hears = |change: fn(&mut Continuation), expected: &str, counter: &str| {
        let mut bench = Bench::open("a", disk_with(3, 0));
        bench.hears(&peer_status("peer", true));
        let mut note: Continuation = from_payload(&said.payload).expect("a continuation");
        change(&mut note);
        bench.hears(&Message { payload: to_payload(&note).expect("a payload"), ..said.clone() });
        let trouble = bench.status().trouble;
        assert!(
            trouble.contains(expected) && (trouble.contains("give each") || trouble.contains("make them equal")),
            "{trouble}"
        );
        assert_eq!(bench.counter(counter), 1);
    };
    hears(|note| note.lambda = Digest::of(b"other settings"), "node peer has other [faces] settings", "other-lambda");
    hears(
        |note| (note.node, note.boot) = (name("a"), name("another")),
        "another node is called a as well",
        "name-clashes",
    );
}

#[test]
fn a_node_that_finds_anothers_status_in_its_place_again_and_again_says_that_its_name_is_taken() {
    let mut bench = Bench::new();
    // Which the broker sent when it let this node in and put the other one out.
    let will = Message { retain: true, ..peer_status("a", false) };
    let is_back = |bench: &mut Bench| {
        bench.connect();
        bench.hears(&will);
    };
    (0..2).for_each(|_| is_back(&mut bench));
    assert_eq!(bench.counter("name-clashes"), 0, "the broker may have kept it from a former start");
    is_back(&mut bench);
    let status = bench.status();
    assert!(status.counters.contains(&("name-clashes".into(), 1)), "{:?}", status.counters);
    assert!(status.trouble.contains("another node is called a as well"), "{}", status.trouble);
}

#[test]
fn a_node_whose_word_does_not_come_back_says_so() {
    let mut bench = Bench::new();
    assert_eq!(bench.status().trouble, "");
    bench.hears_itself = false;
    bench.connect();
    (0..4).for_each(|_| bench.pass_us(5_000_000));
    let trouble = bench.status().trouble;
    assert!(trouble.contains("what this node publishes does not come back"), "{trouble}");
    assert!(trouble.contains("`microlambda/simulated/node/a/status`"), "{trouble}");
    bench.hears_itself = true;
    bench.status();
    assert_eq!(bench.status().trouble, "");
}

#[test]
fn frames_are_asked_for_by_what_fits_the_buffer() {
    let mut bench = Bench::new();
    bench.hears_head("door", 0, 50);
    bench.pass_us(1_000_000);
    // The number before which all was asked for.
    let asked = |bench: &mut Bench| {
        let want = bench.said.drain(..).rev().find(|message| message.topic.ends_with("/want"));
        let want = want.map(|want| from_payload::<Want>(&want.payload).expect("a sound want"));
        want.map(|want| want.cursor + u64::from(want.credit))
    };
    assert_eq!(asked(&mut bench), Some(2));
    let mut jpeg = truth::jpeg(0, 0);
    jpeg.resize(4 << 20, 0);
    let frame = |sequence| {
        let meta = FrameMeta {
            v: 1,
            camera: name("door"),
            boot: name("boot"),
            chain: name("door-spool"),
            sequence,
            captured_at_ms: 1,
            digest: Digest::of(&jpeg),
            label: String::new(),
            moved: None,
        };
        let topic = Topic::CameraFrame { camera: name("door"), node: name("a") }.build(&prefix());
        Message { topic, payload: write_frame_meta(&jpeg, &meta).expect("a frame"), retain: false }
    };
    bench.hears(&frame(0));
    bench.pass_us(100_000);
    assert_eq!(asked(&mut bench), Some(3), "three such frames fit, the one under way included");
    bench.hears(&frame(1));
    bench.hears(&frame(2));
    bench.pass_us(500_000);
    assert_eq!(asked(&mut bench), None, "a fourth would find no room, and be sent in vain");
    let now_us = bench.io.borrow().local_us;
    assert!(bench.node.next_wake_us() > now_us, "else its loop would spin");
    bench.end_step();
    bench.pass_us(100_000);
    assert_eq!(asked(&mut bench), Some(4), "the first one has made room");
    assert_eq!(bench.counter("frames-unused"), 0);
}

#[test]
fn the_end_of_a_job_is_published_again_on_a_broker_that_has_forgotten_it() {
    let record = Record::End { count: 1, manifest: Digest::default() };
    let end = Entry { sequence: 1, record, analysis: None, engine: String::new() };
    let mut bench = Bench::open("a", disk_of(vec![truth::entry(5, 0, 0, 0), end]));
    let publishes_done = |bench: &mut Bench| {
        bench.pass_us(40_000_000);
        bench.said.drain(..).find(|message| message.topic.ends_with("/done"))
    };
    let done = publishes_done(&mut bench).expect("the broker did not know it");
    bench.hears(&done);
    assert_eq!(publishes_done(&mut bench), None, "it is there");
    bench.connect();
    bench.hears(&done);
    assert_eq!(publishes_done(&mut bench), None, "this broker has kept it");
    bench.connect();
    assert_eq!(publishes_done(&mut bench), Some(done), "this one has not");
}
