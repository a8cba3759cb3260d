//! The node's store: after a power cut it holds what it held after the last write that had returned, or after the one under way.

use std::path::Path;

use edge_agent::store::{Depth, SqliteStore, Store as _};
use microlambda::sabotage::Sabotage;
use microlambda_faces::FaceParams;
use microlambda_tests::histories::{History, everything};
use microlambda_tests::powercut::disk::{Event, image_of};
use microlambda_tests::powercut::tap::Watch;
use microlambda_tests::powercut::{Covered, cut_everywhere};
use microlambda_tests::sim::random::Random;

use crate::interpose::SYNCS_WITH_TIMES;
use crate::{Recording, logs_begun_anew, over_seeds, recorded, state_dir, write_back};

/// Histories and the operations of each: enough for the log to be written back and begun anew several times.
const HISTORIES: u64 = 2;
const OPERATIONS: usize = 16;
/// The store is closed and opened again after so many.
const REOPEN_EVERY: usize = 7;
/// Disks that lost some of what was not synced, for each moment.
const MIXED_DISKS: u64 = 2;
/// So many disks at least are opened and checked in all.
const CHECKED_MIN: usize = 1_000;
/// The power is cut again while every so many-th disk is opened.
const AGAIN_EVERY: usize = 60;

/// What a history has written: where each operation ended, and what the store holds from there on.
struct Written {
    ends: Vec<usize>,
    states: Vec<Vec<String>>,
}

impl Written {
    /// Operations that had returned at this moment.
    fn returned(&self, at: usize) -> usize {
        self.ends.partition_point(|end| *end <= at)
    }
}

fn write(seed: u64, sabotage: Option<Sabotage>) -> (Written, Recording) {
    recorded(sabotage, |root, watch| {
        let folder = state_dir(root);
        let open = || SqliteStore::open_or_renew(&folder, &FaceParams::default()).expect("a store").store;
        let mut store = Some(open());
        let mut history = History::new(seed);
        let mut written = Written { ends: Vec::new(), states: vec![everything(&history.double).expect("answers")] };
        for number in 0..OPERATIONS {
            if number % REOPEN_EVERY == REOPEN_EVERY / 2 {
                write_back(&folder.join("edge.sqlite"));
            }
            if number % REOPEN_EVERY == REOPEN_EVERY - 1 {
                // By turns in order, and as a killed process leaves it.
                if number % 2 == 0 {
                    store.as_mut().expect("an open store").note_clean_end().expect("a mark");
                }
                drop(store.take());
                store = Some(open());
            }
            history.step().apply(store.as_mut().expect("an open store")).expect("a transaction");
            written.ends.push(watch.moment());
            written.states.push(everything(&history.double).expect("answers"));
        }
        written
    })
}

/// Opens what is left and compares it with what it may hold.
fn check(folder: &Path, written: &Written, at: usize) -> Result<(), String> {
    let opened = SqliteStore::open_or_renew(folder, &FaceParams::default()).map_err(|error| error.to_string())?;
    if let Some(damaged) = opened.damaged {
        return Err(format!("a power cut is taken for damage: {}", damaged.why));
    }
    let store = opened.store;
    let found = store.check(&FaceParams::default(), Depth::Everything, None).map_err(|error| error.to_string())?;
    if !found.sound {
        return Err(format!("{:?}", found.problems));
    }
    let held = everything(&store).map_err(|error| error.to_string())?;
    let returned = written.returned(at);
    if held == written.states[returned] || written.states.get(returned + 1) == Some(&held) {
        return Ok(());
    }
    let other = written.states.iter().position(|state| *state == held);
    Err(match other {
        Some(other) => format!("{returned} writes had returned, and the store holds what it held after {other}"),
        None => format!("{returned} writes had returned, and the store holds what it never held"),
    })
}

/// Cuts the power everywhere; now and then once more while the agent opens what is left.
fn cut(seed: u64, sabotage: Option<Sabotage>) -> Result<Covered, String> {
    let (written, recording) = write(seed, sabotage);
    let mut random = Random::new(seed ^ 0xC07);
    let mut again_random = Random::new(seed ^ 0xA6A1);
    let (mut number, mut again) = (0, Covered::default());
    let stage = |at| written.returned(at);
    let covered = cut_everywhere(&recording.start, &recording.events, MIXED_DISKS, &mut random, stage, |at, root| {
        let folder = state_dir(root);
        number += 1;
        if number % AGAIN_EVERY != 0 || !folder.is_dir() {
            return check(&folder, &written, at);
        }
        let before = image_of(&folder).map_err(|error| error.to_string())?;
        let (watch, start) = Watch::start(&folder);
        check(&folder, &written, at)?;
        let events = watch.events();
        drop(watch);
        assert_eq!(before, start);
        let more = cut_everywhere(&start, &events, 1, &mut again_random, |_| 0, |_, root| check(root, &written, at))?;
        again.checked += more.checked;
        Ok(())
    })?;
    Ok(Covered { checked: covered.checked + again.checked, ..covered })
}

#[test]
fn after_a_power_cut_the_store_holds_every_write_that_had_returned_and_no_state_that_never_was() {
    let sum = over_seeds(HISTORIES, |seed| cut(seed, None));
    println!("store: {sum:?}");
    assert!(logs_begun_anew(&write(0, None).1.events) > 0);
    assert!(sum.checked >= CHECKED_MIN, "{sum:?}");
}

#[test]
fn commits_that_are_not_synced_are_found() {
    let why = cut(0, Some(Sabotage::UnsyncedCommits)).expect_err("writes that had returned are lost");
    println!("{why}");
    assert!(why.contains("the store holds what it held after"), "{why}");
}

#[test]
fn a_state_directory_whose_name_is_not_synced_is_found() {
    let why = cut(0, Some(Sabotage::FoldersNotSynced)).expect_err("the directory is lost with all that is in it");
    println!("{why}");
    assert!(why.contains("the store holds what it held after 0"), "{why}");
}

#[test]
fn a_transaction_syncs_data_and_not_the_times_of_its_file() {
    recorded(None, |root, watch| {
        let mut store = SqliteStore::open_or_renew(&state_dir(root), &FaceParams::default()).expect("a store").store;
        let mut history = History::new(1);
        let syncs = || watch.events().iter().filter(|event| matches!(event, Event::Sync { .. })).count();
        let (before, with_times) = (syncs(), SYNCS_WITH_TIMES.get());
        for _ in 0..OPERATIONS {
            history.step().apply(&mut store).expect("a transaction");
        }
        assert!(syncs() >= before + OPERATIONS / 2, "transactions are synced");
        assert_eq!(
            SYNCS_WITH_TIMES.get(),
            with_times,
            "SQLite is built without HAVE_FDATASYNC: see .cargo/config.toml"
        );
    });
}
