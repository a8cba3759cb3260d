//! The demo from its first process to its last line.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use microlambda_runtime::{counted, printable};
use microlambda_wire::{CameraHead, Name};

use crate::agent::covered;
use crate::job::{Job, JobContext, Kill, Limits, ms};
use crate::leftovers::{OutLock, RunDir};
use crate::options::{DemoArgs, Plan};
use crate::outcome::{Outcome, conclude, digest_problem, problems};
use crate::show::say;
use crate::stillness::Stillness;
use crate::summary::{KnownFace, Person, SetAside, Summary};
use crate::tally::Tally;
use crate::{Broker, BrokerKind, CameraSetup, EdgeSetup, Error, Programs, Rig, Walls, sheet, show};

/// What a lease allows beyond the limit, ms: the agents' own default.
pub(crate) const GRACE_MS: u64 = 500;
/// Heads are announced again after this time, ms.
pub(crate) const ANNOUNCE_MS: u64 = 2_000;
/// A limit that no job of the demo reaches, ms: an hour.
const UNLIMITED_MS: u64 = 3_600_000;
/// A camera that has taken in nothing for so long while it holds frames has a full spool: its heads come within 0.1 s,
/// and a photo, encoded anew if it must be, takes less. Where one takes longer, the long run is only cut once more.
const CAMERA_PATIENCE: Duration = Duration::from_secs(5);
/// Nodes that find a unit too long for their limit try it again every 8 s and expect less each time: after so long it does not fit.
const TOO_SLOW_PATIENCE: Duration = Duration::from_secs(60);
/// What the two runs are called.
const SHORT_STEPS: &str = "short steps";
const LONG_RUN: &str = "long run";
/// What a run leaves in its output folder.
const SUMMARY: &str = "summary.json";
const SHEET: &str = "faces.html";

/// Runs the demo and writes `summary.json` and `faces.html`.
///
/// # Errors
/// [`Error`]: what is missing, what did not happen, or what the result has wrong. Everything that was started is ended.
pub fn run(args: &DemoArgs) -> Result<(), Error> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The second time ends the program at once, should the first be stuck.
        let twice = signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&interrupted));
        twice
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&interrupted)))
            .map_err(|e| Error::file(Path::new("signal handler"), e))?;
    }
    // A terminal sends Ctrl-C to everything that was started as well: what follows from its end is no failure.
    run_until(args, &interrupted)
        .map_err(|error| if interrupted.load(Ordering::Relaxed) { Error::Interrupted } else { error })
}

fn run_until(args: &DemoArgs, interrupted: &AtomicBool) -> Result<(), Error> {
    let plan = Plan::new(args, Programs::find()?)?;
    let _lock = OutLock::take(&plan.out)?;
    remove_results(&plan.out)?;
    let (dir, ended) = RunDir::renew(&plan.out.join("run"))?;
    if ended > 0 {
        let processes = if ended == 1 { "1 process".into() } else { format!("{ended} processes") };
        say!("{}", show::deed(&format!("still there of a former run, and ended: {processes}")));
    }
    let broker = match &plan.broker {
        Some(url) => Broker::external(url)?,
        None => Broker::embedded(&plan.programs, &dir.path().join("broker"), plan.port)?,
    };
    let rig = rig(&plan, &dir, &broker)?;
    greet(&plan, &broker, &rig);
    let timeout = patience(plan.timeout, plan.r_limit_ms);
    // Each node is to be killed twice at least: the first time may be the computer's fault.
    let too_slow_after = patience(TOO_SLOW_PATIENCE, 2 * plan.r_limit_ms);
    let context = JobContext { rig: &rig, broker: &broker, dir: &dir, interrupted, timeout, too_slow_after };

    say!("\n{}", show::heading("The job in short steps"));
    let outcome = short_steps(&plan, context)?;
    something_usable(&plan, &outcome)?;
    say!("\n{}", show::heading("The same photos in one long run, on an empty database"));
    // Its only step says nothing until it ends: about as long as all the short ones together took, on one node.
    let timeout = timeout.max(Duration::from_secs_f64(outcome.wall_s * 4.0));
    let (long, in_parts) = long_run(&plan, JobContext { timeout, ..context })?;

    let summary = summarise(&plan, &rig, &broker, &outcome, (&long, in_parts));
    write_results(&plan, &summary, &outcome.tally)?;
    finish(&plan, &summary)
}

