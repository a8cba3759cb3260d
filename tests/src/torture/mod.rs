//! The torture test: a whole site of real processes, and faults of every kind at random instants.
//!
//! Two cameras (a folder with an end, a stream without), three edge agents with dlib workers, and a real broker: mosquitto, or three
//! NATS servers. A seed draws the faults (`strike`); while they last the bus is only watched (`watch`). Then they stop, and
//! what every node's database holds must be what the same pictures come to undisturbed (`verdict`).

pub mod brokers;
pub mod fault;
pub mod ground;
mod pictures;
pub mod proxy;
mod report;
mod site;
mod spoil;
mod strike;
mod verdict;
mod watch;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use brokers::BrokerKind;
use fault::Fault;
use ground::Ground;
use site::{Plan, Site};
use strike::Torturer;
use verdict::{Findings, JobOutcome};

/// What goes wrong, for people.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Longer side of the job's pictures, px: a unit takes a fifth of the limit on a machine of two cores that does nothing else.
const JOB_SIDE_PX: u32 = 480;
/// Longer side of the live pictures, px.
const LIVE_SIDE_PX: u32 = 320;
/// Pictures that the live camera shows in turn.
const LIVE_PICTURES: usize = 12;
/// Pause between two live pictures, ms.
const LIVE_PAUSE_MS: u64 = 900;
/// A job has so many frames for each second of faults, so that it lasts about as long.
const JOB_FRAMES_PER_S: f64 = 2.5;
/// The undisturbed run takes less than this for each of its frames.
const FRAME_PATIENCE: Duration = Duration::from_secs(4);
/// The driver looks at its processes at least this often.
const LOOK: Duration = Duration::from_millis(250);

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Draws the faults.
    pub seed: u64,
    /// Which broker.
    pub broker: BrokerKind,
    /// How long faults are injected.
    pub faults: Duration,
    /// Which kinds; all that this version survives if empty.
    pub only: Vec<Fault>,
    /// Folder for logs, databases and reports.
    pub out: PathBuf,
}

/// Faults that are injected unless others are asked for.
pub fn usual_faults(ground: &Ground) -> Vec<Fault> {
    let possible = |fault: &Fault| match fault {
        Fault::CableOut => ground.networks.is_ok(),
        Fault::CableSlow => ground.shaping.is_ok(),
        // It goes unnoticed if the broker's word on the last head is lost and nodes are heard too late: see docs/guarantees.md.
        Fault::LiveSpoolOlder => false,
        _ => true,
    };
    Fault::ALL.into_iter().filter(possible).collect()
}

/// Tortures a site; the text of its report.
///
/// # Errors
/// What is wrong, with the seed and where the logs are.
pub fn run(options: &Options, ground: &Ground, stop: &AtomicBool) -> Result<String, Error> {
    let dir = options.out.join(format!("seed-{}", options.seed));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir)?;
    let dir = dir.canonicalize()?;
    let frames = (options.faults.as_secs_f64() * JOB_FRAMES_PER_S) as usize + 12;
    let (job, live) = (dir.join("job"), dir.join("pictures"));
    pictures::write(&job, frames, JOB_SIDE_PX)?;
    pictures::write(&live, LIVE_PICTURES, LIVE_SIDE_PX)?;
    let undisturbed = undisturbed(&dir, ground, &job, frames, stop)?;
    let mut site = Site::start(&Plan {
        ground,
        dir: &dir.join("site"),
        broker: options.broker,
        seed: options.seed,
        job: &job,
        live: Some((&live, LIVE_PAUSE_MS)),
        nodes: &["a", "b", "c"],
    })?;
    let faults = if options.only.is_empty() { usual_faults(ground) } else { options.only.clone() };
    let mut torturer = Torturer::new(options.seed, faults);
    let began = Instant::now();
    let outcome = torture(&mut site, &mut torturer, options.faults, &undisturbed, stop);
    let outcome = outcome.map_err(|error| error.to_string());
    let report = report::Report {
        seed: options.seed,
        broker: options.broker,
        faults_s: options.faults.as_secs(),
        began,
        ground,
        job_frames: frames,
        outcome: &outcome,
    };
    let report = report.json(&site, &torturer);
    report::write(&dir, &report)?;
    let text = report::text(&report);
    if let Err(why) = outcome {
        site.keep_states();
        return Err(format!(
            "{text}\nseed {} failed: {why}\nlogs, databases and report: {}",
            options.seed,
            dir.display()
        )
        .into());
    }
    drop(site);
    // What went well need not be looked at.
    for folder in ["job", "pictures", "site", "undisturbed"] {
        let _ = fs::remove_dir_all(dir.join(folder));
    }
    Ok(text)
}

/// What the job comes to on one node without a fault.
fn undisturbed(dir: &Path, ground: &Ground, job: &Path, frames: usize, stop: &AtomicBool) -> Result<JobOutcome, Error> {
    let mut site = Site::start(&Plan {
        ground,
        dir: &dir.join("undisturbed"),
        broker: BrokerKind::Mosquitto,
        seed: 0,
        job,
        live: None,
        nodes: &["long"],
    })?;
    let until = Instant::now() + FRAME_PATIENCE * frames as u32 + Duration::from_secs(20);
    let node = site.nodes()[0];
    loop {
        site.watch.listen(LOOK);
        site.supervise()?;
        if let Some(outcome) = verdict::held(&site, node).ok().and_then(|held| held.job()) {
            site.stop()?;
            return Ok(outcome);
        }
        if Instant::now() > until || stop.load(Ordering::Relaxed) {
            return Err(format!("the undisturbed run does not end; logs: {}", dir.display()).into());
        }
    }
}

fn torture(
    site: &mut Site,
    torturer: &mut Torturer,
    faults: Duration,
    undisturbed: &JobOutcome,
    stop: &AtomicBool,
) -> Result<Findings, Error> {
    for member in &site.members {
        member.proxy.behave(strike::usual_manners);
    }
    let until = Instant::now() + faults;
    while Instant::now() < until {
        let wake = torturer.work(site)?;
        site.watch.listen_until(wake.min(Instant::now() + LOOK).min(until));
        site.supervise()?;
        if stop.load(Ordering::Relaxed) {
            return Err("interrupted".into());
        }
    }
    torturer.end(site)?;
    fs::remove_file(&site.live_go)?;
    let calm = Instant::now();
    let (_, findings) = verdict::wait_for_calm(site, calm)?;
    // One that was never hurt: it takes every record from its peers, folds them itself, and must come to the same.
    site.add_node("fresh")?;
    let (held, _) = verdict::wait_for_calm(site, Instant::now())?;
    let live = site.watch.live_chain.as_ref().map(ToString::to_string);
    if live.as_ref().is_some_and(|chain| torturer.given_up.contains(chain)) {
        return Err(format!("the live camera used numbers of {live:?} twice and did not notice").into());
    }
    site.stop()?;
    verdict::judge(site, &held, undisturbed)?;
    Ok(findings)
}
