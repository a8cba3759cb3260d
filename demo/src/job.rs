//! One job under watch: agents, the bus, and the node that is killed half way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use microlambda::{Digest, Version};
use microlambda_runtime::printable;
use microlambda_wire::Name;

use crate::leftovers::RunDir;
use crate::observer::denied;
use crate::show::say;
use crate::summary::Recovery;
use crate::tally::{ClaimSeen, News, Step, Tally};
use crate::{Agent, Broker, BrokerKind, Error, Observer, Report, Rig, passed_over, show};

/// So often processes and Ctrl-C are looked at while the bus is silent.
const LOOK: Duration = Duration::from_millis(20);
/// A killed node stays away so long after a peer went on.
const AWAY: Duration = Duration::from_millis(1_000);
/// So many pictures that were passed over are named, the others are in the camera's log.
const NAMED_MAX: usize = 10;
/// Below this limit a worker's CPU count (10 ms a tick) cannot tell whether it is inside a step.
const CPU_CHECK_LIMIT_MS: u64 = 100;

/// What a job shares with the rest of the run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JobContext<'a> {
    pub rig: &'a Rig,
    pub broker: &'a Broker,
    /// Lists all processes, so that the next run can end those of a killed driver.
    pub dir: &'a RunDir,
    /// Set by Ctrl-C.
    pub interrupted: &'a AtomicBool,
    /// When nothing has gone on for so long, the run gives up.
    pub timeout: Duration,
    /// The same where every node has found a unit too long for its limit.
    pub too_slow_after: Duration,
}

/// A camera, its nodes, and what the bus says of them.
pub(crate) struct Job<'a> {
    pub observer: Observer,
    pub tally: Tally,
    pub camera: Agent,
    pub edges: Vec<(Name, Agent)>,
    pub refused: u64,
    /// Prints a line for each piece of news.
    pub aloud: bool,
    /// So many pictures that the camera passed over have been named; `None` if that is not to be done.
    pub named: Option<usize>,
    context: JobContext<'a>,
    /// When something went on last.
    went_on_at: Instant,
    /// Whether the broker is away.
    is_lost: bool,
}

/// The kill, from its plan to the node's return.
#[derive(Debug)]
pub(crate) enum Kill {
    /// Nobody is to be killed, or nobody can be any more.
    Off,
    /// Wait for a claim once this many records are done.
    Waiting(u64),
    /// In the middle of this step, unless it ends before.
    Aimed { claim: ClaimSeen, at: Instant, worker_cpu_us: u64 },
    /// Killed; no peer has gone on yet.
    Killed { node: Name, at_us: u64, front: Version },
    /// A peer went on (or the job was done already); the node comes back later.
    Away { node: Name, recovery: Option<Recovery>, back_at: Instant },
    /// Started again; not online yet.
    Returning { node: Name, recovery: Option<Recovery>, since_us: u64, boot_before: Option<Name> },
    /// The node is online again.
    Back(Option<Recovery>),
}

/// The limit and grace that decide when to kill and how fast a peer should go on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub r_limit_ms: u64,
    pub grace_ms: u64,
}

impl<'a> Job<'a> {
    /// A job with a camera, and no nodes yet.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be written down.
    pub fn new(observer: Observer, camera: Agent, context: JobContext<'a>, aloud: bool) -> Result<Self, Error> {
        let went_on_at = Instant::now();
        let (tally, edges) = (Tally::default(), Vec::new());
        let job = Self {
            observer,
            tally,
            camera,
            edges,
            refused: 0,
            aloud,
            named: Some(0),
            context,
            went_on_at,
            is_lost: false,
        };
        job.record()?;
        Ok(job)
    }

    /// Adds a running node.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be written down.
    pub fn join(&mut self, node: Name, agent: Agent) -> Result<(), Error> {
        self.edges.push((node, agent));
        self.record()
    }

    /// Writes down every process of the run as it is now.
    fn record(&self) -> Result<(), Error> {
        let JobContext { rig, broker, dir, .. } = self.context;
        let base = broker.pid().into_iter().chain(rig.walls.process().and_then(|process| process.pid()));
        let agents = self.edges.iter().flat_map(|(_, agent)| agent.pids());
        dir.record(base.chain(agents).chain(self.camera.pids()))
    }

