//! Payloads: JSON that a person can read, bounded and checked.
//!
//! Every payload carries `"v": 1`. Unknown fields are skipped, so that a newer node can add some; another `v` is refused.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use microlambda::{Claim, CostTable, Digest, Head, Version};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::record::SEQUENCE_MAX;
use crate::{Name, Record};

/// Longest list in any payload.
const LIST_LEN_MAX: usize = 1_024;
/// Longest text field, bytes.
const TEXT_BYTES_MAX: usize = 1_024;

/// A payload type: its bound, and the checks that its types alone cannot make.
pub trait Payload: Serialize + DeserializeOwned {
    /// For error messages.
    const KIND: &'static str;
    /// No payload of this kind is longer, bytes.
    const BYTES_MAX: usize;

    /// Checks what the types cannot.
    ///
    /// # Errors
    /// What is wrong, for people.
    fn check(&self) -> Result<(), String>;
}

/// A payload that cannot be sent or was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// Longer than its kind allows.
    #[error("{kind} of {bytes} bytes: at most {bytes_max} are accepted")]
    TooLong {
        /// Which payload.
        kind: &'static str,
        /// Its length.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// Not JSON of this kind.
    #[error("not a {kind}: {why}")]
    Malformed {
        /// Which payload.
        kind: &'static str,
        /// What is wrong.
        why: String,
    },
}

/// Reads and checks a payload.
///
/// # Errors
/// [`PayloadError`]; the bytes are not ours or not sound, and are to be counted and dropped.
pub fn from_payload<T: Payload>(bytes: &[u8]) -> Result<T, PayloadError> {
    let kind = T::KIND;
    let malformed = |why: String| PayloadError::Malformed { kind, why };
    if bytes.len() > T::BYTES_MAX {
        return Err(PayloadError::TooLong { kind, bytes: bytes.len(), bytes_max: T::BYTES_MAX });
    }
    let envelope: Envelope<T> = serde_json::from_slice(bytes).map_err(|e| malformed(e.to_string()))?;
    if envelope.v != 1 {
        return Err(malformed(format!("format version {}, this program speaks 1", envelope.v)));
    }
    envelope.payload.check().map_err(malformed)?;
    Ok(envelope.payload)
}

/// Writes a payload.
///
/// # Errors
/// [`PayloadError`] if it breaks its own bounds: a bug, or state that has to be sent in parts.
pub fn to_payload<T: Payload>(payload: &T) -> Result<Vec<u8>, PayloadError> {
    let kind = T::KIND;
    let malformed = |why: String| PayloadError::Malformed { kind, why };
    payload.check().map_err(malformed)?;
    let bytes = serde_json::to_vec(&Envelope { v: 1, payload }).map_err(|e| malformed(e.to_string()))?;
    if bytes.len() > T::BYTES_MAX {
        return Err(PayloadError::TooLong { kind, bytes: bytes.len(), bytes_max: T::BYTES_MAX });
    }
    Ok(bytes)
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    v: u32,
    #[serde(flatten)]
    payload: T,
}

/// Bytes inside JSON, as base64.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Blob(pub Vec<u8>);

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.0.len())
    }
}

impl Serialize for Blob {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(serde::de::Error::custom)
    }
}

/// Live chains never end and go first; batch chains have an end and use what is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChainClass {
    /// A camera's stream.
    Live,
    /// A folder or a clip.
    Batch,
}

/// Counters of a camera's source and spool since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SourceCounters {
    /// Frames taken into the spool.
    pub frames: u64,
    /// Inputs that could not be read, and were passed over.
    pub unreadable: u64,
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
    /// At most so many records; 0 asks for none and only reports `committed`.
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

/// Times of the step that led to a continuation, µs. The `…_at_us` are readings of the publishing machine's monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StepTiming {
    /// The limit the step ran under.
    pub r_limit_us: u64,
    /// Receipt of the state to the end of the last unit.
    pub used_us: u64,
    /// Spent in units.
    pub busy_us: u64,
    /// Units done.
    pub units: u32,
    /// From the moment the step could be claimed to its first unit: waiting, claim, commit of the attempt, frames.
    pub claim_us: u64,
    /// Commit of the result.
    pub commit_us: u64,
    /// When the first unit began.
    pub first_unit_at_us: u64,
    /// When the last unit ended.
    pub last_unit_at_us: u64,
    /// CPU time of the node's worker since its start.
    pub worker_cpu_us: u64,
}

/// One frame of a continuation, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameSummary {
    /// Its number.
    pub sequence: u64,
    /// What the camera calls it.
    pub label: String,
    /// Faces seen.
    pub faces: u32,
    /// Usable among them.
    pub usable: u32,
    /// People first seen here.
    pub new_people: u32,
}

