//! The driver: feeds each chain with what happens, and does what it says.
//!
//! [`Node`] is a machine without clock, IO or threads of its own: whoever drives it hands in what the bus and the worker
//! said, calls [`Node::tick`] whenever [`Node::next_wake_us`] has come, and gives it a [`World`] to act on and a [`Store`].
//! It writes to the store itself, so that "durable before visible" is the order of its statements. The agent drives it in
//! [`run`], the simulator in virtual time.

mod agent;
mod ahead;
mod ahead_of;
mod book;
mod bus;
mod chain_run;
mod chains;
mod commit;
mod copies;
mod feed;
mod invocation;
mod limit;
mod own_name;
mod pace;
mod publish;
mod slot;
mod status;
mod step;
mod sync;
mod world;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use microlambda::{Budget, Context, Effect, Event, Phase, TimerReason};
use microlambda_faces::FaceParams;
use microlambda_faces::fold::lambda_digest;
use microlambda_runtime::{ConfigError, Echo, LogLimiter, Message, PublishError};
use microlambda_wire::{ChainClass, EventNote, Name, SetAsideNote, Topic, TopicPrefix, to_payload};

use crate::config::Config;
use crate::store::{Store, StoreError};
pub use agent::run;
use book::EventBook;
use chain_run::ChainRun;
use chains::ClosedTurn;
use copies::Copies;
use own_name::OwnName;
use publish::{SAY_AGAIN_US, Saying};
pub use slot::KILL_SLACK_US;
use slot::WorkerSlot;
use status::{Counters, PeerView};
pub use world::World;

/// At most so many nodes are remembered.
const PEERS_MAX: usize = 256;
/// After connecting, heads are heard for so long before the first bid, µs.
const SETTLE_US: u64 = 300_000;

/// A peer that hears of a state asks for what it lacks within this time, and again after each answer, µs.
const ASKED_US: u64 = 200_000;

/// Why the agent ends.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store failed: going on would publish what is not durable.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The task that keeps up the connection has ended, which it never does by itself: a start anew is the remedy.
    #[error("the connection's task has ended: please report that")]
    ConnectionEnded,
    /// The system refused something basic.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

/// One edge node. See the module's text for how to drive it.
pub struct Node<S, W> {
    config: Config,
    params: FaceParams,
    lambda: microlambda::Digest,
    name: Name,
    boot: Name,
    prefix: TopicPrefix,
    world: W,
    store: S,
    worker: WorkerSlot,
    budget: Budget,
    chains: BTreeMap<Name, ChainRun>,
    closed: ClosedTurn,
    peers: BTreeMap<Name, PeerView>,
    book: EventBook,
    /// Events of the last own commit, to be published after its continuation; with the person's number.
    outbox: Vec<(usize, EventNote)>,
    /// What follows own continuations onto the bus, as the connection takes it.
    sayings: VecDeque<Saying>,
    /// Faces that are known no longer, to be withdrawn from the bus.
    forgotten: Vec<Name>,
    counters: Counters,
    /// That a damaged database is kept, for people; empty if none is.
    kept_aside: String,
    copies: Copies,
    /// That there is no room for another chain, for people; empty while there is.
    crowded: String,
    /// Units set aside since the start, the newest last.
    set_aside: VecDeque<SetAsideNote>,
    /// Refused messages, as the log tells them.
    refusals: LogLimiter,
    /// Frames that could not be read, as the log tells them.
    unreadable: LogLimiter,
    /// … and how many it has left out since.
    unreadable_unsaid: u64,
    /// Nodes with other settings, as the log tells them.
    other_lambdas: LogLimiter,
    own_name: OwnName,
    /// That there is little room on the store's disk, as the log tells it.
    shortages: LogLimiter,
    /// No bids before this: peers may hold newer heads.
    settled_at_us: u64,
    status_at_us: u64,
    stopping: bool,
    /// Peers that have to ask for content, as it did not go along with its announcement.
    owed: BTreeSet<String>,
    /// Until when they may, µs.
    owed_until_us: u64,
    next_step: u64,
}

