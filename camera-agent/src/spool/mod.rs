//! The spool: the camera's own durable, bounded store of records, and the only sequencer of its chain.
//!
//! A record and its number are on disk before anyone hears of them (SQLite, WAL, `synchronous = FULL`), so that a number
//! is never used twice. The functions here block; [`thread`] runs them on a thread of their own.

mod anew;
mod open;
mod recover;
mod rows;
pub mod thread;

use std::fs::File;

use microlambda::Digest;
use microlambda::DigestBuilder;
use microlambda::sabotage::{self, Sabotage};
use microlambda_wire::{Areas, ChainClass, EndMark, GapReason, Name, Record};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

pub use open::{FOLDER_PREFIX, Identity, replace};
pub use recover::Opened;
use recover::{Marks, write_marks};
use rows::{integer, unsigned};

/// The sent mark is raised by so many numbers at a time at most: one sync for as many frames sent.
const SENT_BLOCK_MAX: u64 = 64;
/// Records freed in one transaction at most, so that a long backlog does not hold up a new frame.
pub const FREE_RECORDS_MAX: u64 = 64;
/// Pieces of a finite input that are read at a time.
pub const INPUTS_PAGE: usize = 512;

/// How much the spool holds at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// All JPEGs held together are no longer, bytes.
    pub bytes_max: u64,
    /// No more frames are held.
    pub frames_max: u64,
}

/// Why the spool failed. Each says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolError {
    /// Another process has it open.
    #[error("{0} is in use by another process: stop that one, or set another `state-dir`")]
    InUse(String),
    /// Another kind of agent keeps its own there.
    #[error("state-dir belongs to an edge agent: give the camera agent a folder of its own, other than {0}")]
    EdgeAgents(String),
    /// It was made for something else.
    #[error(
        "the spool in {folder} belongs to {holds}, and the configuration asks for {asked}: correct the configuration, set another `state-dir`, or start anew: with `camera-agent run --new-job`, or, as a service, without {folder}/spool.sqlite* (stop it, remove these, start it)"
    )]
    Other {
        /// The folder of the spool.
        folder: String,
        /// What it was made for.
        holds: String,
        /// What was asked for.
        asked: String,
        /// Whether it never held a record.
        untouched: bool,
    },
    /// A newer program made it.
    #[error("the spool in {folder} has format {found}, this program knows {known}: install the newer program again")]
    Newer {
        /// The folder of the spool.
        folder: String,
        /// The format that it has.
        found: i64,
        /// The newest format that this program knows.
        known: i64,
    },
    /// The folder cannot be used.
    #[error("cannot use the folder {folder}: {why}; check that it exists, is writable and has room")]
    Folder {
        /// The folder that cannot be used.
        folder: String,
        /// What the system says.
        why: String,
    },
    /// A new chain gets no name.
    #[error("the system gives no random numbers ({0}): let this program call `getrandom`, and start it again")]
    NoRandomness(String),
    /// The disk is full.
    #[error("the disk is full: free some space, or lower `bytes-max` in [spool]")]
    DiskFull,
    /// The database says no.
    #[error(
        "the spool's database failed ({0}): check the disk; if it is damaged, the next start keeps it aside and begins a new one"
    )]
    Database(rusqlite::Error),
    /// Something that this program cannot have written.
    #[error("{0} is damaged: the next start of `camera-agent run` checks the spool, and begins a new one if it must")]
    Damaged(String),
}

impl SpoolError {
    /// Whether the content of the spool is wrong: not its disk, its permissions or its version, which may be mended.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged(_) => true,
            Self::Database(error) => match error {
                // What this program has written has the right types, and its one row of marks is there.
                rusqlite::Error::QueryReturnedNoRows
                | rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::Utf8Error(..) => true,
                _ => matches!(
                    error.sqlite_error_code(),
                    Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase)
                ),
            },
            Self::InUse(_)
            | Self::EdgeAgents(_)
            | Self::Other { .. }
            | Self::Newer { .. }
            | Self::Folder { .. }
            | Self::NoRandomness(_)
            | Self::DiskFull => false,
        }
    }

    fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged(what.into())
    }

    fn folder(folder: &std::path::Path, error: &std::io::Error) -> Self {
        Self::Folder { folder: folder.display().to_string(), why: error.to_string() }
    }
}

