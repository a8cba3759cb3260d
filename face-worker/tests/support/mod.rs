//! Where the tests find models and photos, and a client that speaks to a worker process as the agent does.

#![allow(dead_code, reason = "each test file uses its own part of this module")]

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use face_worker::{Pixels, decode};
use microlambda_faces::proto::{self, FromWorker, ToWorker};
use microlambda_faces::{FaceParams, Partial};

/// Long enough for the slowest machine; only a test that fails waits for it.
pub const PATIENCE: Duration = Duration::from_secs(120);

fn data(variable: &str, default: &str) -> PathBuf {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository");
    let path = std::env::var_os(variable).map_or_else(|| repository.join(default), PathBuf::from);
    assert!(path.is_dir(), "{} is missing: run `make setup`, or set {variable}", path.display());
    path
}

pub fn models() -> PathBuf {
    data("MICROLAMBDA_MODELS", "target/data/models")
}

/// All photos, with faces and without, by their paths below the photos' directory.
pub fn photos() -> Vec<String> {
    let names = |folder: &str| {
        let path = data("MICROLAMBDA_PHOTOS", "target/data/photos").join(folder);
        let entries = std::fs::read_dir(&path).unwrap_or_else(|e| panic!("{}: {e}: run `make setup`", path.display()));
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("an entry").file_name();
        entries.map(|entry| format!("{folder}/{}", name(entry).display())).collect::<Vec<_>>()
    };
    let mut photos: Vec<String> = ["people", "faceless"].into_iter().flat_map(names).collect();
    photos.sort();
    photos
}

/// Larger pictures are only looked at halved, px: they take long.
const PICTURE_SIDE_PX_MAX: u32 = 1_280;

/// A photo as it is, halved, and halved again, as far as it is small enough.
pub fn scales(name: &str) -> impl Iterator<Item = Pixels> {
    let whole = decode(&photo(name)).expect("a photo");
    let scales = std::iter::successors(Some(whole), |pixels| Some(pixels.half())).take(3);
    scales.filter(|pixels| pixels.width_px().max(pixels.height_px()) <= PICTURE_SIDE_PX_MAX)
}

/// A photo by its path below the photos' directory.
pub fn photo(name: &str) -> Vec<u8> {
    let path = data("MICROLAMBDA_PHOTOS", "target/data/photos").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}: run `make setup`", path.display()))
}

/// A worker process and the agent's end of its socket pair.
pub struct Worker {
    pub child: Child,
    pub stream: UnixStream,
}

impl Worker {
    /// Starts a worker with more arguments and environment than the usual ones.
    pub fn start_with(models: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let (stream, theirs) = UnixStream::pair().expect("a socket pair");
        let child = Command::new(env!("CARGO_BIN_EXE_face-worker"))
            .arg("--models")
            .arg(models)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(OwnedFd::from(theirs))
            .stderr(Stdio::piped())
            .spawn()
            .expect("the worker starts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self { child, stream }
    }

    /// Starts a worker and waits until it is ready.
    pub fn ready() -> Self {
        let mut worker = Self::start_with(&models(), &[], &[]);
        match worker.read() {
            Some(FromWorker::Ready { protocol, .. }) => assert_eq!(protocol, proto::PROTOCOL),
            other => panic!("expected Ready, got {other:?}"),
        }
        worker
    }

    pub fn send(&mut self, message: &ToWorker) {
        self.stream.write_all(&proto::encode(message).expect("encodes")).expect("the worker reads");
    }

    /// The next message but the news that something begins, and what the trial has cost; `None` at the end of the stream.
    pub fn read(&mut self) -> Option<FromWorker> {
        loop {
            match self.read_any() {
                Some(FromWorker::Begin { .. } | FromWorker::Tried { .. }) => {}
                other => return other,
            }
        }
    }

    /// The next message, `None` at the end of the stream.
    pub fn read_any(&mut self) -> Option<FromWorker> {
        let mut prefix = [0; 4];
        match self.stream.read_exact(&mut prefix) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return None,
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return None,
            Err(e) => panic!("reading from the worker: {e}"),
        }
        let mut body = vec![0; proto::body_bytes(prefix).expect("a bounded message")];
        self.stream.read_exact(&mut body).expect("a whole message");
        Some(proto::decode(&body).expect("a message of the protocol"))
    }

    /// All messages up to and with `Stopped`.
    pub fn until_stopped(&mut self) -> Vec<FromWorker> {
        let mut messages = Vec::new();
        loop {
            let message = self.read().unwrap_or_else(|| panic!("the worker went away after {messages:?}"));
            let last = matches!(message, FromWorker::Stopped { .. });
            messages.push(message);
            if last {
                return messages;
            }
        }
    }

    /// Waits for the end of the process.
    pub fn exit(mut self) -> (ExitStatus, String) {
        drop(self.stream);
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("the process can be waited for") {
                break status;
            }
            assert!(begun.elapsed() < PATIENCE, "the worker does not end");
            std::thread::yield_now();
        };
        let mut text = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _ = stderr.read_to_string(&mut text);
        }
        (status, text)
    }
}

/// A start with nothing learnt, a limit and all defaults.
pub fn start(step: u64, r_limit_us: u64, units_max: u32, resume: Option<Partial>) -> ToWorker {
    ToWorker::Start { step, r_limit_us, units_max, costs: Vec::new(), params: FaceParams::default(), resume }
}

pub fn frame(sequence: u64, picture: &[u8], more: bool) -> ToWorker {
    ToWorker::Frame { sequence, jpeg: picture.to_vec(), moved: None, more }
}
