//! The state of a small site, and what may happen to it.

use microlambda::{Attempt, Chain, TimerReason, Version};

use crate::net::{Message, Net, Records};

/// What may go wrong, and how often in one history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Faults {
    /// A node loses its memory, between two actions or right after a commit; or its disk too, if `disks_die`.
    pub crashes: u8,
    /// Of the crashes, so many take the disk along.
    pub disks: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Disk {
    pub records: Records,
    pub attempt: Option<Attempt>,
    /// What a power cut would leave; differs from the above only where the store lies.
    pub synced: Records,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Node {
    pub disk: Disk,
    /// None while the node is down.
    pub chain: Option<Chain>,
    /// The step in its worker, and the records it started from.
    pub running: Option<(Attempt, Records)>,
    /// Its newest bid: claims of a lower epoch for the same step have run out.
    pub bid: Option<(Version, u32)>,
}

/// The whole site at one instant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub nodes: Vec<Node>,
    pub net: Net,
    pub left: Faults,
    /// The invariant that was broken.
    pub broken: Option<&'static str>,
}

/// One thing that happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A message arrives; `crash` if the node dies right after its next commit.
    Deliver {
        to: u8,
        message: Message,
        crash: bool,
    },
    /// A deadline of the node passes.
    Timer {
        node: u8,
        deadline: TimerReason,
        crash: bool,
    },
    /// The worker ends its unit.
    Finish {
        node: u8,
        crash: bool,
    },
    Crash {
        node: u8,
        disk_too: bool,
    },
    Restart {
        node: u8,
    },
}