impl From<rusqlite::types::FromSqlError> for SpoolError {
    /// A column whose type is not the one that this program writes.
    fn from(error: rusqlite::types::FromSqlError) -> Self {
        Self::Damaged(format!("a column ({error})"))
    }
}

impl From<rusqlite::Error> for SpoolError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::DiskFull,
            _ => Self::Database(error),
        }
    }
}

/// A frame to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFrame {
    /// The picture, a whole JPEG.
    pub jpeg: Vec<u8>,
    /// When it was taken, ms since 1970.
    pub captured_at_ms: u64,
    /// Where it came from, for people; at most 200 bytes.
    pub label: String,
    /// Where something moved since the frames before it; `None` if all of it is to be searched.
    pub moved: Option<Areas>,
    /// For finite inputs: what was read.
    pub input: Option<Input>,
}

/// One piece of a finite input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// A file's name.
    pub label: String,
    /// SHA-256 of what was read.
    pub digest: Digest,
    /// A file's modification time, ms since 1970; 0 otherwise.
    pub modified_at_ms: u64,
    /// How long what was read is, bytes.
    pub input_bytes: u64,
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// Durable under this number; so many older ones, never sent, became a gap. Those that had found no room before it stand in
    /// a gap right before it.
    Kept {
        /// The number that the frame has got.
        sequence: u64,
        /// Older frames dropped for it.
        dropped: u64,
    },
    /// No room, because all that is held may have been sent. A finite input waits; a live frame is lost: see [`Spool::miss`].
    Full,
}

/// A record as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The record's number in its chain: the first one if it covers more.
    pub sequence: u64,
    /// What the record says.
    pub record: Record,
    /// The picture, if it is a frame.
    pub jpeg: Option<Vec<u8>>,
}

/// What the spool holds, at a glance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The chain that the records are of.
    pub chain: Name,
    /// Whether the chain is live or has an end.
    pub class: ChainClass,
    /// The oldest record held; `next` if none is.
    pub oldest: u64,
    /// One behind the last number that it covers; `next` if none is held.
    pub oldest_end: u64,
    /// The number of the next record.
    pub next: u64,
    /// Set once the input has ended.
    pub end: Option<EndMark>,
    /// How many frames are held.
    pub frames: u64,
    /// The length of all JPEGs held, bytes.
    pub bytes: u64,
    /// Pieces of a finite input, of this run and those before it, that could be no picture.
    pub passed_over: u64,
}

impl View {
    /// True when the input has ended and everything was freed.
    pub fn is_complete(&self) -> bool {
        self.end.is_some() && self.oldest == self.next
    }

    /// How full the spool is, of frames or of bytes, 0 to 1000.
    pub fn filled_permille(&self, limits: Limits) -> u64 {
        let part = |held: u64, at_most: u64| held.saturating_mul(1_000) / at_most.max(1);
        part(self.frames, limits.frames_max).max(part(self.bytes, limits.bytes_max)).min(1_000)
    }

    /// Whether [`Spool::free`] would free anything: a record goes once all of its numbers may.
    pub fn frees_below(&self, below: u64) -> bool {
        self.oldest < below && self.oldest_end <= below
    }
}

/// An open spool. Its folder is locked until it is dropped.
#[derive(Debug)]
pub struct Spool {
    db: Connection,
    _lock: File,
    limits: Limits,
    view: View,
    sent_mark: u64,
    manifest: Digest,
    /// Generation of the newest restart; 0 before the first.
    generation: u32,
    /// Digest of what never changes in the row of marks.
    identity: Digest,
    /// Whose spool it is.
    camera: Name,
    /// The number of the next record when it was opened.
    opened_at: u64,
    /// Live frames that found no room and have no number yet. Not durable: a power cut forgets that they were.
    missed: u64,
    /// The newest record read out for sending, to raise the sent mark together with the next append.
    last_read: Option<u64>,
}

impl Spool {
    /// What the spool holds now.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Records below this number may have been sent.
    pub fn sent_mark(&self) -> u64 {
        self.sent_mark
    }

