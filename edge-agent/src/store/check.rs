//! Whether a database holds what it should: every record folded again, every row that follows from one compared.

use std::collections::BTreeSet;
use std::sync::{OnceLock, mpsc};
use std::time::Instant;

use microlambda_faces::content::Entry;
use microlambda_faces::fold::{FoldState, Folded, Sighting, event_id, lambda_digest};
use microlambda_faces::{Analysis, Encoding, FaceAt, FaceOutcome, FaceParams};
use microlambda_wire::{EventKind, Record};
use rusqlite::{ErrorCode, OptionalExtension, params};
use serde::Serialize;

use super::sqlite::{SqliteStore, chain_id, integer};
use super::sqlite_read::{encoding_bytes, unsigned};
use super::totals::totals_before;
use super::{ChainTotals, Store, StoreError, StoredChain};

/// Entries folded at once, bytes.
const PART_BYTES: usize = 1 << 20;
/// Complaints of SQLite listed at most.
const COMPLAINTS_MAX: usize = 20;
/// The quick look folds so many of a chain's newest records again.
const TIP_RECORDS: u64 = 16;

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// Whether nothing is wrong, as far as it was checked.
    pub sound: bool,
    /// How many chains are held.
    pub chains: usize,
    /// How many records were folded again.
    pub records: u64,
    /// What is wrong, for people.
    pub problems: Vec<String>,
    /// Chains that were folded with other `[faces]` settings or by another version: their records cannot be checked with these.
    pub other_settings: Vec<String>,
    /// Whether the time ran out before everything was checked.
    pub cut_short: bool,
}

/// How SQLite's own check is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Every page of every tree, without comparing indexes with their tables.
    Pages,
    /// Every page, and every index compared with its table.
    Everything,
}

/// Why a chain was not checked to its end.
enum Stopped {
    /// Something is wrong with the chain or the database; what that is, for people.
    Wrong(String),
    /// It was folded with other settings or by another version.
    OtherSettings,
    /// The time is up.
    TimeUp,
    /// The database cannot be read, and it is not its content that is wrong.
    Unreadable(StoreError),
}

impl From<StoreError> for Stopped {
    fn from(error: StoreError) -> Self {
        if error.is_damage() { Self::Wrong(error.what()) } else { Self::Unreadable(error) }
    }
}

fn wrong(what: impl std::fmt::Display) -> Stopped {
    Stopped::Wrong(what.to_string())
}

impl SqliteStore {
    /// Checks everything, until `until` if that is given: the file by SQLite's own check, each chain by folding its records from the
    /// genesis with `faces`, and the rows that follow from them. Not checked, for nothing follows from it and no digest covers it:
    /// pictures of faces, which engine made an analysis, whether an event was seen on the bus, and how often a unit failed here.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read; that it is damaged is a finding and no error.
    pub fn check(&self, faces: &FaceParams, depth: Depth, until: Option<Instant>) -> Result<Findings, StoreError> {
        let mut found = Findings::default();
        match self.check_all(faces, depth, until, &mut found) {
            Ok(()) => {}
            Err(Stopped::Wrong(what)) => found.problems.push(what),
            Err(Stopped::TimeUp | Stopped::OtherSettings) => found.cut_short = true,
            Err(Stopped::Unreadable(error)) => return Err(error),
        }
        found.sound = found.problems.is_empty();
        Ok(found)
    }

    fn check_all(
        &self,
        faces: &FaceParams,
        depth: Depth,
        until: Option<Instant>,
        found: &mut Findings,
    ) -> Result<(), Stopped> {
        found.problems = self.integrity_until(depth, until)?;
        if !found.problems.is_empty() {
            // The file itself is wrong: what the records in it lead to takes long and says nothing more.
            return Ok(());
        }
        self.check_schema()?;
        let names = self.chain_names()?;
        found.chains = names.len();
        for name in &names {
            // One after the other: all galleries at once may be more than there is room for.
            let Some(chain) = self.chain(name)? else { continue };
            match self.check_chain(faces, &chain, until, &mut found.records) {
                Err(Stopped::Wrong(why)) => found.problems.push(format!("chain {}: {why}", chain.name)),
                Err(Stopped::OtherSettings) => found.other_settings.push(chain.name.to_string()),
                outcome => outcome?,
            }
        }
        Ok(())
    }

