//! States as others see them: a version, a digest, and the order between forks.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Digest;
use crate::sabotage::{self, Sabotage};

/// How far a chain's state has come, compared in this order of fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Version {
    /// Raised by a restart of the chain; a higher generation wins over any length.
    pub generation: u32,
    /// The number of the next record to fold: all records below it are in the state.
    pub sequence: u64,
    /// Units already done inside record `sequence`.
    pub unit: u32,
}

impl Version {
    /// The version after records `0..sequence` of generation 0, at a record boundary.
    pub fn at(sequence: u64) -> Self {
        Self { generation: 0, sequence, unit: 0 }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.generation, self.sequence, self.unit)
    }
}

/// A saved state, named: what a continuation announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Head {
    /// How far the state has come.
    pub version: Version,
    /// Digest of the state's content; equal versions of one chain have equal digests unless they forked.
    pub digest: Digest,
    /// Units set aside on the way here; of two forks of equal length the one with fewer wins.
    pub set_aside: u32,
}

impl Head {
    /// The state before the first record.
    pub fn genesis(digest: Digest) -> Self {
        Self { version: Version::default(), digest, set_aside: 0 }
    }

    /// Which of two heads of one chain survives: the higher generation, then the longer, then the one with fewer
    /// units set aside, then the smaller digest. A total order, the same on every node; the greater head wins.
    pub fn prefer(&self, other: &Self) -> Ordering {
        self.version
            .cmp(&other.version)
            .then_with(|| other.set_aside.cmp(&self.set_aside))
            .then_with(|| other.digest.cmp(&self.digest))
    }

    /// True when this head wins over `other`.
    pub fn beats(&self, other: &Self) -> bool {
        if sabotage::is_chosen(Sabotage::AdoptAnything) {
            return self != other;
        }
        self.prefer(other) == Ordering::Greater
    }
}
