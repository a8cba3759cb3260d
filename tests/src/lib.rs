//! A site of real agents for end-to-end tests: mosquitto, a camera that plays real photos, edge nodes with dlib workers.
//!
//! Every agent is walled in where the system allows it (`make test` looks): it sees its own state directory
//! and the broker, the photos only the camera. Needs `make setup` (models and photos) and the programs, which `make test`
//! builds first.

#![forbid(unsafe_code)]

pub mod fuzz;
pub mod histories;
pub mod powercut;
pub mod sim;
pub mod torture;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use microlambda::{Budget, Digest, Version};
use microlambda_demo::{
    Agent, Broker, CameraSetup, EdgeSetup, Isolation, Note, Observer, Programs, Report, Rig, Seen, Tally, Walls,
};
use microlambda_faces::FaceAt;
use microlambda_wire::{DoneNote, EventKind, Name, NodeStatus};
use tempfile::TempDir;

/// The longest any wait in these tests may take; reached only when something is wrong.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// The longest `r-limit-ms` that a configuration may give, a day: no job here ever reaches it.
pub const UNLIMITED_MS: u64 = 86_400_000;

/// What a job came to: equal for equal photos, whatever happened on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Digest of the final state.
    pub digest: Digest,
    /// Frames searched.
    pub frames: u64,
    /// People first seen, in order, by the label of their frame.
    pub people: Vec<String>,
    /// The face of every event.
    pub events: BTreeSet<FaceAt>,
}

/// A running site.
pub struct Site {
    /// Nodes by name; a killed one stays listed and can be respawned.
    pub nodes: Vec<(Name, Agent)>,
    /// The camera, once started.
    pub camera: Option<Agent>,
    /// The broker.
    pub broker: Broker,
    /// What was seen on the bus.
    pub tally: Tally,
    /// Messages on our topics that were not ours.
    pub refused: u64,
    wrappers: Vec<PathBuf>,
    observer: Observer,
    rig: Rig,
    name: Name,
    dir: TempDir,
    // One site at a time: several would measure each other, and the machine may have two cores.
    _turn: File,
}

/// The checked data that `make setup` fetched.
pub fn data_dir() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/data");
    std::env::var_os("MICROLAMBDA_DATA").map_or_else(default, PathBuf::from)
}

/// A photo of the data set, by its path below `photos`.
///
/// # Panics
/// If it was not fetched.
pub fn photo(path: &str) -> PathBuf {
    let file = data_dir().join("photos").join(path);
    assert!(file.is_file(), "{} is missing: run `make setup`", file.display());
    file
}

/// A JPEG with a comment behind its start marker, which workers made for tests obey.
pub fn with_comment(jpeg: &[u8], comment: &[u8]) -> Vec<u8> {
    let length = u16::try_from(comment.len() + 2).expect("a short comment").to_be_bytes();
    [&jpeg[..2], &[0xff, 0xfe], &length, comment, &jpeg[2..]].concat()
}

/// A name that is known to be one.
pub fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

impl Site {
    /// A site with mosquitto and nobody on it yet.
    ///
    /// # Panics
    /// If something it needs is missing; the message says what.
    #[expect(clippy::new_without_default, reason = "starting a broker is no default")]
    pub fn new() -> Self {
        let turn = File::create(std::env::temp_dir().join("microlambda-tests.lock")).expect("a lock file");
        turn.lock().expect("the turn of this test");
        let dir = tempfile::Builder::new().prefix("ml").tempdir().expect("a folder for the test");
        let programs = Programs::find().expect("the programs' folder");
        programs.check().expect("all programs: run `make test`, which builds them");
        let broker = Broker::mosquitto(&dir.path().join("broker"), None).expect("mosquitto");
        let walls = Walls::new(Isolation::of_tests(), &programs, dir.path(), broker.url()).expect("walls");
        let name = name("test");
        let observer = broker.observe(&name).expect("an observer");
        let rig = Rig {
            programs,
            dir: dir.path().join("agents"),
            broker: broker.url().clone(),
            walls,
            private: vec![data_dir(), dir.path().to_path_buf()],
        };
        Self {
            nodes: Vec::new(),
            camera: None,
            broker,
            tally: Tally::default(),
            refused: 0,
            wrappers: Vec::new(),
            observer,
            rig,
            name,
            dir,
            _turn: turn,
        }
    }

    /// What keeps its agents apart.
    pub fn walls(&self) -> &Walls {
        &self.rig.walls
    }

