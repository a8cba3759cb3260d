use microlambda_wire::{GapReason, Record};

use super::*;

mod losses;
mod opening;

const ROOMY: Limits = Limits { bytes_max: 1 << 20, frames_max: 1_000 };

fn identity(class: ChainClass) -> Identity {
    let source = if class == ChainClass::Batch { "folder /pictures".into() } else { String::new() };
    Identity { camera: Name::new("door").unwrap(), class, source }
}

fn open(folder: &tempfile::TempDir, class: ChainClass, limits: Limits) -> Spool {
    Spool::open(folder.path(), &identity(class), limits, 1_700_000_000_000).unwrap()
}

fn renew(folder: &tempfile::TempDir, class: ChainClass) -> Result<Opened, SpoolError> {
    Spool::open_or_renew(folder.path(), &identity(class), ROOMY, 1_700_000_000_000)
}

fn frame(n: u64) -> NewFrame {
    NewFrame { jpeg: jpeg(n), captured_at_ms: 1_000 + n, label: format!("{n}.jpg"), moved: None, input: None }
}

fn jpeg(n: u64) -> Vec<u8> {
    let mut jpeg = vec![0xff, 0xd8];
    jpeg.extend(n.to_le_bytes().repeat(100));
    jpeg
}

fn append(spool: &mut Spool, numbers: std::ops::Range<u64>) {
    for n in numbers {
        assert!(matches!(spool.append(&frame(n)).unwrap(), Appended::Kept { sequence, .. } if sequence == n));
    }
}

fn assert_frame(spool: &mut Spool, n: u64) {
    let stored = spool.read(n).unwrap().unwrap_or_else(|| panic!("frame {n} is held"));
    let record = Record::Frame {
        captured_at_ms: 1_000 + n,
        digest: Digest::of(&jpeg(n)),
        label: format!("{n}.jpg"),
        moved: None,
    };
    assert_eq!(stored, Stored { sequence: n, record, jpeg: Some(jpeg(n)) });
}

#[test]
fn what_was_passed_over_is_counted_over_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let input = |label: &str| Input { label: label.into(), digest: Digest::of(b""), modified_at_ms: 0, input_bytes: 0 };
    let mut spool = open(&folder, ChainClass::Batch, ROOMY);
    spool.append(&NewFrame { input: Some(input("0.jpg")), ..frame(0) }).unwrap();
    spool.pass_over(&input("1.jpg")).unwrap();
    assert_eq!(spool.view().passed_over, 1);
    drop(spool);
    let mut spool = open(&folder, ChainClass::Batch, ROOMY);
    spool.pass_over(&input("2.jpg")).unwrap();
    assert_eq!(spool.view().passed_over, 2);
}

#[test]
fn what_was_appended_is_there_after_a_restart_under_the_same_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(&folder, ChainClass::Live, ROOMY);
    append(&mut spool, 0..5);
    let before = spool.view().clone();
    drop(spool);
    let mut spool = open(&folder, ChainClass::Live, ROOMY);
    assert_eq!(*spool.view(), before);
    append(&mut spool, 5..7);
    (0..7).for_each(|n| assert_frame(&mut spool, n));
    assert_eq!(spool.read(7).unwrap(), None);
}

#[test]
fn two_spools_have_two_chains() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let chain = |folder| open(folder, ChainClass::Live, ROOMY).view().chain.clone();
    assert_ne!(chain(&a), chain(&b));
    assert!(chain(&a).as_str().starts_with("door-") && chain(&a).as_str().len() == "door-".len() + 8);
}

#[test]
fn a_full_live_spool_turns_its_oldest_frames_that_were_never_sent_into_one_gap() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(&folder, ChainClass::Live, Limits { frames_max: 8, ..ROOMY });
    append(&mut spool, 0..8);
    // Numbers 0 and, with the block of one, 1 may have been sent.
    assert_frame(&mut spool, 0);
    let mark = spool.sent_mark();
    assert_eq!(mark, 1);
    for n in 8..12 {
        assert_eq!(spool.append(&frame(n)).unwrap(), Appended::Kept { sequence: n, dropped: 1 });
    }
    assert_frame(&mut spool, 0);
    let gap = Record::Gap { count: 4, reason: GapReason::SpoolFull };
    for inside in 1..5 {
        let stored = spool.read(inside).unwrap().unwrap();
        assert_eq!(stored, Stored { sequence: 1, record: gap.clone(), jpeg: None });
    }
    (5..12).for_each(|n| assert_frame(&mut spool, n));
    assert_eq!(spool.view().frames, 8);
}

