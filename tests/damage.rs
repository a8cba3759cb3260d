//! Databases that were damaged while they lay on the disk: what is read from them is right, or the damage is found.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use camera_agent::spool::{Identity, Limits, NewFrame, Spool};
use edge_agent::store::{Rest, SqliteStore, Store, StoreError};
use microlambda_faces::FaceParams;
use microlambda_runtime::last_end::{LastEnd, last_end, note_clean_end, note_damage, note_running};
use microlambda_tests::histories::{History, LONG_FRAMES, extend, spoil_record};
use microlambda_tests::name;
use microlambda_tests::powercut::disk::{Image, image_of, materialise};
use microlambda_tests::sim::random::Random;
use microlambda_wire::ChainClass;

/// Damages tried on each database.
const DAMAGES: u64 = 120;
/// So many of them at least must have been found: a page that is in use is hit by most.
const FOUND_MIN: u64 = 40;
const OPERATIONS: usize = 60;
const FRAMES: u64 = 40;
const LIMITS: Limits = Limits { bytes_max: 1 << 20, frames_max: 100 };

/// Damages a file as a failing card, a stray write or a bad copy does.
fn damage(content: &mut Vec<u8>, random: &mut Random) -> String {
    let place = |random: &mut Random, len: usize| random.below(len as u64) as usize;
    let len = content.len();
    match random.below(6) {
        0 => {
            let at = place(random, len);
            content[at] ^= 1 << random.below(8);
            format!("a bit at {at}")
        }
        1 => {
            let at = place(random, len);
            let end = len.min(at + 1 + place(random, 8));
            content[at..end].iter_mut().for_each(|byte| *byte = random.bits() as u8);
            format!("bytes {at} to {end}")
        }
        2 => {
            let at = place(random, len) / 4_096 * 4_096;
            let end = len.min(at + 4_096);
            content[at..end].fill(0);
            format!("zeros from {at}")
        }
        3 => {
            let (from, to) = (place(random, len) / 4_096 * 4_096, place(random, len) / 4_096 * 4_096);
            let page = content[from..len.min(from + 4_096)].to_vec();
            let end = len.min(to + page.len());
            content[to..end].copy_from_slice(&page[..end - to]);
            format!("the page at {from} over the one at {to}")
        }
        4 => {
            let at = place(random, len) / 512 * 512;
            let end = len.min(at + 512);
            content[at..end].iter_mut().for_each(|byte| *byte = random.bits() as u8);
            format!("a sector at {at}")
        }
        _ => {
            let bytes = if random.permille(200) { 0 } else { place(random, len) };
            content.truncate(bytes);
            format!("cut to {bytes}")
        }
    }
}

/// What a store holds and a digest covers, by chain.
fn content(store: &SqliteStore) -> Result<BTreeMap<String, String>, StoreError> {
    let mut content = BTreeMap::new();
    for chain in store.chains()? {
        let (entries, _) = store.entries(&chain.name, 0, usize::MAX)?;
        // Which engine made an analysis is for people, and in no digest.
        let entries: Vec<_> = entries.into_iter().map(|entry| (entry.sequence, entry.record, entry.analysis)).collect();
        let mut faces = store.faces(Some(&chain.name))?;
        faces.iter_mut().for_each(|face| face.thumbnail_bytes = 0);
        let row = (&chain.camera, chain.class, chain.lambda, chain.boundary, chain.head, &chain.partial, chain.done);
        let text = format!("{row:?} {:?} {entries:?} {faces:?}", chain.gallery);
        content.insert(chain.name.to_string(), text);
    }
    let mut events = store.events(u64::from(u32::MAX))?;
    events.iter_mut().for_each(|row| row.on_bus = false);
    content.insert("events".into(), format!("{events:?}"));
    Ok(content)
}

/// A store closed in order, and what it holds.
fn store_image() -> (Image, BTreeMap<String, String>) {
    let dir = tempfile::tempdir().expect("a folder");
    let mut store = SqliteStore::open_or_renew(dir.path(), &FaceParams::default()).expect("a store").store;
    let mut history = History::new(3);
    for _ in 0..OPERATIONS {
        history.step().apply(&mut store).expect("a transaction");
    }
    let content = content(&store).expect("a sound store");
    drop(store);
    (image_of(dir.path()).expect("its files"), content)
}

/// A copy of an image with one damage.
fn damaged(image: &Image, database: &str, seed: u64) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("a folder");
    let mut image = image.clone();
    let bytes = image.get_mut(database).expect("a database").as_mut().expect("a file");
    let what = damage(bytes, &mut Random::new(seed));
    materialise(&image, dir.path()).expect("files");
    (dir, what)
}

