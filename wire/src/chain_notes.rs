//! What nodes say of chains, of what they found, and of themselves.

use microlambda::{Claim, CostTable, Digest, Head, Version};
use serde::{Deserialize, Serialize};

use crate::{Blob, ChainClass, Name};

/// A finished job names at most so many people.
pub const DONE_PEOPLE_MAX: usize = 10_000;
/// A continuation names at most so many frames.
pub const CONTINUATION_FRAMES_MAX: usize = 64;
/// A sync request names at most so many record boundaries.
pub const LOCATOR_LEN_MAX: usize = 128;
/// A node's status names at most so many chains.
pub const STATUS_CHAINS_MAX: usize = 64;
/// A node's status names at most so many units that were set aside.
pub const STATUS_SET_ASIDE_MAX: usize = 8;

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

/// Whose chain it is: enough for a node that has never heard its camera to take part in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainOrigin {
    /// The camera.
    pub camera: Name,
    /// Whether the chain is live or has an end.
    pub class: ChainClass,
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
    /// Whose chain it is: its camera may be gone for good when a node with an empty disk hears of it.
    #[serde(default)]
    pub origin: Option<ChainOrigin>,
    /// The state this one was made from.
    pub parent: Head,
    /// The state announced.
    pub head: Head,
    /// What was added since `parent`, if that is small (`chain.inline-kb`); else it is asked for on `sync/<node>/want`.
    #[serde(default)]
    pub delta: Option<Blob>,
    /// True when a head is repeated for those who missed it.
    #[serde(default)]
    pub again: bool,
    /// What the step did, absent in repetitions.
    #[serde(default)]
    pub timing: Option<StepTiming>,
    /// Frames finished in the step, the first [`CONTINUATION_FRAMES_MAX`] of them.
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

/// `chain/<chain>/ahead`: a node works on records of a finite job ahead of the chain's order, and says what it has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AheadNote {
    /// The chain.
    pub chain: Name,
    /// Who says so.
    pub node: Name,
    /// Its boot id.
    pub boot: Name,
    /// Digest of the lambda and its parameters: analyses of another one are of no use.
    pub lambda: Digest,
    /// The first record it works on from now on.
    pub from: u64,
    /// So many records, in place of those it named before; 0 if it works on none.
    pub count: u32,
    /// Its word is void so long after its receipt, ms.
    pub lease_ms: u32,
    /// Analyses that it has finished, if any.
    #[serde(default)]
    pub found: Option<Blob>,
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
    /// Ids of the people, in the order first seen: the first [`DONE_PEOPLE_MAX`] of them. The node's database has all.
    pub people: Vec<Name>,
}

/// `sync/<node>/want`: send me what I lack of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncWant {
    /// Who asks.
    pub node: Name,
    /// Of which chain.
    pub chain: Name,
    /// Record boundaries that the asker holds, newest first, at growing distances, at most [`LOCATOR_LEN_MAX`]; ends
    /// with sequence 0.
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
    /// Its events that the answerer has not seen on the bus; all others nobody needs to publish again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unpublished: Vec<Name>,
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

impl EventKind {
    /// The kind as payloads and databases write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NewFace => "new-face",
            Self::Recognised => "recognised",
        }
    }

    /// The kind that [`as_str`](Self::as_str) writes as `text`; `None` if there is none.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::NewFace, Self::Recognised].into_iter().find(|kind| kind.as_str() == text)
    }
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

/// A unit that was set aside: left out of the result, with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAsideNote {
    /// The chain.
    pub chain: Name,
    /// The state whose next unit it was.
    pub version: Version,
    /// On which nodes it failed, how often and how.
    pub why: String,
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
    /// Part of some five seconds that its worker was busy, 0 to 1000.
    #[serde(default)]
    pub load_permille: u32,
    /// Room on the disk of its database, MB, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_free_mb: Option<u64>,
    /// What units cost here.
    #[serde(default)]
    pub costs: CostTable,
    /// Its chains, at most [`STATUS_CHAINS_MAX`].
    #[serde(default)]
    pub chains: Vec<ChainLag>,
    /// Everything it counts, by name.
    #[serde(default)]
    pub counters: Vec<(String, u64)>,
    /// Units that it set aside since its start, the newest last, at most [`STATUS_SET_ASIDE_MAX`].
    #[serde(default)]
    pub set_aside: Vec<SetAsideNote>,
    /// What is wrong at the moment and what to do, or empty.
    #[serde(default)]
    pub trouble: String,
}

impl NodeStatus {
    /// A node of which nothing is known but whether it is there.
    pub fn bare(node: Name, boot: Name, online: bool) -> Self {
        Self {
            node,
            boot,
            online,
            program: String::new(),
            engine: String::new(),
            load_permille: 0,
            disk_free_mb: None,
            costs: CostTable::new(),
            chains: Vec::new(),
            counters: Vec::new(),
            set_aside: Vec::new(),
            trouble: String::new(),
        }
    }
}
