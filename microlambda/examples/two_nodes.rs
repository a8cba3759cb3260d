//! Two nodes run one chain, in virtual time. One is killed in the middle of a step and comes back; both end where one long
//! run ends. It shows what a driver of [`Chain`] does: carry effects out in order, and make durable before anything else.
//!
//! ```sh
//! cargo run -p microlambda --example two_nodes
//! ```
#![expect(clippy::disallowed_macros, reason = "an example owns the terminal that the library must not touch")]

use microlambda::placement::{Peer, Spread};
use microlambda::{
    Attempt, Budget, Chain, ChainConfig, Commit, Context, CostClass, DigestBuilder, Effect, Event, Head, Lambda, Next,
    StepEnd, StepLimit, StepMode, Stop, UnitCost, Version, run_step,
};

const NAMES: [&str; 2] = ["a", "b"];
const RECORDS: u64 = 1_000;
const R_LIMIT_US: u64 = 20_000;
/// The clock of a step shows so much more at each reading, of which a unit takes two.
const READING_US: u64 = 500;
/// How long a message is on its way.
const BUS_US: u64 = 800;
/// Node `a` is killed in its first step after this, and comes back so much later.
const KILL_AFTER_US: u64 = 100_000;
const AWAY_US: u64 = 300_000;

/// What a checkpoint holds. The sum depends on the order: a record that is lost or taken twice changes it.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct State {
    next: u64,
    sum: u64,
}

impl State {
    fn head(&self) -> Head {
        let digest = DigestBuilder::new("two-nodes").number(self.next).number(self.sum).finish();
        Head { version: Version::at(self.next), digest, set_aside: 0 }
    }
}

struct Sum;

impl Lambda for Sum {
    type State = State;
    type Error = std::convert::Infallible;

    fn next(&mut self, state: &State) -> Next {
        if state.next == RECORDS { Next::Done } else { Next::Unit(UnitCost::run(CostClass(0), 1)) }
    }

    fn advance(&mut self, state: &mut State) -> Result<(), Self::Error> {
        *state = State { next: state.next + 1, sum: state.sum.wrapping_mul(31).wrapping_add(state.next) };
        Ok(())
    }
}

/// What a node keeps over its death.
#[derive(Default)]
struct Disk {
    state: State,
    attempt: Option<Attempt>,
    holder: Option<String>,
}

#[derive(Default)]
struct Node {
    disk: Disk,
    budget: Budget,
    /// `None` while the node is dead.
    chain: Option<Chain>,
    busy: bool,
}

struct Site {
    now_us: u64,
    nodes: [Node; 2],
    peers: [Peer; 2],
    /// What is on its way: when it arrives, at which node, and with which content. That is all of a state, so that nobody
    /// ever has to fetch what is lacking. A step under way is a message of the node to itself.
    coming: Vec<(u64, usize, Event, State)>,
}

impl Site {
    fn start_node(&mut self, at: usize) {
        let config = ChainConfig {
            node: NAMES[at].into(),
            chain: "sum".into(),
            r_limit_us: R_LIMIT_US,
            grace_us: 10_000,
            announce_us: 500_000,
            slot_us: 5_000,
            fetch_us: 100_000,
            refusal_us: 1_000_000,
            placement: Box::new(Spread),
        };
        let Disk { state, attempt, .. } = self.nodes[at].disk;
        let chain = Chain::open(config, state.head(), state.next == RECORDS, attempt, self.now_us);
        self.nodes[at].chain = Some(chain);
        println!("{:7} µs: {} starts at {}", self.now_us, NAMES[at], state.next);
        self.handle(at, Event::InputSeen { oldest: 0, next: RECORDS }, state);
    }

    /// Whoever is dead hears nothing, and its step comes to nothing.
    fn kill_node(&mut self, at: usize) {
        println!("{:7} µs: {} is killed in the step from {}", self.now_us, NAMES[at], self.nodes[at].disk.state.next);
        let disk = std::mem::take(&mut self.nodes[at].disk);
        self.nodes[at] = Node { disk, ..Node::default() };
        self.coming.retain(|(_, to, ..)| *to != at);
    }