    /// Takes reports until `enough` says so.
    ///
    /// # Errors
    /// [`Error::Interrupted`], [`Error::Timeout`], [`Error::TooSlow`], or an agent's end.
    pub fn watch(
        &mut self,
        what: &str,
        mut enough: impl FnMut(&mut Self, &[News]) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let mut news = Vec::new();
        loop {
            if enough(self, &news)? {
                return Ok(());
            }
            news = self.next()?;
            if news.iter().any(|piece| matches!(piece, News::Step(_) | News::InputEnds(_) | News::Done(_))) {
                self.went_on();
            }
            let still = self.went_on_at.elapsed();
            if still >= self.context.too_slow_after && self.is_too_slow() {
                return Err(Error::TooSlow { after_s: still.as_secs(), said: self.troubles() });
            }
            if still >= self.context.timeout {
                return Err(self.timeout(what));
            }
        }
    }

    /// Something has gone on: the timeout begins anew.
    pub fn went_on(&mut self) {
        self.went_on_at = Instant::now();
    }

    /// The next news, after at most [`LOOK`].
    fn next(&mut self) -> Result<Vec<News>, Error> {
        if self.context.interrupted.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let news = match self.observer.next(LOOK) {
            Some(Report::Seen(seen)) => self.tally.take(&seen),
            Some(Report::Refused { topic, why }) => {
                self.refused += 1;
                self.say(&show::refused(&topic, &why));
                Vec::new()
            }
            Some(Report::Lost(why)) => {
                self.is_lost = true;
                self.say(&show::lost(&why, self.context.broker.kind() == BrokerKind::External));
                Vec::new()
            }
            Some(Report::Connected) => {
                self.is_lost = false;
                self.went_on();
                self.say(&show::deed("the broker is back"));
                Vec::new()
            }
            Some(Report::Denied(filter)) => return Err(denied(self.context.broker.url(), &filter)),
            None => {
                self.check_processes()?;
                Vec::new()
            }
        };
        if self.aloud {
            self.tell(&news);
        }
        Ok(news)
    }

    fn tell(&mut self, news: &[News]) {
        for piece in news {
            let passed_over = matches!(piece, News::PassedOver(_));
            if passed_over && self.named.is_none() {
                continue;
            }
            if let Some(line) = show::news(piece) {
                say!("{line}");
            }
            let Some(named) = self.named.filter(|_| passed_over) else { continue };
            let reasons = passed_over::reasons(self.camera.log());
            for reason in reasons.iter().take(NAMED_MAX).skip(named) {
                say!("      {}", printable(reason));
            }
            if named < NAMED_MAX && reasons.len() > NAMED_MAX {
                say!("      and more, which {} names", self.camera.log().display());
            }
            self.named = Some(reasons.len());
        }
    }

    /// An agent that we killed has no process; a camera that has delivered everything may end.
    fn check_processes(&mut self) -> Result<(), Error> {
        self.context.broker.check()?;
        self.context.rig.walls.check()?;
        for (_, agent) in &mut self.edges {
            agent.check_walls()?;
            agent.check_running()?;
        }
        self.camera.check_walls()?;
        // One that could read nothing says so with its exit code, and its job is judged like any other.
        let read_nothing = self.tally.camera.as_ref().and_then(|head| head.end).is_some_and(|end| end.count == 0);
        match self.camera.exited() {
            Some(status) if !status.success() && !read_nothing => self.camera.check_running(),
            Some(_) | None => Ok(()),
        }
    }

    fn is_too_slow(&self) -> bool {
        !self.is_lost && !self.edges.is_empty() && all_too_slow(&self.tally, self.edges.iter().map(|(node, _)| node))
    }

    /// What agents say is wrong, each on a line of its own.
    fn troubles(&self) -> String {
        self.tally.troubles().map(|(who, what)| format!("\n! {who}: {}", show::trouble(what))).collect()
    }

