//! Records: everything that a chain's state depends on, numbered by its camera.

use microlambda::Digest;
use serde::{Deserialize, Serialize};

/// One numbered, durable record of a camera's sequence. The order of the variants is part of the stored format:
/// new ones (switch, forget, restart) go to the end.
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

impl Record {
    /// How many sequence numbers the record covers.
    pub fn span(&self) -> u64 {
        match self {
            Self::Frame { .. } | Self::End { .. } => 1,
            Self::Gap { count, .. } => (*count).max(1),
        }
    }

    /// The record as bytes for digests: each field with its length or as a fixed-width number, independent of serde.
    pub fn canonical_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        match self {
            Self::Frame { captured_at_ms, digest, label } => {
                bytes.push(0);
                bytes.extend(captured_at_ms.to_le_bytes());
                bytes.extend(digest.0);
                bytes.extend((label.len() as u64).to_le_bytes());
                bytes.extend(label.as_bytes());
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
        }
        bytes
    }
}
