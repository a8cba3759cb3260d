//! Who bids first: how long a node waits before it claims a step that is open to all.
//!
//! Placement is only a hint: two nodes that bid at once both run the step and agree on its result. So it needs no
//! agreement on who is alive, and a wrong view costs time, never correctness.

use crate::Version;
use crate::rendezvous::draw;

/// A node that may bid, as far as this node knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its id.
    pub node: String,
    /// How busy its worker was lately, 0 to 1000.
    pub load_permille: u32,
}

/// A step that is open to all.
#[derive(Debug, Clone, Copy)]
pub struct OpenStep<'a> {
    /// Its chain.
    pub chain: &'a str,
    /// The state it starts from.
    pub step: Version,
    /// The node that made this state, if it is known: it holds the state and the next frames.
    pub holder: Option<&'a str>,
    /// All live nodes, the asking one included.
    pub peers: &'a [Peer],
    /// How long a bid needs to be heard by all, µs.
    pub slot_us: u64,
}

/// Decides who bids first.
pub trait Placement: Send + Sync {
    /// How long `node` waits before it bids, µs; 0 for the node that should run the step.
    fn delay_us(&self, node: &str, open: &OpenStep<'_>) -> u64;
}

/// Keeps a step where its state and frames are; the others stand by in an order drawn by rendezvous hash.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stay;

/// Draws the node for each step by rendezvous hash, so that a chain visits all nodes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spread;

impl Placement for Stay {
    fn delay_us(&self, node: &str, open: &OpenStep<'_>) -> u64 {
        queue_delay_us(node, open, open.holder)
    }
}

impl Placement for Spread {
    fn delay_us(&self, node: &str, open: &OpenStep<'_>) -> u64 {
        queue_delay_us(node, open, None)
    }
}

/// Each node's place in the queue costs a slot, its load up to half a slot more; the node with the least waits 0.
fn queue_delay_us(node: &str, open: &OpenStep<'_>, first: Option<&str>) -> u64 {
    let place = [open.step.sequence, u64::from(open.step.unit)];
    let drawn = |node| (first != Some(node), draw("placement", open.chain, &place, node));
    let mut ranked: Vec<_> = open.peers.iter().map(|peer| (drawn(peer.node.as_str()), peer)).collect();
    ranked.sort_by_key(|(drawn, _)| *drawn);
    let delays = ranked.iter().zip(0_u64..).map(|((_, peer), rank)| {
        let load_us = open.slot_us.saturating_mul(u64::from(peer.load_permille.min(1_000))) / 1_000;
        (peer.node.as_str(), rank.saturating_mul(open.slot_us).saturating_add(load_us / 2))
    });
    let delays: Vec<(&str, u64)> = delays.collect();
    let least_us = delays.iter().map(|(_, delay_us)| *delay_us).min().unwrap_or(0);
    let behind_all_us = open.slot_us.saturating_mul(delays.len() as u64);
    delays.iter().find(|(peer, _)| *peer == node).map_or(behind_all_us, |(_, delay_us)| delay_us - least_us)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peers(count: usize) -> Vec<Peer> {
        (0..count).map(|n| Peer { node: format!("node-{n}"), load_permille: 0 }).collect()
    }

    fn open<'a>(peers: &'a [Peer], sequence: u64, holder: Option<&'a str>) -> OpenStep<'a> {
        OpenStep { chain: "door-1", step: Version::at(sequence), holder, peers, slot_us: 40_000 }
    }

    proptest! {
        #[test]
        fn exactly_one_idle_node_bids_at_once_and_all_others_a_slot_apart(count in 1_usize..8, sequence: u64) {
            let peers = peers(count);
            for policy in [&Stay as &dyn Placement, &Spread] {
                let mut delays: Vec<u64> =
                    peers.iter().map(|p| policy.delay_us(&p.node, &open(&peers, sequence, Some("node-0")))).collect();
                delays.sort_unstable();
                let slots: Vec<u64> = (0..count as u64).map(|rank| rank * 40_000).collect();
                prop_assert_eq!(delays, slots);
            }
        }
    }

    #[test]
    fn the_holder_keeps_the_step_by_default() {
        let peers = peers(4);
        for sequence in 0..50 {
            assert_eq!(Stay.delay_us("node-2", &open(&peers, sequence, Some("node-2"))), 0);
        }
    }

    #[test]
    fn spread_gives_every_node_a_fair_share() {
        let peers = peers(3);
        let firsts = (0..3_000).filter(|&n| Spread.delay_us("node-1", &open(&peers, n, Some("node-2"))) == 0).count();
        assert!((900..1_100).contains(&firsts), "{firsts} of 3000");
    }

    #[test]
    fn of_two_places_in_the_queue_the_busy_one_moves_back_by_half_a_slot() {
        let mut peers = peers(2);
        let delays = |peers: &[Peer]| -> Vec<u64> {
            peers.iter().map(|peer| Spread.delay_us(&peer.node, &open(peers, 1, None))).collect()
        };
        let (idle, slot_us) = (delays(&peers), open(&peers, 1, None).slot_us);
        let (first, second) = if idle[0] == 0 { (0, 1) } else { (1, 0) };
        peers[first].load_permille = 1_000;
        let busy = delays(&peers);
        assert_eq!((busy[first], busy[second]), (0, slot_us / 2), "it is still the first, if by less");
    }

    #[test]
    fn load_that_all_share_delays_nobody() {
        let mut peers = peers(2);
        for peer in &mut peers {
            peer.load_permille = 1_000;
        }
        let delays: Vec<u64> = peers.iter().map(|p| Spread.delay_us(&p.node, &open(&peers, 1, None))).collect();
        assert!(delays.contains(&0), "load shared by all delays nobody: {delays:?}");
    }

    #[test]
    fn a_node_that_knows_no_peers_waits_behind_nobody() {
        assert_eq!(Stay.delay_us("node-0", &open(&[], 0, None)), 0);
    }
}