    fn timeout(&self, what: &str) -> Error {
        let mut logs = self.troubles();
        for agent in self.edges.iter().map(|(_, agent)| agent).chain([&self.camera]) {
            logs += &format!(
                "\n--- the last lines of {} ({}):\n{}",
                agent.label(),
                agent.log().display(),
                agent.log_tail(8)
            );
        }
        Error::Timeout { what: what.into(), after_s: self.context.timeout.as_secs(), logs }
    }

    /// Runs until the chain is done, everybody agrees, and a killed node is back. Returns the digest and the kill.
    ///
    /// # Errors
    /// As [`Job::watch`].
    pub fn run(&mut self, mut kill: Kill, limits: Limits) -> Result<(Digest, Kill), Error> {
        let mut digest = None;
        self.watch("all nodes to finish and agree", |job, news| {
            for piece in news {
                kill = job.follow(std::mem::replace(&mut kill, Kill::Off), piece, limits);
            }
            kill = job.act(std::mem::replace(&mut kill, Kill::Off), limits)?;
            digest = job.tally.agreed(job.edges.iter().map(|(name, _)| name));
            Ok(digest.is_some() && matches!(kill, Kill::Off | Kill::Back(_)))
        })?;
        let digest = digest.ok_or_else(|| Error::Wrong("nobody finished".into()))?;
        Ok((digest, kill))
    }

    fn edge(&mut self, name: &Name) -> Option<&mut Agent> {
        self.edges.iter_mut().find(|(edge, _)| edge == name).map(|(_, agent)| agent)
    }

    /// What a piece of news means for the kill.
    fn follow(&mut self, kill: Kill, news: &News, limits: Limits) -> Kill {
        match (kill, news) {
            (Kill::Waiting(_) | Kill::Aimed { .. }, News::Done(_)) => Kill::Off,
            (Kill::Aimed { claim, .. }, News::Step(step)) if step.head.version > claim.step => Kill::Waiting(0),
            (Kill::Killed { node, at_us, front }, News::Step(step)) if step.timing.first_unit_at_us >= at_us => {
                let recovery = recovery(&node, at_us, front, step, limits);
                let text = format!(
                    "{} went on {:.0} ms after {node} was killed (r_limit + grace: {} ms)",
                    recovery.by, recovery.recovery_ms, recovery.bound_ms
                );
                self.say(&show::deed(&text));
                Kill::Away { node, recovery: Some(recovery), back_at: Instant::now() + AWAY }
            }
            (Kill::Killed { node, .. }, News::Done(_)) => Kill::Away { node, recovery: None, back_at: Instant::now() },
            (Kill::Away { node, recovery, .. }, News::Done(_)) => {
                Kill::Away { node, recovery, back_at: Instant::now() }
            }
            (kill, _) => kill,
        }
    }

    /// What is due now.
    fn act(&mut self, kill: Kill, limits: Limits) -> Result<Kill, Error> {
        match kill {
            Kill::Waiting(from) if self.tally.front().sequence >= from => {
                let front = self.tally.front();
                let Some(claim) = self.tally.claim.clone().filter(|claim| claim.step >= front) else {
                    return Ok(Kill::Waiting(from));
                };
                let at = Instant::now() + self.middle(&claim.node, limits);
                let worker_cpu_us = self.edge(&claim.node).map_or(0, |agent| agent.children_usage().cpu_us);
                Ok(Kill::Aimed { claim, at, worker_cpu_us })
            }
            Kill::Aimed { claim, at, worker_cpu_us } if Instant::now() >= at => {
                Ok(self.strike(claim, worker_cpu_us, limits))
            }
            Kill::Killed { node, at_us, front } if self.edges.len() == 1 => {
                // There is no peer: it goes on when it is back.
                if self.edge(&node).is_some_and(|agent| agent.pid().is_none()) {
                    self.revive(&node)?;
                }
                Ok(Kill::Killed { node, at_us, front })
            }
            Kill::Away { node, recovery, back_at } if Instant::now() >= back_at => {
                if self.edge(&node).is_some_and(|agent| agent.pid().is_some()) {
                    return Ok(Kill::Back(recovery));
                }
                let boot_before = self.tally.nodes.get(&node).map(|status| status.boot.clone());
                self.revive(&node)?;
                Ok(Kill::Returning { node, recovery, since_us: crate::monotonic_us(), boot_before })
            }
            Kill::Returning { node, recovery, since_us, boot_before } => {
                let back =
                    self.tally.nodes.get(&node).is_some_and(|s| s.online && Some(&s.boot) != boot_before.as_ref());
                if !back {
                    return Ok(Kill::Returning { node, recovery, since_us, boot_before });
                }
                let back_ms = ms(crate::monotonic_us().saturating_sub(since_us));
                Ok(Kill::Back(recovery.map(|recovery| Recovery { back_ms: Some(back_ms), ..recovery })))
            }
            kill => Ok(kill),
        }
    }

