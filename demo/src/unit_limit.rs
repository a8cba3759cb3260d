//! Whether a node's limit is too short for a unit, as the counters of its status tell.

use microlambda_wire::{Name, NodeStatus};

/// What the newest status of a node says of units that do not fit its limit.
#[derive(Debug)]
pub(crate) struct UnitLimit {
    /// The start of the agent that counts.
    boot: Name,
    /// Units that its worker has ended.
    units: u64,
    /// Units that did not fit by when the last of these was seen to have ended.
    misfits_before: u64,
    /// Units that did not fit by now.
    misfits: u64,
}

impl UnitLimit {
    /// Takes the next status of a node; `None` if the node is gone, and counts nothing.
    pub fn of(status: &NodeStatus, former: Option<&Self>) -> Option<Self> {
        let count = |name: &str| counter(status, name).unwrap_or(0);
        let (boot, units) = (status.boot.clone(), count("units"));
        // A unit out of hand is killed as well, and is a failure: no limit would hold it.
        let misfits = count("units-too-large").saturating_add(count("kills")).saturating_sub(count("units-run-away"));
        let misfits_before = match former {
            Some(former) if former.boot == boot && former.units == units => former.misfits_before,
            _ if units == 0 => 0,
            // What was seen together may have come in either order: the next try tells.
            _ => misfits,
        };
        status.online.then_some(Self { boot, units, misfits_before, misfits })
    }

    /// Whether a unit was found too long since the last one that ended.
    pub fn is_too_short(&self) -> bool {
        self.misfits > self.misfits_before
    }
}

/// What a node counts under `name`, if it does.
pub(crate) fn counter(status: &NodeStatus, name: &str) -> Option<u64> {
    status.counters.iter().find(|(counted, _)| counted == name).map(|(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::tests::name;

    /// A status with these counts: units, units too large, kills, units that ran away.
    fn status(boot: &str, [units, too_large, kills, run_away]: [u64; 4]) -> NodeStatus {
        let counters =
            [("units", units), ("units-too-large", too_large), ("kills", kills), ("units-run-away", run_away)];
        let counters = counters.map(|(counted, value)| (counted.to_owned(), value)).to_vec();
        NodeStatus { counters, ..NodeStatus::bare(name("node-a"), name(boot), true) }
    }

    #[test]
    fn a_limit_is_too_short_from_a_unit_that_does_not_fit_to_the_next_that_ends() {
        let mut last = None;
        let mut says = |status: &NodeStatus| {
            last = UnitLimit::of(status, last.as_ref());
            last.as_ref().is_some_and(UnitLimit::is_too_short)
        };
        assert!(!says(&status("b1", [0, 0, 0, 0])));
        assert!(says(&status("b1", [0, 1, 0, 0])), "refused");
        assert!(!says(&status("b1", [3, 1, 0, 0])), "a unit was done");
        assert!(!says(&status("b1", [3, 1, 1, 1])), "out of hand");
        assert!(says(&status("b1", [3, 1, 2, 1])), "killed");
        assert!(says(&status("b1", [3, 1, 2, 1])), "and nothing since");
        assert!(!says(&NodeStatus::bare(name("node-a"), name("b1"), false)), "gone");
        assert!(!says(&status("b2", [0, 0, 0, 0])), "each start counts anew");
        assert!(says(&status("b2", [0, 0, 1, 0])));
    }

    #[test]
    fn of_a_node_that_has_worked_before_it_was_first_seen_the_next_try_tells() {
        let first = UnitLimit::of(&status("b1", [5, 2, 1, 0]), None).unwrap();
        assert!(!first.is_too_short());
        let next = UnitLimit::of(&status("b1", [5, 3, 1, 0]), Some(&first)).unwrap();
        assert!(next.is_too_short());
    }
}
