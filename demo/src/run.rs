//! The demo from its first process to its last line.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use microlambda_runtime::{counted, printable};
use microlambda_wire::Name;

use crate::job::{Ground, Job, Kill, Limits, ms};
use crate::leftovers::{OutLock, RunDir};
use crate::options::{DemoArgs, Plan};
use crate::show::say;
use crate::summary::{KnownFace, Memory, Person, Summary};
use crate::tally::{News, Tally};
use crate::{Agent, Broker, BrokerKind, CameraSetup, EdgeSetup, Error, Programs, Rig, Walls, passed_over, sheet, show};

/// What a lease allows beyond the limit, ms: the agents' own default.
const GRACE_MS: u64 = 500;
/// Heads are announced again after this time, ms.
const ANNOUNCE_MS: u64 = 2_000;
/// A limit that no job of the demo reaches, ms: an hour.
const UNLIMITED_MS: u64 = 3_600_000;
/// The largest frame that a camera agent can be told to offer, bytes.
const FRAME_BYTES_MAX: i64 = 16 << 20;
/// So many pictures that were passed over are named in the summary.
const REASONS_MAX: usize = 100;
/// An agent that is asked to end gets so long.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// What a finished job showed.
struct Outcome {
    tally: Tally,
    digest: String,
    kill: Kill,
    wall_s: f64,
    lists: Vec<(Name, Vec<KnownFace>)>,
    memory: BTreeMap<String, Memory>,
    refused: u64,
    event_repeats: u64,
    passed_over: u64,
    passed_over_why: Vec<String>,
}

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
    let summary_path = plan.out.join("summary.json");
    let _ = fs::remove_file(&summary_path);

    let (dir, ended) = RunDir::renew(&plan.out.join("run"))?;
    if ended > 0 {
        let processes = if ended == 1 { "1 process".into() } else { format!("{ended} processes") };
        say!("{}", show::deed(&format!("still there of a former run, and ended: {processes}")));
    }
    let broker = match &plan.broker {
        Some(url) => Broker::external(url)?,
        None => Broker::embedded(&plan.programs, &dir.path().join("broker"), plan.port)?,
    };
    let rig = Rig {
        walls: Walls::new(plan.isolation, &plan.programs, dir.path(), broker.url())?,
        programs: plan.programs.clone(),
        dir: dir.path().to_path_buf(),
        broker: broker.url().clone(),
        private: vec![plan.data.clone(), plan.photos.clone()],
    };
    greet(&plan, &broker, &rig);
    let ground = Ground { rig: &rig, broker: &broker, dir: &dir, interrupted, timeout: plan.timeout };

    say!("\n{}", show::heading("The job in short steps"));
    let outcome = short_steps(&plan, ground)?;
    something_usable(&plan, &outcome)?;
    say!("\n{}", show::heading("The same photos in one long run, on an empty database"));
    // Its only step says nothing until it ends: about as long as all the short ones together took, on one node.
    let timeout = plan.timeout.max(Duration::from_secs_f64(outcome.wall_s * 4.0));
    let long = long_run(&plan, Ground { timeout, ..ground })?;

    let summary = summarise(&plan, &rig, &broker, &outcome, &long);
    write_results(&plan, &summary, &outcome.tally)?;
    finish(&plan, &summary)
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
    // A phone's picture passes as it is.
    let frame = toml::Table::from_iter([("bytes-max".to_owned(), FRAME_BYTES_MAX.into())]);
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

