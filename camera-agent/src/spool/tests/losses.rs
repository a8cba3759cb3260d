//! What was lost: the spool is damaged or set back to an older copy, or nobody has the results of what it released.

use super::*;

#[test]
fn a_spool_that_is_no_database_is_kept_aside_and_a_new_chain_begins() {
    let folder = tempfile::tempdir().unwrap();
    let first = renew(&folder, ChainClass::Batch).unwrap();
    assert_eq!((first.damaged, first.kept), (None, 0));
    let chain = first.spool.view().chain.clone();
    drop(first.spool);
    let rubbish = "this is no database, but it is long enough to be looked at".repeat(300);
    std::fs::write(folder.path().join("spool.sqlite"), &rubbish).unwrap();
    assert!(Spool::open(folder.path(), &identity(ChainClass::Batch), ROOMY, 0).unwrap_err().is_damage());
    let second = renew(&folder, ChainClass::Batch).unwrap();
    assert_ne!(second.spool.view().chain, chain);
    assert_eq!((second.spool.view().next, second.kept), (0, 1));
    let (place, _) = second.damaged.unwrap();
    assert_eq!(std::fs::read_to_string(place.join("spool.sqlite")).unwrap(), rubbish);
}

#[test]
fn a_picture_that_was_damaged_is_not_given_out_and_the_next_start_keeps_the_spool_aside() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = renew(&folder, ChainClass::Live).unwrap().spool;
    append(&mut spool, 0..3);
    spool.db.execute("UPDATE frame SET jpeg = zeroblob(length(jpeg)) WHERE sequence = 1", []).unwrap();
    assert_frame(&mut spool, 0);
    assert!(spool.read(1).unwrap_err().is_damage());
    drop(spool);
    microlambda_runtime::last_end::note_damage(folder.path()).unwrap();
    let again = renew(&folder, ChainClass::Live).unwrap();
    assert!(again.damaged.unwrap().1.contains("the picture of frame 1"));
}

#[test]
fn text_and_numbers_that_this_program_never_writes_are_damage_and_pass_for_nothing_else() {
    for (change, what) in [
        ("spool SET class = 'Live'", "the class \"Live\" of its chain is damaged"),
        ("spool SET created_at_ms = -1", "Integer -1 out of range"),
        ("spool SET next = -1", "Integer -1 out of range"),
        ("spool SET end_count = -1", "Integer -1 out of range"),
        ("spool SET manifest = x''", "Conversion error"),
        ("record SET kind = 'Frame' WHERE sequence = 1", "the kind \"Frame\" of record 1 is damaged"),
        ("record SET captured_at_ms = -1 WHERE sequence = 1", "Integer -1 out of range"),
        ("record SET frame_bytes = -1000000 WHERE sequence = 1", "out of range"),
        ("record SET digest = x'00' WHERE sequence = 1", "Conversion error"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = open(&folder, ChainClass::Live, ROOMY);
        append(&mut spool, 0..3);
        // Bits on a disk know of no CHECK.
        spool.db.execute_batch(&format!("PRAGMA ignore_check_constraints = ON; UPDATE {change}")).unwrap();
        drop(spool);
        let error = Spool::open(folder.path(), &identity(ChainClass::Live), ROOMY, 0).unwrap_err();
        assert!(error.is_damage() && error.to_string().contains(what), "{change}: {error}");
    }
}

#[test]
fn an_input_that_this_program_never_writes_is_damage() {
    for change in ["digest = x'00'", "modified_at_ms = -1", "input_bytes = -1"] {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = open(&folder, ChainClass::Batch, ROOMY);
        let input = Input { label: "a.jpg".into(), digest: Digest::of(b"a"), modified_at_ms: 1, input_bytes: 1 };
        spool.pass_over(&input).unwrap();
        spool.db.execute(&format!("UPDATE input SET {change}"), []).unwrap();
        let error = spool.inputs(0).unwrap_err();
        assert!(error.is_damage(), "{change}: {error}");
    }
}

#[test]
fn a_number_that_no_column_holds_is_refused_and_nothing_has_changed() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(&folder, ChainClass::Live, ROOMY);
    append(&mut spool, 0..1);
    let before = spool.view().clone();
    let error = spool.append(&NewFrame { captured_at_ms: u64::MAX, ..frame(1) }).unwrap_err();
    assert!(!error.is_damage(), "{error}");
    assert_eq!(*spool.view(), before);
    append(&mut spool, 1..2);
}

