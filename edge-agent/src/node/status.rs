//! What a node tells about itself, and what it knows of others.

use microlambda::placement::Peer;
use microlambda_runtime::{Message, shortened};
use microlambda_wire::{ChainClass, ChainLag, Name, NodeStatus, TEXT_BYTES_MAX, Topic, TopicPrefix, to_payload};

use super::chain_run::ChainRun;
use super::{Node, World};
use crate::store::{KeptAside, Store};

/// The status is repeated this often, µs.
const STATUS_US: u64 = 5_000_000;
/// A node that was not heard for this long is not counted on, µs: three statuses.
const SILENCE_US: u64 = 3 * STATUS_US;
/// A live chain further behind than this is reported as such, records.
const BEHIND_RECORDS: u64 = 30;
/// Of what is wrong with a database so much is told, characters.
const WHY_CHARS_MAX: usize = 200;
/// … and of anything that is wrong so much, characters of at most four bytes: a status of more is no payload.
const TROUBLE_CHARS_MAX: usize = 250;
const _: () = assert!(4 * TROUBLE_CHARS_MAX <= TEXT_BYTES_MAX);

/// Another node as last heard.
pub(super) struct PeerView {
    pub boot: Name,
    pub online: bool,
    pub load_permille: u32,
    pub heard_at_us: u64,
    /// Whether what it announced last was folded with other settings.
    pub other_lambda: bool,
}

