//! Hand-overs: what lies between a step's last unit and the next step's first.

use microlambda_wire::Name;
use serde::Serialize;

use crate::{StepSeen, ms};

/// One hand-over, ms.
#[derive(Debug, Clone, Serialize)]
pub struct Gap {
    /// Whether the next step ran on another node.
    pub moved: bool,
    /// The node of the next step.
    pub to: Name,
    /// The record that the next step began with.
    pub at: u64,
    /// The whole.
    pub total: f64,
    /// The transaction with the step's result.
    pub commit: f64,
    /// From the moment the next step could be claimed where it ran to its first unit.
    pub claim: f64,
    /// The rest: the worker's last word, folding, on the bus, and a peer's folding and transaction.
    pub rest: f64,
    /// When the last unit ended and when the next one began, µs of the machine's monotonic clock.
    pub between_us: (u64, u64),
}

/// The hand-overs between steps that follow each other.
pub fn all<'a>(steps: impl Iterator<Item = &'a StepSeen> + Clone) -> Vec<Gap> {
    let before = |next: &StepSeen| steps.clone().find(|step| step.head == next.parent);
    steps.clone().filter_map(|next| Gap::between(before(next)?, next)).collect()
}

impl Gap {
    /// Between a step and the one that goes on from it; `None` if their units overlap.
    fn between(step: &StepSeen, next: &StepSeen) -> Option<Self> {
        let between_us = (step.timing.last_unit_at_us, next.timing.first_unit_at_us);
        let total_us = between_us.1.checked_sub(between_us.0)?;
        let (commit_us, claim_us) = (step.timing.commit_us, next.timing.claim_us);
        Some(Self {
            moved: step.node != next.node,
            to: next.node.clone(),
            at: next.parent.version.sequence,
            total: ms(total_us),
            commit: ms(commit_us),
            claim: ms(claim_us),
            rest: ms(total_us.saturating_sub(commit_us + claim_us)),
            between_us,
        })
    }
}