fn moved() -> Option<Areas> {
    Some(Areas::from_canonical_bytes(&[16, 0, 32, 0, 48, 0, 64, 0]).unwrap())
}

/// Where something moved in a frame that is held.
fn moved_in(spool: &mut Spool, n: u64) -> Option<Areas> {
    match spool.read(n).unwrap().unwrap().record {
        Record::Frame { moved, .. } => moved,
        other => panic!("{n} is no frame: {other:?}"),
    }
}

#[test]
fn where_something_moved_is_kept_but_all_of_a_frame_behind_a_gap_is_searched() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { frames_max: 4, ..ROOMY };
    let mut spool = open(&folder, ChainClass::Live, limits);
    for n in 0..6 {
        spool.append(&NewFrame { moved: moved(), ..frame(n) }).unwrap();
    }
    drop(spool);
    let mut spool = open(&folder, ChainClass::Live, limits);
    assert_eq!([2, 3, 5].map(|n| moved_in(&mut spool, n)), [None, moved(), moved()], "0 and 1 were dropped");
    spool.miss();
    spool.free(4).unwrap();
    let Appended::Kept { sequence, .. } = spool.append(&NewFrame { moved: moved(), ..frame(7) }).unwrap() else {
        panic!("there is room")
    };
    assert_eq!(
        moved_in(&mut spool, sequence),
        moved(),
        "the gap got its number when there was room, and the gate knows of it"
    );
}

#[test]
fn all_is_searched_of_a_frame_for_which_the_one_before_it_was_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(&folder, ChainClass::Live, Limits { frames_max: 8, ..ROOMY });
    append(&mut spool, 0..8);
    (0..7).for_each(|n| assert_frame(&mut spool, n));
    let appended = spool.append(&NewFrame { moved: moved(), ..frame(8) }).unwrap();
    assert_eq!(appended, Appended::Kept { sequence: 8, dropped: 1 });
    assert_eq!(moved_in(&mut spool, 8), None);
}

#[test]
fn all_is_searched_of_a_frame_behind_a_gap_before_which_a_frame_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(&folder, ChainClass::Live, Limits { frames_max: 8, ..ROOMY });
    append(&mut spool, 0..8);
    (0..7).for_each(|n| assert_frame(&mut spool, n));
    spool.miss();
    spool.free(1).unwrap();
    spool.append(&NewFrame { moved: moved(), ..frame(9) }).unwrap();
    let appended = spool.append(&NewFrame { moved: moved(), ..frame(10) }).unwrap();
    assert_eq!(appended, Appended::Kept { sequence: 10, dropped: 1 });
    assert!(matches!(spool.read(7).unwrap().unwrap().record, Record::Gap { .. }));
    assert_eq!([9, 10].map(|n| moved_in(&mut spool, n)), [None, moved()]);
}

#[test]
fn a_spool_of_the_former_format_is_taken_over_with_its_frames() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(&folder, ChainClass::Live, ROOMY);
    append(&mut spool, 0..3);
    let chain = spool.view().chain.clone();
    drop(spool);
    let db = rusqlite::Connection::open(folder.path().join("spool.sqlite")).unwrap();
    let former: String = include_str!("schema.sql")
        .lines()
        .filter(|line| !line.trim().starts_with("moved "))
        .map(|line| format!("{line}\n"))
        .collect();
    let former = former[former.find("CREATE TABLE record").unwrap()..].split_inclusive("STRICT;").next().unwrap();
    let columns = "sequence, kind, span, captured_at_ms, digest, label, frame_bytes, generation, seal";
    let as_it_was = format!(
        "PRAGMA foreign_keys = OFF; CREATE TEMP TABLE kept AS SELECT {columns} FROM record; DROP TABLE record; {former}
         INSERT INTO main.record ({columns}) SELECT {columns} FROM kept; PRAGMA user_version = 1;"
    );
    db.execute_batch(&as_it_was).unwrap();
    drop(db);
    let mut spool = open(&folder, ChainClass::Live, ROOMY);
    assert_eq!(spool.view().chain, chain);
    (0..3).for_each(|n| assert_frame(&mut spool, n));
    append(&mut spool, 3..4);
    drop(spool);
    open(&folder, ChainClass::Live, ROOMY);
}

#[test]
fn a_gap_that_may_have_been_sent_is_never_changed() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(&folder, ChainClass::Live, Limits { frames_max: 8, ..ROOMY });
    append(&mut spool, 0..10);
    let sent = spool.read(0).unwrap().unwrap();
    assert_eq!(sent.record, Record::Gap { count: 2, reason: GapReason::SpoolFull });
    assert_eq!(spool.sent_mark(), 2);
    append(&mut spool, 10..12);
    assert_eq!(spool.read(0).unwrap().unwrap(), sent);
    let second = spool.read(2).unwrap().unwrap();
    assert_eq!((second.sequence, second.record), (2, Record::Gap { count: 2, reason: GapReason::SpoolFull }));
}

