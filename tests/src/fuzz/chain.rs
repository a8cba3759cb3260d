//! One chain fed with anything that its driver's contract allows, and a store that keeps what it is told.

use std::collections::VecDeque;

use arbitrary::{Arbitrary, Unstructured};
use microlambda::placement::{Peer, Placement, Spread, Stay};
use microlambda::{
    Attempt, Chain, ChainConfig, Claim, Commit, Context, Digest, Effect, Event, Head, Phase, StepEnd, StepMode, Version,
};
use microlambda_wire::SEQUENCE_MAX;

/// This node; peers are `1`, `2`, ….
const NODE: &str = "0";
/// Effects of one event at most: nothing may flood the bus.
const EFFECTS_MAX: usize = 4;
/// Events that follow from one before the chain rests.
const EVENTS_MAX: usize = 8;
/// Of a scenario at most: the rest of the bytes is ignored.
const OPS_MAX: usize = 400;
/// Leases double up to this factor.
const LEASE_FACTOR_MAX: u64 = 16;
/// Records that a chain has to get done once it is left in peace, and the timers it may take for that: most repeat its head while
/// leases of others run out.
const CALM_RECORDS: u64 = 3;
const CALM_TICKS_MAX: u32 = 300;
/// No clock reads more, µs: 36 years.
const NOW_US_MAX: u64 = 1 << 50;

#[derive(Debug, Arbitrary)]
struct Setup {
    r_limit_ms: u8,
    grace_ms: u8,
    announce_ms: u16,
    spread: bool,
    start: AnyVersion,
    end: Option<u8>,
    vanished: Option<bool>,
    failures: u8,
}

/// A version near the local one, or anywhere.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum AnyVersion {
    Here,
    Unit(u8),
    Record { records: i8, unit: u8 },
    Anywhere { generation: u8, sequence: u64, unit: u32 },
}

#[derive(Debug, Arbitrary)]
enum Op {
    Pass { ms: u16 },
    PassLong { s: u16 },
    Timer,
    Tick,
    Input { oldest: i8, records: i8 },
    InputAnywhere { oldest: u64, next: u64 },
    Record { records: u8 },
    Head { from: u8, version: AnyVersion, digest: u8, set_aside: u8, has_content: bool },
    Fetched { version: AnyVersion, digest: u8 },
    Claim { node: u8, step: AnyVersion, epoch: u8, lease_ms: u32 },
    Failure { node: u8, at: AnyVersion, times: u32 },
    PeerGone { node: u8 },
    Peers { count: u8, load_permille: u16 },
    Worker { free: bool },
    StepEnds { units: u8, records: u8, end: u8 },
    RecordAtHand { lacks: bool },
    Stop,
    Crash,
}

/// What the store holds of the chain.
struct Durable {
    head: Head,
    attempt: Option<Attempt>,
    done: bool,
    failures: Option<(u32, String)>,
}

struct Bench {
    setup: Setup,
    chain: Chain,
    durable: Durable,
    now_us: u64,
    peers: Vec<Peer>,
    worker_free: bool,
    running: Option<Attempt>,
    stopping: bool,
    /// Whether the record at the head is not at hand, so that its unit cannot be set aside.
    lacks_record: bool,
    /// What came with the announcement being handled.
    offered: Option<Head>,
    /// A start that the last crash interrupted.
    vanished: Option<Head>,
}

/// A scenario drawn from the bytes; after it the chain is left in peace and has to get its work done.
pub fn chain(bytes: &[u8]) {
    let mut source = Unstructured::new(bytes);
    let Ok(setup) = Setup::arbitrary(&mut source) else { return };
    let mut bench = Bench::new(setup);
    for _ in 0..OPS_MAX {
        if source.is_empty() {
            break;
        }
        let Ok(op) = Op::arbitrary(&mut source) else { break };
        bench.run(op);
        bench.assert_rests();
    }
    bench.calm();
}

impl Bench {
    fn new(setup: Setup) -> Self {
        let genesis = Head::genesis(Digest::default());
        let version = setup.start.near(genesis.version);
        let head = Head { version, ..genesis };
        let mode = |one_unit| if one_unit { StepMode::OneUnit } else { StepMode::Normal };
        let attempt = setup.vanished.map(|one_unit| Attempt { step: head, epoch: 0, mode: mode(one_unit) });
        let failures = (setup.failures > 0).then(|| (u32::from(setup.failures), "before".to_owned()));
        let done = setup.is_done(head);
        let durable = Durable { head, attempt, done, failures };
        let chain = Self::open(&setup, &durable, 0);
        let mut bench = Self {
            setup,
            chain,
            vanished: attempt.map(|attempt| attempt.step),
            durable,
            now_us: 0,
            peers: Vec::new(),
            worker_free: true,
            running: None,
            stopping: false,
            lacks_record: false,
            offered: None,
        };
        bench.set_peers(2, 0);
        bench
    }

