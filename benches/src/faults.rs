//! Faults in the middle of a step, and the time until the chain goes on.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use microlambda::Version;
use microlambda_demo::{ClaimSeen, Note, Seen, monotonic_us};
use microlambda_wire::Name;
use serde::Serialize;

use crate::random::Random;
use crate::{Error, GRACE_MS, Site, ms};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);
/// Steps looked through for the one that went on: so many cannot end before the first of them is seen.
const RECENT_STEPS: usize = 64;
/// A node's place in the queue of bidders costs this, ms: `SLOT_US` of edge agents.
const SLOT_MS: u64 = 40;
/// Pause between two attempts to connect to a broker that comes back.
const POLL: Duration = Duration::from_micros(500);

/// What happens to the site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The claiming node's agent gets SIGKILL.
    Agent,
    /// The claiming node's worker gets SIGKILL.
    Worker,
    /// The camera agent gets SIGKILL and is started again.
    Camera,
    /// mosquitto gets SIGKILL and is started again.
    Broker,
    /// The claiming node's agent and worker get SIGSTOP: no last will, no closed connection.
    Freeze,
}

impl Fault {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 5] = [Self::Agent, Self::Worker, Self::Camera, Self::Broker, Self::Freeze];

    /// For people: what is done.
    pub fn title(self) -> &'static str {
        match self {
            Self::Agent => "edge agent of the claim, SIGKILL",
            Self::Worker => "worker of the claim, SIGKILL",
            Self::Camera => "camera agent, SIGKILL and return",
            Self::Broker => "mosquitto, SIGKILL and return",
            Self::Freeze => "edge agent and worker of the claim, SIGSTOP",
        }
    }

    /// For people: between which instants the time is measured.
    pub fn measured(self) -> &'static str {
        match self {
            Self::Agent => "kill to a unit of the peer",
            Self::Worker => "kill to a unit anywhere",
            Self::Camera => "its head on the bus to a unit",
            Self::Broker => "its port open to a unit",
            Self::Freeze => "stop to a unit of the peer",
        }
    }

    /// How soon the next unit is to begin, ms.
    ///
    /// A node that stands still keeps its claim for the whole lease, `r_limit` + grace; only then does its peer claim the step,
    /// for which a placement slot is allowed.
    pub fn bound_ms(self, r_limit_ms: u64) -> f64 {
        let slot_ms = if self == Self::Freeze { SLOT_MS } else { 0 };
        (r_limit_ms + GRACE_MS + slot_ms) as f64
    }

    /// Whether the node of the claim can do nothing after it.
    fn silences_claimer(self) -> bool {
        matches!(self, Self::Agent | Self::Freeze)
    }
}

/// One fault and what followed.
#[derive(Debug, Clone, Serialize)]
pub struct Trial {
    /// What was done.
    pub fault: Fault,
    /// Which job of its series.
    pub job: usize,
    /// The node that held the claim.
    pub node: String,
    /// From the receipt of its claim to the fault, ms.
    pub into_step_ms: f64,
    /// From the kill to the return of camera or broker, ms.
    pub away_ms: f64,
    /// From the fault, or the return, to the first unit of the next step, ms.
    pub recovery_ms: f64,
    /// False if the claim turned out to be fulfilled already: the fault hit nobody's step.
    pub inside: bool,
}

/// Camera and broker return after at most this, µs: some outages end before any node has noticed, some after all have waited.
pub fn away_us_max(r_limit_ms: u64) -> u64 {
    2 * (r_limit_ms + GRACE_MS) * 1_000
}

/// When a fault happened, µs of the machine's monotonic clock.
struct Struck {
    at_us: u64,
    /// The recovery counts from here: the return, for what comes back.
    from_us: u64,
}

/// Waits for a claim and a random instant inside its step, strikes there, waits for the next step, and undoes the fault.
/// `None` if the step had ended before.
///
/// # Errors
/// The chain does not go on, or an agent ends that should run.
pub fn strike_once(
    site: &mut Site,
    fault: Fault,
    r_limit_ms: u64,
    random: &mut Random,
) -> Result<Option<Trial>, Error> {
    let mut claimed_at_us = 0;
    site.wait_for("claim", PATIENCE, |_, seen| {
        let claim = seen.filter(|seen| is_bid(seen));
        claimed_at_us = claim.map_or(0, |seen| seen.at_us);
        claim.is_some()
    })?;
    let (strike_at_us, away_us) =
        (claimed_at_us + random.below(r_limit_ms * 1_000), random.below(away_us_max(r_limit_ms)));
    site.listen_until(strike_at_us);
    let claim = site.tally.claim.clone();
    let Some(claim) = claim.filter(|claim| site.tally.front() <= claim.step) else { return Ok(None) };
    let struck = strike(site, fault, &claim.node, away_us)?;
    let mut evidence = Evidence::of(&claim, struck.at_us);
    let mut first_us = None;
    site.wait_for("step after the fault", PATIENCE, |site, seen| {
        evidence.take(seen);
        let steps = site.steps.iter().rev().take(RECENT_STEPS);
        let of_steps = steps.map(|step| (&step.node, step.timing.first_unit_at_us));
        let of_killed = seen.and_then(|seen| killed_step(seen, r_limit_ms));
        let went_on = |(node, at_us): &(&Name, u64)| {
            *at_us > struck.from_us && (!fault.silences_claimer() || **node != claim.node)
        };
        first_us = of_steps.chain(of_killed).filter(went_on).map(|(_, at_us)| at_us).min();
        first_us.is_some()
    })?;
    let trial = Trial {
        fault,
        job: 0,
        node: claim.node.to_string(),
        into_step_ms: ms(struck.at_us.saturating_sub(claim.at_us)),
        away_ms: ms(struck.from_us - struck.at_us),
        recovery_ms: ms(first_us.unwrap_or(struck.from_us) - struck.from_us),
        inside: evidence.inside(site, fault),
    };
    match fault {
        Fault::Agent => site.node(&claim.node)?.respawn()?,
        Fault::Freeze => site.node(&claim.node)?.thaw_all(),
        Fault::Worker | Fault::Camera | Fault::Broker => {}
    }
    Ok(Some(trial))
}