/// Declares counters with their names on the bus.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Everything a node counts since its start.
        #[derive(Debug, Clone, Copy, Default)]
        pub(super) struct Counters { $($(#[$doc])* pub $name: u64),* }

        impl Counters {
            fn list(&self) -> Vec<(String, u64)> {
                vec![$((stringify!($name).replace('_', "-"), self.$name)),*]
            }
        }
    };
}

counters! {
    /// Steps the worker ended.
    steps,
    /// Units the worker ended.
    units,
    /// The longest of them with what had to go before it, µs.
    unit_max_us,
    /// Steps that ended after `r_limit`.
    overruns,
    /// Longest time beyond `r_limit`, µs.
    overrun_max_us,
    /// Workers killed at `r_limit`.
    kills,
    /// Workers that ended, for whatever reason.
    worker_restarts,
    /// Workers replaced because their answers made no sense.
    worker_nonsense,
    /// Steps given up because their frames did not come.
    steps_without_input,
    /// Steps whose result another node had merged first.
    steps_run_twice,
    /// Expired claims taken over.
    takeovers,
    /// Units that failed.
    unit_failures,
    /// Units killed that had run many times longer than such units do here: counted as failures.
    units_run_away,
    /// Units predicted to exceed `r_limit`.
    units_too_large,
    /// Units set aside.
    units_set_aside,
    /// Frames that the worker could not read.
    frames_unreadable,
    /// Transactions that moved a head.
    commits,
    /// Forks that lost against a peer's branch.
    suffixes_replaced,
    /// Forks that are too long ago to be mended by themselves.
    forks_too_deep,
    /// Content that did not fold to what it announced.
    deltas_refused,
    /// Times state was asked for.
    fetches,
    /// Times state was given.
    sync_answers,
    /// People first seen.
    new_faces,
    /// People seen again after an absence.
    recognised,
    /// Events published by this node because nobody had.
    events_rescued,
    /// Events seen on the bus more than once.
    event_repeats,
    /// Pictures of faces from the bus that found no room.
    pictures_dropped,
    /// Frames analysed ahead of their chain's steps.
    frames_ahead,
    /// Frames folded in steps here whose analyses had been made ahead, here or by a peer.
    frames_ahead_used,
    /// Records that arrived and were of no use.
    frames_unused,
    /// Messages that were not ours.
    refused_messages,
    /// Messages of nodes with other settings.
    other_lambda,
    /// Messages of another node with this node's name.
    name_clashes,
    /// Chains that could not be opened.
    chains_refused,
    /// Nodes beyond the bound.
    peers_refused,
    /// Messages that could not be published at once.
    publish_failures,
    /// Damaged databases in the state directory, and copies of it, each kept in a folder of its own.
    databases_kept_aside,
}

/// What the broker publishes when this node vanishes.
pub(super) fn last_will(prefix: &TopicPrefix, node: &Name, boot: &Name) -> Message {
    last_words(prefix, node, boot, "")
}

/// What this node says when it ends, with the `trouble` that it ends over, if any.
pub(super) fn last_words(prefix: &TopicPrefix, node: &Name, boot: &Name, trouble: &str) -> Message {
    let trouble = shortened(trouble, TROUBLE_CHARS_MAX);
    let status = NodeStatus { trouble, ..status_of(node, boot, false) };
    let payload = to_payload(&status).unwrap_or_default();
    Message { topic: Topic::NodeStatus { node: node.clone() }.build(prefix), payload, retain: true }
}

fn status_of(node: &Name, boot: &Name, online: bool) -> NodeStatus {
    let program = env!("CARGO_PKG_VERSION").to_owned();
    NodeStatus { program, ..NodeStatus::bare(node.clone(), boot.clone(), online) }
}

impl<S: Store, W: World> Node<S, W> {
    /// All nodes to count on, this one included.
    pub(super) fn live_peers(&self) -> Vec<Peer> {
        let now_us = self.world.now_us();
        let live = |peer: &PeerView| peer.online && peer.heard_at_us.saturating_add(SILENCE_US) > now_us;
        let others = self.peers.iter().filter(|(_, peer)| live(peer));
        let mut peers: Vec<Peer> =
            others.map(|(node, peer)| Peer { node: node.to_string(), load_permille: peer.load_permille }).collect();
        peers.push(Peer { node: self.name.to_string(), load_permille: 0 });
        peers
    }

    /// Tells of damaged databases that are kept in the state directory, one of them perhaps since this start, and of copies.
    pub fn databases_are_kept(&mut self, kept: u32, damaged: Option<&KeptAside>, copies: u32) {
        self.counters.databases_kept_aside = u64::from(kept) + u64::from(copies);
        self.copies.kept = copies;
        let why = damaged.map_or(String::new(), |found| {
            let why = shortened(&found.why, WHY_CHARS_MAX);
            format!("; the last one, in {}, was found at this start: {why}", found.folder.display())
        });
        if kept > 0 {
            self.kept_aside = format!(
                "{kept} damaged database(s) kept in {}: check the disk, and remove the folders `damaged-…` once all is well{why}",
                self.config.state_dir.display()
            );
        }
    }

    pub(super) fn status_tick(&mut self, now_us: u64) {
        if self.status_at_us > now_us {
            return;
        }
        self.status_at_us = now_us.saturating_add(STATUS_US);
        self.look_for_echo(now_us);
        let load_permille = self.worker.load_permille(now_us, STATUS_US);
        let mut counters = self.counters.list();
        let link = self.world.bus_counters();
        counters.push(("bus-messages-dropped".into(), link.inbox_dropped));
        counters.push(("bus-connections".into(), link.connected));
        let room = self.world.room();
        let shortage = room.and_then(|room| room.trouble());
        // A disk fills for years: whoever reads the log is to see that in time.
        if let Some(trouble) = shortage.as_ref().filter(|_| self.shortages.is_due(now_us)) {
            log::warn!("{trouble}");
        }
        let status = NodeStatus {
            engine: self.worker.engine.clone(),
            load_permille,
            disk_free_mb: room.map(|room| room.free_mb()),
            costs: self.budget.table(),
            chains: self.chains.keys().map(|name| self.chain_lag(name)).collect(),
            counters,
            set_aside: self.set_aside.iter().cloned().collect(),
            trouble: shortened(&self.trouble(shortage), TROUBLE_CHARS_MAX),
            ..status_of(&self.name, &self.boot, true)
        };
        let line = self.status_line(&status);
        self.world.show_status(&line);
        let Some(message) = self.message(&Topic::NodeStatus { node: self.name.clone() }, &status, true) else { return };
        match self.world.publish(message) {
            Ok(()) => self.own_name.echo.on_said(self.world.bus_counters()),
            Err(why) => self.not_published(&why),
        }
    }

    fn chain_lag(&self, name: &Name) -> ChainLag {
        let run = self.chains.get(name);
        ChainLag {
            chain: name.clone(),
            class: run.map_or(ChainClass::Batch, |run| run.class),
            version: run.map(|run| run.chain.head().version).unwrap_or_default(),
            lag: self.lag(name),
            waits_for: self.waits_for(name),
        }
    }

    /// What is wrong, the worst first; `shortage` is that there is little room on the disk.
    fn trouble(&self, shortage: Option<String>) -> String {
        if !self.worker.trouble.is_empty() {
            return self.worker.trouble.clone();
        }
        if !self.worker.too_slow.is_empty() {
            return self.worker.too_slow.clone();
        }
        let now_us = self.world.now_us();
        if let Some(unheard) = self.echo_trouble(now_us) {
            return unheard;
        }
        if !self.crowded.is_empty() {
            return self.crowded.clone();
        }
        if !self.kept_aside.is_empty() {
            return self.kept_aside.clone();
        }
        if let Some(shortage) = shortage {
            return shortage;
        }
        let is_recent = |at_us: u64| at_us.saturating_add(SILENCE_US) > now_us;
        if self.own_name.clashed_at_us.is_some_and(is_recent) {
            return format!("another node is called {} as well: give each its own `node`", self.name);
        }
        let other = |peer: &PeerView| peer.online && peer.other_lambda && is_recent(peer.heard_at_us);
        if let Some((node, _)) = self.peers.iter().find(|(_, peer)| other(peer)) {
            return format!(
                "node {node} has other [faces] settings or another version, and they cannot take part in each other's work: make them equal"
            );
        }
        let is_behind = |name, run: &ChainRun| run.class == ChainClass::Live && self.lag(name) > BEHIND_RECORDS;
        let behind = self.chains.iter().filter(|(name, run)| is_behind(name, run));
        // Of those that get on, a node more would help.
        let Some((name, run)) = behind.min_by_key(|(_, run)| run.waits_for_silent_camera(now_us)) else {
            let refused = &self.copies.refused;
            return if refused.is_empty() { self.copies.told(&self.config.state_dir) } else { refused.clone() };
        };
        let (lag, camera) = (self.lag(name), &run.camera);
        if run.waits_for_silent_camera(now_us) {
            return format!(
                "camera {camera} is silent, and {lag} frames of chain {name} wait there: switch it on, or take it off the site as \
                 docs/operating.md says"
            );
        }
        format!("behind: {lag} frames of chain {name} wait; add a node, or let the camera take fewer frames")
    }

    fn status_line(&self, status: &NodeStatus) -> String {
        let lag = status.chains.iter().fold(0_u64, |sum, chain| sum.saturating_add(chain.lag));
        let connected = if self.world.is_connected() { "connected" } else { "not connected" };
        format!("{connected}, {} chains, {lag} records behind {}", status.chains.len(), status.trouble)
    }
}
