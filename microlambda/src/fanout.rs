//! Which records of a finite job a node works through ahead of the chain, while another node runs the chain's step.
//!
//! Where a state transition has a heavy part that needs no state (an *analysis* of each record) and a cheap one that does (the
//! *fold*, in order), the heavy part of many records can be done by many nodes at once. A node says which records it takes.
//! That is a hint, like a claim: two nodes that take the same records waste time and change nothing, and what a node that died
//! had taken is done by another. Like everything here it knows no clock: times are the driver's, in µs.
//!
//! Nodes that know the same take different records: what is free is cut into pieces, and free nodes stand in a queue drawn by
//! rendezvous hash, as for [`crate::placement`]. The piece at the cursor is left to whoever claims the next step, so that the
//! chain itself never waits for a bid. Pieces become smaller towards the job's end: all nodes finish at about the same time.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::rendezvous::draw;

/// Nodes whose word is remembered at most; more work unnoticed, which wastes time at worst.
const NODES_MAX: usize = 64;
/// So many pieces for each node lie between the cursor and the last record that is taken: one in work, and one finished before
/// a slower node's.
const PIECES_PER_NODE: u64 = 2;

/// What is left of a job is taken in so many shares by each node at least: towards the end all finish at about the same time.
const SHARES_PER_NODE: u64 = 2;

/// What other nodes have taken of one chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fanout {
    taken: BTreeMap<String, Taken>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Taken {
    records: Range<u64>,
    until_us: u64,
}

/// What a node that is free knows of a chain.
#[derive(Clone, Copy)]
pub struct Outlook<'a> {
    /// The chain.
    pub chain: &'a str,
    /// The node that asks.
    pub node: &'a str,
    /// All live nodes, the asking one included.
    pub nodes: &'a [&'a str],
    /// The node that runs the step at the cursor, as far as is known.
    pub claimer: Option<&'a str>,
    /// The next record to fold.
    pub cursor: u64,
    /// One more than the newest record.
    pub end: u64,
    /// Whether there is nothing to do about a record: its analysis is here, or this node is not to try it.
    pub closed: &'a dyn Fn(u64) -> bool,
    /// Records that one invocation of this node gets through, at least 1.
    pub batch: u64,
    /// A record that this node has begun, if any.
    pub begun: Option<u64>,
    /// The driver's clock, µs.
    pub now_us: u64,
}

impl Fanout {
    /// A node says that it works on these records until `until_us` at the longest; an empty range takes its word back.
    pub fn takes(&mut self, node: &str, records: Range<u64>, until_us: u64) {
        if records.is_empty() {
            self.taken.remove(node);
        } else if self.taken.len() < NODES_MAX || self.taken.contains_key(node) {
            self.taken.insert(node.to_owned(), Taken { records, until_us });
        }
    }

    /// A node is gone: what it had taken is free.
    pub fn forget(&mut self, node: &str) {
        self.taken.remove(node);
    }

    /// The node that works on a record, and until when at the longest, µs.
    pub fn taker(&self, record: u64, now_us: u64) -> Option<(&str, u64)> {
        self.takers(record, now_us).next()
    }

    /// When the next node's word becomes void, µs, after `now_us`.
    pub fn next_end_us(&self, now_us: u64) -> Option<u64> {
        self.taken.values().map(|taken| taken.until_us).filter(|until_us| *until_us > now_us).min()
    }

    /// What the asking node takes next; `None` if all that may be done now is done, taken, or another free node's.
    pub fn next(&self, outlook: &Outlook<'_>) -> Option<Range<u64>> {
        let Outlook { cursor, end, batch, now_us, .. } = *outlook;
        let nodes = outlook.nodes.len().max(1) as u64;
        let window = batch.saturating_mul(nodes).saturating_mul(PIECES_PER_NODE);
        let window_end = end.min(cursor.saturating_add(window));
        let is_free = |record: u64| !(outlook.closed)(record) && !self.is_others(outlook.node, record, now_us);
        let free: Vec<u64> = (cursor..window_end).filter(|record| is_free(*record)).collect();
        let left = (free.len() as u64).saturating_add(end.saturating_sub(window_end));
        let piece = batch.min(left.div_ceil(nodes.saturating_mul(SHARES_PER_NODE))).max(1);
        // A step runs from the cursor on, or soon will; one that was announced with its records needs no guess.
        let announced = outlook.claimer.is_some_and(|claimer| self.is_at_work(claimer, now_us));
        let open = (outlook.claimer.is_some() && !announced) || free.first() == Some(&cursor);
        let reserved_end = if open { cursor.saturating_add(piece) } else { cursor };
        let free: Vec<u64> = free.into_iter().filter(|record| *record >= reserved_end).collect();
        if let Some(at) = outlook.begun.and_then(|begun| free.iter().position(|record| *record == begun)) {
            return pieces(&free[at..], piece).into_iter().next();
        }
        let place = self.place_in_queue(outlook);
        pieces(&free, piece).into_iter().nth(place)
    }

