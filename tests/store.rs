//! The simulator's disk and the real one give the same answers to the same operations.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use camera_agent::spool::{Identity, Limits, Spool};
use edge_agent::store::{Advance, ChainSummary, Depth, SqliteStore, Store, StoreError};
use microlambda::Digest;
use microlambda_faces::content::Entry;
use microlambda_faces::fold::{FoldState, PEOPLE_MAX};
use microlambda_faces::{FACES_MAX, FaceParams};
use microlambda_tests::histories::{History, crowd, extend_with};
use microlambda_tests::name;
use microlambda_tests::sim::disk::SimStore;
use microlambda_wire::{ChainClass, Name, Record};

/// Histories compared, each of so many operations.
const HISTORIES: u64 = 40;
const OPERATIONS: u64 = 27;
/// Checks beside a node that writes.
const CHECKS: usize = 200;

/// Everything that can be asked of a store.
fn answers(store: &impl Store, chains: &[Name]) -> Vec<String> {
    let mut answers = vec![
        format!("{:?}", store.newest_chains(100).expect("chains")),
        format!("{:?}", store.newest_chains(1).expect("chains")),
        format!("{:?}", store.chain(&chains[1]).expect("a chain")),
        format!("{:?}", store.chain_summary(&chains[1]).expect("a chain")),
        format!("{:?}", store.boundary(&name("unknown"), 0).expect("a read")),
        format!("{:?}", store.events_not_on_bus().expect("events")),
        format!("{:?}", store.faces(None).expect("faces")),
        format!("{:?}", (0..3).map(|n| store.thumbnail(&format!("face-{n}")).expect("a read")).collect::<Vec<_>>()),
    ];
    for chain in chains.iter().filter(|chain| store.chain(chain).expect("a read").is_some()) {
        answers.push(format!("{:?}", store.locator(chain).expect("a locator")));
        answers.push(format!("{:?}", store.totals(chain).expect("totals")));
        answers.push(format!("{:?}", store.faces(Some(chain)).expect("faces")));
        for sequence in 0..20 {
            let boundary = store.boundary(chain, sequence).expect("a read");
            answers.push(format!("{sequence} {boundary:?}"));
            if boundary.is_some() {
                answers.push(format!("{sequence} {:?}", store.gallery_at(chain, sequence).expect("a gallery")));
                for bytes_max in [1, 900, 1 << 20] {
                    let entries = store.entries(chain, sequence, bytes_max).expect("entries");
                    answers.push(format!("{sequence} {bytes_max} {entries:?}"));
                }
            }
        }
    }
    answers
}

#[test]
fn the_chain_that_a_camera_goes_on_with_is_opened_before_those_it_has_left() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut store = SqliteStore::open(dir.path()).expect("a store");
    let genesis = FoldState::genesis(FaceParams::default()).head();
    let mut add = |camera: &str, chain: &str| {
        store.add_chain(&name(chain), &name(camera), ChainClass::Live, genesis).expect("a chain");
    };
    add("door", "door-1");
    (0..70).for_each(|number| add("lab", &format!("lab-{number}")));
    let newest: Vec<String> =
        store.newest_chains(3).expect("chains").iter().map(|chain| chain.name.to_string()).collect();
    assert_eq!(newest, ["lab-69", "door-1", "lab-68"]);
}

/// Adds three jobs that are finished and one that is not: the finished ones, as the store lets them follow one another.
fn finished_jobs(store: &mut impl Store) -> Vec<ChainSummary> {
    let genesis = FoldState::genesis(FaceParams::default());
    for (job, is_finished) in [("job-4", true), ("job-1", true), ("job-2", false), ("job-3", true)] {
        let chain = name(job);
        store.add_chain(&chain, &name("lab"), ChainClass::Batch, genesis.head()).expect("a chain");
        let record = Record::End { count: 0, manifest: Digest::default() };
        let end = Entry { sequence: 0, record, analysis: None, engine: String::new() };
        let mut fold = genesis.clone();
        let folded = fold.fold(&end).expect("a record in order");
        let advance = Advance {
            chain: &chain,
            from_sequence: 0,
            entries: vec![(&end, &folded)],
            partial: None,
            head: fold.head(),
            holder: "a",
            fold: &fold,
            thumbnails: &[],
            then: None,
        };
        if is_finished {
            store.advance(&advance).expect("a transaction");
        }
    }
    assert_eq!(store.finished_chain(None, &Digest::of(b"other settings")).expect("a read"), None);
    let next = |behind: Option<&ChainSummary>| {
        let behind = behind.map(|behind| &behind.name);
        store.finished_chain(behind, &genesis.head().digest).expect("a read")
    };
    std::iter::successors(next(None), |former| next(Some(former))).collect()
}

