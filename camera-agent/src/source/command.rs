//! A program that writes JPEG pictures to its standard output: ffmpeg for files and network cameras, rpicam-vid for
//! CSI cameras.
//!
//! The program runs in a process group of its own, which is killed when the source is dropped. If the agent itself is
//! killed, the kernel kills the program too, and what that had started ends at its next write into the closed pipe.

use std::io::{BufRead as _, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use microlambda_runtime::{counted, unix_ms, without_passwords};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use super::pump::ProcessGroupKiller;
use super::{Captured, Given, Next, Source, SourceError, input_of};
use crate::mjpeg::Splitter;
use crate::picture::Picture;

/// A picture in the stream is no longer than this, bytes.
pub const PICTURE_BYTES_MAX: usize = 16 << 20;
const CHUNK_BYTES: usize = 64 << 10;
/// Of what the program says on standard error this much of the last line is kept, bytes.
const LAST_WORDS_BYTES_MAX: usize = 400;
/// A program that has closed its output has this long to end.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// What a program that has ended wrote to standard error is there at once, unless one that it started holds the pipe open.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);

/// How to run a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// The program, by name or path, and its arguments.
    pub argv: Vec<String>,
    /// Exit status 0 is the end of the input; else the program is started again.
    pub finite: bool,
    /// The program is started again if it is waited for so long without a whole picture, s; 0 is never.
    pub silence_s: u64,
}

impl CommandLine {
    /// Without passwords, for people.
    pub fn shown(&self) -> String {
        without_passwords(&self.argv.join(" "))
    }
}

/// A running program as a source of pictures.
pub struct Stream {
    line: CommandLine,
    child: Running,
    stdout: ChildStdout,
    splitter: Splitter,
    chunk: Vec<u8>,
    garbage_reported: u64,
    ended: bool,
    /// How the program ended, once it was waited for.
    status: Option<End>,
    /// When the program has been silent for too long. Counted from when it is waited for after a picture: while the spool is
    /// full, it is the program that waits.
    deadline: Option<Instant>,
    /// Pictures of an earlier run that come first again.
    already: Given,
    count: u64,
}

/// How a program ended.
#[derive(Debug, Clone, Copy)]
struct End {
    status: ExitStatus,
    /// Not by our signal.
    by_itself: bool,
}

/// A child that dies with its owner, or when its group is killed through `killer`.
#[derive(Debug)]
struct Running {
    child: Child,
    last_words: Arc<Mutex<String>>,
    /// Closed once all of standard error was read.
    all_heard: mpsc::Receiver<()>,
    killer: Arc<ProcessGroupKiller>,
}

impl Running {
    /// Waits until the program has ended, or ends it.
    fn end(&mut self) -> std::io::Result<End> {
        let pidfd = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty())?;
        let by_itself = is_ready_by(&pidfd, Some(Instant::now() + END_TIMEOUT))?;
        // The group can be killed until its number is free, which is when the program is waited for.
        self.killer.kill();
        Ok(End { status: self.child.wait()?, by_itself })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Empty once the child was waited for: its number may then be another's.
        self.killer.kill();
        let _ = self.child.wait();
    }
}

