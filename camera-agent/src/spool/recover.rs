//! A spool that may have been damaged while it lay on the disk: it is checked, and kept aside if it is.
//!
//! At each start the schema, the sealed row of marks and the sequence of records are checked, which does not read pictures. After an
//! end that was not in order SQLite's own check and every picture's digest follow, within [`CHECK_MS_MAX`]; a picture beyond that is
//! compared with its digest when it is read for sending. After an error that told of damage everything is checked.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use microlambda::Digest;
use microlambda_runtime::last_end::{self, LastEnd, is_gone, is_removed, keep_aside, note_running};
use rusqlite::{Connection, ErrorCode};

use super::open::{DATABASE, SCHEMA, lock};
use super::rows::{self, BEHIND_RECORD, RECORD_COLUMNS, digest_at, integer};
use super::{Identity, Limits, Spool, SpoolError};

/// How long a start is held up to check pictures, ms.
const CHECK_MS_MAX: u64 = 10_000;
/// Damage seen so many times in a row, which no check finds, is believed.
const DAMAGES_BELIEVED: u32 = 2;

/// A spool, as good as it could be had.
#[derive(Debug)]
pub struct Opened {
    /// The spool, open and locked.
    pub spool: Spool,
    /// The one that it replaces, if that was found damaged now: the folder it is in, and what is wrong with it.
    pub damaged: Option<(PathBuf, String)>,
    /// Damaged ones that are kept beside it in all.
    pub kept: u32,
}

impl Spool {
    /// Opens the spool in `folder` for an agent's run, or makes a new one with a new chain. A damaged one is moved into a folder of its
    /// own, and a new one takes its place: frames that it held and no node has are lost, and a finite input is read anew.
    ///
    /// # Errors
    /// As for [`Spool::open`], but for damage: everything else leaves the spool where it is. It is an error too that too many
    /// damaged ones are kept already.
    pub fn open_or_renew(
        folder: &Path,
        identity: &Identity,
        limits: Limits,
        now_ms: u64,
    ) -> Result<Opened, SpoolError> {
        let unusable = |error: std::io::Error| SpoolError::folder(folder, &error);
        let held = lock(folder)?;
        let mut end = last_end::last_end(folder).map_err(unusable)?;
        if is_removed(folder, DATABASE, end) {
            log::warn!(folder:% = folder.display(); "the spool was removed: a new one begins with a new chain");
            end = LastEnd::Never;
        }
        let again = || held.try_clone().map_err(unusable);
        let (spool, damages, damaged) = match open_checked(folder, again()?, identity, limits, now_ms, end) {
            Ok((spool, damages)) => (spool, damages, None),
            Err(error) if error.is_damage() => {
                let place = keep_aside(folder, DATABASE).map_err(unusable)?;
                log::error!(folder:% = place.display(), why:% = error;
                    "the spool is damaged: it is kept in this folder, and a new one begins with a new chain. Frames that it held and no \
                     node has are lost; a finite input is read anew, as a new job. Remove the folder once all is well; check the disk");
                let spool = Self::open_locked(folder, again()?, identity, limits, now_ms)?;
                (spool, 0, Some((place, error.to_string())))
            }
            Err(error) => return Err(error),
        };
        note_running(folder, damages).map_err(unusable)?;
        Ok(Opened { spool, damaged, kept: last_end::kept_aside(folder) })
    }

    /// Whether the rows are what this program writes: every record in its place with its seal.
    pub(super) fn check_rows(&self) -> Result<(), SpoolError> {
        let mut statement = self.db.prepare(&format!(
            "SELECT {RECORD_COLUMNS}, frame.sequence IS NOT NULL
             FROM record LEFT JOIN frame USING (sequence) ORDER BY record.sequence"
        ))?;
        let mut found = statement.query([])?;
        let mut expected = None;
        while let Some(row) = found.next()? {
            let (sequence, record) = rows::sealed(row)?;
            let is_frame = matches!(record, microlambda_wire::Record::Frame { .. });
            if expected.is_some_and(|expected| expected != sequence) || is_frame != row.get::<_, bool>(BEHIND_RECORD)? {
                return Err(SpoolError::damaged(format!("record {sequence}")));
            }
            expected = Some(sequence + record.span());
        }
        // Freed records are gone from the oldest on; the newest ends where the next begins.
        if expected.is_some_and(|expected| expected != self.view.next) {
            return Err(SpoolError::damaged("the sequence of its records"));
        }
        Ok(())
    }

    /// SQLite's own check and the pictures' digests; false if the time ran out.
    fn check_content(&self, pragma: &str, until: Option<Instant>) -> Result<bool, SpoolError> {
        let lines = match complaints(&self.db, pragma, until) {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => return Ok(false),
            outcome => outcome?,
        };
        if let Some(line) = lines.first() {
            return Err(SpoolError::damaged(format!("its database ({line})")));
        }
        let query = "SELECT record.sequence, digest, jpeg FROM record JOIN frame USING (sequence)
            WHERE record.sequence > ?1 ORDER BY record.sequence LIMIT 1";
        let mut statement = self.db.prepare(query)?;
        let mut at = -1_i64;
        loop {
            let mut pictures = statement.query([at])?;
            let Some(row) = pictures.next()? else { return Ok(true) };
            at = row.get(0)?;
            if Digest::of(row.get_ref(2)?.as_blob()?) != digest_at(row, 1)? {
                return Err(SpoolError::damaged(format!("the picture of frame {at}")));
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return Ok(false);
            }
        }
    }
}

