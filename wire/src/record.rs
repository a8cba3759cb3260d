//! Records: everything that a chain's state depends on, numbered by its camera.

use microlambda::Digest;
use serde::{Deserialize, Serialize};

use crate::Areas;

/// No frame's label is longer, bytes.
pub const LABEL_BYTES_MAX: usize = 200;

/// No record has a higher number: what JSON readers and SQLite hold exactly. At 1000 frames a second it is reached after
/// 285,000 years.
pub const SEQUENCE_MAX: u64 = 1 << 53;

/// No time is later, ms since 1970: as for [`SEQUENCE_MAX`], in the year 287,396.
pub const TIME_MS_MAX: u64 = 1 << 53;

/// One numbered, durable record of a camera's sequence. The order of the variants is part of the stored format:
/// new ones (switch, forget) go to the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Record {
    /// A picture.
    Frame {
        /// When it was taken, ms since 1970 (for a file: its modification time).
        captured_at_ms: u64,
        /// SHA-256 of the JPEG without our metadata segment.
        digest: Digest,
        /// Where it came from, for people: a file's name, or empty.
        label: String,
        /// Of a live camera: where something moved since the frames before it. The rest looks as it did there and need not be searched again;
        /// `None` if all of it has to be.
        moved: Option<Areas>,
    },
    /// `count` numbers, from this record's own on, whose frames were never sent and are gone.
    Gap {
        /// How many numbers the gap covers, at least 1.
        count: u64,
        /// Why.
        reason: GapReason,
    },
    /// The input ends here: nothing follows.
    End {
        /// Frames and gaps before it.
        count: u64,
        /// Digest over the digests of all frames, in order.
        manifest: Digest,
    },
    /// `count` numbers, from this record's own on, whose frames were released because nodes held their results, and whose results
    /// nobody holds any more. The chain goes on behind them in a new generation, with the people known before them.
    Restart {
        /// How many numbers are lost, at least 1.
        count: u64,
        /// The generation from here on; higher than that of any state made of what is lost.
        generation: u32,
    },
}

/// Why numbers have no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GapReason {
    /// The spool was full and the frames had never been sent.
    SpoolFull,
    /// The numbers were reserved before a restart and never used.
    Unused,
}

/// First bytes of a frame's canonical form: of one that is to be searched whole …
const FRAME: u8 = 0;
/// … and of one that names areas.
const FRAME_WITH_AREAS: u8 = 4;

impl Record {
    /// How many sequence numbers the record covers.
    pub fn span(&self) -> u64 {
        match self {
            Self::Frame { .. } | Self::End { .. } => 1,
            Self::Gap { count, .. } | Self::Restart { count, .. } => (*count).max(1),
        }
    }

    /// The record as bytes for digests: each field with its length or as a fixed-width number, independent of serde.
    pub fn canonical_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        match self {
            Self::Frame { captured_at_ms, digest, label, moved } => {
                bytes.push(if moved.is_some() { FRAME_WITH_AREAS } else { FRAME });
                bytes.extend(captured_at_ms.to_le_bytes());
                bytes.extend(digest.0);
                bytes.extend((label.len() as u64).to_le_bytes());
                bytes.extend(label.as_bytes());
                bytes.extend(moved.iter().flat_map(Areas::canonical_bytes));
            }
            Self::Gap { count, reason } => {
                bytes.push(1);
                bytes.extend(count.to_le_bytes());
                bytes.push(match reason {
                    GapReason::SpoolFull => 0,
                    GapReason::Unused => 1,
                });
            }
            Self::End { count, manifest } => {
                bytes.push(2);
                bytes.extend(count.to_le_bytes());
                bytes.extend(manifest.0);
            }
            Self::Restart { count, generation } => {
                bytes.push(3);
                bytes.extend(count.to_le_bytes());
                bytes.extend(generation.to_le_bytes());
            }
        }
        bytes
    }

    /// Reads what [`Record::canonical_bytes`] wrote.
    ///
    /// # Errors
    /// What is wrong, if the bytes are no record or have a rest.
    pub fn from_canonical_bytes(bytes: &[u8]) -> Result<Self, String> {
        let (kind, rest) = bytes.split_first().ok_or("an empty record")?;
        match kind {
            kind @ &(FRAME | FRAME_WITH_AREAS) => read_frame(rest, *kind == FRAME_WITH_AREAS),
            1 => match take_u64(rest)? {
                (count @ 1.., [0]) => Ok(Self::Gap { count, reason: GapReason::SpoolFull }),
                (count @ 1.., [1]) => Ok(Self::Gap { count, reason: GapReason::Unused }),
                _ => Err("a gap without count or reason".into()),
            },
            2 => {
                let (count, rest) = take_u64(rest)?;
                match take_digest(rest)? {
                    (manifest, []) => Ok(Self::End { count, manifest }),
                    _ => Err("bytes behind an end record".into()),
                }
            }
            3 => match take_u64(rest)? {
                (count @ 1.., [a, b, c, d]) => {
                    Ok(Self::Restart { count, generation: u32::from_le_bytes([*a, *b, *c, *d]) })
                }
                _ => Err("a restart without count or generation".into()),
            },
            other => Err(format!("record kind {other} is newer than this program")),
        }
    }
}

