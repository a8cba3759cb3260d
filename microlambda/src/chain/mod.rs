//! One chain on one node. [`Chain`] says how it is driven and what holds.

mod bid;
mod setback;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::protocol::{
    Attempt, ChainConfig, Claim, Commit, Context, Effect, Event, Phase, StepEnd, StepMode, TimerReason,
};
use crate::sabotage::{self, Sabotage};
use crate::{Head, Version};
pub use bid::REASON_BYTES_MAX;
use setback::{Setback, Setbacks};

/// Leases double per epoch up to 2 to this power.
const LEASE_DOUBLINGS_MAX: u32 = 4;
/// After a step vanished, so many units are run one by one.
const CAUTIOUS_UNITS: u32 = 16;
/// At most so many nodes are remembered to have failed at a place.
const FAILED_NODES_MAX: usize = 64;
/// After the holder of a lease is reported gone, peers wait this long for a sign of life, µs: its report may be about a former connection.
const GONE_GRACE_US: u64 = 100_000;

/// Another node's claim.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Lease {
    claim: Claim,
    until_us: u64,
}

/// One chain on one node: a state machine that is fed events and returns effects.
///
/// The driver owns the clock, the store, the bus and the worker. It opens the chain as its store holds it, calls
/// [`Chain::handle`] with every event, and carries the effects out in order:
/// - [`Effect::Persist`] is answered at once with [`Event::Committed`], whose effects come before whatever else happens
///   to the chain: so no head is published and no step started before it is durable;
/// - [`Event::Tick`] is due at [`Chain::next_timer`], which is asked again after each event, and when a worker becomes
///   free or peers come and go; a spurious tick is harmless;
/// - all other events may come in any order, late, any number of times or never;
/// - nothing is started before [`Event::InputSeen`] or [`Event::RecordSeen`] has told that there is input.
///
/// What holds whatever arrives:
/// - the local head only ever moves to one that beats it ([`Head::beats`]), and only by a commit;
/// - a claim prevents a start, it never stops a run; a lost claim costs a step run twice, nothing else;
/// - a step whose attempt vanished is retried one unit at a time, so that the unit to blame is found;
/// - a unit that fails on two nodes, or so often on one, is set aside, and the chain goes on without it.
///
/// `examples/two_nodes.rs` is a whole driver. Two chains that are equal behave alike, if their settings are: a model
/// checker may take them for one state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Chain {
    config: Arc<ChainConfig>,
    head: Head,
    holder: Option<String>,
    done: bool,
    stopping: bool,
    input_oldest: u64,
    input_next: u64,
    phase: Phase,
    lease: Option<Lease>,
    /// When the step at the head became open to all, µs.
    open_since_us: u64,
    /// Epoch of the next claim for the step at the head.
    epoch: u32,
    /// From whom the last lease was taken, until the next start.
    expired_from: Option<String>,
    cautious_units: u32,
    /// Failures at the head's version, by node.
    failures: BTreeMap<String, (u32, String)>,
    refused_until_us: u64,
    /// A set-aside of the unit at the head was asked for.
    set_aside_asked: bool,
    /// Steps at the head that came to nothing.
    setbacks: Setbacks,
    fetching: Option<(Head, u64)>,
    announce_at_us: u64,
}

impl Chain {
    /// A chain as the store holds it. `vanished` is the attempt found at the head: a start that nobody ended, because the
    /// process or the computer went down in it.
    pub fn open(config: ChainConfig, head: Head, done: bool, vanished: Option<Attempt>, now_us: u64) -> Self {
        let vanished = vanished.filter(|attempt| attempt.step == head);
        let mut failures = BTreeMap::new();
        if vanished.is_some_and(|attempt| attempt.mode == StepMode::OneUnit) {
            failures.insert(config.node.clone(), (1, "the process ended in this unit".to_owned()));
        }
        Self {
            head,
            holder: None,
            done,
            stopping: false,
            input_oldest: 0,
            input_next: 0,
            phase: Phase::Idle,
            lease: None,
            open_since_us: now_us,
            epoch: 0,
            expired_from: None,
            cautious_units: if vanished.is_some() { CAUTIOUS_UNITS } else { 0 },
            failures,
            refused_until_us: 0,
            set_aside_asked: false,
            setbacks: Setbacks::default(),
            fetching: None,
            announce_at_us: now_us,
            config: Arc::new(config),
        }
    }