/// Results of a former run must not pass for those of one that fails.
fn remove_results(out: &Path) -> Result<(), Error> {
    for path in [SUMMARY, SHEET].map(|name| out.join(name)) {
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::file(&path, e)),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn rig(plan: &Plan, dir: &RunDir, broker: &Broker) -> Result<Rig, Error> {
    let private = vec![plan.data.clone(), plan.photos.clone()];
    let cover = covered(dir.path(), &private);
    let keep = [plan.photos.clone(), plan.models.clone()];
    Ok(Rig {
        walls: Walls::around(plan.isolation, &plan.programs, dir.path(), broker.url(), &cover, &keep)?,
        programs: plan.programs.clone(),
        dir: dir.path().to_path_buf(),
        broker: broker.url().clone(),
        private,
    })
}

/// How long nothing may go on in the short steps: a node that is gone may leave a claim, and the step that follows says
/// nothing until it ends.
fn patience(timeout: Duration, r_limit_ms: u64) -> Duration {
    timeout.max(Duration::from_millis(2 * (r_limit_ms + GRACE_MS)))
}

/// A job over nothing would agree with every other one.
fn something_usable(plan: &Plan, outcome: &Outcome) -> Result<(), Error> {
    let usable = outcome.tally.done.as_ref().map_or(0, |done| done.frames.saturating_sub(done.unreadable));
    if usable > 0 {
        return Ok(());
    }
    let mut why: Vec<String> = outcome.passed_over_why.iter().map(printable).collect();
    let frames = outcome.tally.done.as_ref().map_or(0, |done| done.unreadable);
    if frames > 0 {
        why.push(format!("{} could be numbered, but not decoded", counted(frames, "picture")));
        why.extend(outcome.unreadable_why.iter().map(printable));
    }
    Err(Error::NothingUsable { path: plan.photos.clone(), photos: counted(plan.photos_len, "photo"), why })
}

fn greet(plan: &Plan, broker: &Broker, rig: &Rig) {
    let nodes = counted(plan.nodes.into(), "edge node");
    say!(
        "{} of {} on a camera, {nodes}, r_limit {} ms, {} broker at {}",
        counted(plan.photos_len, "photo"),
        printable(plan.photos.display()),
        plan.r_limit_ms,
        broker.kind(),
        broker.url()
    );
    if !plan.left_out.is_empty() {
        say!("{}", show::bad(&format!("! {}", plan.left_out)));
    }
    say!("kept apart: {}", rig.walls);
    say!("logs and databases: {}", rig.dir.display());
}

/// Topics on somebody else's broker may hold what a former run left there: each run is a site of its own then.
fn site(plan: &Plan, suffix: &str) -> Result<Name, Error> {
    let run = if plan.broker.is_some() { format!("-{:x}", crate::monotonic_us()) } else { String::new() };
    name(&format!("demo{run}{suffix}"))
}

fn name(text: &str) -> Result<Name, Error> {
    Name::new(text).map_err(|e| Error::Wrong(e.to_string()))
}

/// Clears, when all agents of a job are gone, what they had left on a broker that stays.
struct Sweep<'a> {
    broker: &'a Broker,
    site: Name,
}

impl Drop for Sweep<'_> {
    fn drop(&mut self) {
        if self.broker.kind() == BrokerKind::External {
            self.broker.clear_retained(&self.site);
        }
    }
}

fn camera_setup(plan: &Plan, site: &Name) -> Result<CameraSetup, Error> {
    // By default a phone's picture passes as it is.
    let frame = toml::Table::from_iter([("bytes-max".to_owned(), i64::from(plan.frame_bytes_max).into())]);
    Ok(CameraSetup {
        site: site.clone(),
        camera: name("folder")?,
        photos: plan.photos.clone(),
        exit_when_done: true,
        extra: toml::Table::from_iter([("frame".to_owned(), frame.into())]),
    })
}

fn edge_setup(plan: &Plan, site: &Name, node: &Name, r_limit_ms: u64) -> EdgeSetup {
    EdgeSetup {
        site: site.clone(),
        node: node.clone(),
        models: plan.models.clone(),
        r_limit_ms,
        placement: "spread".into(),
        announce_ms: ANNOUNCE_MS,
        grace_ms: GRACE_MS,
        // The chain is to be seen: each step on the worker of the node that claims it, one after the other.
        extra: toml::Table::from_iter([("chain".to_owned(), fan_out(false).into())]),
    }
}

fn fan_out(on: bool) -> toml::Table {
    toml::Table::from_iter([("fan-out".to_owned(), on.into())])
}

