//! A site of real agents beside each other on this machine: mosquitto, a camera that plays a folder, edge nodes.
//!
//! No namespaces and no relays: what is measured is what agents, broker and disk take.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use edge_agent::config::{ChainSettings, Engine};
use microlambda::{Digest, Head};
use microlambda_demo::{
    Agent, Broker, BrokerUrl, CameraSetup, EdgeSetup, Isolation, Note, Observer, Programs, Report, Rig, Seen, Tally,
    Walls, monotonic_us,
};
use microlambda_faces::FaceParams;
use microlambda_wire::{EventKind, EventNote, Name, StepTiming, TopicPrefix};

use crate::machine::process_cpu_us;
use crate::scratch::Scratch;
use crate::{Error, data_dir, pictures};

/// The camera that has an end.
const CAMERA: &str = "door";
/// The one that has none.
pub(crate) const LIVE_CAMERA: &str = "live";
/// A lease is the limit and this, ms: the default of edge agents.
pub const GRACE_MS: u64 = 500;
/// Repetitions of heads, ms.
const ANNOUNCE_MS: u64 = 1_000;
/// Nobody listens there: a camera that is only to fill its spool has no broker.
const NO_BROKER: &str = "mqtt://127.0.0.1:9";
/// A wait looks at the agents and at its condition at least this often.
pub(crate) const LOOK: Duration = Duration::from_millis(50);
/// A camera reads a folder into its spool within this time.
const FILL_PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks into a log.
const GLANCE: Duration = Duration::from_millis(5);
/// An agent ends within this time of SIGTERM.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// A step as its node announced it.
#[derive(Debug, Clone, PartialEq)]
pub struct StepSeen {
    /// Who ran it.
    pub node: Name,
    /// The state it started from.
    pub parent: Head,
    /// What it made of that.
    pub head: Head,
    /// Its times.
    pub timing: StepTiming,
    /// Whether its content went along with the announcement: peers ask for what is too long.
    pub by_value: bool,
}

/// What a job came to: equal for equal pictures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Digest of the final state.
    pub digest: Digest,
    /// Frames searched.
    pub frames: u64,
    /// Every event: sequence, face index, whether it tells of somebody new, label of the frame.
    pub events: BTreeSet<(u64, u32, bool, String)>,
}

/// A running site; everything ends on drop.
pub struct Site {
    nodes: Vec<(Name, Agent)>,
    cameras: Vec<Agent>,
    observer: Observer,
    /// All that was seen on the bus.
    pub tally: Tally,
    /// All announced steps, in the order seen.
    pub steps: Vec<StepSeen>,
    /// The broker.
    pub broker: Broker,
    /// Nodes started from now on repeat their heads this often, ms.
    pub announce_ms: u64,
    /// Nodes started from now on analyse frames ahead of the steps of other nodes.
    pub fan_out: bool,
    /// What steps of nodes started from now on add goes along with their continuations up to this size, KiB.
    pub inline_kb: u32,
    /// Nodes started from now on report somebody known again who was not seen for so long, ms.
    pub absence_ms: u64,
    /// Workers of nodes started from now on find and encode faces with it.
    pub engine: Engine,
    /// Cameras started from now on are called as their agents are. Otherwise all of them are the same camera, one after the other.
    pub many_cameras: bool,
    rig: Rig,
    name: Name,
    dir: Scratch,
}

impl Site {
    /// A site with mosquitto and nobody on it yet.
    ///
    /// # Errors
    /// What it needs is missing, or its databases would lie in memory.
    pub fn new() -> Result<Self, Error> {
        let dir = Scratch::new()?;
        let programs = Programs::find()?;
        programs.check()?;
        let broker = Broker::mosquitto(&dir.path().join("broker"), None)?;
        let walls = Walls::new(Isolation::None, &programs, dir.path(), broker.url())?;
        let name = Name::new("bench")?;
        let observer = broker.observe(&name)?;
        let rig =
            Rig { programs, dir: dir.path().join("agents"), broker: broker.url().clone(), walls, private: Vec::new() };
        let (nodes, cameras, tally, steps) = (Vec::new(), Vec::new(), Tally::default(), Vec::new());
        let (announce_ms, fan_out, many_cameras) = (ANNOUNCE_MS, true, false);
        let inline_kb = ChainSettings::default().inline_kb;
        let absence_ms = FaceParams::default().absence_ms;
        Ok(Self {
            nodes,
            cameras,
            observer,
            tally,
            steps,
            broker,
            announce_ms,
            fan_out,
            inline_kb,
            absence_ms,
            engine: Engine::BuiltIn,
            many_cameras,
            rig,
            name,
            dir,
        })
    }