    /// A folder for this test's own files.
    pub fn folder(&self, sub: &str) -> PathBuf {
        let folder = self.dir.path().join(sub);
        fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    /// Copies photos of the data set into a folder, numbered in this order.
    pub fn photos(&self, paths: &[&str]) -> PathBuf {
        self.photos_at(paths, 1.0)
    }

    /// The same, made smaller by a factor.
    pub fn photos_at(&self, paths: &[&str], scale: f64) -> PathBuf {
        let folder = self.folder("photos");
        for (number, path) in paths.iter().enumerate() {
            let source = photo(path);
            let file_name = source.file_name().expect("a file").to_string_lossy().into_owned();
            let mut target = folder.join(format!("{number:02}_{file_name}"));
            if scale < 1.0 {
                target.set_extension("png");
                let photo = image::open(&source).expect("a photo").into_rgb8();
                let side = |px: u32| (f64::from(px) * scale).round() as u32;
                let (width, height) = (side(photo.width()), side(photo.height()));
                let smaller = image::imageops::resize(&photo, width, height, image::imageops::FilterType::Triangle);
                smaller.save(&target).expect("a smaller photo");
            } else {
                fs::copy(&source, &target).expect("a copy of the photo");
            }
            // The time of a file is part of its record: equal in all jobs that are compared.
            let time = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + number as u64);
            File::options().write(true).open(&target).and_then(|file| file.set_modified(time)).expect("its time");
        }
        folder
    }

    /// Starts the camera on a folder.
    pub fn start_camera(&mut self, photos: &Path) {
        self.start_camera_with(photos, toml::Table::new());
    }

    /// As [`Site::start_camera`], with settings laid over the usual ones.
    pub fn start_camera_with(&mut self, photos: &Path, extra: toml::Table) {
        let setup = CameraSetup {
            site: self.name.clone(),
            camera: name("door"),
            photos: photos.to_path_buf(),
            exit_when_done: false,
            extra,
        };
        self.camera = Some(self.rig.camera("camera", &setup).expect("a camera agent"));
    }

    /// Starts a second camera whose stream never ends: it shows these photos in turn, `pause_s` apart, and each is work.
    pub fn start_live_camera(&mut self, photos: &Path, pause_s: f64) -> Agent {
        let script =
            format!("while :; do for p in '{}'/*.jpg; do cat \"$p\"; sleep {pause_s}; done; done", photos.display());
        let mut source = toml::Table::new();
        source.insert("kind".into(), "command".into());
        source.insert("command".into(), ["sh", "-c", &script].map(toml::Value::from).to_vec().into());
        let motion = [("still-interval-s".to_owned(), toml::Value::from(0))].into_iter().collect();
        let tables = [("source", source), ("motion", motion)];
        let setup = CameraSetup {
            site: self.name.clone(),
            camera: name("live"),
            photos: photos.to_path_buf(),
            exit_when_done: false,
            extra: tables.map(|(name, table)| (name.to_owned(), toml::Value::Table(table))).into_iter().collect(),
        };
        self.rig.camera("live", &setup).expect("a live camera")
    }

    /// Starts a node with the given limit and placement policy.
    pub fn start_node(&mut self, node: &str, r_limit_ms: u64, placement: &str) {
        self.start_node_set(node, r_limit_ms, placement, toml::Table::new());
    }

    /// As [`Site::start_node`], for a node that works on steps alone and nothing ahead of them.
    pub fn start_node_without_fan_out(&mut self, node: &str, r_limit_ms: u64, placement: &str) {
        self.start_node_with(node, r_limit_ms, placement, [("chain", "fan-out", false.into())]);
    }

    /// As [`Site::start_node`], with some settings that are not the usual ones: section, key, value.
    pub fn start_node_with<const N: usize>(
        &mut self,
        node: &str,
        r_limit_ms: u64,
        placement: &str,
        settings: [(&str, &str, toml::Value); N],
    ) {
        let mut extra = toml::Table::new();
        for (section, key, value) in settings {
            let section = extra.entry(section).or_insert_with(|| toml::Table::new().into());
            section.as_table_mut().expect("a section").insert(key.to_owned(), value);
        }
        self.start_node_set(node, r_limit_ms, placement, extra);
    }

    /// Starts a node whose worker is the double `mad-worker`, which does what pictures tell it.
    pub fn start_mad_node(&mut self, node: &str, r_limit_ms: u64, placement: &str) {
        let worker = self.rig.programs.dir.join("mad-worker");
        assert!(worker.is_file(), "{} is missing: run `make test`, which builds it", worker.display());
        let extra = [("worker".to_owned(), worker.to_string_lossy().into_owned().into())].into_iter().collect();
        self.start_node_set(node, r_limit_ms, placement, extra);
    }

    /// As [`Site::start_node`], with settings laid over the usual ones.
    pub fn start_node_set(&mut self, node: &str, r_limit_ms: u64, placement: &str, extra: toml::Table) {
        let setup = EdgeSetup {
            site: self.name.clone(),
            node: name(node),
            models: data_dir().join("models"),
            r_limit_ms,
            placement: placement.into(),
            announce_ms: 500,
            grace_ms: 500,
            extra,
        };
        let agent = self.rig.edge(node, &setup).expect("an edge agent");
        self.nodes.push((name(node), agent));
    }

