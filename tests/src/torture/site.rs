//! The site under torture: brokers, a proxy before each agent, two cameras, three nodes.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use microlambda_demo::{Agent, BrokerUrl, CameraSetup, EdgeSetup, Observer, Programs, Rig, Walls};
use serde_json::Value;

use super::Error;
use super::brokers::{self, BrokerKind, Server};
use super::ground::{Ground, Plot};
use super::proxy::Proxy;
use super::watch::Watch;
use crate::sim::random::Random;
use crate::{data_dir, name};

/// The limit of one step, ms.
pub const R_LIMIT_MS: u64 = 500;
/// A lease is the limit and this, ms.
pub const GRACE_MS: u64 = 500;
/// Repetitions of heads, ms.
const ANNOUNCE_MS: u64 = 500;
/// No picture is larger, bytes.
const FRAME_BYTES_MAX: i64 = 512 << 10;
/// A spool holds so much at most, bytes: less than its disk.
const SPOOL_BYTES_MAX: i64 = 24 << 20;
/// An agent ends within this time of SIGTERM.
const END_PATIENCE: Duration = Duration::from_secs(20);

/// What an agent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// An edge node.
    Node,
    /// The camera that plays a folder and has an end.
    Folder,
    /// The camera that goes on for ever.
    Live,
}

/// One agent and what surrounds it.
pub struct Member {
    /// Its name, also on the bus.
    pub name: &'static str,
    /// What it is.
    pub role: Role,
    /// The process.
    pub agent: Agent,
    /// Between it and the brokers.
    pub proxy: Proxy,
    /// Its network, clock and disk.
    pub plot: Plot,
    /// Killed and not yet started again, or frozen.
    pub down: bool,
    /// May end by itself until then: its disk is full, or was a moment ago.
    pub may_end_until: Instant,
    /// Starts after it had ended by itself.
    pub restarts: u64,
}

/// Everything.
pub struct Site {
    /// Brokers.
    pub servers: Vec<Server>,
    /// Cameras and nodes.
    pub members: Vec<Member>,
    /// The bus as an undisturbed client sees it.
    pub watch: Watch,
    /// While this file exists the live camera takes pictures.
    pub live_go: PathBuf,
    ground: Ground,
    dir: PathBuf,
    programs: Programs,
    random: Random,
    // Before the brokers end, which it would try to find again.
    _calm: Proxy,
}

/// What a site is made of.
pub struct Plan<'a> {
    /// What the system gives.
    pub ground: &'a Ground,
    /// Folder of this site's own.
    pub dir: &'a Path,
    /// Which broker.
    pub broker: BrokerKind,
    /// Decides all chance.
    pub seed: u64,
    /// The finite job's pictures.
    pub job: &'a Path,
    /// The live camera's pictures and the pause between two, ms; without, there is no live camera.
    pub live: Option<(&'a Path, u64)>,
    /// The nodes.
    pub nodes: &'a [&'static str],
}

impl Site {
    /// Starts everything.
    ///
    /// # Errors
    /// Something does not start.
    pub fn start(plan: &Plan<'_>) -> Result<Self, Error> {
        fs::create_dir_all(plan.dir)?;
        let servers = brokers::start(plan.broker, plan.ground.address, &plan.dir.join("broker"))?;
        let addresses: Vec<SocketAddr> = servers.iter().map(|server| server.address).collect();
        let calm = Proxy::start(plan.ground.address, addresses, 0)?;
        let observer = Observer::connect(&url(&calm)?, &name("torture"))?;
        let programs = Programs::find()?;
        programs.check()?;
        let live_go = plan.dir.join("live-goes-on");
        fs::write(&live_go, "")?;
        let mut site = Self {
            servers,
            members: Vec::new(),
            watch: Watch::new(observer),
            live_go,
            ground: plan.ground.clone(),
            dir: plan.dir.to_path_buf(),
            programs,
            random: Random::new(plan.seed),
            _calm: calm,
        };
        for node in plan.nodes {
            site.add_node(node)?;
        }
        site.add("folder", Role::Folder, plan.job, toml::Table::new())?;
        if let Some((pictures, pause_ms)) = plan.live {
            let source = site.live_source(pictures, pause_ms);
            site.add("live", Role::Live, pictures, source)?;
        }
        Ok(site)
    }

    /// Adds an edge node.
    ///
    /// # Errors
    /// It does not start.
    pub fn add_node(&mut self, node: &'static str) -> Result<(), Error> {
        self.add(node, Role::Node, &data_dir().join("models"), toml::Table::new())
    }

