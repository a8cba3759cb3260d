//! One edge node, without a process: what it does where more pictures, nodes, chains or content come than find room.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use edge_agent::store::Store;
use microlambda::{Digest, Head, Version};
use microlambda_faces::content::{Delta, Entry};
use microlambda_faces::fold::lambda_digest;
use microlambda_faces::{Analysis, FaceParams};
use microlambda_runtime::Message;
use microlambda_tests::histories::crowd;
use microlambda_tests::name;
use microlambda_tests::sim::bench::{Bench, add_chain, camera, peer_status};
use microlambda_tests::sim::disk::{Media, SimStore};
use microlambda_tests::sim::{prefix, truth};
use microlambda_wire::{
    Blob, ChainClass, ChainOrigin, Continuation, FaceNote, Payload, Record, SyncHave, SyncWant, Topic, to_payload,
};

fn message<T: Payload>(topic: &Topic, payload: &T) -> Message {
    Message { topic: topic.build(&prefix()), payload: to_payload(payload).expect("a payload"), retain: false }
}

fn lambda() -> Digest {
    lambda_digest(&FaceParams::default())
}

fn head(sequence: u64) -> Head {
    Head { version: Version::at(sequence), digest: Digest::of(&sequence.to_le_bytes()), set_aside: 0 }
}

/// A disk that holds so many records of the door's chain.
fn disk_with(records: u64) -> Arc<Mutex<Media>> {
    let media: Arc<Mutex<Media>> = Arc::default();
    let entries: Vec<Entry> = (0..records).map(|number| truth::entry(5, 0, number, 0)).collect();
    add_chain(&media, "door", ChainClass::Live, "door-1", &entries);
    media
}

/// Face `number` with its picture, as the broker keeps it.
fn face(number: u64) -> Message {
    let face = name(&format!("face-{number}"));
    let note = FaceNote {
        face: face.clone(),
        name: String::new(),
        camera: name("door"),
        chain: name("door-1"),
        first_sequence: number,
        first_seen_ms: 1,
        last_seen_ms: 1,
        frames: 1,
        label: String::new(),
        thumbnail: Blob(number.to_le_bytes().to_vec()),
    };
    Message { retain: true, ..message(&Topic::Face { face }, &note) }
}

fn pictures_held(media: &Arc<Mutex<Media>>, faces: Range<u64>) -> usize {
    let store = SimStore::new(media.clone(), 1);
    faces.filter(|number| store.thumbnail(&format!("face-{number}")).expect("a read").is_some()).count()
}

#[test]
fn the_pictures_of_all_faces_that_the_broker_keeps_are_taken_over() {
    let media = disk_with(3);
    let mut bench = Bench::open("a", media.clone());
    (0..1_000).for_each(|number| bench.hears(&face(number)));
    bench.pass_us(5_000_000);
    assert_eq!(pictures_held(&media, 0..1_000), 1_000);
    assert_eq!(bench.counter("pictures-dropped"), 0);
}

#[test]
fn pictures_that_find_no_room_are_counted() {
    let media = disk_with(3);
    let mut bench = Bench::open("a", media.clone());
    for number in 0..300 {
        // All in one moment: the node comes to nothing between them.
        let face = face(number);
        bench.node.on_message(&face.topic, &face.payload, true).expect("no failure of the store");
    }
    bench.pass_us(5_000_000);
    let held = pictures_held(&media, 0..300) as u64;
    assert_eq!(bench.counter("pictures-dropped"), 300 - held);
    assert!(held < 300, "else this says nothing");
}

/// A node in a step, which it tells every node that comes.
fn at_work(bench: &mut Bench) {
    let mut camera = camera();
    bench.serve(&mut camera);
    bench.pass_us(100_000);
    bench.serve(&mut camera);
    assert_eq!(bench.starts(), 1);
}

/// Whether a node that comes is counted on.
fn is_noticed(bench: &mut Bench, node: &str) -> bool {
    bench.said.clear();
    bench.hears(&peer_status(node, true));
    bench.said.iter().any(|said| said.topic.ends_with("/claim"))
}

#[test]
fn nodes_that_are_gone_for_good_take_no_place_from_those_that_come() {
    let mut bench = Bench::new();
    for number in 0..260 {
        bench.hears(&Message { retain: true, ..peer_status(&format!("former-{number}"), false) });
    }
    at_work(&mut bench);
    assert!(is_noticed(&mut bench, "b") && is_noticed(&mut bench, "c"));
    assert_eq!(bench.counter("peers-refused"), 0);
}

#[test]
fn a_node_that_comes_takes_the_place_of_one_that_has_gone_and_of_none_that_is_there() {
    let mut bench = Bench::new();
    (0..256).for_each(|number| bench.hears(&peer_status(&format!("node-{number}"), true)));
    bench.hears(&peer_status("b", true));
    assert_eq!(bench.counter("peers-refused"), 1);
    bench.hears(&peer_status("node-7", false));
    bench.hears(&peer_status("b", true));
    assert_eq!(bench.counter("peers-refused"), 1, "another one has gone");
    // All others are silent from now on.
    bench.pass_us(20_000_000);
    at_work(&mut bench);
    assert!(is_noticed(&mut bench, "c"));
    assert_eq!(bench.counter("peers-refused"), 1);
}