impl Stream {
    /// Starts the program. Of a finite input, `already` is what an earlier run gave: the program is expected to give
    /// the same again first, which is checked and passed by. `killer` can kill the program while it is read.
    ///
    /// # Errors
    /// [`SourceError::Fatal`] if there is no such program.
    pub fn open(line: &CommandLine, already: Given, killer: &Arc<ProcessGroupKiller>) -> Result<Self, SourceError> {
        let program = line.argv.first().map(String::as_str).unwrap_or_default();
        let mut command = Command::new(program);
        command
            .args(line.argv.iter().skip(1))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        die_with_this_thread(&mut command);
        let mut child = command.spawn().map_err(|error| {
            let why = format!("cannot start {program:?}: {error}; install it or correct `command` in [source]");
            match error.kind() {
                std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied => SourceError::Fatal(why),
                _ => SourceError::Trouble(why),
            }
        })?;
        let stdout = child.stdout.take();
        let stderr = child.stderr.take();
        killer.hold(Some(Pid::from_child(&child)));
        let (hears, all_heard) = mpsc::channel();
        let running = Running { child, last_words: Arc::default(), all_heard, killer: killer.clone() };
        let last_words = running.last_words.clone();
        let listener = std::thread::Builder::new().name("command-stderr".into());
        let listening = stderr.map(|stderr| {
            listener.spawn(move || {
                keep_last_line(stderr, &last_words);
                drop::<mpsc::Sender<()>>(hears);
            })
        });
        if let Some(Err(error)) = listening {
            return Err(SourceError::Trouble(format!("cannot start a thread: {error}")));
        }
        let stdout = stdout.ok_or_else(|| SourceError::Trouble("the command has no standard output".into()))?;
        Ok(Self {
            line: line.clone(),
            child: running,
            stdout,
            splitter: Splitter::new(PICTURE_BYTES_MAX),
            chunk: vec![0; CHUNK_BYTES],
            garbage_reported: 0,
            ended: false,
            status: None,
            deadline: None,
            already,
            count: 0,
        })
    }

    fn picture(&mut self, jpeg: Vec<u8>) -> Result<Option<Captured>, SourceError> {
        let input = if self.line.finite {
            let input = input_of(&format!("frame {}", self.count), &jpeg, 0);
            self.count += 1;
            if let Some((former, _)) = self.already.next() {
                return if former == input { Ok(None) } else { Err(self.differs(&input.label)) };
            }
            Some(input)
        } else {
            None
        };
        Ok(Some(Captured {
            picture: Picture::File(jpeg),
            captured_at_ms: unix_ms(),
            label: input.as_ref().map(|input| input.label.clone()).unwrap_or_default(),
            input,
        }))
    }

    fn differs(&self, label: &str) -> SourceError {
        SourceError::Fatal(format!(
            "`{}` gives other pictures than before the restart (from {label} on): start anew with `camera-agent run --new-job`",
            self.line.shown()
        ))
    }

    /// The output has ended: what that means.
    fn at_end(&mut self) -> Result<Next, SourceError> {
        let End { status, by_itself } = match self.status {
            Some(end) => end,
            None => *self.status.insert(self.child.end().map_err(|error| SourceError::Trouble(error.to_string()))?),
        };
        if self.line.finite && status.success() {
            if let Some(cut_short) = self.splitter.take_unfinished()
                && let Some(next) = self.cut_short(&cut_short)?
            {
                return Ok(next);
            }
            return match self.already.next() {
                Some((missing, _)) => Err(self.differs(&missing.label)),
                None => Ok(Next::End),
            };
        }
        let _ = self.child.all_heard.recv_timeout(LAST_WORDS_TIMEOUT);
        let how = if by_itself {
            format!("ended ({status})")
        } else {
            format!("closed its output, did not end within {} s and was killed,", END_TIMEOUT.as_secs())
        };
        let (program, given, words) = (self.program(), counted(self.count, "picture"), self.last_words());
        // A video file would be played again and again, as if it were a camera.
        let seems_finite = by_itself && status.success() && self.count > 0;
        Err(SourceError::Trouble(if seems_finite {
            let said = if words.is_empty() { words } else { format!(" (it said{words})") };
            format!(
                "{program} {how} after {given} and is started again; if that is the end of its input, as of a video file, set \
                 finite = true in [source], which makes it a job with an end{said}"
            )
        } else {
            format!("{program} {how} after {given}{words}; try its command line in a terminal")
        }))
    }

    /// A finite input ended inside of its last picture; `None` if an earlier run has told so.
    fn cut_short(&mut self, start: &[u8]) -> Result<Option<Next>, SourceError> {
        let input = input_of(&format!("frame {}", self.count), start, 0);
        self.count += 1;
        if let Some((former, _)) = self.already.next() {
            return if former == input { Ok(None) } else { Err(self.differs(&input.label)) };
        }
        let why = format!(
            "{}: it is cut short: the output of {:?} ended within it, and {} bytes were left: let it write whole pictures",
            input.label,
            self.program(),
            start.len()
        );
        Ok(Some(Next::PassedOver { why, input: Some(input) }))
    }

