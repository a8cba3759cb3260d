//! The camera's spool: after a power cut no number is given out twice, and what was handed out is what it was.

use std::path::Path;

use camera_agent::spool::{Appended, Identity, Input, Limits, NewFrame, Spool, Stored};
use microlambda::Digest;
use microlambda::sabotage::Sabotage;
use microlambda_runtime::last_end::note_clean_end;
use microlambda_tests::name;
use microlambda_tests::powercut::{Covered, cut_everywhere};
use microlambda_tests::sim::random::Random;
use microlambda_wire::{ChainClass, EndMark, Name, Record};
use rusqlite::types::Value;

use crate::{Recording, logs_begun_anew, over_seeds, recorded, state_dir, write_back};

/// A live spool and a finite one, by turns.
const HISTORIES: u64 = 2;
const OPERATIONS: usize = 60;
const REOPEN_EVERY: usize = 23;
const MIXED_DISKS: u64 = 2;
/// So many disks at least are opened and checked in all.
const CHECKED_MIN: usize = 1_000;
/// Small, so that live frames become gaps and finite input waits.
const LIMITS: Limits = Limits { bytes_max: 1 << 20, frames_max: 10 };

fn identity(seed: u64) -> Identity {
    let class = if seed.is_multiple_of(2) { ChainClass::Live } else { ChainClass::Batch };
    Identity { camera: name("door"), class, source: "folder /pictures".into() }
}

/// What the agent tells others as soon as the spool's function has returned.
enum Told {
    /// The head: all numbers below are in use.
    Head(Name, u64),
    /// A record was sent.
    Sent(Stored),
    /// The end of a finite input.
    End(EndMark),
}

/// What a history has done: what was told when, where each operation ended, and what the spool held from there on.
struct Written {
    told: Vec<(usize, Told)>,
    ends: Vec<usize>,
    states: Vec<Vec<Value>>,
}

/// All rows of all tables.
fn rows(folder: &Path) -> Result<Vec<Value>, String> {
    let read = || {
        let db = rusqlite::Connection::open(folder.join("spool.sqlite"))?;
        let mut values = Vec::new();
        for table in ["spool", "record", "frame", "input"] {
            let mut statement = db.prepare(&format!("SELECT * FROM {table}"))?;
            let columns = statement.column_count();
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                for column in 0..columns {
                    values.push(row.get(column)?);
                }
            }
        }
        Ok(values)
    };
    read().map_err(|error: rusqlite::Error| error.to_string())
}

fn frame(number: u64, random: &mut Random) -> NewFrame {
    let jpeg: Vec<u8> = (0..random.between(500, 12_000)).map(|at| (at ^ number) as u8).collect();
    let input = Input { label: format!("{number}.jpg"), digest: Digest::of(&jpeg), modified_at_ms: 7, input_bytes: 9 };
    NewFrame { jpeg, captured_at_ms: 1_000 + number, label: format!("{number}.jpg"), moved: None, input: Some(input) }
}

fn write(seed: u64, sabotage: Option<Sabotage>) -> (Written, Recording) {
    recorded(sabotage, |root, watch| {
        let folder = state_dir(root);
        let open = || Spool::open_or_renew(&folder, &identity(seed), LIMITS, 1_700_000_000_000).expect("a spool").spool;
        let mut spool = open();
        let mut random = Random::new(seed);
        let mut written = Written { told: Vec::new(), ends: vec![watch.moment()], states: Vec::new() };
        written.states.push(rows(&folder).expect("rows"));
        let mut taken = 0;
        let mut next_sent = 0;
        for number in 0..OPERATIONS {
            if number % REOPEN_EVERY == REOPEN_EVERY / 2 {
                write_back(&folder.join("spool.sqlite"));
            }
            if number % REOPEN_EVERY == REOPEN_EVERY - 1 {
                if number % 2 == 0 {
                    note_clean_end(&folder).expect("a mark");
                }
                drop(spool);
                spool = open();
            }
            match random.below(10) {
                0 => {
                    spool.free(next_sent.min(random.below(next_sent + 1) + 2)).expect("a transaction");
                }
                1..=3 => {
                    if let Some(stored) = spool.read(next_sent.max(spool.view().oldest)).expect("a read") {
                        next_sent = stored.sequence + stored.record.span();
                        written.told.push((watch.moment(), Told::Sent(stored)));
                    }
                }
                4 if spool.view().class == ChainClass::Batch && number > OPERATIONS * 4 / 5 => {
                    let end = spool.finish().expect("a transaction");
                    written.told.push((watch.moment(), Told::End(end)));
                }
                _ if spool.view().end.is_none() => {
                    taken += 1;
                    let appended = spool.append(&frame(taken, &mut random)).expect("a transaction");
                    if matches!(appended, Appended::Kept { .. }) {
                        let told = Told::Head(spool.view().chain.clone(), spool.view().next);
                        written.told.push((watch.moment(), told));
                    }
                }
                _ => {}
            }
            written.ends.push(watch.moment());
            written.states.push(rows(&folder).expect("rows"));
        }
        written
    })
}