    /// A look at what the node works with, whose cost is bounded by that and not by the age of the database: the schema, of
    /// each chain given the newest records (folded again to the same digests and people) and the encodings kept of people, and the
    /// events that are still to be published (both compared with the records they are from).
    ///
    /// # Errors
    /// [`StoreError::Damaged`] says what is wrong.
    pub fn quick_look(&self, faces: &FaceParams, chains_max: usize) -> Result<(), StoreError> {
        let look = || {
            self.check_schema()?;
            for chain in self.newest_chains(chains_max)? {
                self.check_tip(faces, &chain)?;
                self.check_exemplars(&chain)?;
            }
            self.check_events_to_publish()
        };
        look().map_err(|stopped| match stopped {
            Stopped::Wrong(what) => self.damaged(what),
            Stopped::Unreadable(error) => error,
            Stopped::TimeUp | Stopped::OtherSettings => self.damaged("what it should be checked against"),
        })
    }

    fn orphans(&self) -> rusqlite::Result<Vec<String>> {
        let query = format!("SELECT \"table\" FROM pragma_foreign_key_check LIMIT {COMPLAINTS_MAX}");
        let mut statement = self.connection.prepare(&query)?;
        let broken = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
        Ok(broken.into_iter().map(|table| format!("{table}: a row refers to a chain that is not there")).collect())
    }

    /// SQLite's check, ended when the time is up: it reads the whole file, which may be long on a slow card.
    fn integrity_until(&self, depth: Depth, until: Option<Instant>) -> Result<Vec<String>, Stopped> {
        let interrupt = self.connection.get_interrupt_handle();
        let (done, alarm) = mpsc::channel::<()>();
        let read = || {
            let pragma = if depth == Depth::Pages { "quick_check" } else { "integrity_check" };
            let mut statement = self.connection.prepare(&format!("PRAGMA {pragma}({COMPLAINTS_MAX})"))?;
            let mut lines = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
            lines.retain(|line| line != "ok");
            lines.extend(self.orphans()?);
            Ok(lines)
        };
        let outcome = std::thread::scope(|scope| {
            scope.spawn(move || {
                let Some(until) = until else { return };
                let patience = until.saturating_duration_since(Instant::now());
                if alarm.recv_timeout(patience) == Err(mpsc::RecvTimeoutError::Timeout) {
                    interrupt.interrupt();
                }
            });
            let outcome: rusqlite::Result<Vec<String>> = read();
            drop(done);
            outcome
        });
        match outcome {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => Err(Stopped::TimeUp),
            Err(error) => Err(self.sqlite(error).into()),
            Ok(lines) => Ok(lines),
        }
    }

