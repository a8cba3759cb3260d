//! A chain that grows and grows, in a real database.

use std::path::Path;
use std::time::{Duration, Instant};

use edge_agent::store::{Advance, SqliteStore, Store};
use microlambda::{Attempt, StepMode};
use microlambda_demo::{Note, monotonic_us};
use microlambda_faces::content::Entry;
use microlambda_faces::fold::{FoldState, Folded, event_id};
use microlambda_faces::{Encoding, FaceAt, FaceParams};
use microlambda_wire::{ChainClass, Name};
use serde::Serialize;

use super::{people, sync};
use crate::random::Random;
use crate::stats::Stats;
use crate::{Error, Site, ms, since};

/// The node whose database it is.
const NODE: &str = "old";
/// The database in its state directory.
const DATABASE: &str = "edge.sqlite";
/// People who pass the camera by turns: so few that the shortest history knows them too, for the gallery is not what grows here.
const PEOPLE: u64 = 2;
/// Views are about so far from the middle of all views of somebody: some show something new.
const VIEW_FAR: f32 = 0.25;
/// Steps written in one transaction while the history is made.
const BATCH_STEPS: u64 = 1_000;
/// Steps that a peer lacks.
pub const LACKING_STEPS: u64 = 5;
/// Times that a peer is brought up to date.
const SYNCS: usize = 5;
/// Starts of the agent after an orderly end, and after SIGKILL.
const STARTS: usize = 3;
/// Limit of a step, ms; none is run.
const R_LIMIT_MS: u64 = 1_000;
/// An agent with a long history starts within this time.
const PATIENCE: Duration = Duration::from_secs(120);

/// A history of some length, and what it costs.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Steps of one frame each, in each of which somebody known is seen.
    pub steps: u64,
    /// Size of the database, MB of 10^6 bytes.
    pub database_mb: f64,
    /// From the process's start to its first status on the bus, after an orderly end.
    pub start_ms: Stats,
    /// The same after SIGKILL.
    pub start_after_kill_ms: Stats,
    /// Of a start: opening the database with the look at what the node works with.
    pub open_ms: f64,
    /// Of a start: reading the chain, as the node does after that.
    pub load_ms: f64,
    /// What `edge-agent status` reads, beside no agent.
    pub status_ms: f64,
    /// The transaction of one more step, with the attempt of the next.
    pub commit_ms: Stats,
    /// Bringing a peer up to date that lacks a few steps, with its transaction and without the bus.
    pub sync_ms: Stats,
    /// Payloads of the messages for that.
    pub sync_bytes: u64,
}

/// A history in the making.
pub struct History {
    site: Site,
    chain: Name,
    fold: FoldState,
    people: Vec<Encoding>,
    random: Random,
    /// Whether the site's node was started; then it is only started again.
    started: bool,
}

impl History {
    /// An empty one, on a site of its own.
    ///
    /// # Errors
    /// What the site needs is missing.
    pub fn new() -> Result<Self, Error> {
        let mut random = Random::new(1);
        let history = Self {
            site: Site::new()?,
            chain: Name::new("door-history")?,
            fold: FoldState::genesis(FaceParams::default()),
            people: (0..PEOPLE).map(|_| people::somebody(&mut random)).collect(),
            random,
            started: false,
        };
        let mut store = history.open()?;
        store.add_chain(&history.chain, &Name::new("door")?, ChainClass::Live, history.fold.head())?;
        Ok(history)
    }

    /// Lets it grow to a number of steps, and measures.
    ///
    /// # Errors
    /// A database cannot be used, an agent does not start, or a peer does not come to the same.
    pub fn measure(&mut self, steps: u64, commits: usize) -> Result<Row, Error> {
        let mut store = self.open()?;
        while self.length() < steps {
            self.extend(&mut store, BATCH_STEPS.min(steps - self.length()), false)?;
        }
        drop(store);
        let peer = self.site.folder("peer");
        copy(&self.site.state(NODE), &peer)?;
        let database_mb = std::fs::metadata(self.site.state(NODE).join(DATABASE))?.len() as f64 / 1e6;
        let (sync_ms, sync_bytes) = self.syncs(&peer)?;
        std::fs::remove_dir_all(&peer)?;
        // What is still to be written of all this would hold up the syncs of the commits that are measured.
        std::fs::File::open(self.site.state(NODE).join(DATABASE))?.sync_all()?;
        let mut store = self.open()?;
        let mut commit_ms = Vec::new();
        for _ in 0..commits {
            commit_ms.push(self.extend(&mut store, 1, true)?);
        }
        let start = Instant::now();
        store.newest_chains(1)?;
        let load_ms = since(start);
        drop(store);
        let mut starts = |after_kill| (0..STARTS).map(|_| self.start(after_kill)).collect::<Result<Vec<f64>, Error>>();
        let (start_ms, start_after_kill_ms) = (starts(false)?, starts(true)?);
        self.end_in_order()?;
        let start = Instant::now();
        let mut opened = SqliteStore::open_or_renew(&self.site.state(NODE), &FaceParams::default())?;
        let open_ms = since(start);
        if opened.rest.is_some() {
            return Err("the database was opened as after an unclean end".into());
        }
        opened.store.note_clean_end()?;
        let status_ms = self.read_status()?;
        Ok(Row {
            steps,
            database_mb,
            start_ms: Stats::of(start_ms).ok_or("no starts")?,
            start_after_kill_ms: Stats::of(start_after_kill_ms).ok_or("no starts")?,
            open_ms,
            load_ms,
            status_ms,
            commit_ms: Stats::of(commit_ms).ok_or("no commits")?,
            sync_ms,
            sync_bytes,
        })
    }