    /// Appends a frame under the next number. When this returns, it is durable.
    ///
    /// # Errors
    /// [`SpoolError`]; then nothing has changed.
    pub fn append(&mut self, frame: &NewFrame) -> Result<Appended, SpoolError> {
        let frame_bytes = frame.jpeg.len() as u64;
        let sequence = self.view.next + self.missed;
        let digest = Digest::of(&frame.jpeg);
        let manifest = next_manifest(self.manifest, digest);
        // Whoever reads at the head will be sent this frame at once: then the mark moves in the same sync.
        let follows = self.last_read.is_some_and(|last| last + 1 == self.view.next);
        let sent_mark =
            if follows && sequence >= self.sent_mark { sequence + self.sent_block() } else { self.sent_mark };
        let marks = Marks { next: sequence + 1, sent_mark, manifest, ..self.marks() };
        let mut room = Room { frames: self.view.frames, bytes: self.view.bytes, dropped: 0 };
        let mut newest_dropped = None;
        let transaction = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        while room.frames >= self.limits.frames_max || room.bytes + frame_bytes > self.limits.bytes_max {
            let may_drop = self.view.class == ChainClass::Live;
            match if may_drop { rows::oldest_frame_from(&transaction, self.sent_mark)? } else { None } {
                Some((oldest, bytes)) => {
                    rows::turn_into_gap(&transaction, oldest, self.sent_mark)?;
                    newest_dropped = Some(oldest);
                    room = Room { frames: room.frames - 1, bytes: room.bytes - bytes, dropped: room.dropped + 1 };
                }
                // Dropping the transaction undoes what it had dropped.
                None => return Ok(Appended::Full),
            }
        }
        rows::insert_missed(&transaction, self.view.next, self.missed)?;
        // What the frames before would have shown is not known: all of this one is searched.
        let moved = frame.moved.clone().filter(|_| self.missed == 0);
        let (captured_at_ms, label) = (frame.captured_at_ms, frame.label.clone());
        let record = Record::Frame { captured_at_ms, digest, label, moved };
        rows::insert(&transaction, sequence, &record, frame_bytes)?;
        transaction
            .prepare_cached("INSERT INTO frame (sequence, jpeg) VALUES (?1, ?2)")?
            .execute(params![integer(sequence)?, frame.jpeg])?;
        if let Some(dropped) = newest_dropped {
            rows::search_all_from(&transaction, dropped + 1)?;
        }
        if let Some(input) = &frame.input {
            rows::insert_input(&transaction, input, true)?;
        }
        write_marks(&transaction, self.identity, &marks)?;
        transaction.commit()?;
        self.missed = 0;
        self.view.next = sequence + 1;
        self.view.frames = room.frames + 1;
        self.view.bytes = room.bytes + frame_bytes;
        self.manifest = manifest;
        self.sent_mark = sent_mark;
        self.refresh_oldest()?;
        Ok(Appended::Kept { sequence, dropped: room.dropped })
    }

    /// Counts a live frame that could not be appended: its number is given to a gap with the next write that succeeds.
    pub fn miss(&mut self) {
        self.missed += 1;
    }

