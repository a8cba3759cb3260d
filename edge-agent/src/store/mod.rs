//! What a node keeps over a restart. [`Store`] is the contract, [`SqliteStore`] its first implementation.

mod check;
mod copies;
mod fold_again;
mod migrate;
mod recover;
mod room;
mod sqlite;
mod sqlite_gallery;
mod sqlite_read;
mod totals;

use std::io::ErrorKind;
use std::path::PathBuf;

use microlambda::{Attempt, Digest, Head};
use microlambda_faces::Thumbnail;
use microlambda_faces::content::{Entry, PartialEntry};
use microlambda_faces::fold::{FoldState, Folded, Gallery};
use microlambda_wire::{ChainClass, EventNote, Name, STATUS_CHAINS_MAX};
use serde::Serialize;

pub use check::{Depth, Findings};
pub use copies::Copying;
pub use recover::{KeptAside, Opened, Rest};
pub use room::Room;
pub use sqlite::SqliteStore;

/// A node has at most so many chains open, and looks at so many when it starts: its status names them all.
pub const CHAINS_OPEN_MAX: usize = STATUS_CHAINS_MAX;

/// Events handed out at once.
pub const EVENTS_MAX: usize = 1_024;

/// What to do where a state directory cannot be used.
fn remedy(source: &std::io::Error) -> &'static str {
    match source.kind() {
        ErrorKind::PermissionDenied => "; use sudo, or be the user that it belongs to, or set another `state-dir`",
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => "; a file is in its place: set `state-dir` to a folder",
        ErrorKind::ReadOnlyFilesystem => "; set `state-dir` to a folder on a disk that can be written",
        _ => "",
    }
}

/// The store cannot do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// SQLite says no: disk full, damaged file, lost permission.
    #[error(
        "database {path}: {source}; run `edge-agent check` with the agent stopped, and see that its disk is neither full nor read-only"
    )]
    Sqlite {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The state directory cannot be used.
    #[error("state directory {path}: {source}{}", remedy(source))]
    Directory {
        /// The state directory.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Another agent works in the state directory.
    #[error("{path} is in use by another edge-agent: stop it, or give this one a `state-dir` of its own")]
    Locked {
        /// The state directory.
        path: PathBuf,
    },
    /// Another kind of agent keeps its own there.
    #[error("state-dir belongs to a camera agent: give the edge agent a folder of its own, other than {path}")]
    CameraAgents {
        /// The state directory.
        path: PathBuf,
    },
    /// Written by an earlier program, or by none yet.
    #[error(
        "{path} has schema version {found}, this program {known}: start this edge-agent once, it takes the database over"
    )]
    Older {
        /// The database file.
        path: PathBuf,
        /// The schema version that it has; 0 if an agent is about to make it.
        found: i64,
        /// The schema version of this program.
        known: i64,
    },
    /// Written by a newer program.
    #[error("{path} has schema version {found}, this program knows {known}: install the newer edge-agent again")]
    Newer {
        /// The database file.
        path: PathBuf,
        /// The schema version that it has.
        found: i64,
        /// The newest schema version that this program knows.
        known: i64,
    },
    /// A row that this program cannot have written.
    #[error(
        "database {path}: {what} is damaged; `edge-agent run` checks it when it starts, and begins a new one if it must: peers hold \
         the state"
    )]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// Which part of the database.
        what: String,
    },
}

impl StoreError {
    /// Whether the content of the database is wrong: not its disk, its permissions or its version, which may be mended.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } => true,
            Self::Sqlite { source, .. } => match source {
                // What this program has written has the right types and ranges, and a chain is only asked for if it was held.
                rusqlite::Error::QueryReturnedNoRows
                | rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::Utf8Error(..) => true,
                _ => matches!(
                    source.sqlite_error_code(),
                    Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase)
                ),
            },
            Self::Directory { .. }
            | Self::Locked { .. }
            | Self::CameraAgents { .. }
            | Self::Older { .. }
            | Self::Newer { .. } => false,
        }
    }

    /// What is wrong, without which file and what to do.
    pub fn what(&self) -> String {
        match self {
            Self::Damaged { what, .. } => format!("{what} is damaged"),
            Self::Sqlite { source, .. } => source.to_string(),
            other => other.to_string(),
        }
    }
}

