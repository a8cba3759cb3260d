//! The demo from its command line to its last line, on three photos; and what its end, however it comes, leaves behind.
//!
//! Needs what the other end-to-end tests need: `make setup`, and the programs, which `make test` builds first.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails it by panicking")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read as _};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use microlambda_demo::{Broker, Isolation, Summary};
use rumqttc::{Client, Event, MqttOptions, Packet, QoS};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;

/// The last is large: there is time to kill a node in the middle of a step.
const PHOTOS: [&str; 3] = ["astronaut.png", "obama2.jpg", "obama3.jpg"];
/// Who is in them.
const PEOPLE: [&[&str]; 2] = [&["astronaut.png"], &["obama2.jpg", "obama3.jpg"]];
const PATIENCE: Duration = Duration::from_secs(240);

/// A demo's photos and results. What a killed driver left running is ended on drop.
struct Demo {
    dir: tempfile::TempDir,
    // One at a time: several would measure each other.
    _turn: File,
}

impl Demo {
    fn new() -> Self {
        let turn = File::create(std::env::temp_dir().join("microlambda-tests.lock")).unwrap();
        turn.lock().unwrap();
        let dir = tempfile::Builder::new().prefix("ml").tempdir().unwrap();
        fs::create_dir(dir.path().join("photos")).unwrap();
        for name in PHOTOS {
            let source = data_dir().join("photos/people").join(name);
            assert!(source.is_file(), "{} is missing: run `make setup`", source.display());
            fs::copy(source, dir.path().join("photos").join(name)).unwrap();
        }
        Self { dir, _turn: turn }
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_microlambda-demo"));
        command.arg("--photos").arg(self.dir.path().join("photos"));
        command.arg("--data").arg(data_dir()).arg("--out").arg(self.out()).args(args);
        if Isolation::of_tests() == Isolation::Namespaces {
            command.args(["--isolation", "namespaces"]);
        }
        command.stdin(Stdio::null()).env_remove("MICROLAMBDA_BROKER");
        command
    }

    /// Runs to the end and returns the summary as programs read it, after a look at the contact sheet.
    fn run(&self, args: &[&str]) -> (Summary, Value) {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        let json = fs::read_to_string(self.out().join("summary.json")).unwrap();
        let summary: Summary = serde_json::from_str(&json).unwrap();
        let sheet = fs::read_to_string(self.out().join("faces.html")).unwrap();
        assert_eq!(sheet.matches("src=\"data:image/jpeg;base64,").count(), summary.people.len(), "{sheet}");
        self.all_are_gone();
        (summary, serde_json::from_str(&json).unwrap())
    }

    /// Starts in a process group of its own, as a shell does, and returns what it prints line by line.
    fn start(&self, args: &[&str]) -> (Driver, impl Iterator<Item = String> + use<>) {
        let child = self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn();
        let mut child = child.unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        (Driver(child), lines)
    }

    /// The command lines of all processes that work in the output folder.
    fn processes(&self) -> Vec<String> {
        let out = self.out().canonicalize().unwrap().to_str().unwrap().to_owned();
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
        lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).filter(|line| line.contains(&out)).collect()
    }

    /// Killed processes are gone a moment later.
    fn all_are_gone(&self) {
        let until = Instant::now() + Duration::from_secs(10);
        while !self.processes().is_empty() {
            assert!(Instant::now() < until, "left running: {:#?}", self.processes());
            std::thread::yield_now();
        }
    }

    /// The next demo ends what a former one left, and here goes no further, for its port is taken.
    fn end_leftovers(&self) -> Output {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port().to_string();
        self.command(&["--port", &port]).output().unwrap()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.end_leftovers();
    }
}

/// A running driver; killed on drop.
struct Driver(Child);

impl Driver {
    /// As the terminal sends Ctrl-C: to everything that was started in it.
    fn interrupt(&self) {
        kill_process_group(Pid::from_child(&self.0), Signal::INT).unwrap();
    }

    /// The first child whose command line holds this word.
    fn child(&self, word: &str) -> Option<Pid> {
        let driver = self.0.id();
        let children = fs::read_to_string(format!("/proc/{driver}/task/{driver}/children")).unwrap();
        let command = |pid: &str| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let found = children.split_whitespace().find(|pid| command(pid).split('\0').any(|part| part == word));
        Pid::from_raw(found?.parse().unwrap())
    }