    /// Folds a chain's records from its genesis and compares every digest, the people, and all rows.
    fn check_chain(
        &self,
        faces: &FaceParams,
        chain: &StoredChain,
        until: Option<Instant>,
        records: &mut u64,
    ) -> Result<(), Stopped> {
        if chain.lambda != lambda_digest(faces) {
            // Its row is sealed, so this is no damage; but what its records lead to is not known here.
            return Err(Stopped::OtherSettings);
        }
        let mut fold = FoldState::genesis(*faces);
        let mut totals = ChainTotals::default();
        let (mut sightings, mut kept, mut events, mut done) = (0, 0, 0, false);
        loop {
            let (entries, _) = self.entries(&chain.name, fold.head().version.sequence, PART_BYTES)?;
            if entries.is_empty() {
                break;
            }
            for entry in &entries {
                let folded = self.check_record(chain, &mut fold, entry)?;
                totals = totals.with(entry);
                self.check_totals(chain, entry, totals)?;
                done |= folded.done;
                for sighting in &folded.sightings {
                    self.check_sighting(chain, entry, sighting)?;
                    self.check_person(chain, entry, sighting)?;
                }
                sightings += folded.sightings.len();
                kept += folded.sightings.iter().filter(|sighting| sighting.kept).count();
                events += folded.sightings.iter().filter(|sighting| sighting.event.is_some()).count();
                *records += 1;
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return Err(Stopped::TimeUp);
            }
        }
        self.check_state(chain, &fold)?;
        if done != chain.done {
            return Err(wrong("whether it has ended is not what its records say"));
        }
        self.check_count(chain, "person WHERE chain = ?1", fold.gallery().ever)?;
        self.check_count(chain, "exemplar WHERE chain = ?1", kept)?;
        self.check_count(chain, "sighting WHERE chain = ?1", sightings)?;
        self.check_count(chain, "event WHERE superseded = 0 AND chain = ?1", events)
    }

    fn check_record(&self, chain: &StoredChain, fold: &mut FoldState, entry: &Entry) -> Result<Folded, Stopped> {
        let folded = fold.fold(entry).map_err(wrong)?;
        let stored = self.boundary(&chain.name, entry.next_sequence())?;
        if stored != Some(folded.head) {
            return Err(wrong(format!("record {} leads elsewhere than its content", entry.sequence)));
        }
        Ok(folded)
    }

    fn check_totals(&self, chain: &StoredChain, entry: &Entry, totals: ChainTotals) -> Result<(), Stopped> {
        let stored = self.read(|connection| {
            let (id, next) = (chain_id(connection, &chain.name)?, integer(entry.next_sequence())?);
            totals_before(connection, id, next)
        })?;
        if stored != totals {
            return Err(wrong(format!("the sums up to record {} are not those of its records", entry.sequence)));
        }
        Ok(())
    }

    fn check_state(&self, chain: &StoredChain, fold: &FoldState) -> Result<(), Stopped> {
        let head = match &chain.partial {
            Some(partial) => fold.partial_head(partial).map_err(wrong)?,
            None => fold.head(),
        };
        if fold.head() != chain.boundary || head != chain.head {
            return Err(wrong(format!("its records lead to {}, its head is {}", head.version, chain.head.version)));
        }
        if *fold.gallery() != chain.gallery {
            return Err(wrong("its gallery is not what its records lead to"));
        }
        Ok(())
    }

    /// Folds the newest records again.
    fn check_tip(&self, faces: &FaceParams, chain: &StoredChain) -> Result<(), Stopped> {
        if chain.lambda != lambda_digest(faces) {
            return Ok(());
        }
        let far = chain.boundary.version.sequence.saturating_sub(TIP_RECORDS);
        let locator = self.locator(&chain.name)?;
        let from = locator.iter().map(|(sequence, _)| *sequence).find(|sequence| *sequence <= far).unwrap_or(0);
        let start = self.boundary(&chain.name, from)?.ok_or_else(|| wrong(format!("record {from} is missing")))?;
        let mut fold = FoldState::restore(*faces, start, self.gallery_at(&chain.name, from)?);
        loop {
            let (entries, _) = self.entries(&chain.name, fold.head().version.sequence, PART_BYTES)?;
            if entries.is_empty() {
                return self.check_state(chain, &fold);
            }
            for entry in &entries {
                self.check_record(chain, &mut fold, entry)?;
            }
        }
    }

    /// Compares each kept encoding with the record it is from.
    fn check_exemplars(&self, chain: &StoredChain) -> Result<(), Stopped> {
        for exemplar in chain.gallery.people.iter().flat_map(|person| &person.exemplars) {
            let FaceAt { sequence, face_index } = exemplar.at;
            let (entries, _) = self.entries(&chain.name, sequence, 1)?;
            let entry = entries.first().filter(|entry| entry.sequence == sequence);
            let encoding = entry.and_then(|entry| encoding(entry, face_index));
            if encoding != Some(&exemplar.encoding) {
                return Err(wrong(format!("an encoding from record {sequence} is not the record's")));
            }
        }
        Ok(())
    }