    /// For a model checker, in which any deadline may pass before or after anything else: forgets how far off deadlines are. Those
    /// still to come are at `far_us` from now on, so that chains compare equal if they wait for the same things.
    #[doc(hidden)]
    pub fn forget_distances(&mut self, now_us: u64, far_us: u64) {
        let coarse = |at_us: &mut u64| *at_us = if *at_us > now_us { far_us } else { 0 };
        let Self { lease, open_since_us, refused_until_us, fetching, announce_at_us, .. } = self;
        let lease = lease.iter_mut().map(|lease| &mut lease.until_us);
        let fetching = fetching.iter_mut().map(|(_, until_us)| until_us);
        lease.chain(fetching).chain([refused_until_us, announce_at_us]).for_each(coarse);
        // A turn to bid that has not come yet counts from now.
        *open_since_us = if *open_since_us > 0 { now_us } else { 0 };
    }

    /// For a model checker: one deadline passes.
    #[doc(hidden)]
    pub fn pass(&mut self, deadline: TimerReason, now_us: u64) {
        match deadline {
            TimerReason::Lease => self.lease.iter_mut().for_each(|lease| lease.until_us = now_us),
            TimerReason::Fetch => self.fetching.iter_mut().for_each(|(_, until_us)| *until_us = now_us),
            TimerReason::Placement => self.open_since_us = 0,
            TimerReason::Refusal => self.refused_until_us = 0,
            TimerReason::Announce => self.announce_at_us = now_us,
        }
    }

    /// The newest state that is durable here.
    pub fn head(&self) -> Head {
        self.head
    }

    /// What the chain is doing.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Whether the end was folded.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Who made the head, as far as is known.
    pub fn holder(&self) -> Option<&str> {
        self.holder.as_deref()
    }

    /// Whether there is input that the head has not folded.
    pub fn has_work(&self) -> bool {
        !self.done && self.head.version.sequence < self.input_next
    }

    /// Whether the record that comes next was released: only a peer's state helps.
    pub fn is_behind_input(&self) -> bool {
        !self.done && self.head.version.sequence < self.input_oldest
    }

    /// Whether only the worker, or its turn to bid, keeps it from starting a step: chains that come after it leave it the worker.
    pub fn wants_worker(&self, now_us: u64) -> bool {
        self.may_bid()
            && self.lease.is_none()
            && self.refused_until_us <= now_us
            && (!self.setbacks.any() || self.open_since_us <= now_us)
    }

    /// One more than the newest record known to exist.
    pub fn input_next(&self) -> u64 {
        self.input_next
    }

    /// The node whose claim keeps this one from bidding.
    pub fn leased_to(&self) -> Option<&str> {
        self.lease.as_ref().map(|lease| lease.claim.node.as_str())
    }

    /// Another node's claim that is held to be valid: whose, and the state its step starts from.
    pub fn claimed_by(&self) -> Option<(&str, Version)> {
        self.lease.as_ref().map(|lease| (lease.claim.node.as_str(), lease.claim.step))
    }

    /// The claim for the step that runs here, with its whole lease.
    pub fn running_claim(&self) -> Option<Claim> {
        match &self.phase {
            Phase::Running(attempt) => Some(self.claim(attempt)),
            Phase::Claiming(_) | Phase::Idle => None,
        }
    }

    /// Whether a claim ran out, so that the step is to be taken over as soon as a worker is free.
    pub fn takes_over(&self) -> bool {
        self.expired_from.is_some() && self.lease.is_none() && self.may_bid()
    }

    /// Whether a newer state is known and was asked for.
    pub fn is_fetching(&self) -> bool {
        self.fetching.is_some()
    }