    fn read_status(&self) -> Result<f64, Error> {
        let start = Instant::now();
        let store = SqliteStore::open_read_only(&self.site.state(NODE))?;
        let [chain] = &store.chains()?[..] else { return Err("there is not one chain".into()) };
        let totals = store.totals(&chain.name)?;
        store.set_aside(chain, usize::MAX)?;
        let status_ms = since(start);
        if totals.frames == self.length() { Ok(status_ms) } else { Err("the sums are not those of the history".into()) }
    }

    /// Makes the last end an orderly one: an agent that was ended before it had checked a large database left that to its next start.
    fn end_in_order(&self) -> Result<(), Error> {
        let mut opened = SqliteStore::open_or_renew(&self.site.state(NODE), &FaceParams::default())?;
        if let Some(rest) = opened.rest.take() {
            // On a thread of its own, for it changes its thread's priority.
            let checked = std::thread::spawn(move || rest.check()).join();
            checked.map_err(|_| "the check has panicked")??;
        }
        Ok(opened.store.note_clean_end()?)
    }

    fn open(&self) -> Result<SqliteStore, Error> {
        Ok(SqliteStore::open(&self.site.state(NODE))?)
    }

    fn length(&self) -> u64 {
        self.fold.head().version.sequence
    }

    /// Adds steps in one transaction, with the next attempt if they are a node's own; how long it took, ms.
    fn extend(&mut self, store: &mut SqliteStore, steps: u64, attempts: bool) -> Result<f64, Error> {
        let from_sequence = self.length();
        let mut done: Vec<(Entry, Folded)> = Vec::new();
        for sequence in from_sequence..from_sequence + steps {
            let visitor = (sequence % PEOPLE) as usize;
            let entry = people::frame_of(sequence, people::view(&self.people[visitor], VIEW_FAR, &mut self.random));
            let folded = self.fold.fold(&entry)?;
            done.push((entry, folded));
        }
        let head = self.fold.head();
        let advance = Advance {
            chain: &self.chain,
            from_sequence,
            entries: done.iter().map(|(entry, folded)| (entry, folded)).collect(),
            partial: None,
            head,
            holder: NODE,
            fold: &self.fold,
            thumbnails: &[],
            then: attempts.then_some(Attempt { step: head, epoch: 0, mode: StepMode::Normal }),
        };
        let start = Instant::now();
        store.advance(&advance)?;
        let took_ms = since(start);
        let reported = done.iter().flat_map(|(entry, folded)| {
            let events = folded.sightings.iter().filter(|sighting| sighting.event.is_some());
            let at = events.map(|sighting| FaceAt { sequence: entry.sequence, face_index: sighting.face_index });
            at.map(|at| event_id(self.chain.as_str(), at))
        });
        let reported: Vec<String> = reported.collect();
        if !reported.is_empty() {
            store.note_bus(&reported, &[])?;
        }
        Ok(took_ms)
    }

    /// Brings a peer up to date again and again; times and, of the last time, bytes.
    fn syncs(&mut self, peer: &Path) -> Result<(Stats, u64), Error> {
        let (mut times_ms, mut bytes) = (Vec::new(), 0);
        for _ in 0..SYNCS {
            let mut store = self.open()?;
            for _ in 0..LACKING_STEPS {
                self.extend(&mut store, 1, false)?;
            }
            drop(store);
            let (took_ms, carried) = sync::bring_up_to_date(&self.site.state(NODE), peer)?;
            times_ms.push(took_ms);
            bytes = carried;
        }
        Ok((Stats::of(times_ms).ok_or("no syncs")?, bytes))
    }

    /// Starts the agent, after a kill if that is wanted, and ends it in order; the time to its first status, ms.
    fn start(&mut self, after_kill: bool) -> Result<f64, Error> {
        if after_kill {
            self.boot()?;
            let agent = self.site.node(&Name::new(NODE)?)?;
            agent.freeze();
            agent.kill_children();
            agent.kill();
        }
        let took_ms = self.boot()?;
        let status = self.site.node(&Name::new(NODE)?)?.terminate(PATIENCE).ok_or("the node does not end")?;
        if status.success() { Ok(took_ms) } else { Err(format!("the node ended with {status}").into()) }
    }

    /// Starts the agent and waits for its first status; the time that took, ms.
    fn boot(&mut self) -> Result<f64, Error> {
        let node = Name::new(NODE)?;
        // What the agent's former run has said must not pass for the next one's.
        while self.site.next(Duration::ZERO).is_some() {}
        let began_us = monotonic_us();
        if self.started {
            self.site.node(&node)?.respawn()?;
        } else {
            self.site.start_node(NODE, R_LIMIT_MS, "stay")?;
            self.started = true;
        }
        let mut up_at_us = None;
        self.site.wait_for("status of the node", PATIENCE, |_, seen| {
            let status = seen.filter(|seen| !seen.retained && seen.at_us > began_us);
            if let Some((Note::NodeStatus(status), at_us)) = status.map(|seen| (&seen.note, seen.at_us))
                && status.online
            {
                up_at_us = up_at_us.or(Some(at_us));
            }
            up_at_us.is_some()
        })?;
        let held = self.site.tally.nodes.get(&node).and_then(|status| status.chains.first().map(|chain| chain.version));
        if held != Some(self.fold.head().version) {
            return Err(format!("the node came up with {held:?}, not with {}", self.fold.head().version).into());
        }
        Ok(ms(up_at_us.unwrap_or(began_us).saturating_sub(began_us)))
    }
}

/// Copies a folder's files.
fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(to)?;
    for file in std::fs::read_dir(from)? {
        let file = file?;
        std::fs::copy(file.path(), to.join(file.file_name()))?;
    }
    Ok(())
}