    fn open(setup: &Setup, durable: &Durable, now_us: u64) -> Chain {
        let placement: Box<dyn Placement> = if setup.spread { Box::new(Spread) } else { Box::new(Stay) };
        let config = ChainConfig {
            node: NODE.into(),
            chain: "door-1".into(),
            r_limit_us: setup.r_limit_us(),
            grace_us: setup.grace_us(),
            announce_us: (u64::from(setup.announce_ms) + 100) * 1_000,
            slot_us: 40_000,
            fetch_us: 1_000_000,
            refusal_us: 2_000_000,
            placement,
        };
        let mut chain = Chain::open(config, durable.head, durable.done, durable.attempt, now_us);
        if let Some((times, why)) = &durable.failures {
            chain.restore_failures(*times, why.clone());
        }
        chain
    }

    fn set_peers(&mut self, count: u8, load_permille: u32) {
        let peer = |n: u8| Peer { node: n.to_string(), load_permille };
        self.peers = (0..=count % 6).map(peer).collect();
    }

    fn run(&mut self, op: Op) {
        let here = self.durable.head.version;
        match op {
            Op::Pass { ms } => self.pass(u64::from(ms) * 1_000),
            Op::PassLong { s } => self.pass(u64::from(s) * 1_000_000),
            Op::Timer => self.wait(),
            Op::Tick => self.drive(Event::Tick),
            Op::Input { oldest, records } => {
                let next = here.sequence.saturating_add_signed(records.into());
                let oldest = here.sequence.saturating_add_signed(oldest.into()).min(next);
                self.drive(Event::InputSeen { oldest, next });
            }
            Op::InputAnywhere { oldest, next } => {
                let next = next.min(SEQUENCE_MAX);
                self.drive(Event::InputSeen { oldest: oldest.min(next), next });
            }
            Op::Record { records } => {
                self.drive(Event::RecordSeen { next: here.sequence.saturating_add(records.into()) });
            }
            Op::Head { from, version, digest, set_aside, has_content } => {
                let head = any_head(version.near(here), digest, set_aside);
                let content_applies = has_content && head.beats(&self.durable.head);
                self.offered = content_applies.then_some(head);
                self.drive(Event::HeadSeen { from: peer(from), head, content_applies });
                self.offered = None;
            }
            Op::Fetched { version, digest } => self.fetched(any_head(version.near(here), digest, 0)),
            Op::Claim { node, step, epoch, lease_ms } => {
                let claim =
                    Claim { step: step.near(here), epoch: epoch.into(), node: (node % 7).to_string(), lease_ms };
                self.drive(Event::ClaimSeen(claim));
            }
            Op::Failure { node, at, times } => {
                self.drive(Event::FailureSeen { node: peer(node), at: at.near(here), times, why: "there".into() });
            }
            Op::PeerGone { node } => self.drive(Event::PeerGone { node: peer(node) }),
            Op::Peers { count, load_permille } => self.set_peers(count, load_permille.into()),
            Op::Worker { free } => self.worker_free = free,
            Op::StepEnds { units, records, end } => self.step_ends(units, records, end),
            Op::RecordAtHand { lacks } => self.lacks_record = lacks,
            Op::Stop => {
                self.stopping = true;
                self.drive(Event::Stopping);
            }
            Op::Crash => self.crash(),
        }
    }

    fn pass(&mut self, us: u64) {
        self.now_us = self.now_us.saturating_add(us).min(NOW_US_MAX);
        self.drive(Event::Tick);
    }

    /// Sleeps until the chain's own timer.
    fn wait(&mut self) {
        let (at_us, _) = self.chain.next_timer(&self.context());
        self.now_us = self.now_us.max(at_us).min(NOW_US_MAX);
        self.drive(Event::Tick);
    }

