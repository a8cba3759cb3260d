//! What is heard under this node's own name: its own word that comes back, or another node's.

use microlambda_runtime::{Echo, LogLimiter};
use microlambda_wire::{NodeStatus, Topic};

use super::{Node, World};
use crate::store::Store;

/// Of two nodes with one name the broker lets one in at a time, so that each finds the other's status in the place of
/// its own whenever it is back. So often in a row it is no status of a former start that the broker had kept …
const DISPLACED_TIMES: u32 = 3;
/// … each within this time of the one before it, µs: each is back after some seconds.
const DISPLACED_WITHIN_US: u64 = 15_000_000;

/// What is known of the own name.
#[derive(Debug)]
pub(super) struct OwnName {
    /// Own statuses that come back on this connection.
    pub echo: Echo,
    /// When another node last spoke under the name, µs.
    pub clashed_at_us: Option<u64>,
    /// The last status under it was this node's.
    is_own: bool,
    /// How often in a row another one's took the place of an own one, and when that was last, µs.
    displaced_times: u32,
    displaced_at_us: u64,
    /// Clashes, as the log tells them.
    clashes_told: LogLimiter,
    /// That nothing comes back, as the log tells it.
    silence_told: LogLimiter,
}

impl Default for OwnName {
    fn default() -> Self {
        Self {
            echo: Echo::default(),
            clashed_at_us: None,
            is_own: false,
            displaced_times: 0,
            displaced_at_us: 0,
            clashes_told: LogLimiter::standing(),
            silence_told: LogLimiter::standing(),
        }
    }
}

impl OwnName {
    /// A status of another start of this node, or of another node. True if it can only be another node's.
    fn is_taken(&mut self, now_us: u64) -> bool {
        if !std::mem::take(&mut self.is_own) {
            return false;
        }
        let is_in_a_row = now_us.saturating_sub(self.displaced_at_us) <= DISPLACED_WITHIN_US;
        self.displaced_times = if is_in_a_row { self.displaced_times.saturating_add(1) } else { 1 };
        self.displaced_at_us = now_us;
        self.displaced_times >= DISPLACED_TIMES
    }
}

impl<S: Store, W: World> Node<S, W> {
    /// A status under this node's name.
    pub(super) fn own_status(&mut self, status: &NodeStatus, retained: bool) {
        if status.boot == self.boot {
            self.own_name.is_own = true;
            // What was kept from before says nothing of the access rules as they are.
            if !retained {
                self.own_name.echo.on_heard();
            }
        } else if self.own_name.is_taken(self.world.now_us()) {
            self.name_clash();
        }
    }

    /// Another node speaks under this node's name.
    pub(super) fn name_clash(&mut self) {
        let now_us = self.world.now_us();
        self.counters.name_clashes += 1;
        self.own_name.clashed_at_us = Some(now_us);
        if self.own_name.clashes_told.is_due(now_us) {
            log::error!(node:% = self.name; "another node uses this node's name: give each its own `node`");
        }
    }

    /// Looks whether the broker passes on what it takes: if not, everything stands still without a word.
    pub(super) fn look_for_echo(&mut self, now_us: u64) {
        self.own_name.echo.look(self.world.bus_counters(), now_us);
        if let Some(trouble) = self.echo_trouble(now_us).filter(|_| self.own_name.silence_told.is_due(now_us)) {
            log::warn!("{trouble}");
        }
    }

    /// That nothing which this node publishes comes back, for people.
    pub(super) fn echo_trouble(&self, now_us: u64) -> Option<String> {
        let topic = Topic::NodeStatus { node: self.name.clone() }.build(&self.prefix);
        let trouble = self.own_name.echo.trouble("node", topic, now_us);
        trouble.filter(|_| self.world.is_connected())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Own and other statuses in turn, this far apart; how many of the others were taken for another node's.
    fn clashes(pause_us: u64) -> usize {
        let mut own_name = OwnName::default();
        let displaced = |turn: u64| {
            let now_us = 1_000_000 + turn * pause_us;
            assert!(!own_name.is_taken(now_us), "what comes before the own one is of a former start");
            own_name.is_own = true;
            own_name.is_taken(now_us)
        };
        (0..5).map(displaced).filter(|is_clash| *is_clash).count()
    }

    #[test]
    fn a_name_is_another_nodes_too_once_own_statuses_are_displaced_again_and_again() {
        assert_eq!(clashes(5_000_000), 3, "the first two may be what a broker had kept");
        assert_eq!(clashes(60_000_000), 0, "a broker that is restarted now and then");
    }
}