/// Checks what a start leaves for later, on a thread of its own, whose priority it lowers.
fn rest_is_damaged(rest: Option<Rest>) -> bool {
    rest.is_some_and(|rest| match std::thread::spawn(move || rest.check()).join().expect("a check") {
        Ok(()) => false,
        Err(error) => error.is_damage(),
    })
}

#[test]
fn a_damaged_store_is_found_out_after_an_unclean_end_or_its_content_is_right() {
    let (image, sound) = store_image();
    let mut found = 0;
    for seed in 0..DAMAGES {
        let (dir, what) = damaged(&image, "edge.sqlite", seed);
        note_running(dir.path(), 0).expect("a mark");
        let opened = SqliteStore::open_or_renew(dir.path(), &FaceParams::default());
        let opened = opened.unwrap_or_else(|error| panic!("seed {seed}, {what}: {error}"));
        match opened.damaged {
            None if rest_is_damaged(opened.rest) => found += 1,
            Some(kept) => {
                found += 1;
                assert_eq!(opened.kept, 1);
                assert!(kept.folder.join("edge.sqlite").exists() && !kept.why.is_empty());
                assert!(opened.store.chains().expect("a new store").is_empty());
            }
            None => assert_eq!(content(&opened.store).expect("a read"), sound, "seed {seed}, {what}"),
        }
    }
    println!("{found} of {DAMAGES} damages of the store found, the others hit nothing that counts");
    assert!(found >= FOUND_MIN, "{found}");
}

#[test]
fn a_store_damaged_after_a_clean_end_never_serves_another_head_and_reading_it_never_panics() {
    let (image, sound) = store_image();
    let good = tempfile::tempdir().expect("a folder");
    materialise(&image, good.path()).expect("files");
    let good = SqliteStore::open(good.path()).expect("a store");
    let heads = |store: &SqliteStore| {
        let chains = store.chains().expect("what was looked at");
        let kept = |chain: &edge_agent::store::StoredChain| {
            chain.gallery.people.iter().map(|person| person.exemplars.clone()).collect::<Vec<_>>()
        };
        chains.iter().map(|chain| (chain.name.clone(), chain.head, chain.boundary, kept(chain))).collect::<Vec<_>>()
    };
    let (mut at_once, mut later) = (0, 0);
    for seed in 0..DAMAGES {
        let (dir, what) = damaged(&image, "edge.sqlite", seed);
        note_clean_end(dir.path()).expect("a mark");
        let opened = SqliteStore::open_or_renew(dir.path(), &FaceParams::default());
        let opened = opened.unwrap_or_else(|error| panic!("seed {seed}, {what}: {error}"));
        if opened.damaged.is_some() {
            at_once += 1;
            continue;
        }
        assert_eq!(heads(&opened.store), heads(&good), "seed {seed}, {what}");
        match content(&opened.store) {
            Err(error) => assert!(error.is_damage(), "seed {seed}, {what}: {error}"),
            Ok(content) if content == sound => continue,
            Ok(_) => {}
        }
        // Deep in the past, where the node does not work: the thorough check finds it, as after damage seen while running.
        later += 1;
        drop(opened.store);
        note_damage(dir.path()).expect("a mark");
        let again = SqliteStore::open_or_renew(dir.path(), &FaceParams::default()).expect("a new store");
        assert!(again.damaged.is_some(), "seed {seed}, {what}");
    }
    println!("{at_once} of {DAMAGES} found at once, {later} by the thorough check");
    assert!(at_once >= FOUND_MIN, "{at_once}");
}

fn identity() -> Identity {
    Identity { camera: name("door"), class: ChainClass::Live, source: String::new() }
}

fn spool_image() -> (Image, Vec<String>) {
    let dir = tempfile::tempdir().expect("a folder");
    let mut spool = Spool::open_or_renew(dir.path(), &identity(), LIMITS, 1).expect("a spool").spool;
    for number in 0..FRAMES {
        let jpeg = (0..2_000 + number * 100).map(|at| (at ^ number) as u8).collect();
        let frame = NewFrame { jpeg, captured_at_ms: number, label: format!("{number}.jpg"), moved: None, input: None };
        spool.append(&frame).expect("a transaction");
    }
    spool.read(7).expect("a read");
    spool.free(5).expect("a transaction");
    let told = told(&mut spool).expect("a sound spool");
    drop(spool);
    (image_of(dir.path()).expect("its files"), told)
}

