//! Agents, workers, cameras and the broker are killed in the middle; the outcome is the same.

use std::time::{Duration, Instant};

use microlambda::Version;
use microlambda_demo::Note;
use microlambda_tests::{Outcome, PATIENCE, Site, long_run, name};
use rustix::process::{Pid, Signal, kill_process};

/// So short that the photos take several steps.
const R_LIMIT_MS: u64 = 400;
const PHOTOS: [&str; 5] =
    ["people/obama2.jpg", "people/t1.jpg", "faceless/coffee.png", "people/biden.jpg", "people/astronaut.png"];

/// Two nodes and a camera on the photos, running; the photos are enough for the steps that are struck.
fn busy_site() -> Site {
    let mut site = Site::new();
    let photos = site.photos(&PHOTOS);
    for node in ["a", "b"] {
        site.start_node_without_fan_out(node, R_LIMIT_MS, "spread");
    }
    site.wait_for("both nodes", |tally, _| tally.nodes.len() == 2);
    site.start_camera(&photos);
    site
}

fn expect_same(site: &mut Site, long: &Outcome) {
    let outcome = site.outcome(&["a", "b"]);
    assert_eq!(outcome, *long);
    site.stop_and_check();
}

#[test]
fn whatever_is_killed_the_outcome_is_the_same() {
    let long = long_run(&PHOTOS);
    assert_eq!(long.people.len(), 9);
    killed_claimers(&long);
    killed_worker(&long);
    killed_camera(&long);
    killed_broker(&long);
    frozen_claimer(&long);
}

/// The node that has claimed a step is killed; the other goes on within the lease.
fn killed_claimers(long: &Outcome) {
    let mut site = busy_site();
    for sequence in 1..4 {
        let claimer = site.claimer_from(Version::at(sequence));
        let peer = if claimer.as_str() == "a" { name("b") } else { name("a") };
        site.node(claimer.as_str()).kill();
        let killed_us = microlambda_demo::monotonic_us();
        let mut started_us = 0;
        site.wait_for("step of the surviving node", |_, seen| match seen.map(|seen| &seen.note) {
            Some(Note::Continuation(note)) if note.node == peer => {
                started_us = note.timing.map_or(0, |timing| timing.first_unit_at_us);
                started_us > killed_us
            }
            _ => false,
        });
        // A lease is r_limit and 500 ms of grace; the machine these tests run on may be slow to give it a turn.
        let recovery_ms = (started_us - killed_us) / 1_000;
        assert!(recovery_ms < R_LIMIT_MS + 500 + 1_500, "{recovery_ms} ms until a peer went on");
        site.node(claimer.as_str()).respawn().expect("the killed node's return");
    }
    expect_same(&mut site, long);
}

/// Nodes are killed by turns while both analyse the job's frames, each at whatever it is at: a step, or frames ahead of one.
#[test]
fn nodes_killed_while_they_share_a_job_cost_only_their_time() {
    let photos: Vec<&str> = PHOTOS.iter().cycle().take(3 * PHOTOS.len()).copied().collect();
    let long = long_run(&photos);
    let mut site = Site::new();
    for node in ["a", "b"] {
        site.start_node(node, R_LIMIT_MS, "stay");
    }
    site.wait_for("both engines", |tally, _| tally.nodes.values().filter(|node| !node.engine.is_empty()).count() == 2);
    let folder = site.photos(&photos);
    site.start_camera(&folder);
    for (node, sequence) in [("b", 1), ("a", 4), ("b", 8)] {
        site.wait_for("way through the job", |tally, _| tally.front().sequence >= sequence);
        site.node(node).kill();
        site.node(node).respawn().expect("the killed node's return");
    }
    expect_same(&mut site, &long);
}

fn killed_worker(long: &Outcome) {
    let mut site = busy_site();
    let mut from = Version::at(1);
    for _ in 0..2 {
        let claimer = site.claimer_from(from);
        let front = site.tally.front();
        for worker in site.node(claimer.as_str()).children() {
            kill(worker);
        }
        // Two workers killed in one unit would set it aside, as they should.
        site.wait_for("unit behind the one that was killed", |tally, _| tally.front() > front);
        from = site.tally.front();
    }
    expect_same(&mut site, long);
    let restarts = site.counter("a", "worker-restarts") + site.counter("b", "worker-restarts");
    assert!(restarts > 0, "a worker was killed and replaced");
}

fn killed_camera(long: &Outcome) {
    let mut site = busy_site();
    for sequence in 1..3 {
        site.claimer_from(Version::at(sequence));
        let camera = site.camera.as_mut().expect("a camera");
        camera.kill();
        camera.respawn().expect("the camera's return");
    }
    expect_same(&mut site, long);
}

fn killed_broker(long: &Outcome) {
    let mut site = busy_site();
    for sequence in 1..3 {
        site.claimer_from(Version::at(sequence));
        site.broker.kill();
        site.broker.restart().expect("the broker's return");
    }
    expect_same(&mut site, long);
}

