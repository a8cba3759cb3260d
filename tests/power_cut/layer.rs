//! The layer itself: it sees what programs do, and draws the disks it should.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;

use microlambda_tests::powercut::disk::{Event, Fate, Replay};
use microlambda_tests::powercut::tap::Watch;
use microlambda_tests::sim::random::Random;

#[test]
fn the_layer_sees_every_kind_of_call() {
    let root = tempfile::tempdir().expect("a folder");
    fs::write(root.path().join("old"), "before").expect("a file");
    let (watch, start) = Watch::start(root.path());
    assert_eq!(start["old"], Some(b"before".to_vec()));
    fs::create_dir(root.path().join("sub")).expect("a folder");
    let mut file = File::create(root.path().join("sub/new")).expect("a file");
    file.write_all(b"content").expect("a write");
    file.sync_all().expect("a sync");
    file.set_len(3).expect("a cut");
    file.sync_data().expect("a sync");
    fs::rename(root.path().join("sub/new"), root.path().join("newer")).expect("a new name");
    File::open(root.path()).and_then(|folder| folder.sync_all()).expect("a sync");
    fs::remove_file(root.path().join("old")).expect("a removal");
    let name = String::from;
    let expected = [
        Event::Make { parent: 0, name: name("sub"), node: 2, is_folder: true },
        Event::Make { parent: 2, name: name("new"), node: 3, is_folder: false },
        Event::Truncate { node: 3, bytes: 0 },
        Event::Write { node: 3, offset: 0, data: b"content".to_vec() },
        Event::Sync { node: 3 },
        Event::Truncate { node: 3, bytes: 3 },
        Event::Sync { node: 3 },
        Event::Rename { from: (2, name("new")), to: (0, name("newer")), node: 3 },
        Event::Sync { node: 0 },
        Event::Unlink { parent: 0, name: name("old") },
    ];
    assert_eq!(watch.events(), expected);
}

#[test]
fn what_is_synced_stays_and_what_is_not_may_be_gone_back_or_torn() {
    let make = |name: &str, node| Event::Make { parent: 0, name: name.into(), node, is_folder: false };
    let write = |node, byte, bytes| Event::Write { node, offset: 0, data: vec![byte; bytes] };
    let mut replay = Replay::of(&[("old".to_owned(), Some(vec![1; 4]))].into_iter().collect());
    let events =
        [make("kept", 2), write(2, 1, 1_024), Event::Sync { node: 2 }, Event::Sync { node: 0 }, write(2, 2, 1_024)];
    events.iter().for_each(|event| replay.advance(event));
    replay.advance(&Event::Unlink { parent: 0, name: "old".into() });
    replay.advance(&make("unsynced", 3));
    assert_eq!(replay.uncertain(), 3);
    let mut random = Random::new(1);
    let lost = replay.draw(Fate::Lost, &mut random);
    assert_eq!(lost.keys().collect::<Vec<_>>(), ["kept", "old"]);
    assert_eq!(lost["kept"], Some(vec![1; 1_024]));
    let kept = replay.draw(Fate::Kept, &mut random);
    assert_eq!(kept.keys().collect::<Vec<_>>(), ["kept", "unsynced"]);
    assert_eq!(kept["kept"], Some(vec![2; 1_024]));
    let drawn: BTreeSet<_> = (0..200).map(|_| replay.draw(Fate::Mixed, &mut random)).collect();
    // Two names that may or may not be, times two sectors that may or may not be written.
    assert_eq!(drawn.len(), 16);
}