    /// Nothing whole came until the deadline.
    fn silent(&self) -> SourceError {
        SourceError::Trouble(format!(
            "{} gave no whole picture for {} s{}: check the camera and the network, and raise silence-s in [source] if such pauses \
             are as they should be",
            self.program(),
            self.line.silence_s,
            self.last_words()
        ))
    }

    fn program(&self) -> &str {
        self.line.argv.first().map(String::as_str).unwrap_or_default()
    }

    /// The last line on standard error, to stand behind what happened.
    fn last_words(&self) -> String {
        let words = self.child.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        if words.is_empty() { String::new() } else { format!(": {words}") }
    }
}

impl Source for Stream {
    fn next(&mut self) -> Result<Next, SourceError> {
        loop {
            while let Some(jpeg) = self.splitter.next_picture() {
                if !self.line.finite {
                    self.count += 1;
                }
                self.deadline = None;
                if let Some(captured) = self.picture(jpeg)? {
                    return Ok(Next::Frame(captured));
                }
            }
            let garbage = self.splitter.garbage_bytes();
            if garbage > self.garbage_reported {
                let bytes = garbage - self.garbage_reported;
                self.garbage_reported = garbage;
                let why = format!(
                    "{bytes} bytes from {:?} are no JPEG picture: let it write MJPEG (ffmpeg: -f mjpeg -, rpicam-vid: --codec mjpeg -o -)",
                    self.program()
                );
                return Ok(Next::PassedOver { why, input: None });
            }
            if self.ended {
                return self.at_end();
            }
            if self.deadline.is_none() && self.line.silence_s > 0 {
                self.deadline = Instant::now().checked_add(Duration::from_secs(self.line.silence_s));
            }
            match is_ready_by(&self.stdout, self.deadline) {
                Ok(true) => {}
                Ok(false) => return Err(self.silent()),
                Err(error) => return Err(SourceError::Trouble(format!("waiting for the command: {error}"))),
            }
            match self.stdout.read(&mut self.chunk) {
                Ok(0) => {
                    self.ended = true;
                    self.splitter.end();
                }
                Ok(bytes) => self.splitter.push(&self.chunk[..bytes]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(SourceError::Trouble(format!("reading from the command: {error}"))),
            }
        }
    }
}

/// Waits until `fd` has something to read or is at its end; false once the deadline has come.
fn is_ready_by(fd: &impl AsFd, deadline: Option<Instant>) -> Result<bool, Errno> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // Whoever writes nothing but garbage is always ready.
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(false);
        }
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], timeout.as_ref()) {
            Err(Errno::INTR) => {}
            ready => return ready.map(|ready| ready > 0),
        }
    }
}

/// Lets the kernel kill the program when the source's thread ends, however that comes about.
#[expect(unsafe_code, reason = "the child has to ask for the signal itself, between fork and exec")]
fn die_with_this_thread(command: &mut Command) {
    // SAFETY: the closure makes one system call, which is safe between fork and exec; it neither allocates nor locks.
    unsafe {
        command.pre_exec(|| Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?));
    }
}

/// Keeps the last line the program wrote, so that its end can be explained.
fn keep_last_line(stderr: impl Read, last_words: &Mutex<String>) {
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        let room = LAST_WORDS_BYTES_MAX - line.len();
        let Ok(read) = reader.by_ref().take(room as u64).read_until(b'\n', &mut line) else { return };
        let is_whole = read < room || line.ends_with(b"\n");
        // A longer line is cut between words: nobody would find the password in half an address.
        let word = line.iter().rposition(u8::is_ascii_whitespace).filter(|_| !is_whole);
        let rest = line.split_off(word.map_or(line.len(), |at| at + 1));
        let text = String::from_utf8_lossy(&line).trim().replace(|c: char| c.is_control(), " ");
        if !text.is_empty() {
            let text = without_passwords(&text);
            log::debug!(line = text.as_str(); "the command says");
            *last_words.lock().unwrap_or_else(PoisonError::into_inner) = text;
        }
        if read == 0 {
            return;
        }
        line = rest;
    }
}

#[cfg(test)]
mod tests;
