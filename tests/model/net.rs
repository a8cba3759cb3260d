//! What nodes tell each other: a bus that delays, reorders, repeats and loses without bound.
//!
//! What was sent stays: it can arrive now, later, again, or never.

use std::collections::BTreeSet;

use microlambda::{Claim, Digest, DigestBuilder, Head, Version};

/// Records of a chain, each with the node that analysed it: another node's analysis of the same record differs in its last bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Records {
    len: u8,
    by: [u8; Self::MAX],
}

impl Records {
    pub const MAX: usize = 4;

    pub fn len(self) -> u64 {
        u64::from(self.len)
    }

    /// These and one more, analysed by `node`.
    pub fn and(mut self, node: u8) -> Self {
        self.by[usize::from(self.len)] = node + 1;
        self.len += 1;
        self
    }

    pub fn is_prefix_of(self, other: Self) -> bool {
        self.by[..usize::from(self.len)] == other.by[..usize::from(self.len)] && self.len <= other.len
    }

    pub fn head(self) -> Head {
        let genesis = Head::genesis(Digest::default());
        if self.len == 0 {
            return genesis;
        }
        let digest = DigestBuilder::new("model").field(&self.by).finish();
        Head { version: Version::at(self.len()), digest, set_aside: 0 }
    }
}

/// A message to one node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Message {
    /// A continuation, with what was added to `parent` unless it is a repetition.
    Head { from: u8, parent: Option<Records>, records: Records },
    /// A bid, or its end.
    Claim(Claim),
    /// A node asks for what it lacks.
    Want { from: u8 },
    /// What a node holds.
    Have { from: u8, records: Records },
}

/// Messages that were sent, by recipient.
pub type Net = BTreeSet<(u8, Message)>;
