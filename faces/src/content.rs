//! A chain's content: records with their analyses, and what a step adds to them.

use microlambda::Head;
use microlambda_wire::{Record, SEQUENCE_MAX};
use serde::{Deserialize, Serialize};

use crate::proto::THUMBNAIL_BYTES_MAX;
use crate::{Analysis, FACES_MAX, Face, Partial, Thumbnail};

/// No delta is longer once encoded, bytes: what fits a `sync/<node>/have` message as base64.
pub const DELTA_BYTES_MAX: usize = 320 << 10;

/// One record of the chain with what was recorded about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The record's number.
    pub sequence: u64,
    /// The record.
    #[serde(with = "canonical_record")]
    pub record: Record,
    /// What the frame showed; `None` exactly for records that are not frames.
    pub analysis: Option<Analysis>,
    /// What made the analysis: decoder, kernel, models. Not part of any digest.
    pub engine: String,
}

impl Entry {
    /// The number of the record behind this one.
    pub fn next_sequence(&self) -> u64 {
        self.sequence.saturating_add(self.record.span())
    }
}

/// The state inside a frame whose analysis is not finished.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartialEntry {
    /// The frame's number.
    pub sequence: u64,
    /// The state.
    pub partial: Partial,
}

/// What leads from one state to a newer one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// The state it starts from; for an answer to a sync request the record boundary it starts from.
    pub parent: Head,
    /// Finished records, in order, from `parent.version.sequence` on.
    pub entries: Vec<Entry>,
    /// The state inside the record behind them, if its analysis was begun.
    pub partial: Option<PartialEntry>,
    /// The state it leads to.
    pub head: Head,
}

/// Bytes that are no delta.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// Longer than [`DELTA_BYTES_MAX`].
    #[error("a delta of {bytes} bytes: at most {DELTA_BYTES_MAX} are accepted")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not in this program's format.
    #[error("not a delta of format {FORMAT}: {0}")]
    Malformed(String),
    /// Records that do not follow each other.
    #[error("record {got} where {expected} was due")]
    OutOfOrder {
        /// The number due.
        expected: u64,
        /// The number found.
        got: u64,
    },
    /// A record without the analysis it needs, with one it cannot have, or with faces out of bounds.
    #[error("the analysis of record {0} is missing, out of place or not sound")]
    WrongAnalysis(u64),
}

/// First byte of every encoded delta, analysis and partial.
const FORMAT: u8 = 3;

/// Encodes for the store and the bus.
pub fn to_bytes<T: Serialize>(value: &T) -> Result<Vec<u8>, ContentError> {
    postcard::to_extend(value, vec![FORMAT]).map_err(|e| ContentError::Malformed(e.to_string()))
}

/// Decodes what [`to_bytes`] wrote.
///
/// # Errors
/// [`ContentError::Malformed`] if the bytes are something else or have a rest.
pub fn from_bytes<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, ContentError> {
    let malformed = |why: String| ContentError::Malformed(why);
    match bytes.split_first() {
        Some((&FORMAT, body)) => match postcard::take_from_bytes(body) {
            Ok((value, [])) => Ok(value),
            Ok((_, rest)) => Err(malformed(format!("{} bytes left over", rest.len()))),
            Err(e) => Err(malformed(e.to_string())),
        },
        Some((other, _)) => Err(malformed(format!("format {other}"))),
        None => Err(malformed("no bytes".into())),
    }
}

/// Encodes what has to fit a message.
fn to_bounded<T: Serialize>(value: &T) -> Result<Vec<u8>, ContentError> {
    let bytes = to_bytes(value)?;
    if bytes.len() > DELTA_BYTES_MAX { Err(ContentError::TooLong { bytes: bytes.len() }) } else { Ok(bytes) }
}

/// Decodes what came in a message.
fn from_bounded<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, ContentError> {
    if bytes.len() > DELTA_BYTES_MAX {
        return Err(ContentError::TooLong { bytes: bytes.len() });
    }
    from_bytes(bytes)
}

/// Analyses that were made ahead of the chain's order, for whoever folds them: no state, and of no order.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Ahead {
    /// Frames with what was found in them, by number. Nothing in them is set aside: that is for the chain to decide, in its order.
    pub entries: Vec<Entry>,
    /// Pictures of faces that may be new.
    pub thumbnails: Vec<Thumbnail>,
}