fn short_steps(plan: &Plan, context: JobContext<'_>) -> Result<Outcome, Error> {
    let JobContext { rig, broker, .. } = context;
    let site = site(plan, "")?;
    let _sweep = Sweep { broker, site: site.clone() };
    let observer = broker.observe(&site)?;
    let begun = Instant::now();
    let camera = rig.camera("camera", &camera_setup(plan, &site)?)?;
    let mut job = Job::new(observer, camera, context, true)?;
    for letter in ('a'..='z').take(plan.nodes.into()) {
        let node = name(&format!("node-{letter}"))?;
        let agent = rig.edge(node.as_str(), &edge_setup(plan, &site, &node, plan.r_limit_ms))?;
        job.join(node, agent)?;
    }
    let kill = if plan.kill { Kill::Waiting(plan.photos_len.div_ceil(2)) } else { Kill::Off };
    let limits = Limits { r_limit_ms: plan.r_limit_ms, grace_ms: GRACE_MS };
    let (digest, kill) = job.run(kill, limits)?;
    conclude(job, digest.to_string(), kill, begun)
}

/// One node whose limit is never reached. It starts when the spool is complete, so that nothing interrupts its step. A
/// spool that is full before does not become complete by itself: then the node starts as well, and makes room with each
/// of its commits. Says whether its run took several steps for that.
fn long_run(plan: &Plan, context: JobContext<'_>) -> Result<(Outcome, bool), Error> {
    let JobContext { rig, broker, .. } = context;
    let site = site(plan, "-long")?;
    let _sweep = Sweep { broker, site: site.clone() };
    let observer = broker.observe(&site)?;
    let camera = rig.camera("long-camera", &camera_setup(plan, &site)?)?;
    let mut job = Job::new(observer, camera, context, true)?;
    job.named = None;
    let mut still = Stillness::new(CAMERA_PATIENCE);
    job.watch("the camera to read all photos", |job, _| {
        Ok(takes_no_more(job.tally.camera.as_ref(), &mut still, Instant::now()))
    })?;
    let is_whole = job.tally.camera.as_ref().is_some_and(|head| head.end.is_some());
    if !is_whole {
        let idle_s = CAMERA_PATIENCE.as_secs();
        let text = format!(
            "the camera has taken in nothing for {idle_s} s, so that its spool seems full: the long run begins before \
             all photos are read, and makes room with the end of each step"
        );
        say!("{}", show::deed(&text));
    }
    let begun = Instant::now();
    let node = name("long")?;
    let agent = rig.edge("long-node", &edge_setup(plan, &site, &node, UNLIMITED_MS))?;
    job.join(node, agent)?;
    let limits = Limits { r_limit_ms: UNLIMITED_MS, grace_ms: GRACE_MS };
    let (digest, kill) = job.run(Kill::Off, limits)?;
    let outcome = conclude(job, digest.to_string(), kill, begun)?;
    let in_parts = !is_whole && outcome.tally.steps.len() > 1;
    Ok((outcome, in_parts))
}

/// Whether a camera without nodes has come as far as it can: its input has ended, or it holds frames and takes in no
/// more.
fn takes_no_more(camera: Option<&CameraHead>, still: &mut Stillness, now: Instant) -> bool {
    camera.is_some_and(|head| head.end.is_some() || (head.next > head.oldest && still.look(head.next, now)))
}

fn summarise(plan: &Plan, rig: &Rig, broker: &Broker, outcome: &Outcome, long: (&Outcome, bool)) -> Summary {
    let (long, long_run_in_parts) = long;
    let tally = &outcome.tally;
    let mut problems = problems(outcome, SHORT_STEPS);
    problems.extend(self::problems(long, LONG_RUN));
    problems.extend(digest_problem(outcome, long));
    let kill = match &outcome.kill {
        Kill::Back(recovery) => recovery.clone(),
        _ => None,
    };
    let done = tally.done.as_ref();
    let order: Vec<&str> = done.map(|done| done.people.iter().map(Name::as_str).collect()).unwrap_or_default();
    let list = outcome.lists.first().map(|(_, list)| list.as_slice()).unwrap_or_default();
    let mut known: Vec<&KnownFace> = list.iter().collect();
    known.sort_by_key(|face| order.iter().position(|id| *id == face.face).unwrap_or(usize::MAX));
    let (overruns, overrun_max_us) = tally.overruns();
    Summary {
        ok: problems.is_empty(),
        problems,
        frames: done.map_or(0, |done| done.frames),
        unreadable: done.map_or(0, |done| done.unreadable),
        unreadable_why: outcome.unreadable_why.clone(),
        passed_over: outcome.passed_over,
        passed_over_why: outcome.passed_over_why.clone(),
        set_aside: [set_aside_in(outcome, SHORT_STEPS), set_aside_in(long, LONG_RUN)].concat(),
        units_set_aside: outcome.units_set_aside() + long.units_set_aside(),
        reencoded: tally.reencoded(),
        faces_seen: done.map_or(0, |done| done.faces_seen),
        people: known.into_iter().map(Person::from).collect(),
        steps: tally.steps.len() as u64,
        steps_per_node: tally.steps_per_node(),
        migrations: tally.migrations(),
        takeovers: tally.takeovers,
        recovery_ms: kill.as_ref().map(|kill| kill.recovery_ms),
        kill,
        overruns,
        overrun_max_ms: ms(overrun_max_us),
        worker_kills: tally.worker_kills(),
        r_limit_ms: plan.r_limit_ms,
        digest: outcome.digest.clone(),
        digest_long_run: long.digest.clone(),
        digests_equal: outcome.digest == long.digest,
        long_run_steps: long.tally.steps.len() as u64,
        long_run_in_parts,
        wall_s: outcome.wall_s,
        long_run_wall_s: long.wall_s,
        worker_cpu_s: ms(tally.worker_cpu_us()) / 1_000.0,
        event_repeats: outcome.event_repeats,
        refused_messages: outcome.refused,
        nodes: plan.nodes.into(),
        broker: broker.kind().to_string(),
        isolation: rig.walls.to_string(),
        memory: outcome.memory.clone(),
    }
}

