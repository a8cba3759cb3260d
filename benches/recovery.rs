//! The claiming edge agent is killed at random instants inside its steps: when does a peer go on, and is the result the same?

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use microlambda::Version;
use microlambda_benches::pictures::{self, Motif};
use microlambda_benches::report::{Aim, Finding, publish, table};
use microlambda_benches::stats::Stats;
use microlambda_benches::{Common, Error, GRACE_MS, Machine, Outcome, Site, exit, ms};
use microlambda_demo::{Note, Seen, monotonic_us};
use microlambda_wire::Name;
use serde::Serialize;

/// Size of the pictures, px: a search takes a tenth of a second, so that a step is two or three units.
const SIZE_PX: (u32, u32) = (480, 360);
/// The nodes; one of them is always there.
const NODES: [&str; 2] = ["a", "b"];
/// The limit of the run that nothing interrupts, ms.
const LONG_MS: u64 = 3_600_000;
/// No node is killed when so few frames are left: the job could end without a peer's step.
const FRAMES_LEFT_MIN: u64 = 8;
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Kills the node that holds the claim inside its step, again and again, and measures until a peer's next unit begins.
#[derive(Debug, Parser)]
#[command(name = "recovery")]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Kills that count: those inside a step
    #[arg(long, value_name = "N", default_value_t = 100)]
    kills: usize,
    /// Frames of the folder; it is played again until there were enough kills
    #[arg(long, value_name = "N", default_value_t = 400)]
    frames: usize,
    /// Limit of a step, ms
    #[arg(long, value_name = "N", default_value_t = 300)]
    r_limit_ms: u64,
    /// Seed of the random instants
    #[arg(long, value_name = "N", default_value_t = 20_260_101)]
    seed: u64,
}

/// One kill.
#[derive(Debug, Clone, Serialize)]
struct Kill {
    job: usize,
    node: String,
    /// From the receipt of its claim to the kill, ms.
    into_step_ms: f64,
    /// From the kill to the first unit of a peer's step, ms.
    recovery_ms: f64,
    /// False if its claim turned out to be fulfilled already: a kill between two steps.
    inside: bool,
}

/// SplitMix64 (Steele, Lea and Flood 2014): small, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound.max(1)
    }
}

fn main() -> ExitCode {
    exit(run(&Args::parse()))
}

fn run(args: &Args) -> Result<(), Error> {
    let machine = Machine::here();
    println!("seed {}", args.seed);
    let pictures = pictures::make(Motif::Scenes, args.frames, SIZE_PX.0, SIZE_PX.1)?;
    let mut random = Random(args.seed);
    let (mut kills, mut outcomes) = (Vec::new(), Vec::new());
    while kills.iter().filter(|kill: &&Kill| kill.inside).count() < args.kills {
        let before = kills.len();
        outcomes.push(job(args, &pictures, outcomes.len() + 1, &mut random, &mut kills)?);
        if kills.len() == before {
            return Err("a whole job passed without a kill: give more --frames".into());
        }
    }
    let long = long_run(&pictures)?;
    let same = outcomes.iter().filter(|outcome| **outcome == long).count();
    let bound_ms = (args.r_limit_ms + GRACE_MS) as f64;
    let inside: Vec<&Kill> = kills.iter().filter(|kill| kill.inside).collect();
    let stats = Stats::of(inside.iter().map(|kill| kill.recovery_ms)).ok_or("no kill was inside a step")?;
    let late = inside.iter().filter(|kill| kill.recovery_ms > bound_ms).count();
    let aims = [
        Aim {
            aim: format!("a peer's first unit within `r_limit` + grace = {bound_ms:.0} ms of the kill"),
            measured: format!("{late} of {} later, the latest after {:.0} ms", inside.len(), stats.max),
            met: late == 0,
        },
        Aim {
            aim: "digest and events as in one long run".into(),
            measured: format!("{same} of {} jobs, {} events each", outcomes.len(), long.events.len()),
            met: same == outcomes.len(),
        },
    ];
    let between = kills.len() - inside.len();
    let figures = serde_json::json!({
        "seed": args.seed, "bound_ms": bound_ms, "recovery_ms": stats, "late": late, "kills": kills, "jobs": outcomes.len(),
        "digest": long.digest.to_string(), "jobs_like_the_long_run": same, "events": long.events.len(), "aims": aims,
    });
    let text = text(args, stats, inside.len(), between, outcomes.len(), bound_ms, &aims);
    publish(&args.common, &Finding { name: "recovery", text, figures: &figures, machine: &machine })
}

