//! What goes into a chain and what comes out: its settings, events, effects and surroundings.

use std::fmt;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};

use crate::placement::{Peer, Placement};
use crate::{Head, Stop, Version};

/// How a chain behaves on this node. Two are equal if they are of the same chain on the same node: settings do not change.
///
/// Times are meant to be so: `slot_us` far below `r_limit_us` and `announce_us`, `refusal_us` above `r_limit_us`.
/// Others waste time and break nothing. Nodes of a chain may differ in them: none believes a lease beyond the longest
/// of its own.
pub struct ChainConfig {
    /// This node: a name that no other node of the chain has.
    pub node: String,
    /// The chain.
    pub chain: String,
    /// Wall time from the receipt of the state to the end of the last unit, µs.
    pub r_limit_us: u64,
    /// Added to `r_limit` in a lease, µs: for a unit that is killed late, and for a result to become durable and be
    /// heard. Leases grow 16 times as long at most, and to 49 days.
    pub grace_us: u64,
    /// The newest head is repeated this often, µs; every 10 ms at most.
    pub announce_us: u64,
    /// How long a claim needs to be heard by all, µs; more than 0. Each place in the queue of bidders costs one.
    pub slot_us: u64,
    /// State that was asked for and did not come is asked for again after this, µs: longer than an answer takes.
    pub fetch_us: u64,
    /// A node that cannot run the next unit within `r_limit` tries again after a slot, then after this, µs; doubled
    /// each time, to four times as long at most.
    pub refusal_us: u64,
    /// Who bids first.
    pub placement: Box<dyn Placement>,
}

impl ChainConfig {
    fn identity(&self) -> (&str, &str) {
        (&self.node, &self.chain)
    }
}

impl PartialEq for ChainConfig {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for ChainConfig {}

impl Hash for ChainConfig {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl fmt::Debug for ChainConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.chain)
    }
}

/// A bid for the step that starts at a version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Claim {
    /// The state the step starts from.
    pub step: Version,
    /// How many claims for this step expired before this one.
    pub epoch: u32,
    /// Who bids.
    pub node: String,
    /// The claim is void so long after its receipt; 0 gives the step up at once.
    pub lease_ms: u32,
}

/// How a step is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepMode {
    /// As many units as fit.
    Normal,
    /// One unit: the step before it vanished.
    OneUnit,
}

/// A start that is made durable before it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Attempt {
    /// The state it starts from.
    pub step: Head,
    /// Its claim's epoch.
    pub epoch: u32,
    /// How it is run.
    pub mode: StepMode,
}

/// What the driver makes durable in one transaction. A chain's store holds one attempt at most: that of the last of
/// these, or none if that had none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Commit {
    /// A start.
    Attempt(Attempt),
    /// The content of the step that ended, from `parent` to `result`, and the next start if the node goes on by itself.
    Result {
        /// The state the step started from.
        parent: Head,
        /// The state it reached.
        result: Head,
        /// The next start.
        then: Option<Attempt>,
    },
    /// The content that came with the announcement just handled.
    Adopt {
        /// Who announced it.
        from: String,
        /// The state announced.
        head: Head,
        /// The next start, if this node is the one to go on.
        then: Option<Attempt>,
    },
    /// The start at the head ended without a unit, and not because of one: nothing is to be held against what comes next.
    Withdraw,
    /// A unit failed here. The attempt is deleted with it: left at the head, it would count as a start that vanished.
    Failure {
        /// Where.
        at: Version,
        /// How often so far.
        times: u32,
        /// What happened.
        why: String,
    },
    /// The unit at `at` is given up: recorded like a result of this node, with its reason. That leads to a head one
    /// unit further, or one record if nothing is left of it, with one more in [`Head::set_aside`]. A driver that lacks
    /// what it takes to write this down answers with the head as it is, and is asked again a slot later, then after each
    /// [`ChainConfig::refusal_us`].
    SetAside {
        /// The state whose next unit is set aside.
        at: Head,
        /// What happened, on which nodes.
        why: String,
    },
}