    /// A folder on the file system that the databases are on.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What all its topics begin with.
    pub fn prefix(&self) -> TopicPrefix {
        TopicPrefix::new(&self.name)
    }

    /// Starts the camera on a folder of pictures, and waits until all are in its spool.
    ///
    /// # Errors
    /// It does not start, or ends.
    pub fn play(&mut self, folder: &Path) -> Result<(), Error> {
        self.show("camera", folder)?;
        self.wait_for("complete spool", Duration::from_secs(120), |site, _| {
            site.tally.camera.as_ref().is_some_and(|head| head.end.is_some())
        })
    }

    /// Reads a folder into the spool of the camera agent `name` before anybody sees it: [`Site::show`] makes it visible as a whole.
    ///
    /// # Errors
    /// The agent does not start, or does not come to the folder's end.
    pub fn fill(&self, name: &str, folder: &Path) -> Result<(), Error> {
        let mut agent = self.start_camera(name, self.camera_of(name), folder, broker_table(NO_BROKER))?;
        let until = Instant::now() + FILL_PATIENCE;
        while !std::fs::read_to_string(agent.log())?.contains("the input has ended") {
            agent.check_running()?;
            if Instant::now() >= until {
                return Err(format!("the spool is not complete\n{}", agent.log_tail(12)).into());
            }
            std::thread::sleep(GLANCE);
        }
        agent.terminate(END_PATIENCE).map(|_| ()).ok_or_else(|| "the camera does not end".into())
    }

    /// Starts the camera agent `name`, whose spool is complete: the first head that it announces has the job's end.
    ///
    /// # Errors
    /// It does not start.
    pub fn show(&mut self, name: &str, folder: &Path) -> Result<(), Error> {
        let camera = self.start_camera(name, self.camera_of(name), folder, toml::Table::new())?;
        self.cameras.push(camera);
        Ok(())
    }

    /// Writes a job's pictures, fills the spool of the camera agent `camera` with them, and starts these nodes: all wait for
    /// [`Site::show`] with the folder returned.
    ///
    /// # Errors
    /// An agent does not start, or ends.
    pub fn prepare(
        &mut self,
        pictures: &[Vec<u8>],
        nodes: &[&str],
        r_limit_ms: u64,
        placement: &str,
    ) -> Result<PathBuf, Error> {
        let folder = self.folder("pictures");
        pictures::write(&folder, pictures)?;
        self.fill("camera", &folder)?;
        for node in nodes {
            self.start_node(node, r_limit_ms, placement)?;
        }
        for node in nodes {
            self.wait_ready(&Name::new(*node)?, 1)?;
        }
        Ok(folder)
    }