impl Ahead {
    /// Encodes for the bus.
    ///
    /// # Errors
    /// [`ContentError::TooLong`] if it has to be sent in parts.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ContentError> {
        to_bounded(self)
    }

    /// Decodes, and checks all that can be checked without the frames.
    ///
    /// # Errors
    /// [`ContentError`] says what is wrong; nothing of it may be used then.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ContentError> {
        let ahead: Self = from_bounded(bytes)?;
        ahead.check()?;
        Ok(ahead)
    }

    /// Checks that there are only finished, sound analyses of frames, by number, and pictures of their faces.
    ///
    /// # Errors
    /// [`ContentError::OutOfOrder`] or [`ContentError::WrongAnalysis`].
    pub fn check(&self) -> Result<(), ContentError> {
        let mut expected = 0;
        for entry in &self.entries {
            if entry.sequence < expected || entry.sequence >= SEQUENCE_MAX {
                return Err(ContentError::OutOfOrder { expected, got: entry.sequence });
            }
            expected = entry.sequence.saturating_add(1);
            let whole = match &entry.analysis {
                Some(Analysis::Frame(frame)) => {
                    check_faces(entry.sequence, &frame.faces)?;
                    frame.tiles_set_aside.is_empty() && !frame.faces.iter().any(Face::is_set_aside)
                }
                Some(Analysis::Unreadable { .. }) => true,
                Some(Analysis::SetAside { .. }) | None => false,
            };
            if !whole || !matches!(entry.record, Record::Frame { .. }) {
                return Err(ContentError::WrongAnalysis(entry.sequence));
            }
        }
        for Thumbnail { at, jpeg } in &self.thumbnails {
            let known = self.entries.binary_search_by_key(&at.sequence, |entry| entry.sequence).is_ok();
            if !known || jpeg.len() > THUMBNAIL_BYTES_MAX {
                return Err(ContentError::WrongAnalysis(at.sequence));
            }
        }
        Ok(())
    }
}

impl Delta {
    /// Encodes for the bus.
    ///
    /// # Errors
    /// [`ContentError::TooLong`] if it has to be sent in parts.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ContentError> {
        to_bounded(self)
    }

    /// Decodes and checks the order of the records. The digests are checked by folding.
    ///
    /// # Errors
    /// [`ContentError`] says what is wrong; nothing of it may be used then.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ContentError> {
        let delta: Self = from_bounded(bytes)?;
        delta.check()?;
        Ok(delta)
    }

    /// Whether the records of `other` are among those of this one.
    pub fn holds(&self, other: &Self) -> bool {
        let start = self.entries.iter().position(|entry| entry.sequence == other.parent.version.sequence);
        start.is_some_and(|start| self.entries[start..].starts_with(&other.entries))
    }

    /// Checks that the records follow each other and have analyses where they need them.
    ///
    /// # Errors
    /// [`ContentError::OutOfOrder`] or [`ContentError::WrongAnalysis`].
    pub fn check(&self) -> Result<(), ContentError> {
        let mut expected = self.parent.version.sequence;
        for entry in &self.entries {
            if entry.sequence != expected {
                return Err(ContentError::OutOfOrder { expected, got: entry.sequence });
            }
            if matches!(entry.record, Record::Frame { .. }) != entry.analysis.is_some() {
                return Err(ContentError::WrongAnalysis(entry.sequence));
            }
            if let Some(Analysis::Frame(frame)) = &entry.analysis {
                check_faces(entry.sequence, &frame.faces)?;
            }
            expected = entry.next_sequence();
            if expected > SEQUENCE_MAX {
                return Err(ContentError::OutOfOrder { expected: SEQUENCE_MAX, got: expected });
            }
        }
        if let Some(PartialEntry { sequence, partial }) = &self.partial {
            check_faces(*sequence, &partial.faces)?;
            if partial.faces.len() > partial.to_encode.len() || partial.to_encode.len() > FACES_MAX {
                return Err(ContentError::WrongAnalysis(*sequence));
            }
        }
        match &self.partial {
            Some(partial) if partial.sequence != expected => {
                Err(ContentError::OutOfOrder { expected, got: partial.sequence })
            }
            _ => Ok(()),
        }
    }
}

/// Faces come from the bus too. Their encodings are sound: no others can be read.
pub(crate) fn check_faces(sequence: u64, faces: &[Face]) -> Result<(), ContentError> {
    if faces.len() <= FACES_MAX { Ok(()) } else { Err(ContentError::WrongAnalysis(sequence)) }
}

mod canonical_record {
    use microlambda_wire::Record;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(record: &Record, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&record.canonical_bytes())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Record, D::Error> {
        let bytes = <&[u8]>::deserialize(deserializer)?;
        Record::from_canonical_bytes(bytes).map_err(serde::de::Error::custom)
    }
}