/// A bid that stands.
pub(crate) fn is_bid(seen: &Seen) -> bool {
    matches!(&seen.note, Note::Claim(note) if note.failed.is_none() && note.claim.lease_ms > 0)
}

/// A step whose worker was killed at its limit, and the latest instant at which its first unit can have begun, µs: it has no
/// times, but it had run for the whole limit, and what it had done by then is announced.
fn killed_step(seen: &Seen, r_limit_ms: u64) -> Option<(&Name, u64)> {
    match &seen.note {
        Note::Continuation(note) if !note.again && note.timing.is_none() && note.head.version > note.parent.version => {
            Some((&note.node, seen.at_us.saturating_sub(r_limit_ms * 1_000)))
        }
        _ => None,
    }
}

fn strike(site: &mut Site, fault: Fault, claimer: &Name, away_us: u64) -> Result<Struck, Error> {
    let at_us = match fault {
        Fault::Agent => site.node(claimer)?.kill(),
        Fault::Worker => site.node(claimer)?.kill_children(),
        Fault::Freeze => site.node(claimer)?.freeze_all(),
        Fault::Camera => site.camera()?.kill(),
        Fault::Broker => site.broker.process().ok_or("the broker is not ours")?.kill(),
    };
    let from_us = match fault {
        Fault::Agent | Fault::Worker | Fault::Freeze => at_us,
        Fault::Camera => {
            site.listen_until(at_us + away_us);
            let started_us = monotonic_us();
            site.camera()?.respawn()?;
            let mut heard_us = 0;
            site.wait_for("returned camera", PATIENCE, |_, seen| {
                let head = seen.filter(|seen| seen.at_us > started_us && matches!(seen.note, Note::CameraHead(_)));
                heard_us = head.map_or(0, |seen| seen.at_us);
                head.is_some()
            })?;
            heard_us
        }
        Fault::Broker => {
            site.listen_until(at_us + away_us);
            site.broker.process().ok_or("the broker is not ours")?.respawn()?;
            open_port(site)?
        }
    };
    Ok(Struck { at_us, from_us })
}

/// Waits until the broker accepts connections; when, µs.
fn open_port(site: &mut Site) -> Result<u64, Error> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if TcpStream::connect(site.broker.url().address()).is_ok() {
            return Ok(monotonic_us());
        }
        std::thread::sleep(POLL);
    }
    Err("mosquitto does not come back".into())
}

/// What the bus says of the step that was struck.
struct Evidence {
    node: Name,
    struck_us: u64,
    /// The newest claim that the node published before the fault.
    claimed: Version,
    /// The node announced a step that its worker did not end.
    broken_off: bool,
}

impl Evidence {
    fn of(claim: &ClaimSeen, struck_us: u64) -> Self {
        Self { node: claim.node.clone(), struck_us, claimed: claim.step, broken_off: false }
    }

    fn take(&mut self, seen: Option<&Seen>) {
        match seen.map(|seen| &seen.note) {
            Some(Note::Claim(note)) if note.claim.node == self.node.as_str() => {
                self.claimed = self.claimed.max(note.claim.step);
                self.broken_off |= note.failed.is_some();
            }
            Some(Note::Continuation(note)) if note.node == self.node => {
                self.broken_off |= !note.again && note.timing.is_none();
            }
            _ => {}
        }
    }

    /// Whether a step of the node was under way. Camera and broker have no step of their own.
    fn inside(&self, site: &Site, fault: Fault) -> bool {
        let own = site.steps.iter().rev().take(RECENT_STEPS).filter(|step| step.node == self.node);
        let before = own.filter(|step| step.timing.last_unit_at_us <= self.struck_us);
        match fault {
            Fault::Agent | Fault::Freeze => {
                before.map(|step| step.head.version).max().is_none_or(|ended| ended <= self.claimed)
            }
            Fault::Worker => self.broken_off,
            Fault::Camera | Fault::Broker => true,
        }
    }
}