    /// Compares each event that is still to be published with its record; who is new is the face of its own event.
    fn check_events_to_publish(&self) -> Result<(), Stopped> {
        for event in self.read_events_not_on_bus()? {
            let (entries, _) = self.entries(&event.chain, event.sequence, 1)?;
            let record = entries.first().filter(|entry| entry.sequence == event.sequence).map(|entry| &entry.record);
            let is_of_record = matches!(record, Some(Record::Frame { captured_at_ms, label, .. })
                if *captured_at_ms == event.captured_at_ms && *label == event.label);
            let at = FaceAt { sequence: event.sequence, face_index: event.face_index };
            let id = event_id(event.chain.as_str(), at);
            let is_new = event.kind == EventKind::NewFace;
            if !is_of_record || event.id.as_str() != id || is_new != (event.face == event.id) {
                return Err(wrong(format!("event {} is not what its record says", event.id)));
            }
        }
        Ok(())
    }

    fn check_sighting(&self, chain: &StoredChain, entry: &Entry, sighting: &Sighting) -> Result<(), Stopped> {
        let Record::Frame { captured_at_ms, label, .. } = &entry.record else { return Ok(()) };
        let (sequence, index) = (entry.sequence, sighting.face_index);
        let at = || wrong(format!("what was seen in record {sequence} is not what its content says"));
        type Row = (i64, u64, i64, u64, u64, String);
        let (id, row, event) = self.read(|connection| {
            let id = chain_id(connection, &chain.name)?;
            let row: Option<Row> = connection
                .prepare_cached(
                    "SELECT person, distance, captured_at_ms, frames, last_seen_ms, label FROM sighting
                     WHERE chain = ?1 AND sequence = ?2 AND face_index = ?3",
                )?
                .query_row(params![id, integer(sequence)?, index], |row| {
                    let (frames, last_seen_ms) = (unsigned(row, 3)?, unsigned(row, 4)?);
                    let distance = row.get::<_, f64>(1)?.to_bits();
                    Ok((row.get(0)?, distance, row.get(2)?, frames, last_seen_ms, row.get(5)?))
                })
                .optional()?;
            let event = connection
                .prepare_cached("SELECT chain, sequence, face_index, kind, face, captured_at_ms, label FROM event WHERE id = ?1 AND superseded = 0")?
                .query_row([event_id(chain.name.as_str(), FaceAt { sequence, face_index: index })], |row| {
                    let place: (i64, i64, u32) = (row.get(0)?, row.get(1)?, row.get(2)?);
                    Ok((place, row.get::<_, String>(3)?, row.get::<_, String>(4)?, row.get(5)?, row.get(6)?))
                })
                .optional()?;
            Ok((id, row, event))
        })?;
        let captured_at_ms = self.read(|_| integer(*captured_at_ms))?;
        let (frames, last_seen_ms) = (sighting.frames, sighting.last_seen_ms);
        let person = sighting.person as i64;
        let expected = (person, sighting.distance.to_bits(), captured_at_ms, frames, last_seen_ms, label.clone());
        if row != Some(expected) {
            return Err(at());
        }
        let expected = sighting.event.map(|kind| {
            let face = event_id(chain.name.as_str(), sighting.first);
            ((id, sequence as i64, index), kind.as_str().to_owned(), face, captured_at_ms, label.clone())
        });
        if event == expected { Ok(()) } else { Err(at()) }
    }

