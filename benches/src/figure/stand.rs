//! The site of one line: its broker, and its nodes with their workers, kept warm from trial to trial.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use microlambda_demo::{Note, Seen, monotonic_us};
use microlambda_wire::Name;

use super::line::{LimitEnd, Line};
use super::trial::{PARTS, Trial, parts_ms};
use crate::site::LOOK;
use crate::{Error, Site, ms};

/// The nodes of a site.
const NODES: [&str; 2] = ["a", "b"];
/// Heads are repeated this rarely, ms: a finished chain of an idle site should not be heard during another one's trial.
const ANNOUNCE_MS: u64 = 600_000;
/// Longest wait for the end of a trial that nobody cuts off.
const PATIENCE: Duration = Duration::from_secs(600);
/// Longest wait for what is left to do once a job is done.
const REST_PATIENCE: Duration = Duration::from_secs(30);

/// A site on which trials of one line are run, one after the other.
pub struct Stand {
    line: &'static Line,
    r_limit_ms: u64,
    /// A workload that is run to warm a new site up.
    warm_up: PathBuf,
    /// What runs a line that keeps its state without being split.
    keeper: PathBuf,
    site: Site,
    nodes: Vec<Name>,
    trials: u32,
    /// The chain of the trial before.
    former: Option<Name>,
}

impl Stand {
    /// Starts the line's nodes, and runs `warm_up` as a first job that does not count. `keeper` is the program in `benches/keeper`.
    ///
    /// # Errors
    /// What a site can give.
    pub fn new(line: &'static Line, r_limit_ms: u64, warm_up: &Path, keeper: &Path) -> Result<Self, Error> {
        let (site, nodes) = site_of(line, r_limit_ms, keeper)?;
        let (warm_up, keeper) = (warm_up.to_path_buf(), keeper.to_path_buf());
        let mut stand = Self { line, r_limit_ms, warm_up, keeper, site, nodes, trials: 0, former: None };
        stand.warm_up()?;
        Ok(stand)
    }

    /// CPU time of its nodes and their workers so far, µs.
    pub fn cpu_us(&self) -> u64 {
        self.site.nodes_cpu_us()
    }

    /// Runs the folder as a job. A line whose invocations are killed is cut off after `cut_off_ms`.
    ///
    /// # Errors
    /// An agent ends, or the job does not.
    pub fn trial(&mut self, folder: &Path, cut_off_ms: f64) -> Result<Trial, Error> {
        let killed = self.line.end == LimitEnd::Killed;
        if killed {
            // Nothing may be left of the job that was cut off, on the broker neither.
            self.renew()?;
        }
        self.job(folder, |stand| if killed { stand.killed(cut_off_ms) } else { stand.continued() })
    }

    /// Starts everything anew. One process's memory lies better than another's, and makes it faster by a percent or two for as long as it runs: that is
    /// not to become the line's.
    ///
    /// # Errors
    /// What a site can give.
    pub fn renew(&mut self) -> Result<(), Error> {
        (self.site, self.nodes) = site_of(self.line, self.r_limit_ms, &self.keeper)?;
        self.warm_up()
    }

    fn warm_up(&mut self) -> Result<(), Error> {
        let folder = self.warm_up.clone();
        self.job(&folder, Self::continued).map(|_| ())
    }

    /// Runs the folder as a job of a camera agent of its own, whose spool is filled before.
    fn job(&mut self, folder: &Path, run: impl FnOnce(&mut Self) -> Result<Trial, Error>) -> Result<Trial, Error> {
        self.trials += 1;
        let camera = format!("camera-{}", self.trials);
        self.site.fill(&camera, folder)?;
        self.site.show(&camera, folder)?;
        let trial = run(self)?;
        self.site.dismiss(&camera)?;
        Ok(trial)
    }

    fn continued(&mut self) -> Result<Trial, Error> {
        let mut watch = Watch::after(self.former.take());
        let until = Instant::now() + PATIENCE;
        while watch.done.is_none() {
            if Instant::now() >= until {
                return Err(format!("no end of the job\n{}", self.site.logs()).into());
            }
            match self.site.next(LOOK) {
                Some(seen) => watch.take(&seen),
                None => self.site.check_running()?,
            }
        }
        if self.nodes.len() > 1 {
            // A camera frees what two nodes hold: then the peer has nothing left to do for this job.
            self.site.wait_for("camera that has freed all frames", REST_PATIENCE, |site, _| {
                site.tally.camera.as_ref().is_some_and(|head| head.oldest == head.next)
            })?;
        }
        self.finished(watch, None)
    }