fn text(args: &Args, stats: Stats, inside: usize, between: usize, jobs: usize, bound_ms: f64, aims: &[Aim]) -> String {
    let header = ["kills", "p50, ms", "p99, ms", "largest, ms", "`r_limit` + grace, ms"];
    let figures = [stats.p50, stats.p99, stats.max, bound_ms].map(|ms| format!("{ms:.0}"));
    let row: Vec<String> = [inside.to_string()].into_iter().chain(figures).collect();
    format!(
        "Two nodes with placement *spread* and `r_limit` {} ms work on {} pictures of {}×{} px over mosquitto. The node that holds the claim\n\
         gets SIGKILL at a random instant after its claim (seed {}) and is started again once its peer has gone on; so on through {jobs} jobs\n\
         over the same folder. Time from the kill to the first unit of the peer's step. A kill that fell between two steps ({between}) is\n\
         not counted.\n\n{}\n{}",
        args.r_limit_ms,
        args.frames,
        SIZE_PX.0,
        SIZE_PX.1,
        args.seed,
        table(&header, &[row]),
        Aim::list(aims),
    )
}

/// One job over the folder, with kills until there were enough or too few frames are left.
fn job(
    args: &Args,
    pictures: &[Vec<u8>],
    number: usize,
    random: &mut Random,
    kills: &mut Vec<Kill>,
) -> Result<Outcome, Error> {
    let mut site = Site::new()?;
    let folder = site.folder("pictures");
    pictures::write(&folder, pictures)?;
    site.play(&folder)?;
    for node in NODES {
        site.start_node(node, args.r_limit_ms, "spread")?;
    }
    let mut starts = NODES.map(|_| 1);
    let frames = pictures.len() as u64;
    while kills.iter().filter(|kill| kill.inside).count() < args.kills {
        for (node, times) in NODES.iter().zip(starts) {
            site.wait_ready(&Name::new(*node)?, times)?;
        }
        if site.tally.front().sequence + FRAMES_LEFT_MIN >= frames {
            break;
        }
        let Some(kill) = kill_once(&mut site, args, number, random)? else { continue };
        site.node(&Name::new(kill.node.as_str())?)?.respawn()?;
        for (node, times) in NODES.iter().zip(&mut starts) {
            *times += usize::from(*node == kill.node);
        }
        let verdict = if kill.inside { "" } else { " (between two steps: not counted)" };
        eprintln!("job {number}, kill {}: {} after {:.0} ms{verdict}", kills.len() + 1, kill.node, kill.recovery_ms);
        kills.push(kill);
    }
    site.outcome(Duration::from_secs(600))
}

/// Waits for a claim and a random instant inside its step, kills the claimer, and waits for its peer's next step.
fn kill_once(site: &mut Site, args: &Args, job: usize, random: &mut Random) -> Result<Option<Kill>, Error> {
    let mut claimed_at_us = 0;
    site.wait_for("claim", PATIENCE, |_, seen| {
        let claim = seen.and_then(claim_of);
        claimed_at_us = claim.map_or(0, |(_, at_us)| at_us);
        claim.is_some()
    })?;
    let kill_at_us = claimed_at_us + random.below(args.r_limit_ms * 1_000);
    loop {
        // The instant itself is what is random: the wait for it takes what the bus says meanwhile.
        let left_us = kill_at_us.saturating_sub(monotonic_us());
        if left_us == 0 {
            break;
        }
        site.next(Duration::from_micros(left_us));
    }
    let claim = site.tally.claim.clone();
    let Some(claim) = claim.filter(|claim| site.tally.front() <= claim.step) else { return Ok(None) };
    let killed_at_us = site.node(&claim.node)?.kill();
    let mut newest_claim: Version = claim.step;
    let mut recovery_us = None;
    let killed = claim.node.clone();
    site.wait_for("peer's step", PATIENCE, |site, seen| {
        if let Some(Note::Claim(note)) = seen.map(|seen| &seen.note)
            && note.claim.node == killed.as_str()
        {
            newest_claim = newest_claim.max(note.claim.step);
        }
        let peers = site.steps.iter().rev().take(64).filter(|step| step.node != killed);
        let first_us = peers.map(|step| step.timing.first_unit_at_us).filter(|&at_us| at_us > killed_at_us).min();
        recovery_us = first_us.map(|at_us| at_us - killed_at_us);
        recovery_us.is_some()
    })?;
    let done = site.steps.iter().rev().take(64).filter(|step| step.node == killed).map(|step| step.head.version).max();
    Ok(Some(Kill {
        job,
        node: killed.to_string(),
        into_step_ms: ms(killed_at_us.saturating_sub(claim.at_us)),
        recovery_ms: ms(recovery_us.unwrap_or(0)),
        inside: done.is_none_or(|done| done <= newest_claim),
    }))
}

/// A bid that stands, and when it was seen.
fn claim_of(seen: &Seen) -> Option<(Version, u64)> {
    match &seen.note {
        Note::Claim(note) if note.failed.is_none() && note.claim.lease_ms > 0 => Some((note.claim.step, seen.at_us)),
        _ => None,
    }
}

/// The same folder on one node that is never interrupted.
fn long_run(pictures: &[Vec<u8>]) -> Result<Outcome, Error> {
    eprintln!("one long run over the same pictures");
    let mut site = Site::new()?;
    let folder = site.folder("pictures");
    pictures::write(&folder, pictures)?;
    site.play(&folder)?;
    site.start_node("long", LONG_MS, "stay")?;
    site.outcome(Duration::from_secs(1_200))
}
