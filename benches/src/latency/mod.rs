//! What splitting buys: how long a live picture waits beside a batch, what a crash loses, and how soon a node is free.
//!
//! The same agents under limits and without one: [`UNLIMITED_MS`] makes a batch one long invocation.

pub mod drain;
pub mod live;
pub mod lost;

use std::path::{Path, PathBuf};
use std::time::Duration;

use microlambda::{Claim, Version};
use microlambda_demo::{Note, Seen};
use microlambda_wire::Name;

use crate::faults::is_bid;
use crate::figure::line::UNLIMITED_MS;
use crate::pictures::{self, Motif};
use crate::random::Random;
use crate::{Error, Site, StepSeen, ms};

/// Size of all pictures, px: a search is one unit.
pub const SIZE_PX: (u32, u32) = (640, 480);
/// A job is struck within so long of its first claim, ms: it is to be longer.
pub const STRUCK_MS: u64 = 3_000;
/// Longest wait for anything but a job's end.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest wait for a job's end.
const JOB_PATIENCE: Duration = Duration::from_secs(300);
/// Pictures from which what a unit takes is taken.
const SAMPLE: usize = 100;
/// The limit under which the worker's time is told picture by picture, or nearly so, ms: so long that what splitting costs is small beside it.
const TOLD_LIMIT_MS: u64 = 300;
/// … and so many units they are at most: now and then a face is seen where there is none, and its encoding is a small unit more.
const UNITS_OF_A_PICTURE_MAX: f64 = 1.1;

/// For people: what a batch is run under.
pub fn title(r_limit_ms: u64) -> String {
    if r_limit_ms == UNLIMITED_MS { "one long invocation".into() } else { format!("µλ, `r_limit` {r_limit_ms} ms") }
}

/// A job of pictures that are one unit each, their search, and what such a unit takes.
#[derive(Debug)]
pub struct Work {
    pictures: Vec<Vec<u8>>,
    /// From one unit's beginning to the next one's, in the mean of an undisturbed run, ms.
    pub unit_ms: f64,
    /// Time of the worker on a core for it, ms.
    pub unit_cpu_ms: f64,
    /// Where an undisturbed run under [`TOLD_LIMIT_MS`] was by and by; the first is its start, the last its end.
    course: Vec<Place>,
}

/// A place of the job that the worker has come to, and its time on a core by then, µs.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Pictures.
    searched: u64,
    cpu_us: u64,
}

impl Place {
    /// The places that steps have announced, in their order.
    fn announced(site: &Site) -> impl Iterator<Item = Self> {
        let place = |step: &StepSeen| Self { searched: searched(step.head.version), cpu_us: step.timing.worker_cpu_us };
        site.steps.iter().map(place)
    }
}

impl Work {
    /// Makes so many pictures, and runs the first of them undisturbed.
    ///
    /// # Errors
    /// A photo is missing, or a site fails.
    pub fn of(count: usize) -> Result<Self, Error> {
        let pictures = pictures::make(Motif::Faceless, count, SIZE_PX.0, SIZE_PX.1)?;
        let node = Name::new("a")?;
        let mut site = Site::new()?;
        let sample = &pictures[..count.min(SAMPLE)];
        let folder = site.prepare(sample, &[node.as_str()], UNLIMITED_MS, "stay")?;
        let cpu_before_us = site.worker_cpu_us(&node)?;
        site.show("camera", &folder)?;
        site.wait_for("end of the undisturbed job", JOB_PATIENCE, |site, _| site.tally.done.is_some())?;
        let timings = || site.steps.iter().map(|step| step.timing);
        let units: u32 = timings().map(|timing| timing.units).sum();
        if f64::from(units) > UNITS_OF_A_PICTURE_MAX * sample.len() as f64 {
            return Err(format!("{} pictures are {units} units: each is to be one", sample.len()).into());
        }
        let ran_us: u64 = timings().map(|timing| timing.last_unit_at_us - timing.first_unit_at_us).sum();
        let cpu_us = timings().map(|timing| timing.worker_cpu_us).max().unwrap_or(0);
        let unit = |us: u64| ms(us) / sample.len() as f64;
        let (unit_ms, unit_cpu_ms) = (unit(ran_us), unit(cpu_us.saturating_sub(cpu_before_us)));
        Ok(Self { unit_ms, unit_cpu_ms, course: course(&pictures)?, pictures })
    }

    /// What the undisturbed run's worker spent on the pictures from one on up to another, ms.
    fn cpu_ms(&self, from: u64, to: u64) -> f64 {
        (self.cpu_us_by(to) - self.cpu_us_by(from)) / 1_000.0
    }

    /// By so many pictures. Between two places of which it was told, pictures cost alike.
    fn cpu_us_by(&self, pictures: u64) -> f64 {
        let next = self.course.partition_point(|place| place.searched < pictures).clamp(1, self.course.len() - 1);
        let (a, b) = (self.course[next - 1], self.course[next]);
        let part = (pictures - a.searched) as f64 / (b.searched - a.searched) as f64;
        a.cpu_us as f64 + part * (b.cpu_us - a.cpu_us) as f64
    }

    /// A site on which these nodes wait for the job, none of which works ahead of another's step.
    fn site(&self, nodes: &[&str], r_limit_ms: u64) -> Result<(Site, PathBuf), Error> {
        let mut site = Site::new()?;
        site.fan_out = false;
        let folder = site.prepare(&self.pictures, nodes, r_limit_ms, "stay")?;
        Ok((site, folder))
    }

    /// Lets the nodes of a fresh site begin with the job, and waits for a random instant in it; the first claim came at the one returned, µs.
    fn begin(&self, site: &mut Site, folder: &Path, random: &mut Random) -> Result<u64, Error> {
        site.show("camera", folder)?;
        let mut claimed_at_us = 0;
        site.wait_for("claim", PATIENCE, |_, seen| {
            let claim = claim_of(seen);
            claimed_at_us = claim.map_or(0, |(_, at_us)| at_us);
            claim.is_some()
        })?;
        site.listen_until(claimed_at_us + random.below(STRUCK_MS * 1_000));
        if site.tally.done.is_some() {
            return Err("the job was done before it was struck: give more --struck-images".into());
        }
        Ok(claimed_at_us)
    }
}

/// Runs these pictures undisturbed on a fresh site, and says where the worker was by and by.
fn course(pictures: &[Vec<u8>]) -> Result<Vec<Place>, Error> {
    let node = Name::new("a")?;
    let mut site = Site::new()?;
    let folder = site.prepare(pictures, &[node.as_str()], TOLD_LIMIT_MS, "stay")?;
    let mut course = vec![Place { searched: 0, cpu_us: site.worker_cpu_us(&node)? }];
    site.show("camera", &folder)?;
    site.wait_for("end of the undisturbed job", JOB_PATIENCE, |site, _| site.tally.done.is_some())?;
    for place in Place::announced(&site) {
        // The last step may have no picture left, only the end.
        if course.last().is_some_and(|last| last.searched < place.searched) {
            course.push(place);
        }
    }
    if course.len() < 2 { Err("the undisturbed job has no step".into()) } else { Ok(course) }
}

/// Pictures that are searched at this state.
fn searched(at: Version) -> u64 {
    at.sequence + u64::from(at.unit > 0)
}

/// A claim that stands, if the message is one, and when it came, µs.
fn claim_of(seen: Option<&Seen>) -> Option<(&Claim, u64)> {
    let seen = seen.filter(|seen| is_bid(seen))?;
    let Note::Claim(note) = &seen.note else { return None };
    Some((&note.claim, seen.at_us))
}