    /// As [`Site::start_node`], with `"built-in"` or `"dlib"` as the engine of its worker.
    pub fn start_node_of_engine(&mut self, node: &str, r_limit_ms: u64, placement: &str, engine: &str) {
        let extra = [("engine".to_owned(), engine.to_owned().into())].into_iter().collect();
        self.start_node_set(node, r_limit_ms, placement, extra);
    }

    /// As [`Site::start_node_of_engine`] with dlib, and an environment variable set for the agent and its worker.
    pub fn start_dlib_node_with(&mut self, node: &str, r_limit_ms: u64, placement: &str, variable: (&str, &str)) {
        use std::os::unix::fs::PermissionsExt as _;
        let edge = self.rig.programs.edge.clone();
        let wrapper = self.rig.programs.dir.join(format!(".{node}-{}", std::process::id()));
        let script = format!("#!/bin/sh\nexec env {}={} '{}' \"$@\"\n", variable.0, variable.1, edge.display());
        fs::write(&wrapper, script).expect("a wrapper");
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("an executable wrapper");
        self.rig.programs.edge.clone_from(&wrapper);
        self.start_node_of_engine(node, r_limit_ms, placement, "dlib");
        self.rig.programs.edge = edge;
        self.wrappers.push(wrapper);
    }

    /// Ends a node in order: it stays listed, and can be respawned.
    ///
    /// # Panics
    /// It does not end within ten seconds of SIGTERM, or not well.
    pub fn end_node(&mut self, node: &str) {
        end_in_order(node, self.node(node));
    }

    /// Where a node keeps its database.
    pub fn state_dir(&mut self, node: &str) -> PathBuf {
        self.node(node).config().parent().expect("its folder").join("state")
    }

    /// The node of this name.
    pub fn node(&mut self, node: &str) -> &mut Agent {
        let found = self.nodes.iter_mut().find(|(known, _)| known.as_str() == node);
        &mut found.expect("a node of this name").1
    }

    /// Waits until `wanted` holds after some message.
    ///
    /// # Panics
    /// With the ends of all logs, if it does not within [`PATIENCE`], or an agent ended by itself.
    pub fn wait_for(&mut self, what: &str, mut wanted: impl FnMut(&Tally, Option<&Seen>) -> bool) {
        let until = Instant::now() + PATIENCE;
        if wanted(&self.tally, None) {
            return;
        }
        loop {
            match self.observer.next(Duration::from_millis(500)) {
                Some(Report::Seen(seen)) => {
                    // An empty spool of a former camera says nothing about this one.
                    self.tally.take(&seen);
                    if wanted(&self.tally, Some(&seen)) {
                        return;
                    }
                }
                Some(Report::Refused { .. }) => self.refused += 1,
                Some(Report::Connected | Report::Lost(_) | Report::Denied(_)) | None => {}
            }
            assert!(Instant::now() < until, "no {what} within {PATIENCE:?}\n{}", self.logs());
        }
    }

    /// Waits until the job is done and all live nodes announce its final state, and says what it came to.
    pub fn outcome(&mut self, nodes: &[&str]) -> Outcome {
        let nodes: Vec<Name> = nodes.iter().map(|node| name(node)).collect();
        self.wait_for("agreement on a finished job", |tally, _| tally.agreed(&nodes).is_some());
        let done = self.tally.done.clone().expect("a finished job");
        let expected = done.people.len();
        self.wait_for("event for each person", |tally, _| tally.new_faces().len() >= expected);
        self.outcome_of(&done)
    }

    fn outcome_of(&self, done: &DoneNote) -> Outcome {
        let mut events: Vec<_> = self.tally.events.values().collect();
        events.sort_by_key(|event| (event.sequence, event.face_index));
        let new = events.iter().filter(|event| event.kind == EventKind::NewFace);
        Outcome {
            digest: done.head.digest,
            frames: done.frames,
            people: new.map(|event| event.label.clone()).collect(),
            events: events
                .iter()
                .map(|event| FaceAt { sequence: event.sequence, face_index: event.face_index })
                .collect(),
        }
    }

    /// Waits until some node has claimed a step at or beyond `from` and not finished it; its name.
    pub fn claimer_from(&mut self, from: Version) -> Name {
        let mut claimer = None;
        self.wait_for("claim", |_, seen| {
            if let Some(Note::Claim(note)) = seen.map(|seen| &seen.note)
                && note.claim.step >= from
                && note.claim.lease_ms > 0
            {
                claimer = Name::new(note.claim.node.clone()).ok();
            }
            claimer.is_some()
        });
        claimer.expect("a claimer")
    }