    fn takers(&self, record: u64, now_us: u64) -> impl Iterator<Item = (&str, u64)> {
        let takers = self.taken.iter().map(|(node, taken)| (node.as_str(), taken));
        let takers = takers.filter(move |(_, taken)| taken.until_us > now_us && taken.records.contains(&record));
        takers.map(|(node, taken)| (node, taken.until_us))
    }

    /// Whether a node other than this one works on a record.
    fn is_others(&self, node: &str, record: u64, now_us: u64) -> bool {
        self.takers(record, now_us).any(|(taker, _)| taker != node)
    }

    fn is_at_work(&self, node: &str, now_us: u64) -> bool {
        self.taken.get(node).is_some_and(|taken| taken.until_us > now_us)
    }

    /// How many other nodes that are free, too, stand before the asking one.
    fn place_in_queue(&self, outlook: &Outlook<'_>) -> usize {
        let drawn = |node| draw("fan-out", outlook.chain, &[outlook.cursor], node);
        let own = drawn(outlook.node);
        let is_free = |node: &str| outlook.claimer != Some(node) && !self.is_at_work(node, outlook.now_us);
        let others = outlook.nodes.iter().copied().filter(|node| *node != outlook.node && is_free(node));
        others.map(drawn).filter(|other| *other < own).count()
    }
}