fn short_steps(plan: &Plan, ground: Ground<'_>) -> Result<Outcome, Error> {
    let Ground { rig, broker, .. } = ground;
    let site = site(plan, "")?;
    let _sweep = Sweep { broker, site: site.clone() };
    let observer = broker.observe(&site)?;
    let begun = Instant::now();
    let camera = rig.camera("camera", &camera_setup(plan, &site)?)?;
    let mut job = Job::new(observer, camera, ground, true)?;
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

/// One node whose limit is never reached. It starts when the spool is complete, so that nothing interrupts its step.
fn long_run(plan: &Plan, ground: Ground<'_>) -> Result<Outcome, Error> {
    let Ground { rig, broker, .. } = ground;
    let site = site(plan, "-long")?;
    let _sweep = Sweep { broker, site: site.clone() };
    let observer = broker.observe(&site)?;
    let camera = rig.camera("long-camera", &camera_setup(plan, &site)?)?;
    let mut job = Job::new(observer, camera, ground, true)?;
    job.named = None;
    job.watch("the camera to read all photos", |_, news| {
        Ok(news.iter().any(|piece| matches!(piece, News::InputEnds(_))))
    })?;
    let begun = Instant::now();
    let node = name("long")?;
    let agent = rig.edge("long-node", &edge_setup(plan, &site, &node, UNLIMITED_MS))?;
    job.join(node, agent)?;
    let limits = Limits { r_limit_ms: UNLIMITED_MS, grace_ms: GRACE_MS };
    let (digest, kill) = job.run(Kill::Off, limits)?;
    conclude(job, digest.to_string(), kill, begun)
}

/// Asks every node what it knows, measures, and ends the job's agents.
fn conclude(mut job: Job<'_>, digest: String, kill: Kill, begun: Instant) -> Result<Outcome, Error> {
    let wall_s = begun.elapsed().as_secs_f64();
    let mut lists = Vec::new();
    let mut memory = BTreeMap::new();
    for (node, agent) in &job.edges {
        lists.push((node.clone(), known_faces(agent)?));
        // Every record is folded again from the database and compared with what the node says.
        agent.ask(&["check"])?;
        memory.insert(node.to_string(), memory_of(agent));
    }
    if job.camera.exited().is_none() {
        memory.insert("camera".into(), memory_of(&job.camera));
    }
    // What is still on its way on the bus belongs to the result: faces and events follow the commit.
    let expected: BTreeSet<String> = lists.iter().flat_map(|(_, list)| list).map(|face| face.face.clone()).collect();
    let patience = Instant::now() + Duration::from_millis(2 * ANNOUNCE_MS + GRACE_MS);
    job.watch("events", |job, _| {
        let missing =
            expected.iter().any(|face| Name::new(face.as_str()).is_ok_and(|face| !complete(&job.tally, &face)));
        Ok(!missing || Instant::now() >= patience)
    })?;
    for (_, agent) in &mut job.edges {
        agent.terminate(END_PATIENCE);
    }
    let event_repeats = job.observer.event_repeats();
    let mut passed_over_why = passed_over::reasons(job.camera.log());
    // The count comes every few seconds on the bus, the reasons at once in the log.
    let passed_over = job.tally.passed_over().max(passed_over_why.len() as u64);
    passed_over_why.truncate(REASONS_MAX);
    Ok(Outcome {
        tally: job.tally,
        digest,
        kill,
        wall_s,
        lists,
        memory,
        refused: job.refused,
        event_repeats,
        passed_over,
        passed_over_why,
    })
}

/// True once a face with its picture, and the event that it was new, have both been seen on the bus.
fn complete(tally: &Tally, face: &Name) -> bool {
    tally.faces.get(face).is_some_and(|known| !known.thumbnail.0.is_empty())
        && tally.events.values().any(|event| event.face == *face)
}

fn known_faces(agent: &Agent) -> Result<Vec<KnownFace>, Error> {
    let text = agent.ask(&["faces", "list", "--json"])?;
    let mut list: Vec<KnownFace> = serde_json::from_str(&text).map_err(|e| Error::Command {
        command: format!("{} faces list --json", agent.label()),
        status: "its output is not the agreed JSON".into(),
        message: e.to_string(),
    })?;
    for known in &mut list {
        known.frames.sort();
    }
    list.sort_by(|a, b| a.face.cmp(&b.face));
    Ok(list)
}

fn memory_of(agent: &Agent) -> Memory {
    Memory { agent_bytes: agent.usage().rss_bytes, worker_bytes: agent.children_usage().rss_bytes }
}

/// What of a job's result does not fit together.
fn problems(outcome: &Outcome, whose: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let Some((first, list)) = outcome.lists.first() else {
        return vec![format!("{whose}: no node")];
    };
    for (node, other) in &outcome.lists[1..] {
        if other != list {
            problems.push(format!("{whose}: {node} and {first} do not know the same faces in the same frames"));
        }
    }
    let known: BTreeSet<&str> = list.iter().map(|face| face.face.as_str()).collect();
    let announced = outcome.tally.new_faces();
    let announced: BTreeSet<&str> = announced.iter().map(Name::as_str).collect();
    if known != announced {
        let (all, events) = (known.len(), announced.len());
        problems.push(format!("{whose}: {all} faces are known, but events announced {events} new ones, or others"));
    }
    let people = outcome.tally.done.as_ref().map(|done| done.people.as_slice()).unwrap_or_default();
    if people.iter().map(Name::as_str).collect::<BTreeSet<_>>() != known {
        problems.push(format!("{whose}: the output names {} people, {} are known", people.len(), known.len()));
    }
    problems
}

fn summarise(plan: &Plan, rig: &Rig, broker: &Broker, outcome: &Outcome, long: &Outcome) -> Summary {
    let tally = &outcome.tally;
    let mut problems = problems(outcome, "short steps");
    problems.extend(self::problems(long, "long run"));
    let digests_equal = outcome.digest == long.digest;
    if !digests_equal {
        problems.push("the digest of the short steps differs from that of the long run".into());
    }
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
        passed_over: outcome.passed_over,
        passed_over_why: outcome.passed_over_why.clone(),
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
        digests_equal,
        long_run_steps: long.tally.steps.len() as u64,
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

fn write_results(plan: &Plan, summary: &Summary, tally: &Tally) -> Result<(), Error> {
    let path = plan.out.join("summary.json");
    let json = serde_json::to_string_pretty(summary).map_err(|e| Error::file(&path, e))?;
    fs::write(&path, json + "\n").map_err(|e| Error::file(&path, e))?;
    let thumbnails = tally.faces.values().map(|face| (face.face.to_string(), face.thumbnail.0.clone())).collect();
    let camera = tally.camera.as_ref().map_or("folder", |head| head.camera.as_str());
    let path = plan.out.join("faces.html");
    fs::write(&path, sheet::html(summary, camera, &thumbnails)).map_err(|e| Error::file(&path, e))
}

fn finish(plan: &Plan, summary: &Summary) -> Result<(), Error> {
    say!("\n{}", show::heading("Summary"));
    say!("{}", summary.text().trim_end());
    say!("  {:<18}{}", "contact sheet", plan.out.join("faces.html").display());
    say!("  {:<18}{}", "as JSON", plan.out.join("summary.json").display());
    if plan.kill && summary.kill.is_none() {
        say!("{}", show::deed("the job was over before a node could be killed in the middle of a step"));
    }
    if !summary.ok {
        return Err(Error::Wrong(summary.problems.join("; ")));
    }
    let steps = counted(summary.steps, "short step");
    let nodes = counted(summary.steps_per_node.len() as u64, "node");
    let steps = format!("{steps} on {nodes} and one long run came to the same digest.");
    say!("\n{}", show::good(&steps));
    Ok(())
}