#[test]
fn finished_chains_follow_one_another_by_name_on_the_double_and_on_sqlite() {
    let dir = tempfile::tempdir().expect("a folder");
    let finished = finished_jobs(&mut SqliteStore::open(dir.path()).expect("a store"));
    assert_eq!(finished, finished_jobs(&mut SimStore::default()));
    assert_eq!(finished.iter().map(|job| job.name.as_str()).collect::<Vec<_>>(), ["job-1", "job-3", "job-4"]);
    assert!(finished.iter().all(|job| job.done && job.head.version.sequence == 1 && job.camera == name("lab")));
}

#[test]
fn generated_histories_give_equal_answers_on_the_double_and_on_sqlite() {
    for seed in 0..HISTORIES {
        let dir = tempfile::tempdir().expect("a folder");
        let mut real = SqliteStore::open(dir.path()).expect("a store");
        let mut history = History::new(seed);
        for operation in 0..OPERATIONS {
            history.step().apply(&mut real).expect("a transaction");
            let real = answers(&real, history.chains());
            let double = answers(&history.double, history.chains());
            for (real, double) in real.iter().zip(&double) {
                assert_eq!(real, double, "seed {seed}, operation {operation}");
            }
            assert_eq!(real.len(), double.len(), "seed {seed}, operation {operation}");
        }
        for known in real.known(None).expect("faces") {
            let frames = real.frames_of(&known, usize::MAX).expect("frames");
            assert_eq!(known.frames, frames.len() as u64, "seed {seed}: {known:?}");
            assert_eq!(real.frames_of(&known, 1).expect("a frame"), frames[..1], "seed {seed}: {known:?}");
        }
        let found = real.check(&FaceParams::default(), Depth::Everything, None).expect("a check");
        assert!(found.sound, "seed {seed}: {found:?}");
    }
}

#[test]
fn an_edge_agent_leaves_the_folder_of_a_camera_agent_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let identity = Identity { camera: name("door"), class: ChainClass::Live, source: String::new() };
    let limits = Limits { bytes_max: 1 << 20, frames_max: 100 };
    let spool = || Spool::open_or_renew(dir.path(), &identity, limits, 1);
    let refusal = || {
        let refused = |error: Option<StoreError>| match error {
            Some(error @ StoreError::CameraAgents { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        };
        let run = SqliteStore::open_or_renew(dir.path(), &FaceParams::default()).err();
        assert_eq!(refused(run), refused(SqliteStore::open_read_only(dir.path()).err()));
        refused(SqliteStore::open(dir.path()).err())
    };
    let opened = spool().expect("a spool");
    assert!(refusal().contains("belongs to a camera agent"), "while it has the lock: {}", refusal());
    drop(opened);
    assert!(refusal().contains("belongs to a camera agent"), "{}", refusal());
    assert!(!dir.path().join("edge.sqlite").exists());
    assert_eq!(spool().expect("a spool").damaged, None, "the camera agent goes on");
}

/// Makes a database what version 2 would have made of it.
fn as_version_2(folder: &Path) {
    let database = rusqlite::Connection::open(folder.join("edge.sqlite")).expect("a database");
    let query = "SELECT sql FROM sqlite_schema WHERE name = 'entry'";
    let sql: String = database.query_row(query, [], |row| row.get(0)).expect("the table");
    let is_former =
        |line: &&str| !["frames", "unreadable", "faces_seen"].iter().any(|new| line.trim().starts_with(new));
    let former = sql.lines().filter(is_former).collect::<Vec<_>>().join("\n");
    let script = format!(
        "BEGIN; ALTER TABLE entry RENAME TO newer; {former};
         INSERT INTO entry SELECT chain, sequence, next_sequence, body, digest, generation, set_aside FROM newer;
         DROP TABLE newer; PRAGMA user_version = 2; COMMIT;"
    );
    database.execute_batch(&script).expect("a former database");
}

#[test]
fn a_database_of_a_former_version_gives_the_same_answers_and_is_sound() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut store = SqliteStore::open(dir.path()).expect("a store");
    let mut history = History::new(5);
    for _ in 0..OPERATIONS {
        history.step().apply(&mut store).expect("a transaction");
    }
    drop(store);
    as_version_2(dir.path());
    assert!(SqliteStore::open_read_only(dir.path()).is_err_and(|error| !error.is_damage()), "a report changes nothing");
    let mut store = SqliteStore::open(dir.path()).expect("a store");
    assert_eq!(answers(&store, history.chains()), answers(&history.double, history.chains()));
    let found = store.check(&FaceParams::default(), Depth::Everything, None).expect("a check");
    assert!(found.sound && found.records > 0, "{found:?}");
    for _ in 0..OPERATIONS {
        history.step().apply(&mut store).expect("a transaction");
    }
    assert_eq!(answers(&store, history.chains()), answers(&history.double, history.chains()));
}

