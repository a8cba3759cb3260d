//! The claim and checkpoint protocol of a small site, for a model checker: every node drives the very [`Chain`] of the agents over a
//! disk and a bus of the model's own.
//!
//! Clocks stand still: any deadline that a node waits for may pass before or after anything else. So every delay of the bus, above every
//! lease and grace, and every pair of clocks is among the histories. What was sent can arrive at any time from then on, any number of
//! times or never: so are every order, repetition and loss.

use std::panic::{AssertUnwindSafe, catch_unwind};

use microlambda::placement::{Peer, Spread};
use microlambda::sabotage::{self, Sabotage};
use microlambda::{Attempt, Chain, ChainConfig, Commit, Context, Effect, Event, StepEnd, TimerReason};
use stateright::{Model, Property};

use crate::net::{Message, Net, Records};
use crate::state::{Action, Disk, Faults, Node, State};

/// What every clock shows.
const NOW_US: u64 = 1_000_000_000;
/// Deadlines to come.
const FAR_US: u64 = 2 * NOW_US;
/// Claims beyond this epoch are not followed: leases double, nothing else changes.
const EPOCH_MAX: u32 = 1;
const DEADLINES: [TimerReason; 4] =
    [TimerReason::Placement, TimerReason::Lease, TimerReason::Fetch, TimerReason::Announce];
const NAMES: [&str; 3] = ["a", "b", "c"];

/// The site to check.
#[derive(Debug, Clone)]
pub struct Site {
    pub nodes: u8,
    /// Records of the input; a step folds one.
    pub steps: u8,
    pub faults: Faults,
    pub sabotage: Option<Sabotage>,
    /// What the nodes' disks hold at first: nothing if empty.
    pub disks: Vec<Records>,
}

impl Site {
    fn peers(&self) -> Vec<Peer> {
        NAMES[..usize::from(self.nodes)].iter().map(|&node| Peer { node: node.into(), load_permille: 0 }).collect()
    }

    fn open(&self, node: u8, disk: &Disk) -> Chain {
        let config = ChainConfig {
            node: NAMES[usize::from(node)].into(),
            chain: "model".into(),
            r_limit_us: 100_000,
            grace_us: 100_000,
            announce_us: 1_000_000,
            slot_us: 1_000,
            fetch_us: 1_000_000,
            refusal_us: 1_000_000,
            placement: Box::new(Spread),
        };
        Chain::open(config, disk.records.head(), self.is_end(disk.records), disk.attempt, NOW_US)
    }

    fn is_end(&self, records: Records) -> bool {
        records.len() == u64::from(self.steps)
    }

    fn restart(&self, state: &mut State, node: u8) {
        let at = usize::from(node);
        let chain = self.open(node, &state.nodes[at].disk);
        state.nodes[at] = Node { chain: Some(chain), running: None, bid: None, disk: state.nodes[at].disk.clone() };
        self.drive(state, node, Event::InputSeen { oldest: 0, next: u64::from(self.steps) }, false);
    }

    fn crash(&self, state: &mut State, node: u8, disk_too: bool) {
        let records = state.nodes[usize::from(node)].disk.synced;
        let at = &mut state.nodes[usize::from(node)];
        (at.chain, at.running, at.bid) = (None, None, None);
        let at = &mut state.nodes[usize::from(node)];
        if disk_too {
            at.disk = Disk { records: Records::default(), attempt: None, synced: Records::default() };
        } else if at.disk.records != records {
            (at.disk.records, at.disk.attempt) = (records, None);
        }
    }

    fn tell_others(&self, state: &mut State, node: u8, message: &Message) {
        state.net.extend((0..self.nodes).filter(|to| *to != node).map(|to| (to, message.clone())));
    }