    /// What units have cost on a node by the end of the finished job.
    pub fn costs(&mut self, node: &str) -> Budget {
        let (node, done) = (name(node), self.tally.done.as_ref().expect("a finished job").head);
        // The status is repeated every few seconds: the first that tells of the final state knows all units.
        self.wait_for("status after the job", |tally, _| {
            let status = tally.nodes.get(&node);
            status.is_some_and(|status| status.chains.iter().any(|chain| chain.version == done.version))
        });
        Budget::from_table(&self.tally.nodes[&node].costs)
    }

    /// Waits until a node's newest status is sound in somebody's eyes.
    pub fn wait_for_status(&mut self, node: &str, what: &str, mut wanted: impl FnMut(&NodeStatus) -> bool) {
        let node = name(node);
        self.wait_for(what, |tally, _| tally.nodes.get(&node).is_some_and(&mut wanted));
    }

    /// A counter of a node's newest status.
    pub fn counter(&self, node: &str, counter: &str) -> u64 {
        let status = self.tally.nodes.get(&name(node));
        let counters = status.map(|status| status.counters.clone()).unwrap_or_default();
        counters.into_iter().find(|(known, _)| known == counter).map_or(0, |(_, value)| value)
    }

    /// The database check of every node, after stopping it; each must be sound, and all must hold the same events: those that
    /// were seen on the bus.
    ///
    /// # Panics
    /// If one is not or does not, or a node does not stop cleanly.
    pub fn stop_and_check(&mut self) {
        let seen: BTreeSet<String> = self.tally.events.keys().map(ToString::to_string).collect();
        for (node, agent) in &mut self.nodes {
            end_in_order(node.as_str(), agent);
            let report = agent.ask(&["check", "--json"]).expect("a sound database");
            assert!(report.contains("\"sound\": true"), "{node}: {report}");
            let events = agent.ask(&["events", "--json", "--last", "100000"]).expect("its events");
            let events: Vec<serde_json::Value> = serde_json::from_str(&events).expect("a list");
            let held: BTreeSet<String> = events.iter().map(|e| e["id"].as_str().expect("an id").to_owned()).collect();
            assert_eq!(held, seen, "what {node} holds, and what was seen on the bus");
        }
    }

    /// Publishes raw bytes on a topic of the site.
    pub fn publish_raw(&self, topic: &str, payload: &[u8], retain: bool) {
        use std::io::Write as _;
        use std::process::{Command, Stdio};
        let (host, port) = self.broker.url().address();
        let topic = format!("microlambda/{}/{topic}", self.name);
        let mut command = Command::new("mosquitto_pub");
        command.args(["-h", host, "-p", &port.to_string(), "-q", "1", "-s", "-t", &topic]);
        if retain {
            command.arg("-r");
        }
        let mut child = command.stdin(Stdio::piped()).spawn().expect("mosquitto_pub: run `make setup`");
        child.stdin.take().expect("its input").write_all(payload).expect("a payload");
        assert!(child.wait().expect("its end").success());
    }

    fn logs(&self) -> String {
        let camera = self.camera.iter().map(|agent| ("camera".to_owned(), agent));
        let nodes = self.nodes.iter().map(|(name, agent)| (name.to_string(), agent));
        let tail = |(name, agent): (String, &Agent)| format!("--- {name}\n{}\n", agent.log_tail(12));
        camera.chain(nodes).map(tail).collect()
    }
}

fn end_in_order(node: &str, agent: &mut Agent) {
    let status = agent.terminate(Duration::from_secs(10)).expect("an end within ten seconds of SIGTERM");
    assert!(status.success(), "{node} ended with {status}\n{}", agent.log_tail(20));
}

/// What the same photos come to on one node that runs them all in one long invocation.
pub fn long_run(paths: &[&str]) -> Outcome {
    let (mut site, outcome) = start_long_run(paths, 1.0);
    site.stop_and_check();
    outcome
}

/// As [`long_run`], with what its units have cost.
pub fn measured_long_run(paths: &[&str]) -> (Outcome, Budget) {
    measured_long_run_at(paths, 1.0)
}

/// The same over pictures made smaller by a factor.
pub fn measured_long_run_at(paths: &[&str], scale: f64) -> (Outcome, Budget) {
    let (mut site, outcome) = start_long_run(paths, scale);
    let costs = site.costs("long");
    site.stop_and_check();
    (outcome, costs)
}

fn start_long_run(paths: &[&str], scale: f64) -> (Site, Outcome) {
    let mut site = Site::new();
    let photos = site.photos_at(paths, scale);
    site.start_node("long", UNLIMITED_MS, "stay");
    site.start_camera(&photos);
    let outcome = site.outcome(&["long"]);
    (site, outcome)
}

impl Drop for Site {
    fn drop(&mut self) {
        for wrapper in &self.wrappers {
            let _ = fs::remove_file(wrapper);
        }
    }
}