    fn context(&self) -> Context<'_> {
        Context { now_us: self.now_us, worker_free: self.worker_free, peers: &self.peers }
    }

    /// State that was asked for has come: the driver commits it if it beats the local head.
    fn fetched(&mut self, head: Head) {
        if !head.beats(&self.durable.head) {
            return;
        }
        self.advance(head, None);
        self.drive(Event::Committed { head, attempt: None, done: self.durable.done, holder: Some(peer(0)) });
    }

    fn step_ends(&mut self, units: u8, records: u8, end: u8) {
        let Some(attempt) = self.running.take() else { return };
        let from = attempt.step.version;
        let one_unit = attempt.mode == StepMode::OneUnit;
        let version = match (records, units) {
            (0, 0) => from,
            (0, _) => Version { unit: from.unit.saturating_add(if one_unit { 1 } else { units.into() }), ..from },
            (_, _) => Version { sequence: from.sequence.saturating_add(records.into()), unit: 0, ..from },
        };
        let result = if version == from { attempt.step } else { any_head(version, units, 0) };
        let end = match end % 8 {
            0 => StepEnd::TooLarge,
            1 => StepEnd::Prepared,
            2 => StepEnd::NoInput,
            3 => StepEnd::Overran,
            4 => StepEnd::Died { why: "here".into() },
            5 => StepEnd::Abandoned,
            _ => StepEnd::Finished,
        };
        self.drive(Event::StepEnded { result, end });
    }

    /// The process ends and starts again from what the store holds.
    fn crash(&mut self) {
        self.vanished = self.durable.attempt.map(|attempt| attempt.step).filter(|step| *step == self.durable.head);
        self.chain = Self::open(&self.setup, &self.durable, self.now_us);
        (self.running, self.stopping) = (None, false);
    }

    /// Feeds an event, and carries out and answers whatever follows from it, as the driver's contract says.
    fn drive(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        let mut handled = 0;
        while let Some(event) = events.pop_front() {
            handled += 1;
            assert!(handled <= EVENTS_MAX, "no rest after {handled} events");
            let before = self.chain.head();
            let context = Context { now_us: self.now_us, worker_free: self.worker_free, peers: &self.peers };
            let commits = matches!(event, Event::Committed { .. });
            let effects = self.chain.handle(event, &context);
            assert!(effects.len() <= EFFECTS_MAX, "{effects:?}");
            let after = self.chain.head();
            assert!(after == before || (commits && after.beats(&before)), "from {before:?} to {after:?}");
            let last = effects.len().saturating_sub(1);
            for (place, effect) in effects.into_iter().enumerate() {
                if let Effect::Persist(commit) = effect {
                    assert_eq!(place, last, "something follows before {commit:?} is durable");
                    events.push_front(self.persist(commit));
                } else {
                    self.carry_out(effect, before);
                }
            }
        }
    }

    fn carry_out(&mut self, effect: Effect, before: Head) {
        match effect {
            Effect::Persist(_) => {}
            Effect::PublishHead { parent } => {
                assert_eq!((parent, self.chain.head()), (before, self.durable.head), "published before it is durable");
                assert!(self.chain.head().beats(&parent) && self.chain.holder() == Some(NODE));
            }
            Effect::Reannounce => assert_eq!(self.chain.head(), self.durable.head),
            Effect::PublishClaim(claim) => self.assert_claim(&claim),
            Effect::PublishFailure { at, times, .. } => assert!(at == self.durable.head.version && times > 0),
            Effect::Start(attempt) => self.start(attempt),
            Effect::Fetch { from } | Effect::CountTakeover { from } => assert_ne!(from, NODE),
            Effect::CountRunTwice => {}
        }
    }

    fn start(&mut self, attempt: Attempt) {
        assert_eq!(self.durable.attempt, Some(attempt), "a start that is not durable");
        assert_eq!(attempt.step, self.durable.head, "a start from a state that is not here");
        assert!(self.running.is_none() && self.worker_free && !self.stopping && !self.durable.done);
        if self.vanished.take() == Some(attempt.step) {
            assert_eq!(attempt.mode, StepMode::OneUnit, "a step that vanished is run with care");
        }
        self.running = Some(attempt);
    }

    fn assert_claim(&self, claim: &Claim) {
        assert!(claim.node == NODE && claim.step == self.durable.head.version);
        let lease_us_max = (self.setup.r_limit_us() + self.setup.grace_us()) * LEASE_FACTOR_MAX;
        assert!(u64::from(claim.lease_ms) * 1_000 <= lease_us_max, "a lease of {} ms", claim.lease_ms);
        assert!(claim.lease_ms == 0 || !self.stopping, "a bid while the node stops");
    }

    fn persist(&mut self, commit: Commit) -> Event {
        let mut answer = (None, self.chain.holder().map(str::to_owned));
        match commit {
            Commit::Attempt(attempt) => {
                assert_eq!(attempt.step, self.durable.head);
                self.durable.attempt = Some(attempt);
                answer.0 = Some(attempt);
            }
            Commit::Result { result, then, .. } => {
                self.advance(result, then);
                answer = (then, Some(NODE.to_owned()));
            }
            Commit::Adopt { head, then, .. } => {
                assert_eq!(Some(head), self.offered, "content that nobody offered");
                self.advance(head, then);
                answer = (then, Some(peer(0)));
            }
            Commit::Withdraw => self.durable.attempt = None,
            Commit::Failure { at, times, why } => {
                assert_eq!(at, self.durable.head.version);
                self.durable.attempt = None;
                self.durable.failures = Some((times, why));
            }
            Commit::SetAside { at, .. } => {
                assert_eq!(at, self.durable.head);
                if !self.lacks_record {
                    let version = Version { sequence: at.version.sequence.saturating_add(1), unit: 0, ..at.version };
                    self.advance(Head { version, set_aside: at.set_aside.saturating_add(1), ..at }, None);
                    answer.1 = Some(NODE.to_owned());
                }
            }
        }
        Event::Committed { head: self.durable.head, attempt: answer.0, done: self.durable.done, holder: answer.1 }
    }

    fn advance(&mut self, head: Head, then: Option<Attempt>) {
        assert!(head.beats(&self.durable.head), "from {:?} to {head:?}", self.durable.head);
        let done = self.durable.done || self.setup.is_done(head);
        self.durable = Durable { head, attempt: then, done, failures: None };
    }

    /// Between events: the chain and its store agree, it is not bound by a word of its own, and it has nothing to do that it
    /// has not said a time for.
    fn assert_rests(&mut self) {
        assert_eq!(self.chain.head(), self.durable.head);
        match (self.chain.phase(), &self.running) {
            (Phase::Idle, None) => {}
            (Phase::Running(here), Some(there)) => assert_eq!(here, there),
            (phase, running) => panic!("{phase:?}, and {running:?} runs"),
        }
        assert_ne!(self.chain.leased_to(), Some(NODE));
        self.drive(Event::Tick);
        let (at_us, reason) = self.chain.next_timer(&self.context());
        assert!(at_us > self.now_us, "a timer for {reason:?} that is always due");
    }

    /// Left in peace, with everything it needs, a chain gets its work done, whatever it has gone through.
    fn calm(&mut self) {
        let goal = self.durable.head.version.sequence.saturating_add(CALM_RECORDS);
        if self.stopping || goal > SEQUENCE_MAX {
            return;
        }
        (self.worker_free, self.lacks_record) = (true, false);
        self.set_peers(0, 0);
        self.drive(Event::InputSeen { oldest: 0, next: goal });
        let mut ticks = 0;
        while !self.durable.done && self.durable.head.version.sequence < goal {
            ticks += 1;
            assert!(ticks <= CALM_TICKS_MAX, "it stands still at {:?}", self.durable.head.version);
            if self.running.is_some() {
                self.step_ends(1, 1, u8::MAX);
            } else {
                self.wait();
            }
            self.assert_rests();
        }
    }
}

impl Setup {
    fn r_limit_us(&self) -> u64 {
        (u64::from(self.r_limit_ms) + 5) * 1_000
    }

    fn grace_us(&self) -> u64 {
        (u64::from(self.grace_ms) + 10) * 1_000
    }

    fn is_done(&self, head: Head) -> bool {
        self.end.is_some_and(|end| head.version.sequence > u64::from(end))
    }
}

impl AnyVersion {
    fn near(self, here: Version) -> Version {
        match self {
            Self::Here => here,
            Self::Unit(unit) => Version { unit: unit.into(), ..here },
            Self::Record { records, unit } => Version {
                sequence: here.sequence.saturating_add_signed(records.into()).min(SEQUENCE_MAX),
                unit: unit.into(),
                ..here
            },
            Self::Anywhere { generation, sequence, unit } => {
                Version { generation: generation.into(), sequence: sequence.min(SEQUENCE_MAX), unit }
            }
        }
    }
}

fn any_head(version: Version, digest: u8, set_aside: u8) -> Head {
    Head { version, digest: Digest([digest; 32]), set_aside: set_aside.into() }
}

/// A node that is not this one.
fn peer(number: u8) -> String {
    (number % 6 + 1).to_string()
}