/// A disk with these jobs, all of them finished.
fn disk_with_jobs(jobs: Range<u64>) -> Arc<Mutex<Media>> {
    let media: Arc<Mutex<Media>> = Arc::default();
    let record = Record::End { count: 0, manifest: Digest::default() };
    let end = Entry { sequence: 0, record, analysis: None, engine: String::new() };
    for job in jobs {
        add_chain(&media, "lab", ChainClass::Batch, &format!("job-{job:03}"), std::slice::from_ref(&end));
    }
    media
}

fn finished(media: &Arc<Mutex<Media>>) -> usize {
    media.lock().expect("nobody panicked").disk.chains.values().filter(|chain| chain.done).count()
}

/// What each says reaches the other.
fn talk(one: &mut Bench, other: &mut Bench, seconds: u32) {
    for _ in 0..seconds {
        one.pass_us(1_000_000);
        other.pass_us(1_000_000);
        let (from_one, from_other) = (std::mem::take(&mut one.said), std::mem::take(&mut other.said));
        from_one.iter().for_each(|message| other.hears(message));
        from_other.iter().for_each(|message| one.hears(message));
    }
}

#[test]
fn a_node_that_was_off_gets_the_jobs_that_were_finished_meanwhile_however_many_it_knows() {
    let (all, some) = (disk_with_jobs(0..75), disk_with_jobs(0..60));
    let mut keeper = Bench::open("a", all);
    // While the other one is off.
    keeper.pass_us(60_000_000);
    keeper.said.clear();
    let mut back = Bench::open("b", some.clone());
    talk(&mut keeper, &mut back, 120);
    assert_eq!(finished(&some), 75);
}

#[test]
fn a_new_node_gets_more_finished_jobs_than_may_be_open_at_once() {
    let (all, none) = (disk_with_jobs(0..75), Arc::default());
    let (mut keeper, mut fresh) = (Bench::open("a", all), Bench::open("b", Arc::clone(&none)));
    talk(&mut keeper, &mut fresh, 180);
    assert_eq!(finished(&none), 75);
}

#[test]
fn a_node_with_finished_jobs_rests_between_their_announcements() {
    for jobs in [20, 75] {
        let mut bench = Bench::open("a", disk_with_jobs(0..jobs));
        bench.pass_us(1_000_000);
        let now_us = bench.io.borrow().local_us;
        assert!(bench.node.next_wake_us() > now_us, "with {jobs} jobs its loop would spin");
    }
}

#[test]
fn a_chain_of_which_only_the_name_was_heard_leaves_nothing_on_the_disk() {
    let media: Arc<Mutex<Media>> = Arc::default();
    let mut bench = Bench::open("a", media.clone());
    for number in 0..100 {
        bench.hears_head(&format!("stranger-{number}"), 0, 0);
        let chain = name(&format!("rumour-{number}"));
        let note = Continuation {
            chain: chain.clone(),
            node: name("b"),
            boot: name("b1"),
            lambda: lambda(),
            origin: Some(ChainOrigin { camera: name("nowhere"), class: ChainClass::Live }),
            parent: head(5),
            head: head(5),
            delta: None,
            again: true,
            timing: None,
            frames: Vec::new(),
        };
        bench.hears(&message(&Topic::Continuation { chain: chain.clone() }, &note));
        // Somebody takes this node for one that knows more of it.
        let want = SyncWant { node: name("b"), chain, locator: vec![(3, Digest::default()), (0, lambda())] };
        bench.hears(&message(&Topic::SyncWant { node: name("a") }, &want));
    }
    assert!(bench.said.iter().any(|said| said.topic.ends_with("/b/want")), "what it lacks is asked for all the same");
    assert!(media.lock().expect("nobody panicked").disk.chains.is_empty());
    at_work(&mut bench);
    let held: Vec<_> = media.lock().expect("nobody panicked").disk.chains.keys().cloned().collect();
    assert_eq!(held, [camera().chain], "its start is durable");
}

#[test]
fn a_branch_of_crowds_is_given_up_before_it_fills_the_memory() {
    let mut bench = Bench::open("a", disk_with(300));
    let have = |from: u64| {
        let entry = |sequence| {
            let (captured_at_ms, digest) = (sequence, Digest::default());
            let record = Record::Frame { captured_at_ms, digest, label: String::new(), moved: None };
            let analysis = Some(Analysis::Frame(crowd(sequence)));
            Entry { sequence, record, analysis, engine: String::new() }
        };
        let entries = [from, from + 1].map(entry).to_vec();
        let delta = Delta { parent: head(from), entries, partial: None, head: head(from + 2) };
        SyncHave {
            node: name("b"),
            chain: name("door-1"),
            lambda: lambda(),
            base: (from, head(from).digest),
            newest: head(1_000),
            delta: Blob(delta.to_bytes().expect("what fits a message")),
            unpublished: Vec::new(),
        }
    };
    let (mut bytes, mut from) = (0, 0);
    while bytes <= 33 << 20 {
        let have = have(from);
        bytes += have.delta.0.len();
        from += 2;
        bench.hears(&message(&Topic::SyncHave { node: name("a") }, &have));
    }
    assert!(from < 300, "it lies behind what the node holds");
    assert_eq!(bench.counter("forks-too-deep"), 1);
}