/// Everything a spool tells others.
fn told(spool: &mut Spool) -> Result<Vec<String>, camera_agent::spool::SpoolError> {
    let mut told = vec![format!("{:?} {}", spool.view(), spool.sent_mark() >= 7)];
    for sequence in 0..FRAMES + 2 {
        told.push(format!("{:?}", spool.read(sequence)?));
    }
    Ok(told)
}

#[test]
fn a_damaged_spool_is_found_out_or_tells_what_it_did() {
    let (image, sound) = spool_image();
    for (thorough, found_min) in [(true, 2 * FOUND_MIN), (false, FOUND_MIN / 4)] {
        let (mut found, mut later) = (0, 0);
        for seed in 0..DAMAGES {
            let (dir, what) = damaged(&image, "spool.sqlite", seed);
            let mark = if thorough { note_running(dir.path(), 0) } else { note_clean_end(dir.path()) };
            mark.expect("a mark");
            let opened = Spool::open_or_renew(dir.path(), &identity(), LIMITS, 1);
            let mut opened = opened.unwrap_or_else(|error| panic!("seed {seed}, {what}: {error}"));
            if opened.damaged.is_some() {
                found += 1;
                assert_eq!(opened.spool.view().next, 0, "a new chain");
                continue;
            }
            match told(&mut opened.spool) {
                Ok(told) => assert_eq!(told, sound, "seed {seed}, {what}"),
                Err(error) => {
                    assert!(error.is_damage() && !thorough, "seed {seed}, {what}: {error}");
                    later += 1;
                }
            }
        }
        println!("thorough {thorough}: {found} of {DAMAGES} damages of the spool found at once, {later} when read");
        assert!(found >= found_min && found + later >= 2 * FOUND_MIN, "{found} and {later}");
    }
}

#[test]
fn a_log_that_was_damaged_gives_a_state_that_was_or_is_found_out() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut store = SqliteStore::open_or_renew(dir.path(), &FaceParams::default()).expect("a store").store;
    let mut history = History::new(4);
    let mut states = vec![content(&store).expect("a sound store")];
    for _ in 0..12 {
        history.step().apply(&mut store).expect("a transaction");
        states.push(content(&store).expect("a sound store"));
    }
    // Copied while it is open, as a power cut leaves it.
    let image = image_of(dir.path()).expect("its files");
    drop(store);
    let mut found = 0;
    for seed in 0..DAMAGES / 4 {
        let (dir, what) = damaged(&image, "edge.sqlite-wal", seed);
        let opened = SqliteStore::open_or_renew(dir.path(), &FaceParams::default());
        let opened = opened.unwrap_or_else(|error| panic!("seed {seed}, {what}: {error}"));
        if opened.damaged.is_some() || rest_is_damaged(opened.rest) {
            found += 1;
        } else {
            assert!(states.contains(&content(&opened.store).expect("a read")), "seed {seed}, {what}");
        }
    }
    println!("{found} found");
}

#[test]
fn an_event_that_was_changed_before_it_was_published_is_found_by_an_ordinary_start() {
    for change in ["label = 'x' || label", "captured_at_ms = captured_at_ms + 1", "face = 'x' || substr(face, 2)"] {
        let dir = tempfile::tempdir().expect("a folder");
        let open = || SqliteStore::open_or_renew(dir.path(), &FaceParams::default()).expect("a store");
        let mut opened = open();
        let mut history = History::new(3);
        while opened.store.events_not_on_bus().expect("events").is_empty() {
            history.step().apply(&mut opened.store).expect("a transaction");
        }
        opened.store.note_clean_end().expect("a note");
        drop(opened);
        let db = rusqlite::Connection::open(dir.path().join("edge.sqlite")).expect("a database");
        let spoilt = format!("UPDATE event SET {change} WHERE on_bus = 0 AND superseded = 0");
        assert!(db.execute(&spoilt, []).expect("a write") > 0);
        drop(db);
        let why = open().damaged.expect("damage").why;
        assert!(why.contains("not what its record says"), "{change}: {why}");
    }
}

#[test]
fn an_event_of_a_kind_that_no_program_writes_is_damage_and_no_new_face() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut store = SqliteStore::open(dir.path()).expect("a store");
    let mut history = History::new(3);
    while store.events(1).expect("events").is_empty() {
        history.step().apply(&mut store).expect("a transaction");
    }
    drop(store);
    let db = rusqlite::Connection::open(dir.path().join("edge.sqlite")).expect("a database");
    db.execute("UPDATE event SET kind = 'Recognised'", []).expect("a write");
    drop(db);
    let error = SqliteStore::open(dir.path()).expect("a store").events(1).expect_err("damage");
    assert!(error.is_damage() && error.to_string().contains("no kind of event is \"Recognised\""), "{error}");
}