    /// Starts a second camera, `live`, whose stream never ends: it shows the pictures that somebody writes into `pipe`.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_live(&mut self, pipe: &Path) -> Result<(), Error> {
        let pipe = pipe.to_str().ok_or("the path is not UTF-8")?;
        let command = ["cat", pipe].map(toml::Value::from).to_vec();
        let source = [("kind", "command".into()), ("command", command.into()), ("silence-s", toml::Value::from(0))];
        // Each picture is to be work, whatever moved in it.
        let motion = [("still-interval-s", toml::Value::from(0))];
        let extra = [("source".to_owned(), table(&source)), ("motion".to_owned(), table(&motion))];
        let live = self.start_camera("live", LIVE_CAMERA, Path::new(pipe), extra.into_iter().collect())?;
        self.cameras.push(live);
        Ok(())
    }

    /// Ends the camera, whose agent is `name`, removes its spool, and forgets what was seen of its job.
    ///
    /// # Errors
    /// It does not end, or its folder cannot be removed.
    pub fn dismiss(&mut self, name: &str) -> Result<(), Error> {
        for mut camera in self.cameras.drain(..) {
            camera.terminate(END_PATIENCE).ok_or("the camera does not end")?;
        }
        std::fs::remove_dir_all(self.rig.dir.join(name))?;
        while self.next(Duration::ZERO).is_some() {}
        self.tally = Tally::default();
        self.steps.clear();
        Ok(())
    }

    /// What the camera of an agent is called.
    fn camera_of<'a>(&self, agent: &'a str) -> &'a str {
        if self.many_cameras { agent } else { CAMERA }
    }

    fn start_camera(&self, name: &str, camera: &str, sees: &Path, extra: toml::Table) -> Result<Agent, Error> {
        let (site, camera) = (self.name.clone(), Name::new(camera)?);
        let setup = CameraSetup { site, camera, photos: sees.to_path_buf(), exit_when_done: false, extra };
        Ok(self.rig.camera(name, &setup)?)
    }

    /// Kills a node with its worker, takes its state away, and starts it again.
    ///
    /// # Errors
    /// There is no such node, its state cannot be removed, or it does not start.
    pub fn start_over(&mut self, node: &Name) -> Result<(), Error> {
        let state = self.state(node.as_str());
        let agent = self.node(node)?;
        // Stopped first: it would start another worker in place of the one that was killed.
        agent.freeze();
        agent.kill_children();
        agent.kill();
        std::fs::remove_dir_all(state)?;
        Ok(agent.respawn()?)
    }

    /// The folder of a node's database, whether the node was started or not.
    pub fn state(&self, node: &str) -> PathBuf {
        self.rig.dir.join(node).join("state")
    }

    /// CPU time of all nodes and their workers so far, µs.
    pub fn nodes_cpu_us(&self) -> u64 {
        self.nodes.iter().map(|(_, agent)| agent.usage().cpu_us + agent.children_usage().cpu_us).sum()
    }

    /// Time on a core of a node's worker so far, µs.
    ///
    /// # Errors
    /// There is no such node.
    pub fn worker_cpu_us(&mut self, node: &Name) -> Result<u64, Error> {
        Ok(self.node(node)?.children().into_iter().map(process_cpu_us).sum())
    }

    /// Starts a node; [`Site::wait_ready`] waits until its worker has loaded the models.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_node(&mut self, node: &str, r_limit_ms: u64, placement: &str) -> Result<(), Error> {
        let broker = self.broker.url().clone();
        self.start_node_on(&broker, node, r_limit_ms, placement)
    }

    /// Starts a node that comes to the site's broker by another address.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_node_on(
        &mut self,
        broker: &BrokerUrl,
        node: &str,
        r_limit_ms: u64,
        placement: &str,
    ) -> Result<(), Error> {
        let mut extra = broker_table(&broker.to_string());
        let node = Name::new(node)?;
        let chain = [("fan-out", toml::Value::from(self.fan_out)), ("inline-kb", self.inline_kb.into())];
        let faces = [("absence-ms", toml::Value::from(i64::try_from(self.absence_ms)?))];
        extra.extend([("chain".to_owned(), table(&chain)), ("faces".to_owned(), table(&faces))]);
        let worker = self.rig.programs.worker.to_str().ok_or("the path is not UTF-8")?;
        extra.insert("worker".to_owned(), worker.into());
        extra.insert("engine".to_owned(), self.engine.name().into());
        let setup = EdgeSetup {
            site: self.name.clone(),
            node: node.clone(),
            models: data_dir().join("models").canonicalize().map_err(|_| "no models: run `make setup`")?,
            r_limit_ms,
            placement: placement.into(),
            announce_ms: self.announce_ms,
            grace_ms: GRACE_MS,
            extra,
        };
        let agent = self.rig.edge(node.as_str(), &setup)?;
        self.nodes.push((node, agent));
        Ok(())
    }

    /// Nodes started from now on are this program, which takes an edge agent's configuration.
    pub fn run_in_place_of_nodes(&mut self, program: &Path) {
        self.rig.programs.edge = program.to_path_buf();
    }

    /// The first camera, once started.
    ///
    /// # Errors
    /// It was not.
    pub fn camera(&mut self) -> Result<&mut Agent, Error> {
        self.cameras.first_mut().ok_or_else(|| "the camera was not started".into())
    }

    /// The node of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn node(&mut self, node: &Name) -> Result<&mut Agent, Error> {
        let found = self.nodes.iter_mut().find(|(known, _)| known == node);
        found.map(|(_, agent)| agent).ok_or_else(|| format!("no node {node}").into())
    }

    /// How many workers a node has had that loaded their models, by its log.
    ///
    /// # Errors
    /// Its log cannot be read.
    pub fn workers_ready(&mut self, node: &Name) -> Result<usize, Error> {
        let log = self.node(node)?.log().to_path_buf();
        Ok(std::fs::read_to_string(log)?.matches("worker ready").count())
    }

    /// Takes the next message, waiting at most `patience` for it.
    pub fn next(&mut self, patience: Duration) -> Option<Seen> {
        let Report::Seen(seen) = self.observer.next(patience)? else { return None };
        self.tally.take(&seen);
        if let Note::Continuation(note) = &seen.note
            && let Some(timing) = note.timing.filter(|_| !note.again)
            && !self.steps.iter().rev().take(64).any(|step| step.node == note.node && step.head == note.head)
        {
            let (node, by_value) = (note.node.clone(), note.delta.is_some());
            self.steps.push(StepSeen { node, parent: note.parent, head: note.head, timing, by_value });
        }
        Some(*seen)
    }

    /// Takes messages until this instant of the machine's monotonic clock, µs.
    pub fn listen_until(&mut self, until_us: u64) {
        self.listen(until_us, |_| false);
    }

    /// Takes messages until this instant of the machine's monotonic clock, µs, or until one is `the_last`.
    pub fn listen(&mut self, until_us: u64, mut the_last: impl FnMut(&Seen) -> bool) {
        loop {
            let left_us = until_us.saturating_sub(monotonic_us());
            if left_us == 0 || self.next(Duration::from_micros(left_us)).is_some_and(|seen| the_last(&seen)) {
                return;
            }
        }
    }

    /// Takes messages until `wanted` holds; it is asked after each message and every 50 ms.
    ///
    /// # Errors
    /// It does not hold within `patience`, or an agent that should run has ended; with the ends of the logs.
    pub fn wait_for(
        &mut self,
        what: &str,
        patience: Duration,
        mut wanted: impl FnMut(&mut Self, Option<&Seen>) -> bool,
    ) -> Result<(), Error> {
        let until = Instant::now() + patience;
        loop {
            let seen = self.next(LOOK);
            if wanted(self, seen.as_ref()) {
                return Ok(());
            }
            self.check_running()?;
            if Instant::now() >= until {
                return Err(format!("no {what} within {} s\n{}", patience.as_secs(), self.logs()).into());
            }
        }
    }

    /// An error if an agent has ended by itself.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn check_running(&mut self) -> Result<(), Error> {
        for agent in self.nodes.iter_mut().map(|(_, agent)| agent).chain(&mut self.cameras) {
            // One that was killed has no pid until it is started again.
            if agent.pid().is_some() {
                agent.check_running()?;
            }
        }
        Ok(())
    }

    /// Waits until every node has a worker that is ready for the `times`th time.
    ///
    /// # Errors
    /// As [`Site::wait_for`].
    pub fn wait_ready(&mut self, node: &Name, times: usize) -> Result<(), Error> {
        self.wait_for("worker that is ready", Duration::from_secs(60), |site, _| {
            site.workers_ready(node).is_ok_and(|ready| ready >= times)
        })
    }

    /// Waits for the end of the job on all nodes, stops them, checks their databases, and says what each of them holds: all the
    /// same. Events are read from there, not from the bus: an observer whose broker was struck has no second chance to hear one.
    ///
    /// # Errors
    /// As [`Site::wait_for`]; or a node does not end, its database is not sound, or two nodes hold different events.
    pub fn outcome(&mut self, patience: Duration) -> Result<Outcome, Error> {
        let names: Vec<Name> = self.nodes.iter().map(|(name, _)| name.clone()).collect();
        self.wait_for("agreement of all nodes on the finished job", patience, |site, _| {
            site.tally.agreed(&names).is_some() && site.tally.done.is_some()
        })?;
        let done = self.tally.done.clone().ok_or("the job has no output")?;
        let mut held = Vec::new();
        for (name, agent) in &mut self.nodes {
            let status = agent.terminate(END_PATIENCE).ok_or_else(|| format!("{name} does not end"))?;
            if !status.success() {
                return Err(format!("{name} ended with {status}\n{}", agent.log_tail(12)).into());
            }
            agent.ask(&["check"])?;
            let events: Vec<EventNote> =
                serde_json::from_str(&agent.ask(&["events", "--json", "--last", &u32::MAX.to_string()])?)?;
            let outline = |e: EventNote| (e.sequence, e.face_index, e.kind == EventKind::NewFace, e.label);
            held.push(events.into_iter().map(outline).collect::<BTreeSet<_>>());
        }
        let events = held.pop().ok_or("a site without nodes")?;
        if held.iter().any(|other| *other != events) {
            return Err(format!("the nodes hold different events: {events:?} and {held:?}").into());
        }
        Ok(Outcome { digest: done.head.digest, frames: done.frames, events })
    }

    /// The ends of all agents' logs.
    pub fn logs(&self) -> String {
        let cameras = self.cameras.iter().map(|agent| (agent.label(), agent));
        let nodes = self.nodes.iter().map(|(name, agent)| (name.as_str(), agent));
        cameras.chain(nodes).map(|(name, agent)| format!("--- {name}\n{}\n", agent.log_tail(12))).collect()
    }
}

/// Settings that lead an agent to a broker.
fn broker_table(url: &str) -> toml::Table {
    let broker = toml::Table::from_iter([("url".to_owned(), url.into())]);
    toml::Table::from_iter([("broker".to_owned(), broker.into())])
}

fn table(entries: &[(&str, toml::Value)]) -> toml::Value {
    toml::Value::Table(entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect())
}