impl<S: Store, W: World> Node<S, W> {
    /// A node as its store left it; its worker is starting.
    ///
    /// # Errors
    /// [`NodeError`] if the configuration names no usable node, or the store cannot be read.
    pub fn open(config: Config, boot: Name, store: S, world: W) -> Result<Self, NodeError> {
        let now_us = world.now_us();
        let mut node = Self {
            params: config.faces,
            lambda: lambda_digest(&config.faces),
            name: config.node_name()?,
            boot,
            prefix: TopicPrefix::new(&config.site),
            worker: WorkerSlot::default(),
            budget: Budget::default(),
            chains: BTreeMap::new(),
            closed: ClosedTurn::default(),
            peers: BTreeMap::new(),
            book: EventBook::new(store.events_not_on_bus()?, now_us),
            outbox: Vec::new(),
            sayings: VecDeque::new(),
            forgotten: Vec::new(),
            world,
            store,
            counters: Counters::default(),
            kept_aside: String::new(),
            copies: Copies::default(),
            crowded: String::new(),
            set_aside: VecDeque::new(),
            refusals: LogLimiter::default(),
            unreadable: LogLimiter::default(),
            unreadable_unsaid: 0,
            other_lambdas: LogLimiter::standing(),
            own_name: OwnName::default(),
            shortages: LogLimiter::standing(),
            settled_at_us: u64::MAX,
            status_at_us: 0,
            stopping: false,
            owed: BTreeSet::new(),
            owed_until_us: 0,
            next_step: 1,
            config,
        };
        node.open_chains(now_us)?;
        node.spawn_worker(now_us);
        Ok(node)
    }

    /// The bus is there (again), with all subscriptions.
    ///
    /// # Errors
    /// [`NodeError::Store`], as for every input: the node is to be given up then, and opened anew.
    pub fn on_connected(&mut self) -> Result<(), NodeError> {
        self.settled_at_us = self.world.now_us().saturating_add(SETTLE_US);
        self.status_at_us = 0;
        self.own_name.echo = Echo::default();
        for run in self.chains.values_mut() {
            run.forget_want();
        }
        self.reannounce_all()?;
        self.repeat_failures();
        // Peers may have heard the will of the former connection.
        self.repeat_claims();
        // A broker that has restarted may have forgotten what it kept. If it has not, it says so before the next announcement.
        for run in self.chains.values_mut() {
            run.done_on_bus = false;
        }
        Ok(())
    }

