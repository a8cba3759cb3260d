//! Payloads: JSON that a person can read, bounded and checked.
//!
//! Every payload carries `"v": 1`. Unknown fields are skipped, so that a newer node can add some; another `v` is refused.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{
    AheadNote, CONTINUATION_FRAMES_MAX, CREDIT_MAX, CameraHead, CameraStatus, ClaimNote, Continuation, DONE_PEOPLE_MAX,
    DoneNote, EventNote, FaceNote, LOCATOR_LEN_MAX, NodeStatus, Record, RecordNote, SEQUENCE_MAX, STATUS_CHAINS_MAX,
    STATUS_SET_ASIDE_MAX, SyncHave, SyncWant, TIME_MS_MAX, Want,
};

/// Events named in an answer to a sync request at most.
pub const UNPUBLISHED_LEN_MAX: usize = 1_024;
/// Longest list in any payload.
const LIST_LEN_MAX: usize = 1_024;
/// Records that a node may take ahead at once.
const AHEAD_COUNT_MAX: u32 = 1_024;
/// Longest text field, bytes.
pub const TEXT_BYTES_MAX: usize = 1_024;

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

fn bounded_text(field: &str, text: &str) -> Result<(), String> {
    if text.len() > TEXT_BYTES_MAX { Err(format!("{field} is longer than {TEXT_BYTES_MAX} bytes")) } else { Ok(()) }
}

fn bounded_sequence(sequence: u64) -> Result<(), String> {
    if sequence > SEQUENCE_MAX { Err(format!("number {sequence} exceeds {SEQUENCE_MAX}")) } else { Ok(()) }
}

fn bounded_time(at_ms: u64) -> Result<(), String> {
    if at_ms > TIME_MS_MAX { Err(format!("time {at_ms} exceeds {TIME_MS_MAX} ms")) } else { Ok(()) }
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
    if v.credit > CREDIT_MAX {
        Err(format!("a credit of {} exceeds {CREDIT_MAX}", v.credit))
    } else {
        bounded_sequence(v.cursor.max(v.committed))
    }
});
payload!(RecordNote, "record", 4 << 10, |v| match &v.record {
    Record::Frame { .. } => Err("a frame travels as a picture".into()),
    Record::Gap { count: 0, .. } => Err(format!("a gap of nothing at {}", v.sequence)),
    Record::Restart { count: 0, .. } => Err(format!("a restart of nothing at {}", v.sequence)),
    Record::Gap { .. } | Record::End { .. } | Record::Restart { .. } =>
        bounded_sequence(v.sequence.saturating_add(v.record.span())),
});
payload!(Continuation, "continuation", 128 << 10, |v| bounded_list("frames", &v.frames, CONTINUATION_FRAMES_MAX)
    .and_then(|()| {
        if v.parent.version > v.head.version {
            Err("the parent is newer than the head".into())
        } else {
            bounded_sequence(v.parent.version.sequence.max(v.head.version.sequence))
        }
    }));
payload!(ClaimNote, "claim", 8 << 10, |v| bounded_sequence(v.claim.step.sequence).and_then(|()| {
    let Some(failed) = &v.failed else { return Ok(()) };
    bounded_sequence(failed.version.sequence).and_then(|()| bounded_text("why", &failed.why))
}));
payload!(AheadNote, "ahead", 512 << 10, |v| if v.count > AHEAD_COUNT_MAX {
    Err(format!("{} records at once exceed {AHEAD_COUNT_MAX}", v.count))
} else {
    bounded_sequence(v.from.saturating_add(u64::from(v.count)))
});
payload!(DoneNote, "done", 1 << 20, |v| bounded_list("people", &v.people, DONE_PEOPLE_MAX)
    .and_then(|()| bounded_sequence(v.head.version.sequence)));
// The store is asked for these.
payload!(SyncWant, "sync want", 32 << 10, |v| bounded_list("locator", &v.locator, LOCATOR_LEN_MAX)
    .and_then(|()| v.locator.iter().try_for_each(|(sequence, _)| bounded_sequence(*sequence))));
payload!(SyncHave, "sync have", 512 << 10, |v| bounded_list("unpublished", &v.unpublished, UNPUBLISHED_LEN_MAX)
    .and_then(|()| bounded_sequence(v.base.0.max(v.newest.version.sequence))));
payload!(EventNote, "event", 4 << 10, |v| bounded_text("label", &v.label)
    .and_then(|()| bounded_sequence(v.sequence))
    .and_then(|()| bounded_time(v.captured_at_ms)));
payload!(FaceNote, "face", 32 << 10, |v| bounded_text("name", &v.name)
    .and_then(|()| bounded_text("label", &v.label))
    .and_then(|()| bounded_sequence(v.first_sequence))
    .and_then(|()| bounded_time(v.first_seen_ms.max(v.last_seen_ms))));
payload!(NodeStatus, "node status", 64 << 10, |v| bounded_list("chains", &v.chains, STATUS_CHAINS_MAX)
    .and_then(|()| bounded_list("costs", &v.costs, LIST_LEN_MAX))
    .and_then(|()| bounded_list("counters", &v.counters, LIST_LEN_MAX))
    .and_then(|()| v.chains.iter().try_for_each(|chain| bounded_sequence(chain.version.sequence)))
    .and_then(|()| bounded_list("set_aside", &v.set_aside, STATUS_SET_ASIDE_MAX))
    .and_then(|()| v
        .set_aside
        .iter()
        .try_for_each(|unit| { bounded_sequence(unit.version.sequence).and_then(|()| bounded_text("why", &unit.why)) }))
    .and_then(|()| bounded_text("trouble", &v.trouble)));