    /// Remembers a piece of a finite input that can be no picture, so that a restart passes over it too.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn pass_over(&mut self, input: &Input) -> Result<(), SpoolError> {
        let transaction = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        rows::insert_input(&transaction, input, false)?;
        transaction.commit()?;
        self.view.passed_over += 1;
        Ok(())
    }

    /// Writes the end record of a finite input; a second call changes nothing.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn finish(&mut self) -> Result<EndMark, SpoolError> {
        if let Some(end) = self.view.end {
            return Ok(end);
        }
        let end = EndMark { count: self.view.next, manifest: self.manifest };
        let marks = Marks { next: end.count + 1, end_count: Some(end.count), ..self.marks() };
        let transaction = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        rows::insert(&transaction, end.count, &Record::End { count: end.count, manifest: end.manifest }, 0)?;
        write_marks(&transaction, self.identity, &marks)?;
        transaction.commit()?;
        self.view.next = end.count + 1;
        self.view.end = Some(end);
        self.refresh_oldest()?;
        Ok(end)
    }

    /// The record that covers `sequence`, for sending: the sent mark is durable beyond it when this returns. `None` if
    /// it is not held: freed, or not yet there.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn read(&mut self, sequence: u64) -> Result<Option<Stored>, SpoolError> {
        let Some(stored) = rows::read(&self.db, sequence)? else { return Ok(None) };
        let last = stored.sequence + stored.record.span() - 1;
        if last >= self.sent_mark {
            let mark = last + self.sent_block();
            // Beyond the mark a frame may become a gap: it is durable before the record is in anybody's hands.
            if !sabotage::is_chosen(Sabotage::PublishBeforeCommit) {
                write_marks(&self.db, self.identity, &Marks { sent_mark: mark, ..self.marks() })?;
            }
            self.sent_mark = mark;
        }
        self.last_read = Some(self.last_read.map_or(last, |former| former.max(last)));
        Ok(Some(stored))
    }

    /// Frees records below `below`, at most [`FREE_RECORDS_MAX`] of them; returns how many frames that were. Live frames that
    /// had found no room get their gap: the camera may see nothing more that would bring it.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn free(&mut self, below: u64) -> Result<u64, SpoolError> {
        let marks = Marks { next: self.view.next + self.missed, ..self.marks() };
        let transaction = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let (frames, bytes) = rows::free(&transaction, below)?;
        if self.missed > 0 {
            rows::insert_missed(&transaction, self.view.next, self.missed)?;
            write_marks(&transaction, self.identity, &marks)?;
        }
        transaction.commit()?;
        self.view.next += std::mem::take(&mut self.missed);
        self.view.frames -= frames;
        self.view.bytes -= bytes;
        self.refresh_oldest()?;
        Ok(frames)
    }

    /// Puts a restart in the place of released records from `from` on, up to the oldest one held: nobody has their results any more.
    /// Returns how many numbers it covers; 0, and nothing changed, if none of these was released.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn restart(&mut self, from: u64) -> Result<u64, SpoolError> {
        let count = self.view.oldest.saturating_sub(from);
        if count == 0 {
            return Ok(0);
        }
        let generation = self.generation.saturating_add(1);
        let marks = Marks { generation, ..self.marks() };
        let transaction = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        rows::insert(&transaction, from, &Record::Restart { count, generation }, 0)?;
        write_marks(&transaction, self.identity, &marks)?;
        transaction.commit()?;
        self.generation = generation;
        self.refresh_oldest()?;
        Ok(count)
    }

    /// What the finite input has given so far, in order, each with whether it became a frame: from position `from` on, at most
    /// [`INPUTS_PAGE`] of them, for there may be any number.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn inputs(&self, from: u64) -> Result<Vec<(Input, bool)>, SpoolError> {
        rows::inputs(&self.db, from)
    }

    fn marks(&self) -> Marks {
        Marks {
            next: self.view.next,
            sent_mark: self.sent_mark,
            manifest: self.manifest,
            end_count: self.view.end.map(|end| end.count),
            generation: self.generation,
        }
    }

    /// Numbers reserved as sent at a time: small beside a small spool, for reserved frames cannot be dropped.
    fn sent_block(&self) -> u64 {
        (self.limits.frames_max / 8).clamp(1, SENT_BLOCK_MAX)
    }

    fn refresh_oldest(&mut self) -> Result<(), SpoolError> {
        let oldest = self
            .db
            .prepare_cached("SELECT sequence, sequence + span FROM record ORDER BY sequence LIMIT 1")?
            .query_row([], |row| Ok((unsigned(row, 0)?, unsigned(row, 1)?)))
            .optional()?;
        (self.view.oldest, self.view.oldest_end) = oldest.unwrap_or((self.view.next, self.view.next));
        Ok(())
    }
}

struct Room {
    frames: u64,
    bytes: u64,
    dropped: u64,
}

/// The manifest's digest after one more frame: each covers the one before, so that it can be kept over a restart.
pub fn next_manifest(manifest: Digest, frame: Digest) -> Digest {
    DigestBuilder::new("microlambda manifest").field(&manifest.0).field(&frame.0).finish()
}

/// The manifest's digest before the first frame.
pub fn empty_manifest() -> Digest {
    DigestBuilder::new("microlambda manifest").finish()
}

/// Reason of the gaps a spool writes.
const GAP: GapReason = GapReason::SpoolFull;

#[cfg(test)]
mod tests;
