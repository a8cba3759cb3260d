//! When a chain bids for its next step, and what it claims.

use super::{CAUTIOUS_UNITS, Chain, LEASE_DOUBLINGS_MAX};
use crate::placement::{OpenStep, Peer};
use crate::protocol::{Attempt, Claim, Commit, Context, Effect, Phase, StepMode};
use crate::{Head, Version};

/// A unit is set aside after failing on two nodes, or so often on one.
const FAILURES_MAX: u32 = 3;
/// No reason for setting a unit aside is longer, bytes: it is part of the content.
pub const REASON_BYTES_MAX: usize = 1_024;
/// A head is repeated at most this often, µs: with a setting of 0 that would always be due.
const ANNOUNCE_US_MIN: u64 = 10_000;
/// A finished chain is repeated so many times less often.
const DONE_ANNOUNCE_FACTOR: u64 = 15;

impl Chain {
    /// Drops what has run out: another node's claim, state that was asked for.
    pub(super) fn expire(&mut self, ctx: &Context<'_>, effects: &mut Vec<Effect>) {
        if let Some(lease) = self.lease.take_if(|lease| lease.until_us <= ctx.now_us) {
            self.open_since_us = lease.until_us;
            // A claim for a step that this node never saw says that a newer state exists; without it there is nothing to take over.
            if lease.claim.step == self.head.version {
                self.epoch = lease.claim.epoch.saturating_add(1);
                self.expired_from = Some(lease.claim.node);
                self.cautious_units = self.cautious_units.max(CAUTIOUS_UNITS);
            }
        }
        self.fetching.take_if(|(_, until_us)| *until_us <= ctx.now_us);
        if self.announce_at_us <= ctx.now_us {
            let pause = if self.done { DONE_ANNOUNCE_FACTOR } else { 1 };
            self.announce_at_us = ctx.now_us.saturating_add(self.announce_us().saturating_mul(pause));
            if self.head.version > Version::default() || self.is_behind_input() {
                effects.push(Effect::Reannounce);
            }
        }
    }

    /// Bids if it is this node's turn.
    pub(super) fn consider(&mut self, ctx: &Context<'_>, effects: &mut Vec<Effect>) {
        if !self.may_bid() || self.lease.is_some() {
            return;
        }
        let refused = self.refused_until_us > ctx.now_us;
        if let Some(why) = self.set_aside_reason(ctx).filter(|_| !refused) {
            // If the driver lacks the record to write it down: it is on its way, or whoever has it is away.
            let asked = std::mem::replace(&mut self.set_aside_asked, true);
            let pause_us = if asked { self.config.refusal_us } else { self.config.slot_us };
            self.refused_until_us = ctx.now_us.saturating_add(pause_us);
            effects.push(Effect::Persist(Commit::SetAside { at: self.head, why }));
            return;
        }
        if refused || !ctx.worker_free || self.bid_at_us(ctx) > ctx.now_us {
            return;
        }
        let attempt = Attempt { step: self.head, epoch: self.epoch, mode: self.mode() };
        if let Some(from) = self.expired_from.take() {
            effects.push(Effect::CountTakeover { from });
        }
        self.phase = Phase::Claiming(attempt);
        effects.push(Effect::PublishClaim(self.claim(&attempt)));
        effects.push(Effect::Persist(Commit::Attempt(attempt)));
    }

    pub(super) fn may_bid(&self) -> bool {
        self.phase == Phase::Idle && !self.stopping && self.has_work() && !self.is_behind_input()
    }

    pub(super) fn bid_at_us(&self, ctx: &Context<'_>) -> u64 {
        let holder = self.holder.as_deref();
        let delay_us = match &self.expired_from {
            None => self.delay_us(self.head, holder, ctx.peers),
            Some(gone) => {
                // It has had its turn: waiting for it once more would only add to what its lease has cost.
                let others: Vec<Peer> = ctx.peers.iter().filter(|peer| peer.node != *gone).cloned().collect();
                self.delay_us(self.head, holder, &others)
            }
        };
        self.open_since_us.saturating_add(delay_us)
    }

    fn delay_us(&self, step: Head, holder: Option<&str>, peers: &[Peer]) -> u64 {
        let open =
            OpenStep { chain: &self.config.chain, step: step.version, holder, peers, slot_us: self.config.slot_us };
        self.config.placement.delay_us(&self.config.node, &open)
    }

    /// The next start, if this node is first in the queue for the step at `head` and free to run it: committed together with
    /// `head`, so that going on costs no sync of its own.
    pub(super) fn next_attempt_if_ours(&self, head: Head, holder: Option<&str>, ctx: &Context<'_>) -> Option<Attempt> {
        let idle = self.phase == Phase::Idle && !self.stopping;
        let work = (self.input_oldest..self.input_next).contains(&head.version.sequence);
        let claimed = self.lease.as_ref().is_some_and(|lease| lease.claim.step >= head.version);
        let ours = idle && work && ctx.worker_free && !claimed && self.delay_us(head, holder, ctx.peers) == 0;
        let mode = if self.cautious_units > 1 { StepMode::OneUnit } else { StepMode::Normal };
        // Claims for another branch of the same length were for this step too.
        let epoch = if head.version == self.head.version { self.epoch } else { 0 };
        ours.then_some(Attempt { step: head, epoch, mode })
    }

    fn mode(&self) -> StepMode {
        if self.cautious_units > 0 { StepMode::OneUnit } else { StepMode::Normal }
    }

    fn set_aside_reason(&self, ctx: &Context<'_>) -> Option<String> {
        let own = self.failures.get(&self.config.node)?;
        let alone = ctx.peers.len() <= 1;
        let enough = self.failures.len() >= 2 || (own.0 >= FAILURES_MAX && alone) || own.0 >= 2 * FAILURES_MAX;
        let tell = |(node, (times, why)): (&String, &(u32, String))| format!("{node}: {times} × {why}");
        enough.then(|| {
            let mut reason = self.failures.iter().map(tell).collect::<Vec<_>>().join("; ");
            let end = (0..=REASON_BYTES_MAX).rev().find(|&at| reason.is_char_boundary(at));
            reason.truncate(end.unwrap_or(0));
            reason
        })
    }

    /// How often the head is repeated, µs.
    pub(super) fn announce_us(&self) -> u64 {
        self.config.announce_us.max(ANNOUNCE_US_MIN)
    }

    pub(super) fn lease_us(&self, epoch: u32) -> u64 {
        let base_us = self.config.r_limit_us.saturating_add(self.config.grace_us);
        base_us.saturating_mul(1 << epoch.min(LEASE_DOUBLINGS_MAX))
    }

    pub(super) fn claim(&self, attempt: &Attempt) -> Claim {
        Claim {
            step: attempt.step.version,
            epoch: attempt.epoch,
            node: self.config.node.clone(),
            // A lease of nothing would give the step up.
            lease_ms: u32::try_from(self.lease_us(attempt.epoch).div_ceil(1_000).max(1)).unwrap_or(u32::MAX),
        }
    }
}