/// A node that stands still keeps its connection, so that only its lease tells; what it says later changes nothing.
fn frozen_claimer(long: &Outcome) {
    let mut site = busy_site();
    let claimer = site.claimer_from(Version::at(1));
    let peer = if claimer.as_str() == "a" { name("b") } else { name("a") };
    let frozen = site.node(claimer.as_str());
    let pids: Vec<u32> = frozen.pids().into_iter().chain(frozen.children()).collect();
    for &pid in &pids {
        signal(Signal::STOP, pid);
    }
    let version = site.tally.front();
    site.wait_for("takeover by the other node", |_, seen| match seen.map(|seen| &seen.note) {
        Some(Note::Continuation(note)) => note.node == peer && note.timing.is_some() && note.head.version > version,
        _ => false,
    });
    for &pid in &pids {
        signal(Signal::CONT, pid);
    }
    expect_same(&mut site, long);
}

#[test]
fn a_node_that_joins_after_the_frames_were_freed_gets_everything_from_its_peers() {
    let mut site = busy_site();
    let before = site.outcome(&["a", "b"]);
    site.wait_for("freed frames", |_, seen| match seen.map(|seen| &seen.note) {
        Some(Note::CameraHead(head)) => head.oldest > 0,
        _ => false,
    });
    site.start_node("c", R_LIMIT_MS, "spread");
    assert_eq!(site.outcome(&["a", "b", "c"]), before);
    let faces = |site: &mut Site, node: &str| site.node(node).ask(&["faces", "list", "--json"]).expect("faces");
    let lacks_pictures = |text: &str| text.contains("\"thumbnail_bytes\": 0");
    assert_eq!(faces(&mut site, "c").matches("\"face\":").count(), 9);
    // Pictures of what peers found come with the face topics and are written when there is time for it.
    let until = Instant::now() + PATIENCE;
    while lacks_pictures(&faces(&mut site, "a")) {
        assert!(Instant::now() < until, "{}", faces(&mut site, "a"));
        site.wait_for("a node's next status", |_, seen| {
            matches!(seen.map(|seen| &seen.note), Some(Note::NodeStatus(_)))
        });
    }
    assert_eq!(faces(&mut site, "a").matches("\"face\":").count(), 9);
    site.stop_and_check();
}

#[test]
fn a_node_that_is_asked_to_stop_hands_the_chain_on_at_once() {
    let mut site = busy_site();
    let claimer = site.claimer_from(Version::at(1));
    let peer = if claimer.as_str() == "a" { name("b") } else { name("a") };
    let status = site.node(claimer.as_str()).terminate(Duration::from_secs(10));
    assert!(status.expect("its end").success());
    let stopped_us = microlambda_demo::monotonic_us();
    let mut started_us = u64::MAX;
    site.wait_for("step of the other node", |tally, seen| match seen.map(|seen| &seen.note) {
        Some(Note::Continuation(note)) if note.node == peer && note.timing.is_some() => {
            started_us = note.timing.map_or(0, |timing| timing.first_unit_at_us);
            true
        }
        _ => tally.done.is_some(),
    });
    let limit_us = stopped_us + R_LIMIT_MS * 1_000;
    assert!(started_us < limit_us, "the peer waited {} µs, as for a lease", started_us - stopped_us);
    site.node(claimer.as_str()).respawn().expect("its return");
    assert_eq!(site.outcome(&["a", "b"]).people.len(), 9);
}

#[test]
fn a_peer_goes_on_where_a_node_stopped_though_states_are_too_large_to_be_announced() {
    let mut site = Site::new();
    let photos = site.photos(&PHOTOS.repeat(3));
    for node in ["a", "b"] {
        let settings = [("chain", "inline-kb", 0.into()), ("chain", "fan-out", false.into())];
        site.start_node_with(node, R_LIMIT_MS, "stay", settings);
    }
    site.wait_for("both nodes", |tally, _| tally.nodes.len() == 2);
    site.start_camera(&photos);
    let claimer = site.claimer_from(Version::at(1));
    site.end_node(claimer.as_str());
    let report = site.node(claimer.as_str()).ask(&["status", "--json"]).expect("its database");
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    let stopped_at = serde_json::from_value(report["chains"][0]["head"]["version"].clone()).expect("a version");
    let mut from = None;
    site.wait_for("the peer's claim", |_, seen| {
        if let Some(Note::Claim(note)) = seen.map(|seen| &seen.note)
            && note.claim.node != claimer.as_str()
            && note.claim.lease_ms > 0
        {
            from = from.or(Some(note.claim.step));
        }
        from.is_some()
    });
    assert_eq!(from, Some(stopped_at), "the peer begins where the other stopped");
}

fn kill(pid: u32) {
    signal(Signal::KILL, pid);
}

fn signal(signal: Signal, pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    // A process that has just ended by itself needs none.
    let _ = kill_process(pid, signal);
}