    /// What a sighting has added to the gallery, which may have forgotten the person since.
    fn check_person(&self, chain: &StoredChain, entry: &Entry, sighting: &Sighting) -> Result<(), Stopped> {
        let Record::Frame { captured_at_ms, .. } = &entry.record else { return Ok(()) };
        let (sequence, index) = (entry.sequence, sighting.face_index);
        let number = sighting.person as i64;
        type Row = (String, u64, u32, u64);
        let (person, bytes) = self.read(|connection| {
            let id = chain_id(connection, &chain.name)?;
            let query = "SELECT face, first_sequence, first_face_index, first_seen_ms FROM person WHERE chain = ?1 AND number = ?2";
            let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, unsigned(row, 1)?, row.get(2)?, unsigned(row, 3)?));
            let person: Option<Row> = match sighting.event {
                Some(EventKind::NewFace) => {
                    connection.prepare_cached(query)?.query_row([id, number], row).optional()?
                }
                Some(EventKind::Recognised) | None => None,
            };
            let query =
                "SELECT encoding FROM exemplar WHERE chain = ?1 AND person = ?2 AND sequence = ?3 AND face_index = ?4";
            let key = params![id, number, integer(sequence)?, index];
            let bytes = || connection.prepare_cached(query)?.query_row(key, |row| row.get::<_, Vec<u8>>(0)).optional();
            Ok((person, if sighting.kept { bytes()? } else { None }))
        })?;
        let is_new = sighting.event == Some(EventKind::NewFace);
        let face = || event_id(chain.name.as_str(), FaceAt { sequence, face_index: index });
        let expected = is_new.then(|| (face(), sequence, index, *captured_at_ms));
        let kept = encoding(entry, index).filter(|_| sighting.kept).map(encoding_bytes);
        if person == expected && bytes == kept {
            return Ok(());
        }
        Err(wrong(format!("a person or an encoding from record {sequence} is not the record's")))
    }

    fn check_count(&self, chain: &StoredChain, rows: &str, expected: usize) -> Result<(), Stopped> {
        let found = self.read(|connection| {
            let id = chain_id(connection, &chain.name)?;
            connection.query_row(&format!("SELECT count(*) FROM {rows}"), [id], |row| row.get::<_, i64>(0))
        })?;
        if usize::try_from(found) == Ok(expected) {
            return Ok(());
        }
        let table = rows.split(' ').next().unwrap_or_default();
        Err(wrong(format!("{found} rows of {table}, and its records lead to {expected}")))
    }

    /// Whether the tables are this program's: a newer one has raised the version, so that anything else is damage.
    fn check_schema(&self) -> Result<(), Stopped> {
        if self.read(|_| self.has_own_schema())? { Ok(()) } else { Err(wrong("the schema")) }
    }

    pub(super) fn schema(&self) -> rusqlite::Result<BTreeSet<String>> {
        schema_of(&self.connection)
    }

    pub(super) fn has_own_schema(&self) -> rusqlite::Result<bool> {
        Ok(self.schema()? == *own_schema()?)
    }
}

/// The schema of a new database.
pub(super) fn own_schema() -> rusqlite::Result<&'static BTreeSet<String>> {
    static OWN: OnceLock<BTreeSet<String>> = OnceLock::new();
    if let Some(own) = OWN.get() {
        return Ok(own);
    }
    let fresh = rusqlite::Connection::open_in_memory()?;
    fresh.execute_batch(super::sqlite::SCHEMA)?;
    let own = schema_of(&fresh)?;
    Ok(OWN.get_or_init(|| own))
}

/// What an entry says about one face.
fn encoding(entry: &Entry, face_index: u32) -> Option<&Encoding> {
    let Some(Analysis::Frame(analysis)) = &entry.analysis else { return None };
    match &analysis.faces.get(face_index as usize)?.outcome {
        FaceOutcome::Encoded(encoding) => Some(encoding),
        FaceOutcome::Unusable(_) => None,
    }
}

pub(super) fn schema_of(connection: &rusqlite::Connection) -> rusqlite::Result<BTreeSet<String>> {
    let mut statement =
        connection.prepare("SELECT type || ' ' || name || ' ' || coalesce(sql, '') FROM sqlite_schema")?;
    statement.query_map([], |row| row.get(0))?.collect()
}