    /// Feeds an event and does what follows, as `edge_agent::node` does; `crash` ends it right after the first commit.
    fn drive(&self, state: &mut State, node: u8, event: Event, crash: bool) {
        let peers = self.peers();
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let at = &mut state.nodes[usize::from(node)];
            let Some(chain) = &mut at.chain else { return };
            let ctx = Context { now_us: NOW_US, worker_free: true, peers: &peers };
            for effect in chain.handle(event, &ctx) {
                let commits = matches!(effect, Effect::Persist(_));
                events.extend(self.effect(state, node, effect));
                if commits && crash {
                    self.crash(state, node, false);
                    return;
                }
            }
        }
        self.check_node(state, node);
    }

    fn effect(&self, state: &mut State, node: u8, effect: Effect) -> Option<Event> {
        let at = &mut state.nodes[usize::from(node)];
        match effect {
            Effect::Persist(commit) => return Some(self.persist(state, node, commit, None)),
            Effect::PublishHead { parent } => {
                let parent = at.running.map(|(_, base)| base).filter(|base| base.head() == parent);
                at.running = None;
                self.publish_head(state, node, parent, None);
            }
            Effect::Reannounce => self.publish_head(state, node, None, None),
            Effect::PublishClaim(claim) => {
                if claim.lease_ms > 0 {
                    at.bid = Some((claim.step, claim.epoch));
                }
                self.tell_others(state, node, &Message::Claim(claim));
            }
            Effect::Start(attempt) => {
                if at.disk.attempt != Some(attempt) || attempt.step != at.disk.records.head() {
                    state.broken = Some("a step starts only once its attempt is durable");
                }
                let at = &mut state.nodes[usize::from(node)];
                at.running = Some((attempt, at.disk.records));
            }
            Effect::Fetch { from } => {
                let from = NAMES.iter().zip(0..).find(|(name, _)| **name == from).map_or(node, |(_, number)| number);
                state.net.insert((from, Message::Want { from: node }));
            }
            Effect::CountTakeover { .. } | Effect::CountRunTwice | Effect::PublishFailure { .. } => {}
        }
        None
    }

    /// One transaction; `content` is what a peer sent.
    fn persist(&self, state: &mut State, node: u8, commit: Commit, content: Option<Records>) -> Event {
        let at = &mut state.nodes[usize::from(node)];
        let mut holder = at.chain.as_ref().and_then(|chain| chain.holder().map(str::to_owned));
        let before = at.disk.records;
        let attempt = match commit {
            Commit::Attempt(attempt) => {
                at.disk.attempt = Some(attempt);
                Some(attempt)
            }
            Commit::Result { then, .. } => {
                // The worker's result: one record more than the step started from.
                let base = at.running.map_or(before, |(_, base)| base);
                let result = base.and(node);
                holder = Some(NAMES[usize::from(node)].into());
                if sabotage::is_chosen(Sabotage::PublishBeforeCommit) {
                    self.publish_head(state, node, Some(base), Some(result));
                }
                self.write(state, node, result, then);
                then
            }
            Commit::Adopt { from, then, .. } => {
                holder = Some(from);
                self.write(state, node, content.unwrap_or(before), then);
                then
            }
            Commit::Withdraw | Commit::Failure { .. } | Commit::SetAside { .. } => {
                at.disk.attempt = None;
                None
            }
        };
        let records = state.nodes[usize::from(node)].disk.records;
        Event::Committed { head: records.head(), attempt, done: self.is_end(records), holder }
    }

    fn write(&self, state: &mut State, node: u8, records: Records, then: Option<Attempt>) {
        let disk = &mut state.nodes[usize::from(node)].disk;
        if records.head().prefer(&disk.records.head()).is_le() {
            state.broken = Some("a node's state only moves to one that is ahead of it");
        }
        let lies = sabotage::is_chosen(Sabotage::UnsyncedCommits);
        let synced = if lies { disk.records } else { records };
        *disk = Disk { records, attempt: then, synced };
    }

    /// Announces what is durable; `early` if it is not yet.
    fn publish_head(&self, state: &mut State, node: u8, parent: Option<Records>, early: Option<Records>) {
        let disk = &state.nodes[usize::from(node)].disk;
        let records = early.unwrap_or(disk.records);
        if disk.synced != records {
            state.broken = Some("nothing is visible that is not durable");
        }
        self.tell_others(state, node, &Message::Head { from: node, parent, records });
    }

    fn deliver(&self, state: &mut State, to: u8, message: Message, crash: bool) {
        let at = &mut state.nodes[usize::from(to)];
        let Some(chain) = &at.chain else { return };
        match message {
            Message::Head { from, parent, records } => {
                let head = records.head();
                let applies = parent == Some(at.disk.records) && head.beats(&at.disk.records.head());
                let event = Event::HeadSeen { from: NAMES[usize::from(from)].into(), head, content_applies: applies };
                self.drive_adopting(state, to, event, records, crash);
            }
            Message::Have { from, records } => {
                // As `sync_have`: merged first, then told.
                if records.head().beats(&at.disk.records.head()) {
                    let from = NAMES[usize::from(from)].into();
                    let commit = Commit::Adopt { from, head: records.head(), then: None };
                    let event = self.persist(state, to, commit, Some(records));
                    if crash {
                        return self.crash(state, to, false);
                    }
                    self.drive(state, to, event, false);
                }
            }
            Message::Want { from } => {
                let records = at.disk.records;
                state.net.insert((from, Message::Have { from: to, records }));
            }
            Message::Claim(claim) => {
                let ran_out = at.bid.is_some_and(|(step, epoch)| claim.step == step && claim.epoch < epoch);
                let (was, claimer, yields) =
                    (chain.leased_to().map(str::to_owned), claim.node.clone(), claim.epoch > 0);
                if yields && sabotage::is_chosen(Sabotage::YieldToHigherClaim) && at.running.is_some() {
                    at.running = None;
                    state.broken = Some("a claim never stops a run");
                }
                let grants = claim.lease_ms > 0 && ran_out;
                self.drive(state, to, Event::ClaimSeen(claim), crash);
                let now = state.nodes[usize::from(to)].chain.as_ref().and_then(Chain::leased_to);
                if grants && was.as_deref() != Some(claimer.as_str()) && now == Some(claimer.as_str()) {
                    state.broken = Some("a claim that ran out is not believed again");
                }
            }
        }
    }

    /// As [`Site::drive`], for an event whose commit takes a peer's content.
    fn drive_adopting(&self, state: &mut State, node: u8, event: Event, content: Records, crash: bool) {
        let peers = self.peers();
        let at = &mut state.nodes[usize::from(node)];
        let Some(chain) = &mut at.chain else { return };
        let effects = chain.handle(event, &Context { now_us: NOW_US, worker_free: true, peers: &peers });
        for effect in effects {
            let Effect::Persist(commit @ Commit::Adopt { .. }) = effect else {
                if let Some(event) = self.effect(state, node, effect) {
                    self.drive(state, node, event, crash);
                }
                continue;
            };
            let event = self.persist(state, node, commit, Some(content));
            if crash {
                return self.crash(state, node, false);
            }
            self.drive(state, node, event, false);
        }
        self.check_node(state, node);
    }

    fn check_node(&self, state: &mut State, node: u8) {
        let at = &state.nodes[usize::from(node)];
        if let Some(chain) = &at.chain
            && chain.head() != at.disk.records.head()
        {
            state.broken = Some("a state counts as merged only once its content is on the node's own disk");
        }
    }

    /// States compare whatever the time it took to reach them, and whatever is under way that can no longer change anything: what tells
    /// of a state that its receiver has left behind. (In the agents it brings an announcement forward, which here comes at any time.)
    fn settle(state: &mut State) {
        let nodes = &state.nodes;
        state.net.retain(|(to, message)| {
            let head = nodes[usize::from(*to)].disk.records.head();
            match message {
                Message::Head { records, .. } | Message::Have { records, .. } => records.head().prefer(&head).is_gt(),
                Message::Claim(claim) => claim.step >= head.version,
                Message::Want { .. } => true,
            }
        });
        for chain in state.nodes.iter_mut().filter_map(|node| node.chain.as_mut()) {
            chain.forget_distances(NOW_US, FAR_US);
        }
    }

    fn pass(&self, state: &mut State, node: u8, deadline: TimerReason, crash: bool) {
        if let Some(chain) = &mut state.nodes[usize::from(node)].chain {
            chain.pass(deadline, NOW_US);
            self.drive(state, node, Event::Tick, crash);
        }
    }

    fn finish(&self, state: &mut State, node: u8, crash: bool) {
        let Some((_, base)) = state.nodes[usize::from(node)].running else { return };
        let result = base.and(node).head();
        self.drive(state, node, Event::StepEnded { result, end: StepEnd::Finished }, crash);
        let at = &mut state.nodes[usize::from(node)];
        let idle = at.chain.as_ref().is_none_or(|chain| !matches!(chain.phase(), microlambda::Phase::Running(_)));
        if idle {
            at.running = None;
        }
    }

    fn act(&self, state: &mut State, action: Action) {
        match action {
            Action::Deliver { to, message, crash } => self.deliver(state, to, message, crash),
            Action::Timer { node, deadline, crash } => self.pass(state, node, deadline, crash),
            Action::Finish { node, crash } => self.finish(state, node, crash),
            Action::Crash { node, disk_too } => {
                let left = if disk_too { &mut state.left.disks } else { &mut state.left.crashes };
                *left -= 1;
                self.crash(state, node, disk_too);
            }
            Action::Restart { node } => self.restart(state, node),
        }
    }

    /// Whether the site comes to its end and agrees if nothing fails from here on, and all deadlines pass in turn: whether all that is
    /// under way arrives, any one message of it does not, or nothing does.
    fn recovers(&self, state: &State) -> bool {
        sabotage::choose(self.sabotage);
        let one_less =
            state.net.iter().map(|lost| state.net.iter().filter(|message| *message != lost).cloned().collect());
        let mut nets = [state.net.clone(), Net::new()].into_iter().chain(one_less);
        let comes = |net| self.comes_to_its_end(State { net, ..state.clone() });
        catch_unwind(AssertUnwindSafe(|| nets.all(comes))).unwrap_or(false)
    }

    fn comes_to_its_end(&self, mut state: State) -> bool {
        for node in 0..self.nodes {
            if state.nodes[usize::from(node)].chain.is_none() {
                self.restart(&mut state, node);
            }
        }
        let mut turn = (0..self.nodes).flat_map(|node| DEADLINES.map(|deadline| (node, deadline))).cycle();
        for _ in 0..1_000 {
            let first = state.nodes[0].disk.records;
            if self.is_end(first) && state.nodes.iter().all(|node| node.disk.records == first) {
                return state.broken.is_none();
            }
            if let Some((to, message)) = state.net.pop_first() {
                self.deliver(&mut state, to, message, false);
            } else if let Some(node) = (0..self.nodes).find(|&node| state.nodes[usize::from(node)].running.is_some()) {
                self.finish(&mut state, node, false);
            } else if let Some((node, deadline)) = turn.next() {
                self.pass(&mut state, node, deadline, false);
            }
            Self::settle(&mut state);
        }
        false
    }
}