/// `chain/<chain>/continuation`: `head` is durable here; whoever is free may claim its next step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Continuation {
    /// The chain.
    pub chain: Name,
    /// Who holds the state.
    pub node: Name,
    /// The holder's boot id.
    pub boot: Name,
    /// Digest of the lambda and its parameters: nodes with another one cannot share the chain.
    pub lambda: Digest,
    /// The state this one was made from.
    pub parent: Head,
    /// The state announced.
    pub head: Head,
    /// What was added since `parent`, if it is at most 64 KB; else it is asked for on `sync/<node>/want`.
    #[serde(default)]
    pub delta: Option<Blob>,
    /// True when a head is repeated for those who missed it.
    #[serde(default)]
    pub again: bool,
    /// What the step did, absent in repetitions.
    #[serde(default)]
    pub timing: Option<StepTiming>,
    /// Frames finished in the step, at most 64.
    #[serde(default)]
    pub frames: Vec<FrameSummary>,
}

/// A unit that failed on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitFailure {
    /// Where.
    pub version: Version,
    /// How often on this node.
    pub times: u32,
    /// What happened, for people.
    pub why: String,
}

/// `chain/<chain>/claim`: a node's bid, or its word that a unit failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClaimNote {
    /// The chain.
    pub chain: Name,
    /// The claimer's boot id.
    pub boot: Name,
    /// Step, epoch, node and lease.
    pub claim: Claim,
    /// Set when the node tried and failed: the claim is over, others may bid at once.
    #[serde(default)]
    pub failed: Option<UnitFailure>,
}

/// `chain/<chain>/done`: a finite chain's output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DoneNote {
    /// The chain.
    pub chain: Name,
    /// The camera it came from.
    pub camera: Name,
    /// The final state.
    pub head: Head,
    /// Frames searched.
    pub frames: u64,
    /// Frames that could not be read.
    pub unreadable: u64,
    /// Faces seen, usable or not.
    pub faces_seen: u64,
    /// Ids of all people, in the order first seen.
    pub people: Vec<Name>,
}

/// `sync/<node>/want`: send me what I lack of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncWant {
    /// Who asks.
    pub node: Name,
    /// Of which chain.
    pub chain: Name,
    /// Record boundaries that the asker holds, newest first, at growing distances; ends with sequence 0.
    pub locator: Vec<(u64, Digest)>,
}

/// `sync/<node>/have`: the answer; asks for more follow until the asker has all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SyncHave {
    /// Who answers.
    pub node: Name,
    /// Of which chain.
    pub chain: Name,
    /// Digest of the lambda and its parameters.
    pub lambda: Digest,
    /// The newest record boundary of the locator that the answerer holds too.
    pub base: (u64, Digest),
    /// The answerer's newest head.
    pub newest: Head,
    /// What follows `base`, up to the payload's bound.
    pub delta: Blob,
}

/// New or recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// Nobody like this was seen before.
    NewFace,
    /// Somebody known was seen again after an absence.
    Recognised,
}

/// `event`: one per new or recognised face; the same event always has the same id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventNote {
    /// Digest of chain, sequence and face index, 32 hexadecimal digits.
    pub id: Name,
    /// What happened.
    pub kind: EventKind,
    /// Who: the id of the face's first event.
    pub face: Name,
    /// Where.
    pub camera: Name,
    /// In which chain.
    pub chain: Name,
    /// In which frame.
    pub sequence: u64,
    /// Which face of the frame, the surest first.
    pub face_index: u32,
    /// When the frame was taken, ms since 1970.
    pub captured_at_ms: u64,
    /// What the camera calls the frame.
    #[serde(default)]
    pub label: String,
}

/// `face/<face>`: one known face.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaceNote {
    /// The face.
    pub face: Name,
    /// A name given by people, or empty.
    #[serde(default)]
    pub name: String,
    /// Where first seen.
    pub camera: Name,
    /// In which chain.
    pub chain: Name,
    /// In which frame first.
    pub first_sequence: u64,
    /// When first, ms since 1970.
    pub first_seen_ms: u64,
    /// When last, ms since 1970.
    pub last_seen_ms: u64,
    /// In how many frames.
    pub frames: u64,
    /// What the camera calls the first frame.
    #[serde(default)]
    pub label: String,
    /// A JPEG picture of the face, or empty.
    #[serde(default)]
    pub thumbnail: Blob,
}