fn open_checked(
    folder: &Path,
    lock: std::fs::File,
    identity: &Identity,
    limits: Limits,
    now_ms: u64,
    end: LastEnd,
) -> Result<(Spool, u32), SpoolError> {
    if is_gone(folder, DATABASE, end) {
        return Err(SpoolError::damaged("its file, which is missing or empty,"));
    }
    if matches!(end, LastEnd::DamageSeen(DAMAGES_BELIEVED..)) {
        return Err(SpoolError::damaged("what was read again and again while running"));
    }
    let spool = Spool::open_locked(folder, lock, identity, limits, now_ms)?;
    let (pragma, until, damages) = match end {
        LastEnd::Never | LastEnd::Clean => return Ok((spool, 0)),
        LastEnd::Unclean(damages) => {
            ("quick_check(1)", Some(Instant::now() + Duration::from_millis(CHECK_MS_MAX)), damages)
        }
        LastEnd::DamageSeen(damages) => ("integrity_check(1)", None, damages),
    };
    log::info!(end:? = end; "the last run did not end in order: checking the spool");
    if !spool.check_content(pragma, until)? {
        log::info!("sound as far as it was checked: each picture is compared with its digest before it is sent");
    }
    Ok((spool, damages))
}

/// What SQLite complains about; interrupted when the time is up.
fn complaints(db: &Connection, pragma: &str, until: Option<Instant>) -> rusqlite::Result<Vec<String>> {
    let interrupt = db.get_interrupt_handle();
    let (done, alarm) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let Some(until) = until else { return };
            let patience = until.saturating_duration_since(Instant::now());
            if alarm.recv_timeout(patience) == Err(mpsc::RecvTimeoutError::Timeout) {
                interrupt.interrupt();
            }
        });
        let read = || {
            let mut statement = db.prepare(&format!("PRAGMA {pragma}"))?;
            statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()
        };
        let lines = read();
        drop(done);
        lines.map(|mut lines| {
            lines.retain(|line| line != "ok");
            lines
        })
    })
}

/// The schema of a new spool.
pub(super) fn own_schema() -> rusqlite::Result<&'static BTreeSet<String>> {
    static OWN: OnceLock<BTreeSet<String>> = OnceLock::new();
    if let Some(own) = OWN.get() {
        return Ok(own);
    }
    let fresh = Connection::open_in_memory()?;
    fresh.execute_batch(SCHEMA)?;
    let own = schema_of(&fresh)?;
    Ok(OWN.get_or_init(|| own))
}

pub(super) fn schema_of(db: &Connection) -> rusqlite::Result<BTreeSet<String>> {
    let mut statement = db.prepare("SELECT type || ' ' || name || ' ' || coalesce(sql, '') FROM sqlite_schema")?;
    statement.query_map([], |row| row.get(0))?.collect()
}

/// What changes in the spool's one row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marks {
    pub next: u64,
    pub sent_mark: u64,
    pub manifest: Digest,
    pub end_count: Option<u64>,
    /// Generation of the newest restart; 0 before the first.
    pub generation: u32,
}

/// The digest over the row of marks.
pub(super) fn seal_of_marks(identity: Digest, marks: &Marks) -> Digest {
    microlambda::DigestBuilder::new("spool marks")
        .field(&identity.0)
        .number(marks.next)
        .number(marks.sent_mark)
        .field(&marks.manifest.0)
        .number(marks.end_count.map_or(0, |count| count + 1))
        .number(u64::from(marks.generation))
        .finish()
}

/// The digest over what never changes in that row.
pub(super) fn identity_of(chain: &str, held: &Identity, class: &str, created_at_ms: u64) -> Digest {
    microlambda::DigestBuilder::new("spool identity")
        .field(chain.as_bytes())
        .field(held.camera.as_str().as_bytes())
        .field(class.as_bytes())
        .field(held.source.as_bytes())
        .number(created_at_ms)
        .finish()
}

/// Writes the marks with their seal.
pub(super) fn write_marks(db: &Connection, identity: Digest, marks: &Marks) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE spool SET next = ?1, sent_mark = ?2, manifest = ?3, end_count = ?4, generation = ?5, seal = ?6",
    )?
    .execute(rusqlite::params![
        integer(marks.next)?,
        integer(marks.sent_mark)?,
        marks.manifest.0.as_slice(),
        marks.end_count.map(integer).transpose()?,
        marks.generation,
        seal_of_marks(identity, marks).0.as_slice()
    ])?;
    Ok(())
}