impl Model for Site {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        sabotage::choose(self.sabotage);
        let disk = |node: u8| {
            let records = self.disks.get(usize::from(node)).copied().unwrap_or_default();
            Disk { records, attempt: None, synced: records }
        };
        let node = |number| Node { disk: disk(number), chain: None, running: None, bid: None };
        let nodes = (0..self.nodes).map(node).collect();
        let mut state = State { nodes, net: Net::new(), left: self.faults, broken: None };
        for node in 0..self.nodes {
            self.restart(&mut state, node);
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let crashes: &[bool] = if state.left.crashes > 0 { &[false, true] } else { &[false] };
        for (to, message) in &state.net {
            let to = *to;
            for &crash in crashes {
                actions.push(Action::Deliver { to, message: message.clone(), crash });
            }
        }
        for (node, at) in (0..).zip(&state.nodes) {
            if at.chain.is_none() {
                actions.push(Action::Restart { node });
                continue;
            }
            for &crash in crashes {
                actions.extend(DEADLINES.map(|deadline| Action::Timer { node, deadline, crash }));
                if at.running.is_some() {
                    actions.push(Action::Finish { node, crash });
                }
            }
            if state.left.crashes > 0 {
                actions.push(Action::Crash { node, disk_too: false });
            }
            if state.left.disks > 0 {
                actions.push(Action::Crash { node, disk_too: true });
            }
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        // The checker's threads are its own; a choice is of a thread.
        sabotage::choose(self.sabotage);
        let mut state = before.clone();
        let crash = matches!(
            action,
            Action::Deliver { crash: true, .. }
                | Action::Timer { crash: true, .. }
                | Action::Finish { crash: true, .. }
        );
        if catch_unwind(AssertUnwindSafe(|| self.act(&mut state, action))).is_err() {
            state.broken = Some("no assertion of the code itself fails");
        }
        if crash && state.broken.is_none() {
            if state.nodes.iter().all(|node| node.chain.is_some()) {
                // It committed nothing: as without the crash.
                return None;
            }
            state.left.crashes -= 1;
        }
        Self::settle(&mut state);
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("every invariant holds", |_, state: &State| state.broken.is_none()),
            Property::always(
                "once nothing fails any more, all nodes come to the same end",
                |site: &Self, state: &State| state.left != Faults::default() || site.recovers(state),
            ),
            Property::sometimes("two nodes are on different branches", |_, state: &State| {
                let [a, b, ..] = &state.nodes[..] else { return false };
                !a.disk.records.is_prefix_of(b.disk.records) && !b.disk.records.is_prefix_of(a.disk.records)
            }),
            Property::sometimes("a step was taken over", |_, state: &State| {
                state.nodes.iter().any(|node| node.bid.is_some_and(|(_, epoch)| epoch > 0))
            }),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        let bids = state.nodes.iter().filter_map(|node| node.bid);
        state.broken.is_some() || bids.into_iter().all(|(_, epoch)| epoch <= EPOCH_MAX)
    }
}