fn set_aside_in(outcome: &Outcome, run: &str) -> Vec<SetAside> {
    outcome.set_aside.iter().map(|unit| SetAside { run: run.to_owned(), ..unit.clone() }).collect()
}

fn write_results(plan: &Plan, summary: &Summary, tally: &Tally) -> Result<(), Error> {
    let path = plan.out.join(SUMMARY);
    let json = serde_json::to_string_pretty(summary).map_err(|e| Error::file(&path, e))?;
    fs::write(&path, json + "\n").map_err(|e| Error::file(&path, e))?;
    let thumbnails = tally.faces.values().map(|face| (face.face.to_string(), face.thumbnail.0.clone())).collect();
    let camera = tally.camera.as_ref().map_or("folder", |head| head.camera.as_str());
    let path = plan.out.join(SHEET);
    fs::write(&path, sheet::html(summary, camera, &thumbnails)).map_err(|e| Error::file(&path, e))
}

fn finish(plan: &Plan, summary: &Summary) -> Result<(), Error> {
    say!("\n{}", show::heading("Summary"));
    say!("{}", summary.text().trim_end());
    say!("  {:<18}{}", "contact sheet", plan.out.join(SHEET).display());
    say!("  {:<18}{}", "as JSON", plan.out.join(SUMMARY).display());
    if plan.kill && summary.kill.is_none() {
        say!("{}", show::deed("the job was over before a node could be killed in the middle of a step"));
    }
    if !summary.ok {
        return Err(Error::Wrong(summary.problems.join("; ")));
    }
    let verdict = summary.verdict();
    say!("\n{}", if summary.digests_equal { show::good(&verdict) } else { show::deed(&verdict) });
    Ok(())
}

#[cfg(test)]
mod tests {
    use microlambda::Digest;
    use microlambda_wire::{ChainClass, EndMark};

    use super::*;

    #[test]
    fn results_of_a_former_run_are_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        remove_results(dir.path()).unwrap();
        for name in [SUMMARY, SHEET, "other"] {
            fs::write(dir.path().join(name), "old").unwrap();
        }
        remove_results(dir.path()).unwrap();
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["other"]);
    }

    #[test]
    fn patience_holds_for_the_longest_step_that_was_asked_for() {
        let timeout = Duration::from_secs(600);
        assert_eq!(patience(timeout, 400), timeout);
        assert_eq!(patience(timeout, 3_600_000), Duration::from_secs(7_201));
    }

    #[test]
    fn a_camera_takes_no_more_when_its_input_has_ended_or_its_spool_stands_still() {
        let mut still = Stillness::new(CAMERA_PATIENCE);
        let begun = Instant::now();
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        let mut head = CameraHead {
            camera: name("folder").unwrap(),
            chain: name("c").unwrap(),
            class: ChainClass::Batch,
            oldest: 0,
            next: 0,
            end: None,
        };
        assert!(!takes_no_more(None, &mut still, at(0)));
        assert!(!takes_no_more(Some(&head), &mut still, at(0)));
        assert!(!takes_no_more(Some(&head), &mut still, at(60)), "it has not begun");
        head.next = 62;
        assert!(!takes_no_more(Some(&head), &mut still, at(60)) && !takes_no_more(Some(&head), &mut still, at(64)));
        head.next = 63;
        assert!(!takes_no_more(Some(&head), &mut still, at(64)) && !takes_no_more(Some(&head), &mut still, at(68)));
        assert!(takes_no_more(Some(&head), &mut still, at(69)), "nobody makes room");
        head.end = Some(EndMark { count: 64, manifest: Digest::default() });
        head.next = 64;
        assert!(takes_no_more(Some(&head), &mut still, at(69)));
    }
}