/// What happened to a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The camera says that it holds the records from `oldest` on, below `next`. Its newest word counts, even where it takes
    /// a former one back: what it said may have been a stranger's, or have come late.
    InputSeen {
        /// The oldest record still held; what is below it was released, because nodes hold its results.
        oldest: u64,
        /// One more than the newest record.
        next: u64,
    },
    /// A record arrived, so that all below `next` exist.
    RecordSeen {
        /// One more than its last number.
        next: u64,
    },
    /// A peer announced a state that is durable there.
    HeadSeen {
        /// Who.
        from: String,
        /// Which state.
        head: Head,
        /// Whether the driver has its content at hand and the content continues the local state.
        content_applies: bool,
    },
    /// What [`Effect::Persist`] asked for is in the store, or a state from a peer was merged there; or neither could be.
    Committed {
        /// The store's head after the transaction.
        head: Head,
        /// The attempt that was part of it.
        attempt: Option<Attempt>,
        /// Whether the chain has folded its end.
        done: bool,
        /// Who made the head, if it is known.
        holder: Option<String>,
    },
    /// A peer bids.
    ClaimSeen(Claim),
    /// A peer tried a unit and failed.
    FailureSeen {
        /// Who.
        node: String,
        /// Where.
        at: Version,
        /// How often so far.
        times: u32,
        /// What happened.
        why: String,
    },
    /// The bus says that a peer lost its connection.
    PeerGone {
        /// Who.
        node: String,
    },
    /// The running step ended by itself or was killed; its content is with the driver.
    StepEnded {
        /// The state reached; equal to the one it started from if no unit ended.
        result: Head,
        /// Why it ended.
        end: StepEnd,
    },
    /// The node is shutting down: no more starts.
    Stopping,
    /// A timer, or anything in the context, may have changed.
    Tick,
}

/// How a step ended, as far as the chain cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepEnd {
    /// By the limit, for lack of input after some units, or at the end of the computation.
    Finished,
    /// The next unit is predicted to take longer than a whole `r_limit` here. The chain waits before it tries again.
    /// The budget stays as it is: call [`Budget::relax`](crate::Budget::relax), or no step will ever run here.
    TooLarge,
    /// It got ready what the next unit needs, and no further: the next step here has the time for it.
    Prepared,
    /// The frames it needs did not arrive.
    NoInput,
    /// It was killed at `r_limit`: its unit is slow, which is no failure.
    Overran,
    /// The worker died in a unit.
    Died {
        /// What is known.
        why: String,
    },
    /// It was abandoned because the node stops.
    Abandoned,
}

impl StepEnd {
    /// How a step ended that stopped by itself after so many units.
    pub fn of(stop: Stop, units: u32) -> Self {
        match stop {
            Stop::Limit | Stop::UnitsMax | Stop::Done => Self::Finished,
            Stop::Starved if units == 0 => Self::NoInput,
            Stop::Starved => Self::Finished,
            Stop::Prepared => Self::Prepared,
            Stop::TooLarge => Self::TooLarge,
        }
    }
}

/// What the driver is to do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Make durable, then feed [`Event::Committed`] before anything else; always the last effect of an event.
    Persist(Commit),
    /// Announce the head, with what the last step added.
    PublishHead {
        /// The state before.
        parent: Head,
    },
    /// Announce the head again for those who missed it.
    Reannounce,
    /// Publish a bid.
    PublishClaim(Claim),
    /// Tell that a unit failed here.
    PublishFailure {
        /// Where.
        at: Version,
        /// How often so far.
        times: u32,
        /// What happened.
        why: String,
    },
    /// Run a step.
    Start(Attempt),
    /// Ask `from` for what this node lacks; answers are merged and reported with [`Event::Committed`].
    Fetch {
        /// Whom to ask.
        from: String,
    },
    /// A step was run for nothing: another node's result was merged first.
    CountRunTwice,
    /// A lease expired and this node takes the step over.
    CountTakeover {
        /// From whom.
        from: String,
    },
}

/// What surrounds the chain at the moment of an event.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Local monotonic clock, µs.
    pub now_us: u64,
    /// Whether a worker could start this chain's step now: none runs another step, and no chain that comes first wants it.
    pub worker_free: bool,
    /// All live nodes, this one included.
    pub peers: &'a [Peer],
}

/// What a chain waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimerReason {
    /// Another node's claim to run out.
    Lease,
    /// Its place in the queue of bidders.
    Placement,
    /// State that was asked for.
    Fetch,
    /// The next repetition of its head.
    Announce,
    /// The next try of a unit that was too large.
    Refusal,
}

/// What a chain is doing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nothing: no input, or another node's turn.
    Idle,
    /// Its attempt is being made durable.
    Claiming(Attempt),
    /// A step runs here.
    Running(Attempt),
}