/// A chain as the store holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredChain {
    /// The chain's name.
    pub name: Name,
    /// The camera it comes from.
    pub camera: Name,
    /// Whether the chain is live or has an end.
    pub class: ChainClass,
    /// Digest of the lambda and its parameters with which its records were folded.
    pub lambda: Digest,
    /// The newest record boundary.
    pub boundary: Head,
    /// The state inside the record behind it, if begun.
    pub partial: Option<PartialEntry>,
    /// The newest state: the boundary, or inside the record behind it.
    pub head: Head,
    /// The people at the boundary.
    pub gallery: Gallery,
    /// The node that made the head.
    pub holder: Option<String>,
    /// Whether the end is folded.
    pub done: bool,
    /// A start at the head that nobody ended.
    pub attempt: Option<Attempt>,
    /// How often the unit at the head failed here, and why.
    pub failure: Option<(u32, String)>,
}

impl StoredChain {
    /// A chain of which nothing is known but whose it is, as the store would hold it; `genesis` is the state before its
    /// first record.
    pub fn at_genesis(name: Name, camera: Name, class: ChainClass, genesis: Head) -> Self {
        Self {
            name,
            camera,
            class,
            lambda: genesis.digest,
            boundary: genesis,
            partial: None,
            head: genesis,
            gallery: Gallery::default(),
            holder: None,
            done: false,
            attempt: None,
            failure: None,
        }
    }
}

/// What a chain's row says by itself, without the people, whose reading takes the longer the more there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainSummary {
    /// The chain's id.
    pub name: Name,
    /// The camera it comes from.
    pub camera: Name,
    /// Live or batch.
    pub class: ChainClass,
    /// The newest state.
    pub head: Head,
    /// Whether the end is folded.
    pub done: bool,
}

/// One transaction that moves a chain's head: everything that a step or a peer added.
#[derive(Debug, Clone)]
pub struct Advance<'a> {
    /// The chain whose head moves.
    pub chain: &'a Name,
    /// Records from here on are replaced; equal to the boundary's sequence unless a fork lost.
    pub from_sequence: u64,
    /// The records with what folding them gave.
    pub entries: Vec<(&'a Entry, &'a Folded)>,
    /// The state inside the record behind them.
    pub partial: Option<&'a PartialEntry>,
    /// The state it leads to.
    pub head: Head,
    /// The node that made the new head.
    pub holder: &'a str,
    /// The fold's state at the new boundary.
    pub fold: &'a FoldState,
    /// Pictures of faces; kept for people who are new.
    pub thumbnails: &'a [Thumbnail],
    /// The start of the next step, if this node goes on itself.
    pub then: Option<Attempt>,
}

/// A person as `edge-agent faces list` shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FaceRow {
    /// The face's id.
    pub face: String,
    /// A name given by people, or empty.
    pub name: String,
    /// The camera that saw it.
    pub camera: String,
    /// The chain that it was seen in.
    pub chain: String,
    /// When first seen, ms since 1970.
    pub first_seen_ms: u64,
    /// When last seen, ms since 1970.
    pub last_seen_ms: u64,
    /// All frames in which seen.
    pub frames: Vec<FrameRow>,
    /// Size of the picture kept of it, bytes; 0 if none.
    pub thumbnail_bytes: u64,
}

/// A known face without the frames it was seen in, which [`SqliteStore::frames_of`] reads.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// The face; its frames are empty.
    pub face: FaceRow,
    /// How many frames it was seen in.
    pub frames: u64,
    /// Its row's chain and number.
    key: (i64, i64),
}

/// A frame in which a person was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FrameRow {
    /// The frame's number in its chain.
    pub sequence: u64,
    /// What the camera calls it.
    pub label: String,
}

/// An event as `edge-agent events` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EventRow {
    /// The event as it is published.
    #[serde(flatten)]
    pub event: EventNote,
    /// Whether it was seen on the bus, whoever published it.
    pub on_bus: bool,
}

/// A unit that was set aside, as `edge-agent status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SetAsideRow {
    /// The frame's number.
    pub sequence: u64,
    /// What the camera calls it.
    pub label: String,
    /// What of the frame: `frame`, `tile 3`, `face 0`.
    pub unit: String,
    /// On which nodes it failed, how often and how.
    pub why: String,
}