    /// Feeds one event to a chain and carries its effects out, and whatever follows from them.
    fn drive(&mut self, name: &Name, event: Event) -> Result<(), NodeError> {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let peers = self.live_peers();
            let worker_free = self.worker_free_for(name);
            let Some(run) = self.chains.get_mut(name) else { return Ok(()) };
            let ctx = Context { now_us: self.world.now_us(), worker_free, peers: &peers };
            let effects = run.chain.handle(event, &ctx);
            for effect in effects {
                if let Some(event) = self.effect(name, effect)? {
                    events.push_front(event);
                }
            }
        }
        Ok(())
    }

    /// The same, if there is an event.
    fn drive_some(&mut self, name: &Name, event: Option<Event>) -> Result<(), NodeError> {
        event.map_or(Ok(()), |event| self.drive(name, event))
    }

    fn effect(&mut self, name: &Name, effect: Effect) -> Result<Option<Event>, NodeError> {
        match effect {
            Effect::Persist(commit) => return self.persist(name, commit).map(Some),
            Effect::PublishHead { parent } => self.publish_head(name, parent)?,
            Effect::Reannounce => self.reannounce(name)?,
            Effect::PublishClaim(claim) => self.publish_claim(name, claim, None),
            Effect::PublishFailure { at, times, why } => {
                log::warn!(chain:% = name, version:% = at, times; "a unit failed here: {why}");
                self.publish_failure(name, at, times, why);
            }
            Effect::Start(attempt) => return self.start_step(name, attempt),
            Effect::Fetch { from } => self.fetch(name, &from)?,
            Effect::CountRunTwice => self.counters.steps_run_twice += 1,
            Effect::CountTakeover { from } => {
                log::info!(chain:% = name, from:% = from; "taking a step over");
                self.counters.takeovers += 1;
            }
        }
        Ok(None)
    }

    /// Whether everybody had time to connect since this node did.
    fn is_settled(&self) -> bool {
        self.world.now_us() >= self.settled_at_us
    }

    /// Whether a step of this chain could start now: a worker is free for it; or its next record's analysis is here, so that none
    /// is needed.
    fn worker_free_for(&self, name: &Name) -> bool {
        if !self.is_settled() || !self.world.is_connected() || self.stopping {
            return false;
        }
        let Some(run) = self.chains.get(name) else { return false };
        let at = run.next_step_at();
        if run.ahead.holds(at) {
            // More is about to follow: one step folds it all, as one step would have analysed it.
            return !run.ahead.is_at(run.ahead.first_not_held(at));
        }
        self.worker.is_free_for(name)
            && !run.waits_for_silent_camera(self.world.now_us())
            && !self.is_others_turn(name)
            && !run.is_left_to_peer(at, self.lease_us(), self.world.now_us())
    }

    /// Whether another chain comes before this one and wants the worker.
    fn is_others_turn(&self, name: &Name) -> bool {
        let Some(turn) = self.chains.get(name).map(ChainRun::turn) else { return false };
        let now_us = self.world.now_us();
        let comes_first = |run: &ChainRun| {
            run.turn() < turn && run.chain.wants_worker(now_us) && !run.waits_for_silent_camera(now_us)
        };
        self.chains.iter().any(|(other, run)| other != name && comes_first(run))
    }

    /// Does everything that is due by the clock; a spurious call is harmless. To be called after every input too.
    ///
    /// # Errors
    /// As for [`Node::on_connected`].
    pub fn tick(&mut self) -> Result<(), NodeError> {
        let now_us = self.world.now_us();
        self.worker_tick(now_us)?;
        for name in self.chains_by_turn() {
            let due = self.chains.get(&name).is_some_and(|run| {
                let peers = self.live_peers();
                let ctx = Context { now_us, worker_free: self.worker_free_for(&name), peers: &peers };
                run.chain.next_timer(&ctx).0 <= now_us
            });
            if due {
                self.drive(&name, Event::Tick)?;
            }
            self.feed_tick(&name)?;
        }
        self.ahead_tick(now_us)?;
        self.go_ahead()?;
        self.say_tick()?;
        self.withdraw_tick();
        self.book_tick(now_us)?;
        self.announce_closed(now_us)?;
        self.status_tick(now_us);
        Ok(())
    }

    fn chains_by_turn(&self) -> Vec<Name> {
        let mut names: Vec<((ChainClass, u64), &Name)> =
            self.chains.iter().map(|(name, run)| (run.turn(), name)).collect();
        names.sort();
        names.into_iter().map(|(_, name)| name.clone()).collect()
    }

    /// When [`Node::tick`] has something to do, µs of the world's clock.
    pub fn next_wake_us(&self) -> u64 {
        let now_us = self.world.now_us();
        let peers = self.live_peers();
        let connected = self.world.is_connected();
        let mut at_us =
            self.status_at_us.min(self.worker.deadline_us()).min(self.book.deadline_us(connected && self.is_settled()));
        if self.settled_at_us > now_us {
            at_us = at_us.min(self.settled_at_us);
        }
        if connected && !self.sayings.is_empty() && self.is_settled() {
            at_us = at_us.min(now_us.saturating_add(SAY_AGAIN_US));
        }
        if connected && self.is_settled() {
            at_us = at_us.min(self.closed.deadline_us());
        }
        if self.stopping && self.owed_until_us > now_us {
            at_us = at_us.min(self.owed_until_us);
        }
        for (name, run) in &self.chains {
            let ctx = Context { now_us, worker_free: self.worker_free_for(name), peers: &peers };
            let feed_us = if connected { run.feed_deadline_us(self.lease_us(), now_us) } else { u64::MAX };
            at_us = at_us.min(run.chain.next_timer(&ctx).0).min(feed_us);
            if connected && run.chain.has_work() {
                let patience_us = run.patience_us(self.lease_us());
                let patience_us = if patience_us > now_us { patience_us } else { u64::MAX };
                at_us = at_us.min(run.ahead.deadline_us(now_us)).min(patience_us);
            }
        }
        at_us
    }

    /// What the bus is to say when this node vanishes.
    pub fn last_will(&self) -> Message {
        status::last_will(&self.prefix, &self.name, &self.boot)
    }

    /// What the node acts on.
    pub fn world(&mut self) -> &mut W {
        &mut self.world
    }

    fn waits_for(&self, name: &Name) -> String {
        let Some(run) = self.chains.get(name) else { return String::new() };
        match run.chain.phase() {
            Phase::Running(_) | Phase::Claiming(_) => return "its running step".into(),
            Phase::Idle => {}
        }
        if run.chain.is_done() {
            return "nothing: done".into();
        }
        if run.chain.is_behind_input() {
            return "a peer's state: the next frames were released".into();
        }
        if !run.chain.has_work() {
            return "new frames".into();
        }
        let (peers, now_us) = (self.live_peers(), self.world.now_us());
        if run.waits_for_silent_camera(now_us) {
            return format!("camera {}, which is silent", run.camera);
        }
        let worker_free = self.worker_free_for(name);
        if let Some((peer, _)) = run.ahead.fanout.taker(run.boundary(), now_us).filter(|_| !worker_free) {
            return format!("analyses of {peer}");
        }
        let ctx = Context { now_us, worker_free, peers: &peers };
        match run.chain.next_timer(&ctx).1 {
            TimerReason::Lease => format!("the claim of {}", run.chain.leased_to().unwrap_or("a peer")),
            TimerReason::Placement => "its turn to bid".into(),
            TimerReason::Fetch => "state it asked a peer for".into(),
            TimerReason::Refusal => "another try: a unit is predicted to exceed r-limit-ms here".into(),
            TimerReason::Announce if worker_free => "its turn to bid".into(),
            TimerReason::Announce => "the worker".into(),
        }
    }

    /// Begins to stop: no more starts, the running step is asked to end after its unit.
    ///
    /// # Errors
    /// As for [`Node::on_connected`].
    pub fn begin_stop(&mut self) -> Result<(), NodeError> {
        log::info!("stopping: handing the chains on");
        self.stopping = true;
        for name in self.chains_by_turn() {
            self.drive(&name, Event::Stopping)?;
        }
        self.stop_running_step();
        Ok(())
    }

    /// Whether a step runs here, or an invocation ahead of one; or what it has come to is still to be said, or asked for by peers.
    pub fn is_busy(&self) -> bool {
        let owes = !self.owed.is_empty() && self.owed_until_us > self.world.now_us();
        let says = !self.sayings.is_empty() && self.world.is_connected();
        self.worker.work().is_some() || owes || says
    }

    /// Gives up what still runs and says that this node is gone.
    ///
    /// # Errors
    /// As for [`Node::on_connected`].
    pub fn end_stop(&mut self) -> Result<(), NodeError> {
        self.abandon_running_step()?;
        self.write_notes()?;
        let will = self.last_will();
        self.publish_message(will);
        self.world.kill_worker();
        Ok(())
    }

    /// Publishes a payload; what cannot be sent now is announced again later.
    fn publish<T: microlambda_wire::Payload>(&mut self, topic: &Topic, payload: &T, retain: bool) {
        if let Some(message) = self.message(topic, payload, retain) {
            self.publish_message(message);
        }
    }

    /// A payload as it goes onto the bus; one that cannot is told of.
    fn message<T: microlambda_wire::Payload>(&mut self, topic: &Topic, payload: &T, retain: bool) -> Option<Message> {
        match to_payload(payload) {
            Ok(bytes) => Some(Message { topic: topic.build(&self.prefix), payload: bytes, retain }),
            Err(error) => {
                log::error!(topic:? = topic; "not published: {error}");
                self.counters.publish_failures += 1;
                None
            }
        }
    }

    fn publish_message(&mut self, message: Message) {
        if let Err(why) = self.world.publish(message) {
            self.not_published(&why);
        }
    }

    fn not_published(&mut self, why: &PublishError) {
        log::debug!("not published: {why}");
        self.counters.publish_failures += 1;
    }
}
