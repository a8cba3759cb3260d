//! A frame that the broker takes and its node does not get: it is beyond a limit of the broker, or its access rules
//! deny it, and the broker acknowledges it all the same.

use std::collections::BTreeMap;

use microlambda_runtime::LinkCounters;
use microlambda_wire::{Name, Want};

use crate::audience::NODES_MAX;

/// A node asks so often for what the broker has taken before that is told of …
const TIMES: u32 = 3;
/// … if it has done so for this long, ms: over a slow link to the node a frame takes its time.
const PATIENCE_MS: u64 = 15_000;
/// The slowest way to a node that is not taken for a loss, bytes a ms: 128 kbit/s. A node asks again sooner than a large frame comes over it.
const SLOWEST_BYTES_PER_MS: u64 = 16;
/// A node that has not asked for this long, ms, waits for nothing: one that waits asks every few seconds.
const STALE_MS: u64 = 60_000;

/// What nodes ask for again and again, although the broker has taken it. Times are ms of a monotonic clock.
#[derive(Debug, Default)]
pub(super) struct Undelivered {
    nodes: BTreeMap<Name, Asked>,
}

/// The record that a node waits for.
#[derive(Debug)]
struct Asked {
    boot: Name,
    cursor: u64,
    since_ms: u64,
    last_ms: u64,
    payload_bytes: usize,
    /// Its place among what the broker acknowledges, once it was handed over since it was asked for last.
    place: Option<u64>,
    /// It was asked for again so often although the broker had taken it.
    times: u32,
}

impl Undelivered {
    /// A node asks, or reports what it has committed, while the link's counters are these.
    pub(super) fn on_want(&mut self, want: &Want, counters: LinkCounters, now_ms: u64) {
        let known = self.nodes.get_mut(&want.node);
        let known = known.filter(|asked| asked.boot == want.boot && want.committed <= asked.cursor);
        match known {
            Some(asked) if want.credit > 0 && asked.cursor == want.cursor => {
                asked.last_ms = now_ms;
                if asked.place.take_if(|place| counters.has_taken(*place)).is_some() {
                    asked.times += 1;
                }
            }
            // What a node looks at ahead of a step does not say that it has what the step waits for.
            Some(asked) if want.credit == 0 || asked.times > 0 => {}
            Some(_) | None => self.begin(want, now_ms),
        }
    }

    /// A record is on its way, in this place.
    pub(super) fn on_handed(&mut self, node: &Name, cursor: u64, payload_bytes: usize, place: u64) {
        if let Some(asked) = self.nodes.get_mut(node).filter(|asked| asked.cursor == cursor) {
            (asked.payload_bytes, asked.place) = (payload_bytes, Some(place));
        }
    }

    /// A node is gone.
    pub(super) fn on_gone(&mut self, node: &Name) {
        self.nodes.remove(node);
    }

    /// What was under way is lost.
    pub(super) fn on_disconnected(&mut self) {
        self.nodes.values_mut().for_each(|asked| asked.place = None);
    }

    /// What is wrong and what to do, `oldest` being the oldest record held; empty if nothing is.
    pub(super) fn trouble(&self, oldest: u64, now_ms: u64) -> String {
        let is_lost = |asked: &Asked| {
            let waited_ms = now_ms.saturating_sub(asked.since_ms);
            let is_asked_for = now_ms.saturating_sub(asked.last_ms) < STALE_MS && asked.cursor >= oldest;
            let on_its_way_ms = asked.payload_bytes as u64 / SLOWEST_BYTES_PER_MS;
            asked.times >= TIMES && waited_ms >= PATIENCE_MS + on_its_way_ms && is_asked_for
        };
        let Some((node, asked)) = self.nodes.iter().find(|(_, asked)| is_lost(asked)) else { return String::new() };
        format!(
            "the broker took frame {} ({} KB) three times, and {node} did not get it: see `message_size_limit` and the \
             access rules of the broker",
            asked.cursor,
            asked.payload_bytes.div_ceil(1_000)
        )
    }

