//! A broker, an agent and an observer of their own for each test.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};
use microlambda_runtime::{BrokerUrl, Link, LinkConfig, LinkEvent, LinkEvents};
use microlambda_wire::{
    CameraHead, CameraStatus, FrameMeta, Name, Payload, RecordNote, Topic, TopicPrefix, Want, from_payload,
    strip_frame_meta, to_payload,
};
use tempfile::TempDir;

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// A picture with some structure; another `seed` gives another picture.
pub fn picture(width: u32, height: u32, seed: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let wave = |scale: u32| u8::try_from((x * scale + y * (scale + 1) + seed * 37) % 256).unwrap();
        Rgb([wave(1), wave(2), wave(3)])
    })
}

pub fn jpeg(width: u32, height: u32, seed: u32) -> Vec<u8> {
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, 80).encode_image(&picture(width, height, seed)).unwrap();
    jpeg
}

/// So many files with pictures, no two alike.
pub fn numbered(count: u32) -> Vec<(String, Vec<u8>)> {
    (0..count).map(|n| (format!("{n:03}.jpg"), jpeg(160, 120, n))).collect()
}

pub fn put(setup: &Setup, files: &[(String, Vec<u8>)]) {
    setup.pictures(&files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect::<Vec<_>>());
}

/// Exit code, output and log of a command.
pub fn output(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(program()).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A mosquitto on a port of the loopback that ends with the test.
pub struct Broker {
    child: Child,
    pub port: u16,
    _folder: TempDir,
}

/// A port that nobody listens on, and no other test of this process gets: one that is free again would be given out twice.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if GIVEN.lock().unwrap().insert(port) {
            return port;
        }
    }
}

impl Broker {
    pub fn start() -> Self {
        Self::start_on(free_port())
    }

    pub fn start_on(port: u16) -> Self {
        Self::start_with(port, "")
    }

    /// `extra` are lines of mosquitto's configuration.
    pub fn start_with(port: u16, extra: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mosquitto.conf");
        let settings = format!("listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n{extra}");
        std::fs::write(&path, &settings).unwrap();
        let is_there =
            |path: &&str| Command::new(path).arg("-h").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
        let mosquitto = ["/usr/sbin/mosquitto", "mosquitto"]
            .into_iter()
            .find(is_there)
            .expect("this test needs mosquitto: install the Debian package mosquitto");
        let child = Command::new(mosquitto).arg("-c").arg(&path).stderr(Stdio::null()).spawn().unwrap();
        let mut broker = Self { child, port, _folder: folder };
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = broker.child.try_wait().unwrap();
            assert!(ended.is_none(), "mosquitto has ended ({ended:?}) with these settings:\n{settings}");
            std::thread::yield_now();
        }
        broker
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running camera agent with its folders.
pub struct Agent {
    pub child: Child,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

/// Folder and configuration of an agent, kept over its restarts.
pub struct Setup {
    pub folder: TempDir,
    pub config: PathBuf,
}

impl Setup {
    /// `source` is what stands in `[source]` and the tables after it.
    pub fn new(port: u16, source: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("camera.toml");
        let setup = Self { folder, config };
        setup.write(port, source);
        setup
    }

    pub fn write(&self, port: u16, source: &str) {
        let state_dir = self.folder.path().join("state");
        let source = source.replace("FOLDER", self.folder.path().to_str().unwrap());
        let text = format!(
            "site = \"test\"\ncamera = \"door\"\nstate-dir = {state_dir:?}\n[broker]\nurl = \"mqtt://127.0.0.1:{port}\"\n[source]\n{source}\n"
        );
        std::fs::write(&self.config, text).unwrap();
    }

    /// A subfolder `pictures` with these files, as if they had been there for long: a folder that changes is waited for.
    pub fn pictures(&self, files: &[(&str, Vec<u8>)]) -> PathBuf {
        let folder = self.folder.path().join("pictures");
        std::fs::create_dir_all(&folder).unwrap();
        for (name, bytes) in files {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
        let then = SystemTime::now() - Duration::from_secs(60);
        for path in files.iter().map(|(name, _)| folder.join(name)).chain([folder.clone()]) {
            std::fs::File::open(path).unwrap().set_modified(then).unwrap();
        }
        folder
    }

    pub fn run(&self, arguments: &[&str]) -> Agent {
        self.spawn(Command::new(program()), arguments)
    }

    /// The same with at most so much memory of its own, KiB.
    pub fn run_within(&self, memory_kib: u64, arguments: &[&str]) -> Agent {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "ulimit -d \"$0\" && exec \"$@\"", &memory_kib.to_string()]).arg(program());
        self.spawn(shell, arguments)
    }