/// How far a node is behind a chain's input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainLag {
    /// The chain.
    pub chain: Name,
    /// Its class.
    pub class: ChainClass,
    /// What the node holds.
    pub version: Version,
    /// Records between that and the newest.
    pub lag: u64,
    /// What the chain waits for on this node, for people.
    pub waits_for: String,
}

/// `node/<node>/status`: birth and last will of an edge node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node.
    pub node: Name,
    /// Random id of this start of the agent.
    pub boot: Name,
    /// False in the last will and after a clean stop.
    pub online: bool,
    /// The program's version.
    #[serde(default)]
    pub program: String,
    /// What makes this node's encodings comparable bit by bit.
    #[serde(default)]
    pub engine: String,
    /// Part of the last minute its worker was busy, 0 to 1000.
    #[serde(default)]
    pub load_permille: u32,
    /// What units cost here.
    #[serde(default)]
    pub costs: CostTable,
    /// Its chains, at most 64.
    #[serde(default)]
    pub chains: Vec<ChainLag>,
    /// Everything it counts, by name.
    #[serde(default)]
    pub counters: Vec<(String, u64)>,
    /// What is wrong at the moment and what to do, or empty.
    #[serde(default)]
    pub trouble: String,
}

fn bounded_text(field: &str, text: &str) -> Result<(), String> {
    if text.len() > TEXT_BYTES_MAX { Err(format!("{field} is longer than {TEXT_BYTES_MAX} bytes")) } else { Ok(()) }
}

fn bounded_sequence(sequence: u64) -> Result<(), String> {
    if sequence > SEQUENCE_MAX { Err(format!("number {sequence} exceeds {SEQUENCE_MAX}")) } else { Ok(()) }
}

fn bounded_list<T>(field: &str, list: &[T], len_max: usize) -> Result<(), String> {
    if list.len() > len_max { Err(format!("{field} has more than {len_max} entries")) } else { Ok(()) }
}

/// Implements [`Payload`] for a type with its bound and its checks.
macro_rules! payload {
    ($type:ty, $kind:literal, $bytes_max:expr, |$value:ident| $check:expr) => {
        impl Payload for $type {
            const KIND: &'static str = $kind;
            const BYTES_MAX: usize = $bytes_max;

            fn check(&self) -> Result<(), String> {
                let $value = self;
                $check
            }
        }
    };
}

payload!(CameraStatus, "camera status", 8 << 10, |v| bounded_text("source", &v.source)
    .and_then(|()| bounded_text("trouble", &v.trouble)));
payload!(CameraHead, "camera head", 4 << 10, |v| {
    if v.oldest > v.next {
        Err(format!("oldest {} lies behind next {}", v.oldest, v.next))
    } else {
        bounded_sequence(v.next)
    }
});
payload!(Want, "want", 4 << 10, |v| {
    if v.credit > 4_096 {
        Err(format!("a credit of {} exceeds 4096", v.credit))
    } else {
        bounded_sequence(v.cursor.max(v.committed))
    }
});
payload!(RecordNote, "record", 4 << 10, |v| match &v.record {
    Record::Frame { .. } => Err("a frame travels as a picture".into()),
    Record::Gap { count: 0, .. } => Err(format!("a gap of nothing at {}", v.sequence)),
    Record::Gap { .. } | Record::End { .. } => bounded_sequence(v.sequence.saturating_add(v.record.span())),
});
payload!(Continuation, "continuation", 128 << 10, |v| bounded_list("frames", &v.frames, 64).and_then(|()| {
    if v.parent.version > v.head.version {
        Err("the parent is newer than the head".into())
    } else {
        bounded_sequence(v.head.version.sequence)
    }
}));
payload!(ClaimNote, "claim", 8 << 10, |v| v.failed.as_ref().map_or(Ok(()), |f| bounded_text("why", &f.why)));
payload!(DoneNote, "done", 1 << 20, |v| bounded_list("people", &v.people, 10_000));
payload!(SyncWant, "sync want", 32 << 10, |v| bounded_list("locator", &v.locator, 128));
payload!(SyncHave, "sync have", 512 << 10, |_v| Ok(()));
payload!(EventNote, "event", 4 << 10, |v| bounded_text("label", &v.label));
payload!(FaceNote, "face", 32 << 10, |v| bounded_text("name", &v.name).and_then(|()| bounded_text("label", &v.label)));
payload!(NodeStatus, "node status", 64 << 10, |v| bounded_list("chains", &v.chains, 64)
    .and_then(|()| bounded_list("costs", &v.costs, LIST_LEN_MAX))
    .and_then(|()| bounded_list("counters", &v.counters, LIST_LEN_MAX))
    .and_then(|()| bounded_text("trouble", &v.trouble)));
