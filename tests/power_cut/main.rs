//! The power fails at every moment of generated histories: what the real store, the real spool and a real node have said is durable
//! is there afterwards, and nothing that never was.

mod interpose;
mod layer;
mod node;
mod spool;
mod store;

use std::path::{Path, PathBuf};

use microlambda::sabotage::{Sabotage, choose};
use microlambda_tests::powercut::Covered;
use microlambda_tests::powercut::disk::{Event, Image, NodeId};
use microlambda_tests::powercut::tap::Watch;

/// Something done under watch.
struct Recording {
    start: Image,
    events: Vec<Event>,
}

/// The state directory that agents make for themselves, in a folder that is there and holds nothing.
fn state_dir(root: &Path) -> PathBuf {
    root.join("microlambda/agent")
}

/// Writes a database's log back, as SQLite does by itself once it has grown; the next write begins the log anew.
fn write_back(database: &Path) {
    let db = rusqlite::Connection::open(database).expect("a database");
    let busy: i64 = db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(0)).expect("a log");
    assert_eq!(busy, 0, "nobody else is in the way");
}

/// How often a log was begun anew without being made anew.
fn logs_begun_anew(events: &[Event]) -> usize {
    let header_bytes = 32;
    let logs: Vec<NodeId> = events
        .iter()
        .filter_map(|event| match event {
            Event::Make { name, node, .. } if name.ends_with("-wal") => Some(*node),
            _ => None,
        })
        .collect();
    let begun = events.iter().filter(|event| {
        matches!(event, Event::Write { node, offset: 0, data } if logs.contains(node) && data.len() == header_bytes)
    });
    begun.count() - logs.len()
}

/// Runs `work` in a new folder with a fault built in, or none, and records what it does to the disk.
fn recorded<T>(sabotage: Option<Sabotage>, work: impl FnOnce(&Path, &Watch) -> T) -> (T, Recording) {
    let root = tempfile::tempdir().expect("a folder");
    let (watch, start) = Watch::start(root.path());
    choose(sabotage);
    let value = work(root.path(), &watch);
    choose(None);
    (value, Recording { start, events: watch.events() })
}

/// Explores each seed in a thread of its own and sums up what was covered.
fn over_seeds(seeds: u64, explore: impl Fn(u64) -> Result<Covered, String> + Sync) -> Covered {
    let explore = &explore;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..seeds).map(|seed| (seed, scope.spawn(move || explore(seed)))).collect();
        threads.into_iter().fold(Covered::default(), |sum, (seed, thread)| {
            let covered = thread.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
            Covered {
                moments: sum.moments + covered.moments,
                disks: sum.disks + covered.disks,
                checked: sum.checked + covered.checked,
            }
        })
    })
}