#[test]
fn a_live_spool_full_of_sent_frames_keeps_them_and_refuses_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(&folder, ChainClass::Live, Limits { frames_max: 8, ..ROOMY });
    append(&mut spool, 0..8);
    (0..8).for_each(|n| assert_frame(&mut spool, n));
    assert_eq!(spool.append(&frame(8)).unwrap(), Appended::Full);
    (0..8).for_each(|n| assert_frame(&mut spool, n));
    assert_eq!(spool.view().next, 8, "the refused frame had no number");
    spool.free(1).unwrap();
    append(&mut spool, 8..9);
}

#[test]
fn live_frames_that_found_no_room_stand_in_a_gap_as_soon_as_there_is_some() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(&folder, ChainClass::Live, Limits { frames_max: 8, ..ROOMY });
    append(&mut spool, 0..8);
    (0..8).for_each(|n| assert_frame(&mut spool, n));
    for n in 8..11 {
        assert_eq!(spool.append(&frame(n)).unwrap(), Appended::Full);
        spool.miss();
    }
    let gap = |spool: &mut Spool, sequence, count| {
        let record = Record::Gap { count, reason: GapReason::SpoolFull };
        assert_eq!(spool.read(sequence).unwrap(), Some(Stored { sequence, record, jpeg: None }));
    };
    spool.free(1).unwrap();
    assert_eq!(spool.view().next, 11, "the camera may see nothing more");
    gap(&mut spool, 8, 3);
    append(&mut spool, 11..12);
    spool.miss();
    spool.miss();
    spool.free(2).unwrap();
    spool.miss();
    drop(spool);
    let mut spool = open(&folder, ChainClass::Live, Limits { frames_max: 8, ..ROOMY });
    gap(&mut spool, 12, 2);
    assert_eq!(spool.view().next, 14, "the one that no write followed is forgotten");
    spool.miss();
    assert_eq!(spool.append(&frame(15)).unwrap(), Appended::Kept { sequence: 15, dropped: 0 });
    gap(&mut spool, 14, 1);
    assert_frame(&mut spool, 15);
}

#[test]
fn the_sent_mark_is_durable_before_a_record_is_given_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(&folder, ChainClass::Live, Limits { frames_max: 16, ..ROOMY });
    append(&mut spool, 0..16);
    (0..10).for_each(|n| assert_frame(&mut spool, n));
    drop(spool);
    let mut spool = open(&folder, ChainClass::Live, Limits { frames_max: 16, ..ROOMY });
    assert!(spool.sent_mark() >= 10, "{}", spool.sent_mark());
    append(&mut spool, 16..20);
    (0..10).for_each(|n| assert_frame(&mut spool, n));
}

#[test]
fn a_reader_at_the_head_moves_the_mark_with_the_append() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(&folder, ChainClass::Live, ROOMY);
    append(&mut spool, 0..1);
    assert_frame(&mut spool, 0);
    for n in 1..300 {
        append(&mut spool, n..n + 1);
        assert!(spool.sent_mark() > n, "the frame can be read without another sync");
        assert_frame(&mut spool, n);
    }
    append(&mut spool, 300..500);
    assert!(spool.sent_mark() < 400, "the mark stays where nobody reads");
}

#[test]
fn a_full_finite_spool_drops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(&folder, ChainClass::Batch, Limits { frames_max: 4, ..ROOMY });
    append(&mut spool, 0..4);
    assert_eq!(spool.append(&frame(4)).unwrap(), Appended::Full);
    (0..4).for_each(|n| assert_frame(&mut spool, n));
    assert_eq!(spool.free(2).unwrap(), 2);
    append(&mut spool, 4..6);
    assert_eq!(spool.view().oldest, 2);
}

#[test]
fn bytes_are_a_bound_too() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = jpeg(0).len() as u64;
    let mut spool = open(&folder, ChainClass::Live, Limits { bytes_max: 3 * bytes + 1, frames_max: 1_000 });
    append(&mut spool, 0..9);
    assert_eq!((spool.view().frames, spool.view().bytes), (3, 3 * bytes));
}