/// Runs of numbers that follow each other, cut into pieces.
fn pieces(free: &[u64], piece: u64) -> Vec<Range<u64>> {
    let mut pieces: Vec<Range<u64>> = Vec::new();
    for &record in free {
        match pieces.last_mut() {
            Some(last) if last.end == record && last.end - last.start < piece => last.end += 1,
            _ => pieces.push(record..record + 1),
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const LEASE_US: u64 = 1_500_000;
    const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

    fn outlook<'a>(node: &'a str, nodes: &'a [&'a str], end: u64, closed: &'a dyn Fn(u64) -> bool) -> Outlook<'a> {
        Outlook { chain: "job-1", node, nodes, claimer: None, cursor: 0, end, closed, batch: 4, begun: None, now_us: 0 }
    }

    fn nothing(_: u64) -> bool {
        false
    }

    #[test]
    fn the_piece_at_the_cursor_is_left_to_the_claimer() {
        let view = Outlook { claimer: Some("a"), ..outlook("b", &NAMES[..2], 100, &nothing) };
        assert_eq!(Fanout::default().next(&view), Some(4..8));
        let unclaimed = Outlook { claimer: None, ..view };
        let place = Fanout::default().place_in_queue(&unclaimed) as u64;
        assert_eq!(Fanout::default().next(&unclaimed), Some(4 + 4 * place..8 + 4 * place));
    }

    #[test]
    fn a_cursor_that_another_node_works_on_reserves_nothing_behind_it() {
        let mut fanout = Fanout::default();
        fanout.takes("a", 0..3, LEASE_US);
        assert_eq!(fanout.next(&outlook("b", &NAMES[..2], 100, &nothing)), Some(3..7));
    }

    #[test]
    fn what_a_node_took_is_free_again_when_its_time_is_over_or_it_is_gone() {
        let mut fanout = Fanout::default();
        fanout.takes("a", 4..8, LEASE_US);
        let view = outlook("b", &NAMES[..2], 100, &nothing);
        assert_eq!(fanout.taker(7, 0), Some(("a", LEASE_US)));
        assert_eq!(fanout.next(&view), Some(8..12));
        assert_eq!(fanout.next(&Outlook { now_us: LEASE_US, claimer: Some("a"), ..view }), Some(4..8));
        fanout.forget("a");
        assert_eq!(fanout.next(&Outlook { claimer: Some("a"), ..view }), Some(4..8));
        fanout.takes("a", 4..8, LEASE_US);
        fanout.takes("a", 0..0, LEASE_US);
        assert_eq!(fanout.taker(7, 0), None, "it took its word back");
    }

    #[test]
    fn a_record_that_was_begun_comes_first() {
        let view = Outlook { begun: Some(9), claimer: Some("a"), ..outlook("b", &NAMES[..2], 100, &nothing) };
        assert_eq!(Fanout::default().next(&view), Some(9..13));
        let held = |record| record == 9;
        assert_eq!(Fanout::default().next(&Outlook { closed: &held, ..view }), Some(4..8), "a peer was faster");
    }

    #[test]
    fn towards_the_end_pieces_become_smaller() {
        let view = Outlook { claimer: Some("a"), ..outlook("b", &NAMES[..2], 4, &nothing) };
        assert_eq!(Fanout::default().next(&view), Some(1..2));
        assert_eq!(Fanout::default().next(&Outlook { end: 1, ..view }), None, "the last one is the claimer's");
    }

    #[test]
    fn nobody_runs_away_from_the_cursor() {
        let held = |record| (1..16).contains(&record);
        assert_eq!(Fanout::default().next(&outlook("b", &NAMES[..2], 1_000, &held)), None);
    }

    proptest! {
        #[test]
        fn what_is_taken_is_free_near_the_cursor_and_no_more_than_a_batch(
            cursor in 0_u64..1_000, length in 0_u64..60, batch in 1_u64..9, count in 1_usize..6, seed: u64,
            taken in prop::collection::vec((0_usize..5, 0_u64..60, 0_u64..20, 0_u64..2), 0..6), claimer in 0_usize..9,
        ) {
            let mut fanout = Fanout::default();
            for (node, from, count, until_us) in taken {
                fanout.takes(NAMES[node], cursor + from..cursor + from + count, until_us);
            }
            let closed = |record: u64| seed >> (record % 61) & 1 == 1;
            let nodes = &NAMES[..count];
            let view = Outlook {
                cursor, batch, claimer: NAMES.get(claimer).copied(),
                ..outlook(nodes[0], nodes, cursor + length, &closed)
            };
            if let Some(next) = fanout.next(&view) {
                prop_assert!(!next.is_empty() && next.end - next.start <= batch);
                prop_assert!(next.start >= cursor && next.end <= cursor + length);
                prop_assert!(next.end <= cursor + 2 * batch * count as u64);
                for record in next {
                    prop_assert!(!closed(record) && !fanout.is_others(nodes[0], record, 0));
                }
            }
        }

        #[test]
        fn free_nodes_that_know_the_same_never_take_the_same(cursor: u32, length in 0_u64..200, batch in 1_u64..9, count in 1_usize..6) {
            let nodes = &NAMES[..count];
            let mut seen = BTreeSet::new();
            for node in nodes {
                let cursor = u64::from(cursor);
                let view = Outlook { cursor, batch, ..outlook(node, nodes, cursor + length, &nothing) };
                for record in Fanout::default().next(&view).into_iter().flatten() {
                    prop_assert!(seen.insert(record), "record {} is taken twice", record);
                }
            }
        }

        /// Nodes of different speeds work through a job; all hear each other. The node that finds the cursor open runs a step.
        #[test]
        fn every_record_is_worked_on_once_and_nobody_idles_long(
            length in 1_u64..300, costs_us in prop::collection::vec(50_000_u64..400_000, 1..6),
        ) {
            let nodes = &NAMES[..costs_us.len()];
            let mut fanout = Fanout::default();
            let mut done: BTreeSet<u64> = BTreeSet::new();
            // Of each node: the records under way and when the next of them is finished.
            let mut work: Vec<(Range<u64>, u64)> = vec![(0..0, 0); nodes.len()];
            let (mut now_us, mut cursor, mut worked) = (0, 0, 0_u64);
            while cursor < length {
                for (index, node) in nodes.iter().enumerate() {
                    if !work[index].0.is_empty() {
                        continue;
                    }
                    let held = done.clone();
                    let closed = |record: u64| held.contains(&record);
                    let batch = (1_000_000 / costs_us[index]).max(1);
                    let view = Outlook { cursor, batch, now_us, ..outlook(node, nodes, length, &closed) };
                    let open = !done.contains(&cursor) && fanout.taker(cursor, now_us).is_none();
                    // A step takes what lies free before it, and says so.
                    let free = |record: &u64| !done.contains(record) && fanout.taker(*record, now_us).is_none();
                    let step = cursor..(cursor..length.min(cursor + batch)).take_while(free).last().map_or(cursor, |last| last + 1);
                    let next = if open { Some(step) } else { fanout.next(&view) };
                    if let Some(next) = next.filter(|next| !next.is_empty()) {
                        fanout.takes(node, next.clone(), u64::MAX);
                        work[index] = (next, now_us + costs_us[index]);
                    }
                }
                let soonest = work.iter().filter(|(records, _)| !records.is_empty()).map(|(_, at_us)| *at_us).min();
                prop_assert!(soonest.is_some(), "nobody works, at {cursor} of {length}");
                now_us = soonest.unwrap_or(now_us);
                for (index, node) in nodes.iter().enumerate() {
                    let (records, at_us) = &mut work[index];
                    if !records.is_empty() && *at_us <= now_us {
                        worked += 1;
                        prop_assert!(done.insert(records.start), "record {} was worked on twice", records.start);
                        records.start += 1;
                        *at_us = now_us + costs_us[index];
                        if records.is_empty() {
                            fanout.takes(node, 0..0, 0);
                        }
                    }
                }
                while done.contains(&cursor) {
                    cursor += 1;
                }
            }
            prop_assert_eq!(worked, length);
            let rate: f64 = costs_us.iter().map(|us| 1.0 / *us as f64).sum();
            let slowest = *costs_us.iter().max().unwrap_or(&0) as f64;
            // The best there is, and at the end one batch of the slowest node: a second or one record.
            let bound_us = length as f64 / rate * 1.25 + slowest.max(1_000_000.0) * 2.0;
            prop_assert!(now_us as f64 <= bound_us, "{now_us} µs, at most {bound_us} are due");
        }
    }
}