    fn live_source(&self, pictures: &Path, pause_ms: u64) -> toml::Table {
        let (go, pictures) = (self.live_go.display(), pictures.display());
        let pause_s = pause_ms as f64 / 1_000.0;
        let script = format!(
            "while :; do for p in '{pictures}'/*.jpg; do while [ ! -e '{go}' ]; do sleep 0.2; done; cat \"$p\" || exit; sleep {pause_s}; done; done"
        );
        let mut source = toml::Table::new();
        source.insert("kind".into(), "command".into());
        source.insert("command".into(), ["sh", "-c", &script].map(toml::Value::from).to_vec().into());
        [("source".to_owned(), toml::Value::Table(source))].into_iter().collect()
    }

    fn add(&mut self, member: &'static str, role: Role, sees: &Path, extra: toml::Table) -> Result<(), Error> {
        // Each agent has another server first in its list.
        let mut addresses: Vec<SocketAddr> = self.servers.iter().map(|server| server.address).collect();
        let first = self.members.len() % addresses.len();
        addresses.rotate_left(first);
        let proxy = Proxy::start(self.ground.address, addresses, self.random.bits())?;
        let dir = self.dir.join(member);
        fs::create_dir_all(&dir)?;
        let ahead_s = self.random.below(5_000_000);
        let plot = Plot::new(&self.ground, self.members.len(), &dir, ahead_s)?;
        let mut programs = self.programs.clone();
        let door = dir.join("door");
        let program = if role == Role::Node { &mut programs.edge } else { &mut programs.camera };
        plot.door(&door, program)?;
        *program = door;
        let walls = Walls::None("each agent has its place".into());
        let rig = Rig { programs, dir: self.dir.clone(), broker: url(&proxy)?, walls, private: Vec::new() };
        let agent = match role {
            Role::Node => rig.edge(
                member,
                &EdgeSetup {
                    site: name("torture"),
                    node: name(member),
                    models: sees.to_path_buf(),
                    r_limit_ms: R_LIMIT_MS,
                    placement: "spread".into(),
                    announce_ms: ANNOUNCE_MS,
                    grace_ms: GRACE_MS,
                    extra,
                },
            )?,
            Role::Folder | Role::Live => rig.camera(
                member,
                &CameraSetup {
                    site: name("torture"),
                    camera: name(member),
                    photos: sees.to_path_buf(),
                    exit_when_done: false,
                    extra: bounded(extra),
                },
            )?,
        };
        let may_end_until = Instant::now();
        self.members.push(Member { name: member, role, agent, proxy, plot, down: false, may_end_until, restarts: 0 });
        Ok(())
    }

    /// Indices of the edge nodes.
    pub fn nodes(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|&index| self.members[index].role == Role::Node).collect()
    }

    /// Starts agents again that ended because their disk was full, as a service manager does.
    ///
    /// # Errors
    /// One ended that had no reason to.
    pub fn supervise(&mut self) -> Result<(), Error> {
        for member in &mut self.members {
            if member.down || member.agent.exited().is_none() {
                continue;
            }
            if Instant::now() > member.may_end_until {
                member.agent.check_running()?;
            }
            member.restarts += 1;
            member.agent.respawn()?;
        }
        for server in &mut self.servers {
            if server.process.pid().is_some() {
                server.process.check_running()?;
            }
        }
        Ok(())
    }

    /// Ends all agents as a service manager does, and checks that each ends well.
    ///
    /// # Errors
    /// One does not.
    pub fn stop(&mut self) -> Result<(), Error> {
        for member in &mut self.members {
            let ended = member.agent.terminate(END_PATIENCE);
            if !ended.is_some_and(|status| status.success()) {
                let log = member.agent.log_tail(20);
                return Err(format!("{} does not end well on SIGTERM: {ended:?}\n{log}", member.name).into());
            }
        }
        Ok(())
    }

    /// Copies databases out of file systems that end with this program.
    pub fn keep_states(&self) {
        for member in &self.members {
            let keep = self.dir.join(member.name).join("state-at-the-end");
            if let Err(error) = copy_files(&member.plot.state, &keep) {
                eprintln!("torture: the state of {} is not kept: {error}", member.name);
            }
        }
    }
}

/// A folder's files, without those in folders inside it.
///
/// # Errors
/// One cannot be copied.
pub fn copy_files(from: &Path, to: &Path) -> std::io::Result<()> {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() && entry.file_name() != "ballast" {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// A command's answer as JSON.
///
/// # Errors
/// It fails, or gives something else.
pub fn ask(agent: &Agent, args: &[&str]) -> Result<Value, Error> {
    Ok(serde_json::from_str(&agent.ask(args)?)?)
}

fn bounded(mut extra: toml::Table) -> toml::Table {
    let table = |key: &str, value: i64| [(key.to_owned(), value.into())].into_iter().collect::<toml::Table>().into();
    extra.insert("spool".into(), table("bytes-max", SPOOL_BYTES_MAX));
    extra.insert("frame".into(), table("bytes-max", FRAME_BYTES_MAX));
    extra
}

fn url(proxy: &Proxy) -> Result<BrokerUrl, Error> {
    Ok(format!("mqtt://{}", proxy.address()).parse()?)
}