/// A frame behind the byte of its kind.
fn read_frame(bytes: &[u8], has_moved: bool) -> Result<Record, String> {
    let (captured_at_ms, rest) = take_u64(bytes)?;
    let (digest, rest) = take_digest(rest)?;
    let (label_bytes, rest) = take_u64(rest)?;
    let is_bounded = label_bytes <= LABEL_BYTES_MAX as u64;
    let cut = usize::try_from(label_bytes).ok().filter(|_| is_bounded).and_then(|at| rest.split_at_checked(at));
    let (label, rest) = cut.ok_or_else(|| format!("a label of {label_bytes} bytes in a record of {}", bytes.len()))?;
    let label = std::str::from_utf8(label).map_err(|e| e.to_string())?.to_owned();
    if captured_at_ms > TIME_MS_MAX {
        return Err(format!("a frame taken at {captured_at_ms} ms: at most {TIME_MS_MAX} are accepted"));
    }
    let moved = match (has_moved, rest) {
        (true, areas) => Some(Areas::from_canonical_bytes(areas)?),
        (false, []) => None,
        (false, _) => return Err("bytes behind a frame".into()),
    };
    Ok(Record::Frame { captured_at_ms, digest, label, moved })
}

fn take_u64(bytes: &[u8]) -> Result<(u64, &[u8]), String> {
    let (number, rest) = bytes.split_first_chunk::<8>().ok_or("a record cut short")?;
    Ok((u64::from_le_bytes(*number), rest))
}

fn take_digest(bytes: &[u8]) -> Result<(Digest, &[u8]), String> {
    let (digest, rest) = bytes.split_first_chunk::<32>().ok_or("a record cut short")?;
    Ok((Digest(*digest), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Area;

    proptest! {
        #[test]
        fn every_record_survives_its_canonical_form(at in 0..=TIME_MS_MAX, digest: [u8; 32], label in "[a-z.]{0,40}", count in 1_u64..) {
            let areas = Areas::try_from(vec![Area { left_px: 3, top_px: digest[0].into(), width_px: 16, height_px: 32 }]).unwrap();
            for record in [
                Record::Frame { captured_at_ms: at, digest: Digest(digest), label: label.clone(), moved: None },
                Record::Frame { captured_at_ms: at, digest: Digest(digest), label, moved: Some(areas) },
                Record::Gap { count, reason: GapReason::SpoolFull },
                Record::Gap { count, reason: GapReason::Unused },
                Record::End { count, manifest: Digest(digest) },
                Record::Restart { count, generation: at as u32 },
            ] {
                prop_assert_eq!(Record::from_canonical_bytes(&record.canonical_bytes()), Ok(record));
            }
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(record) = Record::from_canonical_bytes(&bytes) {
                prop_assert_eq!(record.canonical_bytes(), bytes);
            }
        }
    }
}