    /// What it said was wrong, once it has ended.
    fn errors(&mut self) -> String {
        let mut errors = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        errors
    }

    fn wait(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "the demo does not end");
            std::thread::yield_now();
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn data_dir() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/data");
    std::env::var_os("MICROLAMBDA_DATA").map_or_else(default, PathBuf::from)
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn until_line(lines: &mut impl Iterator<Item = String>, wanted: &str) {
    let mut all = Vec::new();
    let found = lines.any(|line| {
        let found = line.contains(wanted);
        all.push(line);
        found
    });
    assert!(found, "{wanted} never came:\n{}", all.join("\n"));
}

/// What holds of every run over these photos.
fn whole(summary: &Summary, json: &Value, nodes: u64) {
    assert!(summary.ok && summary.problems.is_empty(), "{json:#}");
    assert_eq!((summary.frames, summary.unreadable, summary.passed_over, summary.nodes), (3, 0, 0, nodes));
    let people: Vec<_> = summary.people.iter().map(|person| person.frames.clone()).collect();
    assert_eq!(people, PEOPLE, "{json:#}");
    assert_eq!(summary.steps_per_node.values().sum::<u64>(), summary.steps);
    assert_eq!(summary.digest, summary.digest_long_run);
    assert_eq!(summary.digest.len(), 64, "{}", summary.digest);
    assert!(summary.digests_equal && summary.long_run_steps > 0 && !summary.long_run_in_parts, "{json:#}");
    assert!(summary.units_set_aside == 0 && summary.set_aside.is_empty(), "{json:#}");
    assert_eq!(summary.overruns == 0, summary.overrun_max_ms == 0.0);
    assert!(summary.wall_s > 0.0 && summary.worker_cpu_s > 0.0 && summary.refused_messages == 0, "{json:#}");
    // The names that programs rely on.
    for name in ["frames", "steps", "migrations", "overruns"] {
        assert!(json[name].is_u64(), "{name}: {json:#}");
    }
    for name in ["overrun_max_ms", "wall_s", "worker_cpu_s"] {
        assert!(json[name].is_f64(), "{name}: {json:#}");
    }
    assert!(json["digest"].is_string() && json["digest_long_run"].is_string(), "{json:#}");
    assert!(json["steps_per_node"].is_object() && json["people"][0]["frames"][0].is_string(), "{json:#}");
    assert!(json.get("recovery_ms").is_some(), "{json:#}");
}

#[test]
fn one_node_does_everything_and_a_phone_s_picture_passes_as_it_is() {
    let demo = Demo::new();
    let photo = demo.dir.path().join("photos").join(PHOTOS[1]);
    let jpeg = fs::read(&photo).unwrap();
    // As many bytes as a picture of 48 megapixels has, in comments.
    let comment = [&[0xff, 0xfe, 0xff, 0xff], &[0; 0xfffd][..]].concat();
    fs::write(&photo, [&jpeg[..2], &comment.repeat(190), &jpeg[2..]].concat()).unwrap();
    let (summary, json) = demo.run(&["--nodes", "1", "--no-kill", "--r-limit-ms", "1000"]);
    whole(&summary, &json, 1);
    assert_eq!(summary.steps_per_node, [("node-a".to_owned(), summary.steps)].into());
    assert_eq!((summary.migrations, summary.recovery_ms), (0, None));
    // The other two are a PNG, and a JPEG that fits.
    assert_eq!(summary.reencoded, 1, "{json:#}");
    assert_eq!(summary.broker, "embedded");
}

#[test]
fn one_node_that_is_killed_goes_on_when_it_is_back() {
    let demo = Demo::new();
    let (summary, json) = demo.run(&["--nodes", "1"]);
    whole(&summary, &json, 1);
    let kill = summary.kill.unwrap();
    assert_eq!((kill.node.as_str(), kill.by.as_str()), ("node-a", "node-a"));
    assert_eq!(summary.recovery_ms, Some(kill.recovery_ms));
}

#[test]
fn a_chain_moves_between_three_nodes() {
    let demo = Demo::new();
    // So short that there are many steps, whose nodes are drawn.
    let (summary, json) = demo.run(&["--nodes", "3", "--no-kill", "--r-limit-ms", "200"]);
    whole(&summary, &json, 3);
    assert!(summary.migrations > 0 && summary.steps_per_node.len() > 1, "{json:#}");
    assert_eq!(summary.recovery_ms, None);
}

#[test]
fn of_three_nodes_another_goes_on_for_the_one_that_is_killed() {
    let demo = Demo::new();
    let (summary, json) = demo.run(&["--nodes", "3"]);
    whole(&summary, &json, 3);
    let kill = summary.kill.unwrap();
    assert_ne!(kill.node, kill.by);
    assert!(kill.at_sequence == 2 && kill.back_ms.is_some(), "{json:#}");
    assert!(summary.recovery_ms.is_some_and(|ms| ms > 0.0) && summary.migrations > 0, "{json:#}");
}

#[test]
fn a_job_is_done_without_its_driver() {
    let demo = Demo::new();
    let broker = Broker::mosquitto(&demo.dir.path().join("broker"), None).unwrap();
    let (host, port) = broker.url().address();
    let mut options = MqttOptions::new("watcher", host, port);
    options.set_max_packet_size(17 << 20, 17 << 20);
    let (client, mut bus) = Client::new(options, 16);
    client.subscribe("microlambda/+/chain/+/done", QoS::AtLeastOnce).unwrap();
    let url = broker.url().to_string();
    let (mut driver, mut lines) = demo.start(&["--nodes", "2", "--no-kill", "--broker", &url]);
    // Both nodes are there, and the job goes on.
    until_line(&mut lines, " is online");
    until_line(&mut lines, " is online");
    driver.0.kill().unwrap();
    driver.0.wait().unwrap();
    let until = Instant::now() + PATIENCE;
    let done = loop {
        let left = until.saturating_duration_since(Instant::now());
        match bus.recv_timeout(left).expect("no result in time").unwrap() {
            Event::Incoming(Packet::Publish(message)) if !message.payload.is_empty() => break message,
            _ => {}
        }
    };
    let done: Value = serde_json::from_slice(&done.payload).unwrap();
    assert_eq!(
        (&done["frames"], done["people"].as_array().unwrap().len()),
        (&Value::from(3), PEOPLE.len()),
        "{done:#}"
    );
    assert!(!demo.out().join("summary.json").exists(), "nobody was there to write it");
    assert!(!demo.processes().is_empty(), "the agents are still there");
    let output = said(&demo.end_leftovers());
    assert!(output.contains("still there of a former run, and ended: "), "{output}");
    demo.all_are_gone();
}

#[test]
fn a_node_that_was_started_again_is_ended_with_the_others_of_a_killed_driver() {
    let demo = Demo::new();
    let (mut driver, mut lines) = demo.start(&["--nodes", "1"]);
    until_line(&mut lines, "node-a is started again");
    driver.0.kill().unwrap();
    driver.0.wait().unwrap();
    assert!(demo.processes().iter().any(|line| line.contains("edge-agent")), "{:?}", demo.processes());
    demo.end_leftovers();
    demo.all_are_gone();
}

#[test]
fn ctrl_c_ends_everything_and_is_no_failure() {
    let demo = Demo::new();
    let (mut driver, mut lines) = demo.start(&["--nodes", "2", "--no-kill"]);
    until_line(&mut lines, "node-b is online");
    driver.interrupt();
    assert_eq!(driver.wait().code(), Some(130));
    let errors = driver.errors();
    assert!(errors.contains("interrupted: everything that was started has been ended"), "{errors}");
    demo.all_are_gone();
}

#[test]
fn the_end_of_its_own_broker_or_relay_ends_the_demo_and_is_named() {
    for part in ["broker", "relay"] {
        let demo = Demo::new();
        let (mut driver, mut lines) = demo.start(&["--nodes", "1", "--no-kill"]);
        until_line(&mut lines, "node-a is online");
        let Some(process) = driver.child(part) else {
            assert_eq!(part, "relay");
            eprintln!("SKIPPED: no namespaces on this system");
            return;
        };
        kill_process(process, Signal::KILL).unwrap();
        assert_eq!(driver.wait().code(), Some(1));
        let errors = driver.errors();
        assert!(errors.contains(&format!("{part} ended unexpectedly (signal: 9)")), "{errors}");
        demo.all_are_gone();
    }
}