#[test]
fn a_check_beside_a_node_that_commits_finds_nothing_wrong() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut node = SqliteStore::open(dir.path()).expect("a store");
    let mut history = History::new(3);
    for _ in 0..OPERATIONS {
        history.step().apply(&mut node).expect("a transaction");
    }
    let writes = AtomicUsize::new(0);
    let check = || {
        let store = SqliteStore::open_read_only(dir.path()).expect("the database");
        store.check(&FaceParams::default(), Depth::Everything, None).expect("a check")
    };
    let findings = std::thread::scope(|scope| {
        let checks = scope.spawn(|| {
            let mut findings = Vec::new();
            while findings.len() < CHECKS || writes.load(Ordering::Relaxed) < CHECKS {
                findings.push(check());
            }
            findings
        });
        while !checks.is_finished() {
            history.step().apply(&mut node).expect("a transaction");
            writes.fetch_add(1, Ordering::Relaxed);
        }
        checks.join().expect("checks")
    });
    let wrong: Vec<_> = findings.iter().filter(|found| !found.sound || found.records == 0).collect();
    assert!(wrong.is_empty(), "{} of the checks, such as {:?}", wrong.len(), wrong.first());
}

#[test]
fn a_full_gallery_is_read_as_it_was_at_each_boundary() {
    let (dir, chain) = (tempfile::tempdir().expect("a folder"), name("street"));
    let mut store = SqliteStore::open(dir.path()).expect("a store");
    let params = FaceParams::default();
    let full = (PEOPLE_MAX / FACES_MAX) as u64;
    // The first crowd comes back before others do, so that the second one is forgotten first.
    extend_with(&mut store, &chain, params, full, crowd).expect("frames");
    extend_with(&mut store, &chain, params, 1, |_| crowd(0)).expect("a frame");
    extend_with(&mut store, &chain, params, 2, crowd).expect("frames");
    let mut fold = FoldState::genesis(params);
    for sequence in 0..=full + 2 {
        let held = store.gallery_at(&chain, sequence).expect("a gallery");
        assert_eq!(&held, fold.gallery(), "before record {sequence}");
        if let [entry, ..] = &store.entries(&chain, sequence, 1).expect("entries").0[..] {
            fold.fold(entry).expect("a stored record");
        }
    }
    let gallery = fold.gallery();
    assert_eq!((gallery.people.len(), gallery.ever), (PEOPLE_MAX, PEOPLE_MAX + 2 * FACES_MAX));
    assert!(gallery.person(0).is_some() && gallery.person(FACES_MAX).is_none());
    let stored = store.chain(&chain).expect("a read").expect("the chain");
    assert_eq!(&stored.gallery, gallery);
    assert_eq!(store.people(&chain, 7).expect("people").len(), 7);
    let check = || store.check(&params, Depth::Everything, None).expect("a check");
    assert!(check().sound);
    let database = rusqlite::Connection::open(dir.path().join("edge.sqlite")).expect("a database");
    let forgotten = FACES_MAX as i64 + 3;
    for column in [
        "exemplar SET face_index = face_index + ?2 WHERE person",
        "person SET first_seen_ms = first_seen_ms + ?2 WHERE number",
    ] {
        let change = |by: i64| database.execute(&format!("UPDATE {column} = ?1"), [forgotten, by]).expect("a write");
        assert_eq!(change(FACES_MAX as i64), 1);
        assert!(!check().sound, "{column}");
        change(-(FACES_MAX as i64));
    }
    assert!(check().sound);
}
