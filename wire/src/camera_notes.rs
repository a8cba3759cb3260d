//! What a camera says and is asked.

use microlambda::Digest;
use serde::{Deserialize, Serialize};

use crate::{Name, Record};

/// A want asks for at most so many records.
pub const CREDIT_MAX: u32 = 4_096;

/// Live chains never end and go first; batch chains have an end and use what is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChainClass {
    /// A camera's stream.
    Live,
    /// A folder or a clip.
    Batch,
}

impl ChainClass {
    /// The class as payloads and databases write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Batch => "batch",
        }
    }

    /// The class that [`as_str`](Self::as_str) writes as `text`; `None` if there is none.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Live, Self::Batch].into_iter().find(|class| class.as_str() == text)
    }
}

/// Counters of a camera's source and spool since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SourceCounters {
    /// Frames taken into the spool.
    pub frames: u64,
    /// Inputs that could not be read, and were passed over.
    pub unreadable: u64,
    /// Pictures of a live source left out because nothing had moved in them.
    #[serde(default)]
    pub still: u64,
    /// Frames re-encoded because they exceeded the payload bound or were not JPEG.
    pub reencoded: u64,
    /// Frames dropped, never sent, because the spool was full.
    pub dropped: u64,
    /// Frames freed when only one node had committed them.
    pub freed_on_one: u64,
    /// Times the source failed and was opened again.
    pub reopened: u64,
    /// Messages on our topics that were not ours.
    pub refused_messages: u64,
    /// Times the broker was reached.
    #[serde(default)]
    pub bus_connections: u64,
    /// Released frames whose results no node had any more: the chain went on without them, in a new generation.
    #[serde(default)]
    pub lost: u64,
    /// Damaged spools in the state directory, each kept in a folder of its own.
    #[serde(default)]
    pub spools_kept_aside: u64,
    /// Chains given up, each for a new one, because the spool had been set back to an older copy.
    #[serde(default)]
    pub begun_anew: u64,
}

/// `camera/<camera>/status`: birth and last will.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CameraStatus {
    /// The camera.
    pub camera: Name,
    /// Random id of this start of the agent.
    pub boot: Name,
    /// False in the last will and after a clean stop.
    pub online: bool,
    /// What it watches, for people.
    #[serde(default)]
    pub source: String,
    /// What is wrong at the moment and what to do, or empty.
    #[serde(default)]
    pub trouble: String,
    /// Counters since the start.
    #[serde(default)]
    pub counters: SourceCounters,
}

/// Where a finite input ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndMark {
    /// Frames and gaps before the end record; the end record has this sequence number.
    pub count: u64,
    /// Digest over the digests of all frames.
    pub manifest: Digest,
}

/// `camera/<camera>/head`: what the spool holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CameraHead {
    /// The camera.
    pub camera: Name,
    /// Its chain.
    pub chain: Name,
    /// Whether the chain is live or has an end.
    pub class: ChainClass,
    /// The oldest record still held.
    pub oldest: u64,
    /// One more than the newest record.
    pub next: u64,
    /// Present when the input has ended.
    #[serde(default)]
    pub end: Option<EndMark>,
}

/// `camera/<camera>/want`: send me records from `cursor` on, and free what I have committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// Who asks.
    pub node: Name,
    /// The asker's boot id.
    pub boot: Name,
    /// Of which chain.
    pub chain: Name,
    /// The first record wanted. A want replaces the node's former one; if it begins inside that one or at its end it extends it.
    pub cursor: u64,
    /// At most so many records, [`CREDIT_MAX`] of them; 0 asks for none and only reports `committed`.
    pub credit: u32,
    /// All records below this are committed in the node's store.
    pub committed: u64,
    /// The want ends by itself after this time unless renewed, ms.
    pub expires_ms: u32,
}

/// `camera/<camera>/record/<node>`: a record that is not a frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordNote {
    /// Of which chain.
    pub chain: Name,
    /// Its number.
    pub sequence: u64,
    /// The record.
    pub record: Record,
}