    fn spawn(&self, mut command: Command, arguments: &[&str]) -> Agent {
        let mut child =
            command.args(["run", "--config"]).arg(&self.config).args(arguments).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::<Mutex<Vec<String>>>::default();
        let (lines, stderr) = (log.clone(), child.stderr.take().unwrap());
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        Agent { child, log, reader: Some(reader) }
    }
}

pub fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_camera-agent"))
}

impl Agent {
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn terminate(&mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.wait()
    }

    /// Waits for the end that must come.
    pub fn wait(&mut self) -> ExitStatus {
        let began = std::time::Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                // The log is whole once its reader has come to the end.
                if let Some(reader) = self.reader.take() {
                    reader.join().unwrap();
                }
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "the agent still runs:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Waits for a line that must come.
    pub fn wait_for_line(&self, part: &str) {
        let began = std::time::Instant::now();
        while !self.log().contains(part) {
            assert!(began.elapsed() < PATIENCE, "no {part:?} in:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Resident memory, KiB: now, and the most so far.
    pub fn resident_kib(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        (field("VmRSS:"), field("VmHWM:"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the agent's log\n{}", self.log());
        }
    }
}

/// A client that sees all of the camera's topics and speaks for nodes.
pub struct Observer {
    pub link: Link,
    events: LinkEvents,
    prefix: TopicPrefix,
    pub chain: Option<Name>,
    last_status: Option<CameraStatus>,
}

/// A record as a node got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Got {
    Frame { node: String, meta: FrameMeta, jpeg: Vec<u8> },
    Record { node: String, note: RecordNote },
}

impl Observer {
    pub async fn new(port: u16) -> Self {
        let url = BrokerUrl { host: "127.0.0.1".into(), port, tls: false };
        let mut config = LinkConfig::new(url, "observer");
        config.filters = vec!["microlambda/test/camera/door/#".into()];
        config.inbox_messages_max = 10_000;
        config.inbox_bytes_max = 256 << 20;
        config.backoff_max = Duration::from_millis(100);
        let (link, events) = Link::start(config);
        let mut observer =
            Self { link, events, prefix: TopicPrefix::new(&name("test")), chain: None, last_status: None };
        observer.connected().await;
        observer
    }

    /// Waits until the broker has taken the subscriptions (again).
    pub async fn connected(&mut self) {
        while self.next_event().await != LinkEvent::Connected {}
    }

    async fn next_event(&mut self) -> LinkEvent {
        tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("a message in time").unwrap()
    }

    /// Reads messages until `pick` takes one.
    pub async fn until<T>(&mut self, mut pick: impl FnMut(&Topic, &Bytes) -> Option<T>) -> T {
        loop {
            let LinkEvent::Message { topic, payload, .. } = self.next_event().await else { continue };
            let topic = Topic::parse(&self.prefix, &topic).unwrap();
            if matches!(topic, Topic::CameraHead { .. }) && !payload.is_empty() {
                self.chain = Some(from_payload::<CameraHead>(&payload).unwrap().chain);
            }
            if let Topic::CameraStatus { .. } = topic {
                self.last_status = Some(from_payload(&payload).unwrap());
            }
            if let Some(picked) = pick(&topic, &payload) {
                return picked;
            }
        }
    }

    pub async fn head(&mut self, holds: impl Fn(&CameraHead) -> bool) -> CameraHead {
        self.until(|topic, payload| match topic {
            Topic::CameraHead { .. } if payload.is_empty() => None,
            Topic::CameraHead { .. } => Some(from_payload::<CameraHead>(payload).unwrap()).filter(|head| holds(head)),
            _ => None,
        })
        .await
    }

    /// The newest status for which this holds; it may have come while something else was waited for.
    pub async fn status(&mut self, holds: impl Fn(&CameraStatus) -> bool) -> CameraStatus {
        if let Some(status) = self.last_status.clone().filter(|status| holds(status)) {
            return status;
        }
        self.until(|topic, payload| match topic {
            Topic::CameraStatus { .. } => Some(from_payload::<CameraStatus>(payload).unwrap()).filter(|s| holds(s)),
            _ => None,
        })
        .await
    }

    /// Waits until this is the picture for dashboards.
    pub async fn image(&mut self, jpeg: &[u8]) {
        let is_it = |topic: &Topic, payload: &Bytes| matches!(topic, Topic::CameraImage { .. }) && payload == jpeg;
        let shown = self.until(|topic, payload| is_it(topic, payload).then_some(()));
        tokio::time::timeout(PATIENCE, shown).await.expect("the picture in time");
    }

    /// The next record for any node.
    pub async fn record(&mut self) -> Got {
        self.until(|topic, payload| match topic {
            Topic::CameraFrame { node, .. } => {
                let (meta, jpeg) = strip_frame_meta(payload).unwrap();
                Some(Got::Frame { node: node.to_string(), meta, jpeg })
            }
            Topic::CameraRecord { node, .. } => {
                Some(Got::Record { node: node.to_string(), note: from_payload(payload).unwrap() })
            }
            _ => None,
        })
        .await
    }

    /// The next record, which must be frame `sequence` for `node`.
    pub async fn frame(&mut self, node: &str, sequence: u64) -> (FrameMeta, Vec<u8>) {
        match self.record().await {
            Got::Frame { node: to, meta, jpeg } if to == node && meta.sequence == sequence => (meta, jpeg),
            Got::Frame { node: to, meta, .. } => {
                panic!("frame {} for {to} instead of {sequence} for {node}", meta.sequence)
            }
            Got::Record { note, .. } => panic!("{note:?} instead of frame {sequence} for {node}"),
        }
    }

    /// The next record, which must not be a frame.
    pub async fn note(&mut self, node: &str) -> RecordNote {
        match self.record().await {
            Got::Record { node: to, note } if to == node => note,
            other => panic!("{other:?} instead of a record for {node}"),
        }
    }

    /// Makes the broker forget the head that it has kept, and waits until it has.
    pub async fn forget_head(&mut self) {
        let topic = Topic::CameraHead { camera: name("door") };
        self.link.publish(topic.build(&self.prefix), Vec::new(), true).unwrap();
        let gone = |topic: &Topic, payload: &Bytes| matches!(topic, Topic::CameraHead { .. }) && payload.is_empty();
        self.until(|topic, payload| gone(topic, payload).then_some(())).await;
    }

    pub fn want(&self, node: &str, cursor: u64, credit: u32, committed: u64) {
        self.want_for(node, cursor, credit, committed, 30_000);
    }

    pub fn want_for(&self, node: &str, cursor: u64, credit: u32, committed: u64, expires_ms: u32) {
        let want = Want {
            node: name(node),
            boot: name("b0"),
            chain: self.chain.clone().expect("a head was seen"),
            cursor,
            credit,
            committed,
            expires_ms,
        };
        self.publish(&Topic::CameraWant { camera: name("door") }, &want);
    }

    pub fn publish(&self, topic: &Topic, payload: &impl Payload) {
        self.link.publish(topic.build(&self.prefix), to_payload(payload).unwrap(), false).unwrap();
    }

    pub fn publish_raw(&self, topic: &Topic, payload: &[u8]) {
        self.link.publish(topic.build(&self.prefix), payload.to_vec(), false).unwrap();
    }
}

/// A live source under the test's control: what is written here is what the camera's command gives.
pub struct Lens {
    pipe: std::fs::File,
}

impl Lens {
    /// The `[source]` lines of a command that copies a named pipe, which is made in the setup's folder. Every picture is kept.
    pub fn source(tables: &str) -> String {
        Self::watched("[image]\ninterval-s = 0\n[motion]\nstill-interval-s = 0\n") + tables
    }

    /// The same with the camera's defaults but for these tables.
    pub fn watched(tables: &str) -> String {
        format!("kind = \"command\"\ncommand = [\"cat\", \"FOLDER/lens\"]\n{tables}")
    }

    pub fn make(setup: &Setup) {
        let path = setup.folder.path().join("lens");
        let _ = std::fs::remove_file(&path);
        assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    }

    /// Waits for the agent's command to open the other end.
    pub async fn open(setup: &Setup) -> Self {
        let path = setup.folder.path().join("lens");
        let pipe = tokio::task::spawn_blocking(move || std::fs::File::options().write(true).open(path).unwrap());
        Self { pipe: tokio::time::timeout(PATIENCE, pipe).await.expect("the command opens the pipe").unwrap() }
    }

    pub fn show(&mut self, jpeg: &[u8]) {
        self.pipe.write_all(jpeg).unwrap();
    }

    /// False once nobody looks any more.
    pub fn try_show(&mut self, jpeg: &[u8]) -> bool {
        self.pipe.write_all(jpeg).is_ok()
    }
}

#[test]
#[should_panic(expected = "mosquitto has ended")]
fn a_broker_that_cannot_start_fails_its_test_at_once() {
    Broker::start_with(free_port(), "there_is_no_such_setting true\n");
}