/// Opens what is left and holds it against what was told, and against what it may hold.
fn check(folder: &Path, seed: u64, written: &Written, at: usize) -> Result<(), String> {
    let opened = Spool::open_or_renew(folder, &identity(seed), LIMITS, 1).map_err(|error| error.to_string())?;
    if let Some((_, why)) = opened.damaged {
        return Err(format!("a power cut is taken for damage: {why}"));
    }
    let mut spool = opened.spool;
    let told = || written.told.iter().filter(|(moment, _)| *moment <= at).map(|(_, told)| told);
    told().try_for_each(|told| what_was_told_holds(&spool, told))?;
    // Reading raises the mark, so the rows are compared first.
    let held = rows(folder)?;
    let returned = written.ends.partition_point(|end| *end <= at);
    // Until the spool was opened for the first time no chain is fixed.
    let states = &written.states[returned.saturating_sub(1)..written.states.len().min(returned + 1)];
    if returned > 0 && !states.contains(&held) {
        return Err(format!(
            "{returned} calls had returned, and the spool holds what it did neither then nor after the next"
        ));
    }
    told().try_for_each(|told| what_was_sent_is_unchanged(&mut spool, told))?;
    no_number_is_given_out_twice(&mut spool, told())
}

fn what_was_told_holds(spool: &Spool, told: &Told) -> Result<(), String> {
    match told {
        Told::Head(chain, _) if *chain != spool.view().chain => Err("another chain was begun".into()),
        Told::Head(_, next) if *next > spool.view().next => {
            Err(format!("numbers below {next} were told, and the spool ends at {}", spool.view().next))
        }
        Told::Sent(stored) if stored.sequence + stored.record.span() > spool.sent_mark() => {
            Err(format!("record {} was sent, and the mark is {}", stored.sequence, spool.sent_mark()))
        }
        Told::End(end) if spool.view().end != Some(*end) => Err("the end is forgotten".into()),
        _ => Ok(()),
    }
}

fn what_was_sent_is_unchanged(spool: &mut Spool, told: &Told) -> Result<(), String> {
    let Told::Sent(stored) = told else { return Ok(()) };
    if stored.sequence < spool.view().oldest {
        return Ok(());
    }
    let held = spool.read(stored.sequence).map_err(|error| error.to_string())?;
    if held.as_ref() == Some(stored) {
        Ok(())
    } else {
        Err(format!("record {} was sent, and is another", stored.sequence))
    }
}

fn no_number_is_given_out_twice<'a>(spool: &mut Spool, told: impl Iterator<Item = &'a Told>) -> Result<(), String> {
    let used = told.map(|told| match told {
        Told::Head(_, next) => *next,
        Told::Sent(Stored { sequence, record, .. }) => sequence + record.span(),
        Told::End(EndMark { count, .. }) => count + 1,
    });
    let used = used.max().unwrap_or(0);
    let next = spool.view().next;
    if spool.view().end.is_none()
        && let Appended::Kept { sequence, .. } =
            spool.append(&frame(999, &mut Random::new(1))).map_err(|error| error.to_string())?
        && sequence < used
    {
        return Err(format!("number {sequence} is given out again"));
    }
    if next < used { Err(format!("the next number is {next}, {used} were used")) } else { Ok(()) }
}

fn cut(seed: u64, sabotage: Option<Sabotage>) -> Result<Covered, String> {
    let (written, recording) = write(seed, sabotage);
    let mut random = Random::new(seed ^ 0xC07);
    let stage = |at| {
        let told = written.told.partition_point(|(moment, _)| *moment <= at);
        written.ends.partition_point(|end| *end <= at) << 32 | told
    };
    cut_everywhere(&recording.start, &recording.events, MIXED_DISKS, &mut random, stage, |at, root| {
        check(&state_dir(root), seed, &written, at)
    })
}

#[test]
fn after_a_power_cut_the_spool_gives_no_number_out_twice_and_what_was_sent_is_unchanged() {
    let sum = over_seeds(HISTORIES, |seed| cut(seed, None));
    println!("spool: {sum:?}");
    assert!(sum.checked >= CHECKED_MIN, "{sum:?}");
}

#[test]
fn the_histories_hold_gaps_ends_and_full_spools() {
    let (mut gaps, mut ends) = (0, 0);
    for seed in 0..HISTORIES {
        let (written, recording) = write(seed, None);
        assert!(logs_begun_anew(&recording.events) > 0);
        for (_, told) in &written.told {
            match told {
                Told::Sent(Stored { record: Record::Gap { .. }, .. }) => gaps += 1,
                Told::End(_) => ends += 1,
                Told::Sent(_) | Told::Head(..) => {}
            }
        }
    }
    assert!(gaps > 0 && ends > 0, "{gaps} gaps sent, {ends} ends");
}

#[test]
fn appends_that_are_not_synced_are_found() {
    let why = cut(0, Some(Sabotage::UnsyncedCommits)).expect_err("numbers are used twice");
    println!("{why}");
    assert!(why.contains("holds what it did neither") || why.contains("another chain"), "{why}");
}

#[test]
fn a_spool_whose_directory_is_not_synced_is_found() {
    let why = cut(0, Some(Sabotage::FoldersNotSynced)).expect_err("the spool is lost with its directory");
    println!("{why}");
    assert!(why.contains("holds what it did neither") || why.contains("another chain"), "{why}");
}

#[test]
fn a_record_that_is_sent_before_the_mark_is_durable_is_found() {
    let why = cut(0, Some(Sabotage::PublishBeforeCommit)).expect_err("the mark is below what was sent");
    println!("{why}");
    assert!(why.contains("the mark is"), "{why}");
}