/// A frame that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnreadableRow {
    /// The frame's number.
    pub sequence: u64,
    /// What the camera calls it.
    pub label: String,
    /// Why, and what to do.
    pub why: String,
}

/// Counts over a chain's records, for `done` and `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct ChainTotals {
    /// Frames that were folded into the chain's state.
    pub frames: u64,
    /// Frames among them that could not be read.
    pub unreadable: u64,
    /// Faces seen, usable or not.
    pub faces_seen: u64,
}

/// What a node keeps. All writes are durable when they return; each is one transaction.
pub trait Store: Send {
    /// One chain, if it is held.
    fn chain(&self, name: &Name) -> Result<Option<StoredChain>, StoreError>;

    /// What the row of a chain says, if it is held.
    fn chain_summary(&self, name: &Name) -> Result<Option<ChainSummary>, StoreError>;

    /// The first finished chain by name, or the first one behind `behind`, of those that were folded with `lambda`.
    fn finished_chain(&self, behind: Option<&Name>, lambda: &Digest) -> Result<Option<ChainSummary>, StoreError>;

    /// At most `max` chains: those that have not ended first, of these the newest of each camera, then the newest.
    fn newest_chains(&self, max: usize) -> Result<Vec<StoredChain>, StoreError>;

    /// Adds a chain at its genesis, unless it is there.
    fn add_chain(
        &mut self,
        name: &Name,
        camera: &Name,
        class: ChainClass,
        genesis: Head,
    ) -> Result<StoredChain, StoreError>;

    /// Records that a step is started.
    fn begin(&mut self, chain: &Name, attempt: &Attempt) -> Result<(), StoreError>;

    /// Takes a start back that ended without a unit.
    fn withdraw(&mut self, chain: &Name) -> Result<(), StoreError>;

    /// Records that the unit at `head` failed here.
    fn fail(&mut self, chain: &Name, head: &Head, times: u32, why: &str) -> Result<(), StoreError>;

    /// Moves a chain's head.
    fn advance(&mut self, advance: &Advance<'_>) -> Result<(), StoreError>;

    /// The boundary digest before record `sequence`, if the chain is held and has folded that far.
    fn boundary(&self, chain: &Name, sequence: u64) -> Result<Option<Head>, StoreError>;

    /// Record boundaries held, newest first at growing distances, the genesis last.
    fn locator(&self, chain: &Name) -> Result<Vec<(u64, Digest)>, StoreError>;

    /// Entries from `sequence` on, as many as fit `bytes_max` (at least one if there is any), and the boundary behind them.
    fn entries(&self, chain: &Name, sequence: u64, bytes_max: usize) -> Result<(Vec<Entry>, Option<Head>), StoreError>;

    /// The gallery as it was before record `sequence`.
    fn gallery_at(&self, chain: &Name, sequence: u64) -> Result<Gallery, StoreError>;

    /// Events not yet seen on the bus, the oldest first, at most [`EVENTS_MAX`].
    fn events_not_on_bus(&self) -> Result<Vec<EventNote>, StoreError>;

    /// Notes that events were seen on the bus and keeps pictures that came from there.
    fn note_bus(&mut self, events: &[String], thumbnails: &[(String, Vec<u8>)]) -> Result<(), StoreError>;

    /// All known faces, by chain and order of first sight.
    fn faces(&self, chain: Option<&Name>) -> Result<Vec<FaceRow>, StoreError>;

    /// The ids of a chain's people, in the order first seen, at most so many.
    fn people(&self, chain: &Name, max: usize) -> Result<Vec<String>, StoreError>;

    /// The picture kept of a face.
    fn thumbnail(&self, face: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// Counts over a chain's records.
    fn totals(&self, chain: &Name) -> Result<ChainTotals, StoreError>;

    /// Keeps a copy of all that is held, which people can read: the first question begins one, and those behind it tell how it is getting on,
    /// until one has told the end. None waits for it.
    fn keep_copy(&mut self) -> Copying;

    /// Notes that the node ends in order, after the last write: a start after any other end checks more.
    fn note_clean_end(&mut self) -> Result<(), StoreError>;
}