    fn begin(&mut self, want: &Want, now_ms: u64) {
        self.nodes.remove(&want.node);
        if want.credit == 0 {
            return;
        }
        if self.nodes.len() >= NODES_MAX
            && let Some(silent) = self.nodes.iter().min_by_key(|(_, asked)| asked.last_ms).map(|(name, _)| name.clone())
        {
            self.nodes.remove(&silent);
        }
        let asked = Asked {
            boot: want.boot.clone(),
            cursor: want.cursor,
            since_ms: now_ms,
            last_ms: now_ms,
            payload_bytes: 0,
            place: None,
            times: 0,
        };
        self.nodes.insert(want.node.clone(), asked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = 35_321;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn want(cursor: u64, credit: u32, committed: u64) -> Want {
        Want { node: name("b"), boot: name("b1"), chain: name("c"), cursor, credit, committed, expires_ms: 2_000 }
    }

    fn acknowledged(acknowledged: u64) -> LinkCounters {
        LinkCounters { acknowledged, ..LinkCounters::default() }
    }

    /// Frame 7 is asked for so often, every 5 s, and sent each time; what is told in the end, and when that is.
    fn told_after(wants: u64, is_taken: bool) -> (Undelivered, u64) {
        let mut undelivered = Undelivered::default();
        let mut now_ms = 1_000;
        for place in 1..=wants {
            now_ms += 5_000;
            undelivered.on_want(&want(7, 4, 5), acknowledged(if is_taken { place - 1 } else { 0 }), now_ms);
            undelivered.on_handed(&name("b"), 7, BYTES, place);
        }
        (undelivered, now_ms)
    }

    #[test]
    fn a_frame_that_the_broker_took_three_times_and_the_node_asks_for_once_more_is_told_of() {
        let (undelivered, now_ms) = told_after(5, true);
        let told = undelivered.trouble(0, now_ms);
        assert!(told.contains("took frame 7 (36 KB)") && told.contains("b did not get it"), "{told}");
        assert_eq!(undelivered.trouble(8, now_ms), "", "it was released");
        assert_eq!(undelivered.trouble(0, now_ms + STALE_MS), "", "nobody waits");
        let (undelivered, now_ms) = told_after(3, true);
        assert_eq!(undelivered.trouble(0, now_ms), "", "it may be on its way");
        let (undelivered, now_ms) = told_after(9, false);
        assert_eq!(undelivered.trouble(0, now_ms), "", "the broker has not even taken it");
    }

    #[test]
    fn what_a_node_asks_for_in_haste_is_on_its_way() {
        let mut undelivered = Undelivered::default();
        for place in 1..20 {
            undelivered.on_want(&want(7, 4, 5), acknowledged(place - 1), place * 300);
            undelivered.on_handed(&name("b"), 7, BYTES, place);
        }
        assert_eq!(undelivered.trouble(0, 20 * 300), "");
    }

    #[test]
    fn a_node_that_gets_on_or_goes_has_nothing_to_wait_for() {
        let is_told = |change: fn(&mut Undelivered, u64)| {
            let (mut undelivered, now_ms) = told_after(5, true);
            change(&mut undelivered, now_ms);
            !undelivered.trouble(0, now_ms).is_empty()
        };
        assert!(is_told(|undelivered, now_ms| undelivered.on_want(&want(40, 8, 5), acknowledged(9), now_ms)), "ahead");
        assert!(
            is_told(|undelivered, now_ms| undelivered.on_want(&want(7, 0, 7), acknowledged(9), now_ms)),
            "a report"
        );
        assert!(!is_told(|undelivered, now_ms| undelivered.on_want(&want(8, 0, 8), acknowledged(9), now_ms)));
        assert!(!is_told(|undelivered, now_ms| undelivered.on_want(&want(9, 4, 8), acknowledged(9), now_ms)));
        assert!(!is_told(|undelivered, _| undelivered.on_gone(&name("b"))));
    }
}