#[test]
fn a_database_that_fails_for_another_reason_than_damage_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    drop(renew(&folder, ChainClass::Live).unwrap().spool);
    let path = folder.path().join("spool.sqlite");
    let bytes = std::fs::read(&path).unwrap();
    // A folder in the place of the log: SQLite can open no log.
    std::fs::create_dir(folder.path().join("spool.sqlite-wal")).unwrap();
    let error = renew(&folder, ChainClass::Live).unwrap_err();
    assert!(!error.is_damage(), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_live_spool_that_was_set_back_begins_a_new_chain_with_what_it_recorded_since() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(&folder, ChainClass::Live, ROOMY);
    append(&mut spool, 0..5);
    let former = spool.view().chain.clone();
    drop(spool);
    let mut spool = open(&folder, ChainClass::Live, ROOMY);
    append(&mut spool, 5..8);
    spool.begin_anew().unwrap();
    let check = |spool: &mut Spool| {
        assert_ne!(spool.view().chain, former);
        assert_eq!((spool.view().oldest, spool.view().frames), (0, spool.view().next));
        for n in 0..3 {
            assert_eq!(spool.read(n).unwrap().unwrap().jpeg, Some(jpeg(5 + n)));
        }
    };
    check(&mut spool);
    assert_eq!(spool.append(&frame(8)).unwrap(), Appended::Kept { sequence: 3, dropped: 0 });
    let (view, mark) = (spool.view().clone(), spool.sent_mark());
    drop(spool);
    let mut spool = open(&folder, ChainClass::Live, ROOMY);
    assert_eq!((spool.view(), spool.sent_mark()), (&view, mark), "it is as durable as any");
    check(&mut spool);
    spool.begin_anew().unwrap();
    assert_eq!((spool.view().next, spool.view().frames, spool.view().bytes), (0, 0, 0), "nothing was recorded since");
    append(&mut spool, 0..2);
    (0..2).for_each(|n| assert_frame(&mut spool, n));
}

#[test]
fn who_has_committed_some_of_the_numbers_of_a_restart_gets_it_and_frees_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(&folder, ChainClass::Live, ROOMY);
    append(&mut spool, 0..90);
    while spool.view().frees_below(80) {
        spool.free(80).unwrap();
    }
    assert_eq!(spool.restart(50).unwrap(), 30);
    let before = spool.view().clone();
    assert_eq!((before.oldest, before.oldest_end), (50, 80));
    let restart = Stored { sequence: 50, record: Record::Restart { count: 30, generation: 1 }, jpeg: None };
    for inside in [50, 54, 79] {
        assert_eq!(spool.read(inside).unwrap(), Some(restart.clone()), "{inside}");
        assert!(!spool.view().frees_below(inside), "{inside}");
        assert_eq!(spool.free(inside).unwrap(), 0, "{inside}");
        assert_eq!(*spool.view(), before, "{inside}");
    }
    assert_frame(&mut spool, 80);
    assert!(spool.view().frees_below(80));
    spool.free(80).unwrap();
    assert_eq!((spool.view().oldest, spool.view().oldest_end), (80, 81));
    assert_frame(&mut spool, 80);
}

#[test]
fn a_restart_before_one_that_is_still_held_keeps_each_number_with_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(&folder, ChainClass::Live, ROOMY);
    append(&mut spool, 0..9);
    spool.free(8).unwrap();
    assert_eq!(spool.restart(5).unwrap(), 3);
    assert_eq!(spool.restart(1).unwrap(), 4);
    let restart = |sequence, count, generation| {
        Some(Stored { sequence, record: Record::Restart { count, generation }, jpeg: None })
    };
    assert_eq!(spool.read(3).unwrap(), restart(1, 4, 2));
    assert_eq!(spool.read(6).unwrap(), restart(5, 3, 1));
    spool.free(6).unwrap();
    assert_eq!((spool.view().oldest, spool.view().oldest_end), (5, 8), "the second is not freed by half");
    assert!(!spool.view().frees_below(6));
}

#[test]
fn a_restart_stands_in_for_released_records_and_each_has_a_generation_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(&folder, ChainClass::Live, ROOMY);
    append(&mut spool, 0..6);
    assert_eq!(spool.restart(0).unwrap(), 0, "nothing was released");
    spool.free(4).unwrap();
    assert_eq!(spool.restart(1).unwrap(), 3);
    drop(spool);
    let mut spool = open(&folder, ChainClass::Live, ROOMY);
    assert_eq!((spool.view().oldest, spool.view().frames), (1, 2));
    let restart = |count, generation| Record::Restart { count, generation };
    assert_eq!(spool.read(2).unwrap(), Some(Stored { sequence: 1, record: restart(3, 1), jpeg: None }));
    assert_frame(&mut spool, 4);
    assert_eq!(spool.free(4).unwrap(), 0, "it is no frame");
    assert_eq!(spool.view().oldest, 4);
    drop(spool);
    let mut spool = open(&folder, ChainClass::Live, ROOMY);
    assert_eq!(spool.restart(0).unwrap(), 4);
    assert_eq!(spool.read(0).unwrap(), Some(Stored { sequence: 0, record: restart(4, 2), jpeg: None }));
}
