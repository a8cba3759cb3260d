//! Whether a broker gives back what it takes. One whose access rules deny something acknowledges it all the same, and an
//! agent that nobody hears waits for the others without a word.

use std::fmt::Display;

use crate::link::LinkCounters;

/// What the broker has taken comes back within this time, µs: before it on the way are only messages that the broker
/// had kept for the subscription.
const PATIENCE_US: u64 = 10_000_000;

/// What comes back of a topic that an agent both publishes on and reads. Belongs to one connection; each has a new one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Echo {
    /// The place of the first message on that topic.
    place: Option<u64>,
    /// When the broker was seen to have taken it, µs.
    taken_at_us: Option<u64>,
    is_heard: bool,
}

impl Echo {
    /// A message on the topic was handed to the link, whose counters are these now.
    pub fn on_said(&mut self, counters: LinkCounters) {
        self.place.get_or_insert(counters.newest_place());
    }

    /// One has come back.
    pub fn on_heard(&mut self) {
        self.is_heard = true;
    }

    /// A message that the broker had kept has come: what this client has said since it subscribed is still behind it.
    pub fn on_retained(&mut self, now_us: u64) {
        if let Some(taken_at_us) = &mut self.taken_at_us {
            *taken_at_us = now_us;
        }
    }

    /// Looks at the link's counters. To be called often.
    pub fn look(&mut self, counters: LinkCounters, now_us: u64) {
        if self.place.is_some_and(|place| counters.has_taken(place)) {
            self.taken_at_us.get_or_insert(now_us);
        }
    }

    /// What is wrong and what to do, if nothing has come back of `topic` for long; `who` is a `node` or a `camera`.
    pub fn trouble(&self, who: &str, topic: impl Display, now_us: u64) -> Option<String> {
        let waited_us = self.taken_at_us.filter(|_| !self.is_heard).map(|at_us| now_us.saturating_sub(at_us));
        waited_us.filter(|us| *us >= PATIENCE_US).map(|_| {
            format!(
                "what this {who} publishes does not come back: allow its user to write and read `{topic}` in the broker's \
                 access rules, and what else docs/operating.md lists"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_broker_took_and_does_not_give_back_is_told_after_a_while() {
        let counters = |published, acknowledged| LinkCounters { published, acknowledged, ..LinkCounters::default() };
        let mut echo = Echo::default();
        let is_told = |echo: &Echo, now_us| echo.trouble("node", "site/node/a/status", now_us).is_some();
        echo.look(counters(0, 0), 1);
        assert!(!is_told(&echo, u64::MAX), "nothing was said");
        echo.on_said(counters(3, 0));
        echo.look(counters(3, 2), 1);
        assert!(!is_told(&echo, u64::MAX), "the link is slow");
        echo.look(counters(4, 3), 5);
        echo.look(counters(4, 4), 6);
        assert!(!is_told(&echo, PATIENCE_US + 4));
        echo.on_retained(7);
        assert!(!is_told(&echo, PATIENCE_US + 6), "what the broker had kept comes first");
        let told = echo.trouble("node", "site/node/a/status", PATIENCE_US + 7).unwrap();
        assert!(told.contains("this node") && told.contains("`site/node/a/status`"), "{told}");
        echo.on_heard();
        assert!(!is_told(&echo, u64::MAX));
    }
}