    /// When a step of `node` is in its middle: the first ones of a node are much shorter than the limit.
    fn middle(&self, node: &Name, limits: Limits) -> Duration {
        let last = self.tally.steps.iter().rfind(|step| step.node == *node);
        let half = last.map(|step| Duration::from_micros(step.timing.used_us / 2));
        half.unwrap_or(Duration::MAX).min(Duration::from_millis(limits.r_limit_ms * 2 / 5))
    }

    fn strike(&mut self, claim: ClaimSeen, worker_cpu_us: u64, limits: Limits) -> Kill {
        let front = self.tally.front();
        let held = self.tally.claim.as_ref().is_some_and(|now| now.node == claim.node && now.step == claim.step);
        let Some(agent) = self.edge(&claim.node) else {
            return Kill::Waiting(0);
        };
        let busy = limits.r_limit_ms < CPU_CHECK_LIMIT_MS || agent.children_usage().cpu_us > worker_cpu_us;
        if !held || !busy || front > claim.step {
            return Kill::Waiting(0);
        }
        let at_us = agent.kill();
        self.say(&show::deed(&format!("{} was killed (SIGKILL) in the middle of step {}", claim.node, claim.step)));
        Kill::Killed { node: claim.node, at_us, front }
    }

    fn revive(&mut self, node: &Name) -> Result<(), Error> {
        if let Some(agent) = self.edge(node) {
            agent.respawn()?;
        }
        self.record()?;
        self.say(&show::deed(&format!("{node} is started again, on the database it left")));
        Ok(())
    }

    fn say(&self, line: &str) {
        if self.aloud {
            say!("{line}");
        }
    }
}

/// Whether every one of these nodes has found a unit too long for its limit, and has ended none since.
fn all_too_slow<'a>(tally: &Tally, mut nodes: impl Iterator<Item = &'a Name>) -> bool {
    nodes.all(|node| tally.is_limit_too_short(node))
}

fn recovery(node: &Name, at_us: u64, front: Version, step: &Step, limits: Limits) -> Recovery {
    Recovery {
        node: node.to_string(),
        at_sequence: front.sequence,
        recovery_ms: ms(step.timing.first_unit_at_us.saturating_sub(at_us)),
        by: step.node.to_string(),
        bound_ms: limits.r_limit_ms + limits.grace_ms,
        back_ms: None,
    }
}

/// µs as ms with their fraction.
pub(crate) fn ms(us: u64) -> f64 {
    us as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use microlambda_wire::NodeStatus;

    use super::*;
    use crate::Note;
    use crate::tally::tests::{name, seen};

    #[test]
    fn a_limit_is_too_short_when_every_node_counts_so_and_not_when_one_does() {
        let nodes = ["node-a", "node-b"].map(name);
        let mut tally = Tally::default();
        let mut say = |node: &Name, units: u64, too_large: u64| {
            let counters = vec![("units".to_owned(), units), ("units-too-large".to_owned(), too_large)];
            let status = NodeStatus { counters, ..NodeStatus::bare(node.clone(), name("b"), true) };
            tally.take(&seen(Note::NodeStatus(status)));
            all_too_slow(&tally, nodes.iter())
        };
        assert!(!say(&nodes[0], 0, 1), "the other may do it");
        assert!(!say(&nodes[1], 0, 0));
        assert!(say(&nodes[1], 0, 1));
        assert!(!say(&nodes[0], 1, 1), "a unit was done");
    }
}