    /// Feeds an event, and what follows at once: the answer to what is to be persisted comes before anything else.
    fn handle(&mut self, at: usize, event: Event, content: State) {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            let Node { chain: Some(chain), busy, .. } = &mut self.nodes[at] else { return };
            let ctx = Context { now_us: self.now_us, worker_free: !*busy, peers: &self.peers };
            for effect in chain.handle(event, &ctx) {
                next = self.carry_out(at, effect, content);
            }
        }
    }

    fn carry_out(&mut self, at: usize, effect: Effect, content: State) -> Option<Event> {
        let (now_us, name, state) = (self.now_us, NAMES[at], self.nodes[at].disk.state);
        let mut tell = |event| self.coming.push((now_us + BUS_US, 1 - at, event, state));
        match effect {
            Effect::Persist(commit) => return Some(self.persist(at, commit, content)),
            Effect::Start(attempt) => self.start_step(at, attempt),
            Effect::PublishClaim(claim) => tell(Event::ClaimSeen(claim)),
            Effect::PublishHead { .. } | Effect::Reannounce => {
                tell(Event::HeadSeen { from: name.into(), head: state.head(), content_applies: true });
            }
            Effect::CountTakeover { from } => println!("{now_us:7} µs: {name} takes a step over from {from}"),
            Effect::CountRunTwice => println!("{now_us:7} µs: {name} has run a step for nothing"),
            Effect::Fetch { .. } | Effect::PublishFailure { .. } => unreachable!("nothing is lacking, no unit fails"),
        }
        None
    }

    /// One transaction, and how the chain hears of it.
    fn persist(&mut self, at: usize, commit: Commit, content: State) -> Event {
        let Disk { state, holder, .. } = std::mem::take(&mut self.nodes[at].disk);
        let (state, attempt, holder) = match commit {
            Commit::Attempt(attempt) => (state, Some(attempt), holder),
            Commit::Result { then, .. } => (content, then, Some(NAMES[at].into())),
            Commit::Adopt { from, then, .. } => (content, then, Some(from)),
            Commit::Withdraw => (state, None, holder),
            Commit::Failure { .. } | Commit::SetAside { .. } => unreachable!("no unit fails"),
        };
        self.nodes[at].disk = Disk { state, attempt, holder: holder.clone() };
        Event::Committed { head: state.head(), attempt, done: state.next == RECORDS, holder }
    }

    fn start_step(&mut self, at: usize, attempt: Attempt) {
        let node = &mut self.nodes[at];
        let units_max = if attempt.mode == StepMode::OneUnit { 1 } else { u32::MAX };
        let limit = StepLimit { units_max, ..StepLimit::new(R_LIMIT_US) };
        let mut state = node.disk.state;
        let Ok(report) = run_step(&mut Sum, &mut state, &mut node.budget, limit, &mut clock(self.now_us));
        // The chain waits before it tries again.
        if let (Stop::TooLarge, Next::Unit(cost)) = (report.stop, Sum.next(&state)) {
            node.budget.relax(&cost);
        }
        node.busy = true;
        let ended = Event::StepEnded { result: state.head(), end: StepEnd::of(report.stop, report.units) };
        self.coming.push((self.now_us + report.used_us, at, ended, state));
    }

    /// A real driver sleeps until [`Chain::next_timer`]; a spurious tick is harmless.
    fn pass_100_us(&mut self) {
        self.now_us += 100;
        let arrived = self.coming.extract_if(.., |(at_us, ..)| *at_us <= self.now_us);
        for (_, at, event, content) in arrived.collect::<Vec<_>>() {
            self.nodes[at].busy &= !matches!(event, Event::StepEnded { .. });
            self.handle(at, event, content);
        }
        for at in 0..NAMES.len() {
            self.handle(at, Event::Tick, self.nodes[at].disk.state);
        }
    }
}

fn clock(mut now_us: u64) -> impl FnMut() -> u64 {
    move || {
        now_us += READING_US;
        now_us
    }
}

fn main() -> Result<(), &'static str> {
    let peers = NAMES.map(|node| Peer { node: node.into(), load_permille: 0 });
    let mut site = Site { now_us: 0, nodes: Default::default(), peers, coming: Vec::new() };
    (0..NAMES.len()).for_each(|at| site.start_node(at));
    while site.now_us < KILL_AFTER_US || !site.nodes[0].busy {
        site.pass_100_us();
    }
    site.kill_node(0);
    let back_us = site.now_us + AWAY_US;
    while site.nodes.iter().any(|node| node.disk.state.next < RECORDS) {
        site.pass_100_us();
        if site.now_us == back_us {
            site.start_node(0);
        }
    }
    let mut long = State::default();
    let Ok(_) = run_step(&mut Sum, &mut long, &mut Budget::default(), StepLimit::new(u64::MAX), &mut clock(0));
    for (name, node) in NAMES.iter().zip(&site.nodes) {
        println!("{name} ends with {}, one long run with {}", node.disk.state.head().digest, long.head().digest);
    }
    if site.nodes.iter().all(|node| node.disk.state == long) { Ok(()) } else { Err("the results differ") }
}