    /// Restores the failures of this node that the store remembers at the head.
    pub fn restore_failures(&mut self, times: u32, why: String) {
        let own = self.failures.entry(self.config.node.clone()).or_default();
        *own = (own.0.saturating_add(times), why);
        self.cautious_units = self.cautious_units.max(CAUTIOUS_UNITS);
    }

    /// How often the unit at the head failed on this node, and why.
    pub fn own_failure(&self) -> Option<(u32, &str)> {
        self.failures.get(&self.config.node).map(|(times, why)| (*times, why.as_str()))
    }

    /// When to feed [`Event::Tick`], and what for. `ctx` as for [`Chain::handle`].
    pub fn next_timer(&self, ctx: &Context<'_>) -> (u64, TimerReason) {
        let mut next = (self.announce_at_us, TimerReason::Announce);
        let mut earlier = |at_us: u64, reason| {
            if at_us < next.0 {
                next = (at_us, reason);
            }
        };
        if let Some((_, until_us)) = self.fetching {
            earlier(until_us, TimerReason::Fetch);
        }
        if self.may_bid() {
            match &self.lease {
                Some(lease) => earlier(lease.until_us, TimerReason::Lease),
                None if self.refused_until_us > ctx.now_us => earlier(self.refused_until_us, TimerReason::Refusal),
                None if ctx.worker_free => earlier(self.bid_at_us(ctx), TimerReason::Placement),
                None => {}
            }
        }
        next
    }

