//! Crashes at random instants: how much of a worker's time has to be spent again.

use microlambda_demo::monotonic_us;
use microlambda_wire::Name;
use serde::Serialize;

use super::{PATIENCE, Place, Work, claim_of, searched};
use crate::random::Random;
use crate::{Error, Site, ms};

/// What was published before a node stood still is heard within this time, µs.
const ON_ITS_WAY_US: u64 = 20_000;

/// What gets SIGKILL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Victim {
    /// Edge agent and worker.
    Node,
    /// The worker alone.
    Worker,
}

impl Victim {
    /// Both, in the order of the report.
    pub const ALL: [Self; 2] = [Self::Node, Self::Worker];

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Node => "edge agent and worker",
            Self::Worker => "worker",
        }
    }
}

/// One crash.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Crash {
    /// From the job's first claim to the kill, ms.
    pub into_ms: f64,
    /// Time that the worker had spent on what was not there when the chain went on, ms. What was kept and not announced before the kill is
    /// taken to have cost what it cost in an undisturbed run.
    pub lost_ms: f64,
    /// Pictures whose search was there then.
    pub kept: u64,
}

/// Strikes one node inside a job.
///
/// # Errors
/// What a site can give.
pub fn crash(work: &Work, r_limit_ms: u64, victim: Victim, random: &mut Random) -> Result<Crash, Error> {
    let node = Name::new("a")?;
    let (mut site, folder) = work.site(&[node.as_str()], r_limit_ms)?;
    let start = Place { searched: 0, cpu_us: site.worker_cpu_us(&node)? };
    let begun_us = work.begin(&mut site, &folder, random)?;
    let into_ms = ms(monotonic_us() - begun_us);
    let (cpu_us, kept) = strike(&mut site, &node, victim)?;
    let known = known(&site, kept).unwrap_or(start);
    let kept_ms = work.cpu_ms(known.searched, kept);
    let crash = Crash { into_ms, lost_ms: ms(cpu_us.saturating_sub(known.cpu_us)) - kept_ms, kept };
    eprintln!("{} of {}: {crash:?}", victim.title(), super::title(r_limit_ms));
    Ok(crash)
}

/// Kills; says how long the worker had had a core, µs, and how many pictures need not be searched again.
fn strike(site: &mut Site, node: &Name, victim: Victim) -> Result<(u64, u64), Error> {
    // While both stand still, what the worker has used is exact.
    site.node(node)?.freeze_all();
    let cpu_us = site.worker_cpu_us(node)?;
    site.listen_until(monotonic_us() + ON_ITS_WAY_US);
    let agent = site.node(node)?;
    agent.kill_children();
    match victim {
        Victim::Node => {
            agent.kill();
            agent.respawn()?;
        }
        Victim::Worker => agent.thaw(),
    }
    let mut kept = 0;
    site.wait_for("claim after the crash", PATIENCE, |_, seen| {
        let claim = claim_of(seen);
        kept = claim.map_or(0, |(claim, _)| searched(claim.step));
        claim.is_some()
    })?;
    Ok((cpu_us, kept))
}

/// The last place with at most so many pictures searched of which the worker's time was announced.
fn known(site: &Site, pictures: u64) -> Option<Place> {
    Place::announced(site).filter(|place| place.searched <= pictures).max_by_key(|place| place.searched)
}
