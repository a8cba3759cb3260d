//! A deterministic simulator of a whole site: the agents' own code in virtual time, on a bus and disks that keep no promise.
//!
//! What runs is the real thing: `edge_agent::Node` with `Chain`, `Budget`, placement, announcing, sync and the event book; the
//! camera's `Audience`; payloads and topics; the fold. Doubles stand in for what surrounds it: the broker ([`bus`]), a
//! disk with power cuts ([`disk`]), a worker process ([`worker`]), a spool ([`camera`]), pictures whose content is known
//! ([`truth`]). A seed decides everything; after every event the invariants ([`invariants`]) are checked.

pub mod bench;
pub mod bus;
pub mod camera;
pub mod disk;
pub mod fault;
pub mod invariants;
pub mod random;
mod site;
pub mod truth;
pub mod worker;
pub mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use microlambda_wire::{Name, TopicPrefix};

pub use fault::{FaultKind, Phase};
pub use invariants::Violation;
pub use microlambda::sabotage::Sabotage;
use site::Site;

/// What to simulate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// A fault built into the protocol.
    pub sabotage: Option<Sabotage>,
    /// Whether to keep a log of every event.
    pub log: bool,
}

impl Options {
    /// The protocol as it is.
    pub fn seed(seed: u64) -> Self {
        Self { seed, sabotage: None, log: false }
    }
}

/// What a simulation came to.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Events that happened.
    pub events: u64,
    /// Virtual time that passed, µs.
    pub virtual_us: u64,
    /// Steps that workers ended.
    pub steps: u64,
    /// Frames analysed ahead of their chain's steps, and frames folded from such analyses, by node and boot id; as far as
    /// statuses told.
    pub ahead: BTreeMap<(Name, Name), (u64, u64)>,
    /// Faults by kind and by the phase of the step that they hit.
    pub faults: BTreeMap<(FaultKind, Phase), u64>,
    /// The first invariant that did not hold.
    pub violation: Option<Violation>,
    /// Every event, if asked for.
    pub log: Vec<String>,
}

/// Simulates one site from its start until all is done.
pub fn run(options: Options) -> Outcome {
    choose(options.sabotage);
    let mut site = Site::new(options);
    let ended = catch_unwind(AssertUnwindSafe(|| site.run()));
    choose(None);
    let mut outcome = site.into_outcome();
    if let Err(panic) = ended {
        let what = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default();
        outcome.violation.get_or_insert(Violation { invariant: "an assertion of the code itself", what });
    }
    outcome
}

#[cfg(feature = "sabotage")]
fn choose(sabotage: Option<Sabotage>) {
    microlambda::sabotage::choose(sabotage);
}

#[cfg(not(feature = "sabotage"))]
fn choose(sabotage: Option<Sabotage>) {
    assert!(sabotage.is_none(), "sabotage needs the feature of this name: build with --all-features");
}

/// A name that is known to be one.
pub(crate) fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

/// The prefix of the simulated site's topics.
pub fn prefix() -> TopicPrefix {
    TopicPrefix::new(&name("simulated"))
}