    /// Feeds one event and returns what to do, in order.
    pub fn handle(&mut self, event: Event, ctx: &Context<'_>) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::InputSeen { oldest, next } => self.input_seen(oldest, next, ctx),
            Event::RecordSeen { next } => self.record_seen(next, ctx),
            Event::HeadSeen { from, head, content_applies } => {
                self.head_seen(from, head, content_applies, ctx, &mut effects);
            }
            Event::Committed { head, attempt, done, holder } => {
                self.committed(head, attempt, done, holder, ctx, &mut effects);
            }
            Event::ClaimSeen(claim) => self.claim_seen(claim, ctx),
            Event::FailureSeen { node, at, times, why } => self.failure_seen(node, at, times, why, ctx),
            Event::PeerGone { node } => self.peer_gone(&node, ctx),
            Event::StepEnded { result, end } => self.step_ended(result, end, ctx, &mut effects),
            Event::Stopping => self.stopping = true,
            Event::Tick => {}
        }
        let persisting = matches!(effects.last(), Some(Effect::Persist(_)));
        if !persisting {
            self.expire(ctx, &mut effects);
            self.consider(ctx, &mut effects);
        }
        effects
    }

    fn input_seen(&mut self, oldest: u64, next: u64, ctx: &Context<'_>) {
        let was_behind = self.is_behind_input();
        self.input_oldest = oldest;
        if self.is_behind_input() && !was_behind {
            // Its frames are gone, so peers hold the results: the announcement of an old head makes them speak.
            self.announce_at_us = ctx.now_us;
        }
        self.record_seen(next, ctx);
        self.input_next = next.max(self.head.version.sequence);
    }

    fn record_seen(&mut self, next: u64, ctx: &Context<'_>) {
        if self.setbacks.end_starving() {
            // The camera is there (again), or what it sent has come the whole way.
            self.open_since_us = self.open_since_us.min(ctx.now_us);
        }
        if next > self.input_next {
            if !self.has_work() {
                self.open_since_us = ctx.now_us;
            }
            self.input_next = next;
        }
    }

    fn head_seen(
        &mut self,
        from: String,
        head: Head,
        content_applies: bool,
        ctx: &Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        if head == self.head {
            // Somebody else has just said it: no need to repeat it too.
            self.announce_at_us = self.announce_at_us.max(ctx.now_us.saturating_add(self.announce_us()));
            return;
        }
        if !head.beats(&self.head) {
            // The sender lags: tell it soon, but never more often than it speaks itself.
            self.announce_at_us = self.announce_at_us.min(ctx.now_us.saturating_add(self.announce_us() / 4));
            return;
        }
        if content_applies {
            let then = self.next_attempt_if_ours(head, Some(&from), ctx);
            effects.push(Effect::Persist(Commit::Adopt { from, head, then }));
        } else if sabotage::is_chosen(Sabotage::AnnouncedHeadIsMerged) {
            self.moved_to(head, self.done, Some(from), ctx);
        } else if self.fetching.is_none_or(|(wanted, _)| head.beats(&wanted)) {
            self.fetching = Some((head, ctx.now_us.saturating_add(self.config.fetch_us)));
            effects.push(Effect::Fetch { from });
        }
    }

    fn committed(
        &mut self,
        head: Head,
        attempt: Option<Attempt>,
        done: bool,
        holder: Option<String>,
        ctx: &Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let parent = self.head;
        let moved = head != parent;
        if moved {
            assert!(head.beats(&parent), "a commit took the head back from {parent:?} to {head:?}");
            self.moved_to(head, done, holder, ctx);
        }
        let starts = attempt.filter(|attempt| !self.done && attempt.step == self.head);
        if let Some(attempt) = starts {
            // First of all: the worker waits for nothing but this.
            self.phase = Phase::Running(attempt);
            effects.push(Effect::Start(attempt));
        }
        if moved && self.holder.as_deref() == Some(self.config.node.as_str()) {
            effects.push(Effect::PublishHead { parent });
            self.announce_at_us = ctx.now_us.saturating_add(self.announce_us());
        }
        match (starts, attempt) {
            (Some(attempt), _) if moved => effects.push(Effect::PublishClaim(self.claim(&attempt))),
            (None, Some(_)) if self.done => {
                // The end was folded in the same transaction: what was said to follow does not exist.
                self.phase = Phase::Idle;
                effects.push(Effect::Persist(Commit::Withdraw));
            }
            (None, Some(_)) => match self.phase {
                Phase::Claiming(_) => self.phase = Phase::Idle,
                Phase::Idle | Phase::Running(_) => {}
            },
            // A start that was committed by itself was claimed before.
            (Some(_), _) | (None, None) => {}
        }
    }

    fn moved_to(&mut self, head: Head, done: bool, holder: Option<String>, ctx: &Context<'_>) {
        if head.version != self.head.version {
            self.epoch = 0;
        }
        self.head = head;
        self.done = done;
        self.holder = holder;
        self.input_next = self.input_next.max(head.version.sequence);
        self.open_since_us = ctx.now_us;
        self.expired_from = None;
        self.failures.clear();
        self.refused_until_us = 0;
        self.set_aside_asked = false;
        self.setbacks = Setbacks::default();
        self.lease = self.lease.take().filter(|lease| lease.claim.step >= head.version);
        self.fetching = self.fetching.filter(|(wanted, _)| wanted.beats(&head));
        self.cautious_units = self.cautious_units.saturating_sub(1);
    }

    fn claim_seen(&mut self, claim: Claim, ctx: &Context<'_>) {
        if claim.node == self.config.node {
            return;
        }
        if claim.step < self.head.version {
            // The claimer lags: tell it what is known, before it runs what is done.
            self.announce_at_us = self.announce_at_us.min(ctx.now_us.saturating_add(self.config.slot_us));
            return;
        }
        if claim.lease_ms == 0 {
            let gives_up = |lease: &Lease| lease.claim.node == claim.node && lease.claim.step <= claim.step;
            if self.lease.as_ref().is_some_and(gives_up) {
                self.lease = None;
                // A pause of this node's own goes on: without it two nodes that lack a step's frames would wake each other for ever.
                self.open_since_us = self.open_since_us.max(ctx.now_us);
            }
            return;
        }
        let stale = |held: &Lease| {
            (held.claim.step, held.claim.epoch) > (claim.step, claim.epoch)
                || (held.claim.step == claim.step && held.claim.epoch == claim.epoch && held.claim.node != claim.node)
        };
        let epoch_is_past = claim.step == self.head.version && claim.epoch < self.epoch;
        let believed = sabotage::is_chosen(Sabotage::IgnoreEpochs);
        if !believed && (epoch_is_past || self.lease.as_ref().is_some_and(stale)) {
            return;
        }
        // A claim of a node with another configuration, or a hostile one, cannot silence this node for long.
        let lease_us_max = self.lease_us(LEASE_DOUBLINGS_MAX);
        let lease_us = (u64::from(claim.lease_ms) * 1_000).min(lease_us_max);
        let until_us = ctx.now_us.saturating_add(lease_us);
        self.lease = Some(Lease { claim, until_us });
    }

    fn failure_seen(&mut self, node: String, at: Version, times: u32, why: String, ctx: &Context<'_>) {
        if at != self.head.version || node == self.config.node {
            return;
        }
        if self.lease.as_ref().is_some_and(|lease| lease.claim.node == node) {
            self.lease = None;
            self.open_since_us = ctx.now_us;
        }
        if self.failures.len() < FAILED_NODES_MAX || self.failures.contains_key(&node) {
            self.failures.insert(node, (times.max(1), why));
        }
        self.cautious_units = CAUTIOUS_UNITS;
    }

    fn peer_gone(&mut self, node: &str, ctx: &Context<'_>) {
        if let Some(lease) = self.lease.as_mut().filter(|lease| lease.claim.node == node) {
            lease.until_us = lease.until_us.min(ctx.now_us.saturating_add(GONE_GRACE_US));
        }
    }

    fn step_ended(&mut self, result: Head, end: StepEnd, ctx: &Context<'_>, effects: &mut Vec<Effect>) {
        let Phase::Running(attempt) = std::mem::replace(&mut self.phase, Phase::Idle) else {
            return;
        };
        let progressed = result.version > attempt.step.version;
        let goes_on = end == StepEnd::Finished;
        let setback = match end {
            StepEnd::Died { why } => {
                self.cautious_units = CAUTIOUS_UNITS + 1;
                if !progressed && attempt.step == self.head {
                    self.failed_here(why, ctx, effects);
                    return;
                }
                None
            }
            StepEnd::TooLarge | StepEnd::Overran => Some(Setback::Refused),
            StepEnd::Prepared => Some(Setback::Prepared),
            StepEnd::NoInput => Some(Setback::Starved),
            StepEnd::Finished | StepEnd::Abandoned => None,
        };
        if progressed && result.beats(&self.head) {
            let next = if goes_on { self.next_attempt_if_ours(result, Some(&self.config.node), ctx) } else { None };
            effects.push(Effect::Persist(Commit::Result { parent: attempt.step, result, then: next }));
            return;
        }
        if progressed {
            effects.push(Effect::CountRunTwice);
        } else if attempt.step == self.head {
            self.wait_after(setback, ctx.now_us);
            effects.push(Effect::PublishClaim(Claim { lease_ms: 0, ..self.claim(&attempt) }));
            // Else a power cut much later would look as if this start had caused it.
            effects.push(Effect::Persist(Commit::Withdraw));
        }
    }

    /// The step at the head came to nothing, and is open again after a pause.
    fn wait_after(&mut self, setback: Option<Setback>, now_us: u64) {
        let slot_us = self.config.slot_us;
        let pause_us = setback.map_or(slot_us, |setback| self.setbacks.count(setback, &self.config));
        let open_us = match setback {
            Some(Setback::Refused) => {
                self.refused_until_us = now_us.saturating_add(pause_us);
                slot_us
            }
            Some(Setback::Prepared | Setback::Starved) | None => pause_us,
        };
        self.open_since_us = now_us.saturating_add(open_us);
    }

    fn failed_here(&mut self, why: String, ctx: &Context<'_>, effects: &mut Vec<Effect>) {
        // Another node's try says more about the unit than a second one here.
        let others = ctx.peers.len().saturating_sub(1) as u64;
        self.open_since_us = ctx.now_us.saturating_add(others.saturating_mul(self.config.slot_us));
        let own = self.failures.entry(self.config.node.clone()).or_default();
        *own = (own.0.saturating_add(1), why.clone());
        let (at, times) = (self.head.version, own.0);
        effects.push(Effect::PublishFailure { at, times, why: why.clone() });
        effects.push(Effect::Persist(Commit::Failure { at, times, why }));
    }
}