#[test]
fn a_spool_is_as_full_as_its_frames_or_its_bytes_make_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(&folder, ChainClass::Live, ROOMY);
    append(&mut spool, 0..4);
    let bytes = spool.view().bytes;
    let filled = |frames_max, bytes_max| spool.view().filled_permille(Limits { bytes_max, frames_max });
    assert_eq!((filled(8, 4 * bytes), filled(16, 2 * bytes), filled(16, 4 * bytes)), (500, 500, 250));
}

#[test]
fn freed_records_are_gone_and_their_numbers_stay_used() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(&folder, ChainClass::Live, ROOMY);
    append(&mut spool, 0..10);
    assert_eq!(spool.free(10).unwrap(), 10);
    assert_eq!((spool.view().oldest, spool.view().next, spool.view().bytes), (10, 10, 0));
    drop(spool);
    let mut spool = open(&folder, ChainClass::Live, ROOMY);
    assert_eq!((spool.view().oldest, spool.view().next), (10, 10));
    append(&mut spool, 10..11);
    assert_eq!(spool.read(9).unwrap(), None);
}

#[test]
fn freeing_stops_inside_a_gap_and_at_its_batch() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(&folder, ChainClass::Live, Limits { frames_max: 200, ..ROOMY });
    append(&mut spool, 0..203);
    assert_eq!(spool.free(2).unwrap(), 0, "the gap covers 0 to 2");
    assert_eq!(spool.view().oldest, 0);
    assert_eq!(spool.free(203).unwrap(), FREE_RECORDS_MAX - 1);
    assert_eq!(spool.view().oldest, 3 + FREE_RECORDS_MAX - 1);
}

#[test]
fn the_end_names_count_and_manifest_and_is_written_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(&folder, ChainClass::Batch, ROOMY);
    append(&mut spool, 0..2);
    drop(spool);
    let mut spool = open(&folder, ChainClass::Batch, ROOMY);
    append(&mut spool, 2..3);
    let end = spool.finish().unwrap();
    let manifest = (0..3).fold(empty_manifest(), |manifest, n| next_manifest(manifest, Digest::of(&jpeg(n))));
    assert_eq!(end, EndMark { count: 3, manifest });
    assert_eq!(spool.finish().unwrap(), end);
    let stored = spool.read(3).unwrap().unwrap();
    assert_eq!(stored, Stored { sequence: 3, record: Record::End { count: 3, manifest }, jpeg: None });
    assert_eq!(spool.view().next, 4);
    assert!(!spool.view().is_complete());
    spool.free(4).unwrap();
    drop(spool);
    let spool = open(&folder, ChainClass::Batch, ROOMY);
    assert!(spool.view().is_complete());
    assert_eq!(spool.view().end, Some(end));
}

#[test]
fn inputs_are_remembered_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let input = |n: u64| Input {
        label: format!("{n}.jpg"),
        digest: Digest::of(&[n as u8]),
        modified_at_ms: n,
        input_bytes: 100 + n,
    };
    let mut spool = open(&folder, ChainClass::Batch, ROOMY);
    spool.append(&NewFrame { input: Some(input(0)), ..frame(0) }).unwrap();
    spool.pass_over(&input(1)).unwrap();
    spool.append(&NewFrame { input: Some(input(2)), ..frame(1) }).unwrap();
    drop(spool);
    let spool = open(&folder, ChainClass::Batch, ROOMY);
    assert_eq!(spool.inputs(0).unwrap(), [(input(0), true), (input(1), false), (input(2), true)]);
    assert_eq!(spool.inputs(2).unwrap(), [(input(2), true)]);
}

#[test]
fn any_number_of_inputs_is_read_page_by_page() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(&folder, ChainClass::Batch, ROOMY);
    let count = 2 * INPUTS_PAGE + 3;
    let input = Input { label: String::new(), digest: Digest::default(), modified_at_ms: 0, input_bytes: 0 };
    let transaction = spool.db.transaction().unwrap();
    for n in 0..count {
        rows::insert_input(&transaction, &Input { label: n.to_string(), ..input.clone() }, true).unwrap();
    }
    transaction.commit().unwrap();
    assert_eq!(spool.inputs(0).unwrap().len(), INPUTS_PAGE);
    let spool = thread::SpoolHandle::start(spool).unwrap();
    let labels: Vec<String> = spool.source_handle().inputs().map(|(input, _)| input.label).collect();
    assert_eq!(labels, (0..count).map(|n| n.to_string()).collect::<Vec<_>>());
    spool.close();
}

#[test]
fn every_commit_is_synced_and_the_log_is_written_ahead() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(&folder, ChainClass::Live, ROOMY);
    let pragma = |name: &str| spool.db.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(pragma("synchronous"), 2, "FULL");
    let mode: String = spool.db.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
}