    /// Kills the node `r_limit` after each of its claims, with all it has done.
    fn killed(&mut self, cut_off_ms: f64) -> Result<Trial, Error> {
        let mut watch = Watch::after(self.former.take());
        let node = self.nodes.first().cloned().ok_or("a line without nodes")?;
        let mut starts = 1;
        let until = Instant::now() + PATIENCE;
        while watch.done.is_none() && Instant::now() < until {
            let kill_at_us = watch.claimed_at_us.map_or(u64::MAX, |at_us| at_us + self.r_limit_ms * 1_000);
            let cut_at_us = watch.head_at_us.map_or(u64::MAX, |at_us| at_us + (cut_off_ms * 1_000.0) as u64);
            let left_us = kill_at_us.min(cut_at_us).saturating_sub(monotonic_us());
            match self.site.next(LOOK.min(Duration::from_micros(left_us))) {
                Some(seen) => watch.take(&seen),
                None => self.site.check_running()?,
            }
            let now_us = monotonic_us();
            if watch.done.is_none() && now_us >= cut_at_us {
                let (parts_ms, digest) = ([0.0; PARTS.len()], String::new());
                let total_ms = ms(now_us) - ms(watch.head_at_us.unwrap_or(now_us));
                return Ok(Trial { finished: false, total_ms, invocations: starts, units: 0, parts_ms, digest });
            }
            if watch.done.is_none() && now_us >= kill_at_us {
                self.site.start_over(&node)?;
                watch.claimed_at_us = None;
                starts += 1;
            }
        }
        self.finished(watch, Some(starts))
    }

    fn finished(&mut self, watch: Watch, starts: Option<u32>) -> Result<Trial, Error> {
        let (Some(head_at_us), Some((done_at_us, digest))) = (watch.head_at_us, watch.done) else {
            return Err(format!("no end of the job\n{}", self.site.logs()).into());
        };
        self.former = watch.chain;
        let parts_ms = parts_ms(head_at_us, &self.site.steps, done_at_us).ok_or("no step of the job was announced")?;
        Ok(Trial {
            finished: true,
            total_ms: ms(done_at_us - head_at_us),
            invocations: starts.map_or_else(|| u32::try_from(self.site.steps.len() + watch.untimed), Ok)?,
            units: self.site.steps.iter().map(|step| step.timing.units).sum(),
            parts_ms,
            digest,
        })
    }
}

fn site_of(line: &Line, r_limit_ms: u64, keeper: &Path) -> Result<(Site, Vec<Name>), Error> {
    let mut site = Site::new()?;
    site.announce_ms = ANNOUNCE_MS;
    // What cutting and handing over costs: a job that is shared out as well would hide it.
    site.fan_out = false;
    if line.end == LimitEnd::Kept {
        site.run_in_place_of_nodes(keeper);
    }
    if line.fetched {
        site.inline_kb = 0;
    }
    // One that is killed from outside knows no limit of its own.
    let own_limit_ms = if line.end == LimitEnd::Killed { super::line::UNLIMITED_MS } else { r_limit_ms };
    let placement = if line.nodes > 1 { "spread" } else { "stay" };
    let names = NODES.iter().take(line.nodes).map(|node| Name::new(*node)).collect::<Result<Vec<_>, _>>()?;
    for name in &names {
        site.start_node(name.as_str(), own_limit_ms, placement)?;
    }
    for name in &names {
        site.wait_ready(name, 1)?;
    }
    Ok((site, names))
}

/// What of a trial was seen on the bus.
#[derive(Default)]
struct Watch {
    former: Option<Name>,
    chain: Option<Name>,
    head_at_us: Option<u64>,
    claimed_at_us: Option<u64>,
    /// Steps announced without their times: their worker was killed, or they had nothing for it to do.
    untimed: usize,
    /// When the job's output came, µs, and the digest of its final state.
    done: Option<(u64, String)>,
}

impl Watch {
    fn after(former: Option<Name>) -> Self {
        Self { former, ..Self::default() }
    }

    fn take(&mut self, seen: &Seen) {
        match &seen.note {
            Note::CameraHead(head) if self.chain.is_none() && self.former.as_ref() != Some(&head.chain) => {
                self.chain = Some(head.chain.clone());
                self.head_at_us = Some(seen.at_us);
            }
            Note::Claim(note) if self.chain.as_ref() == Some(&note.chain) && note.claim.lease_ms > 0 => {
                self.claimed_at_us.get_or_insert(seen.at_us);
            }
            Note::Continuation(note) if self.chain.as_ref() == Some(&note.chain) => {
                let is_step = !note.again && note.head.version > note.parent.version;
                self.untimed += usize::from(is_step && note.timing.is_none());
            }
            Note::Done(done) if self.chain.as_ref() == Some(&done.chain) => {
                self.done = Some((seen.at_us, done.head.digest.short(16)));
            }
            _ => {}
        }
    }
}