#[test]
fn after_an_end_that_was_not_in_order_everything_is_checked_beside_the_work() {
    let dir = tempfile::tempdir().expect("a folder");
    let open = || SqliteStore::open_or_renew(dir.path(), &FaceParams::default()).expect("a store");
    extend(&mut open().store, &name("door-1"), LONG_FRAMES).expect("a long history");
    // Nobody has noted that this ended in order.
    let mut opened = open();
    let rest = opened.rest.take().expect("all that the start did not look at");
    opened.store.note_clean_end().expect("a note, were all checked");
    assert_eq!(last_end(dir.path()).expect("a mark"), LastEnd::Unclean(0), "the next start is to go on with the check");
    assert!(!rest_is_damaged(Some(rest)), "a sound database");
    opened.store.note_clean_end().expect("a note");
    assert_eq!(last_end(dir.path()).expect("a mark"), LastEnd::Clean);
    drop(opened);
    assert!(open().rest.is_none(), "an orderly end");

    spoil_record(dir.path(), LONG_FRAMES - 1_000);
    let opened = open();
    assert_eq!(opened.damaged, None, "pages and the newest records are sound");
    assert!(rest_is_damaged(opened.rest), "a check beside the work");
    drop(opened.store);
    let why = open().damaged.expect("what a check has found needs no other").why;
    assert!(why.contains("as a check said"), "{why}");
}

#[test]
fn damage_is_told_even_if_it_cannot_be_noted() {
    let dir = tempfile::tempdir().expect("a folder");
    let open = || SqliteStore::open_or_renew(dir.path(), &FaceParams::default()).expect("a store");
    extend(&mut open().store, &name("door-1"), LONG_FRAMES).expect("a long history");
    spoil_record(dir.path(), LONG_FRAMES - 1_000);
    let opened = open();
    let mark = dir.path().join("last-end");
    fs::remove_file(&mark).expect("the mark");
    fs::create_dir(&mark).expect("a folder in the mark's place");
    assert!(rest_is_damaged(opened.rest), "a check beside the work");
}

fn kept_nothing(dir: &Path) -> bool {
    !dir.join("damaged-1").exists()
}

#[test]
fn a_newer_schema_and_an_unusable_log_are_no_damage() {
    let dir = tempfile::tempdir().expect("a folder");
    let open = || SqliteStore::open_or_renew(dir.path(), &FaceParams::default());
    drop(open().expect("a store"));
    let path = dir.path().join("edge.sqlite");
    let sound = fs::read(&path).expect("a database");
    fs::create_dir(dir.path().join("edge.sqlite-wal")).expect("a folder in the log's place");
    let error = open().err().expect("no log can be opened");
    assert!(!error.is_damage() && kept_nothing(dir.path()), "{error}");
    assert_eq!(fs::read(&path).expect("the database"), sound);
    fs::remove_dir(dir.path().join("edge.sqlite-wal")).expect("its removal");
    let db = rusqlite::Connection::open(&path).expect("a database");
    db.execute_batch("ALTER TABLE chain ADD COLUMN news TEXT; PRAGMA user_version = 9").expect("a newer schema");
    drop(db);
    let error = open().err().expect("a newer schema");
    assert!(matches!(error, StoreError::Newer { found: 9, .. }) && kept_nothing(dir.path()), "{error}");
}

#[test]
fn a_database_that_was_removed_is_no_damage_and_one_that_was_emptied_is() {
    let dir = tempfile::tempdir().expect("a folder");
    let open = || SqliteStore::open_or_renew(dir.path(), &FaceParams::default()).expect("a store");
    drop(open());
    fs::remove_file(dir.path().join("edge.sqlite")).expect("its removal");
    assert_eq!(open().damaged, None);
    assert!(kept_nothing(dir.path()));
    fs::write(dir.path().join("edge.sqlite"), "").expect("an empty file");
    assert!(open().damaged.is_some());
    assert!(!kept_nothing(dir.path()));
}

#[test]
fn damage_seen_again_and_again_is_believed_though_no_check_finds_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let open = || SqliteStore::open_or_renew(dir.path(), &FaceParams::default()).expect("a store");
    drop(open());
    note_damage(dir.path()).expect("a mark");
    assert_eq!(open().damaged, None, "the check finds nothing");
    note_damage(dir.path()).expect("a mark");
    assert!(open().damaged.is_some(), "the second time in a row");
    assert_eq!(open().damaged, None);
}
