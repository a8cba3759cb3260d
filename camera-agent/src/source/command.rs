//! A program that writes JPEG pictures to its standard output: ffmpeg for files and network cameras, rpicam-vid for
//! CSI cameras.
//!
//! The program runs in a process group of its own, which is killed when the source is dropped. If the agent itself is
//! killed, the kernel kills the program too, and what that had started ends at its next write into the closed pipe.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use microlambda_runtime::unix_ms;
use rustix::process::{Pid, Signal};

use super::pump::Leash;
use super::{Captured, Next, Source, SourceError, input_of};
use crate::mjpeg::Splitter;
use crate::picture::Picture;
use crate::spool::Input;

/// A picture in the stream is no longer than this, bytes.
pub const PICTURE_BYTES_MAX: usize = 16 << 20;
const CHUNK_BYTES: usize = 64 << 10;
/// Of what the program says on standard error this much of the last line is kept, bytes.
const LAST_WORDS_BYTES_MAX: u64 = 400;

/// How to run a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Exit status 0 is the end of the input; else the program is started again.
    pub finite: bool,
}

/// A running program.
#[derive(Debug)]
pub struct Stream {
    line: CommandLine,
    child: Running,
    stdout: ChildStdout,
    splitter: Splitter,
    chunk: Vec<u8>,
    skipped_reported: u64,
    ended: bool,
    /// Pictures of an earlier run that come first again.
    already: VecDeque<Input>,
    count: u64,
}

/// A child that dies with its owner, or when the leash is pulled.
#[derive(Debug)]
struct Running {
    child: Child,
    last_words: Arc<Mutex<String>>,
    leash: Arc<Leash>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Empty once the child was waited for: its number may then be another's.
        self.leash.kill();
        let _ = self.child.wait();
    }
}

impl Stream {
    /// Starts the program. Of a finite input, `already` is what an earlier run gave: the program is expected to give
    /// the same again first, which is checked and passed by. `leash` can kill the program while it is read.
    ///
    /// # Errors
    /// [`SourceError::Fatal`] if there is no such program.
    pub fn open(line: &CommandLine, already: &[(Input, bool)], leash: &Arc<Leash>) -> Result<Self, SourceError> {
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
        leash.hold(Some(Pid::from_child(&child)));
        let running = Running { child, last_words: Arc::default(), leash: leash.clone() };
        let last_words = running.last_words.clone();
        let listener = std::thread::Builder::new().name("command-stderr".into());
        let listening = stderr.map(|stderr| listener.spawn(move || keep_last_line(stderr, &last_words)));
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
            skipped_reported: 0,
            ended: false,
            already: already.iter().map(|(input, _)| input.clone()).collect(),
            count: 0,
        })
    }

    fn picture(&mut self, jpeg: Vec<u8>) -> Result<Option<Captured>, SourceError> {
        let input = if self.line.finite {
            let input = input_of(&format!("frame {}", self.count), &jpeg, 0);
            self.count += 1;
            if let Some(former) = self.already.pop_front() {
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
            "{:?} gives other pictures than before the restart (from {label} on): start anew with `camera-agent run --new-job`",
            self.line.argv
        ))
    }

    /// The output has ended: what that means.
    fn at_end(&mut self) -> Result<Next, SourceError> {
        self.child.leash.hold(None);
        let status = self.child.child.wait().map_err(|error| SourceError::Trouble(error.to_string()))?;
        if self.line.finite && status.success() {
            return match self.already.front() {
                Some(missing) => Err(self.differs(&missing.label.clone())),
                None => Ok(Next::End),
            };
        }
        let words = self.child.last_words.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let words = if words.is_empty() { String::new() } else { format!(": {words}") };
        let program = self.line.argv.first().map(String::as_str).unwrap_or_default();
        Err(SourceError::Trouble(format!(
            "{program} ended ({status}) after {} pictures{words}; try its command line in a terminal",
            self.count
        )))
    }
}

impl Source for Stream {
    fn next(&mut self) -> Result<Next, SourceError> {
        loop {
            while let Some(jpeg) = self.splitter.next_picture() {
                if !self.line.finite {
                    self.count += 1;
                }
                if let Some(captured) = self.picture(jpeg)? {
                    return Ok(Next::Frame(captured));
                }
            }
            let skipped = self.splitter.skipped_bytes();
            if skipped > self.skipped_reported {
                let bytes = skipped - self.skipped_reported;
                self.skipped_reported = skipped;
                let why = format!(
                    "{bytes} bytes from {:?} are no JPEG picture: let it write MJPEG (ffmpeg: -f mjpeg -, rpicam-vid: --codec mjpeg -o -)",
                    self.line.argv.first().map(String::as_str).unwrap_or_default()
                );
                return Ok(Next::PassedOver { why, input: None });
            }
            if self.ended {
                return self.at_end();
            }
            match self.stdout.read(&mut self.chunk) {
                Ok(0) => self.ended = true,
                Ok(bytes) => self.splitter.push(&self.chunk[..bytes]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(SourceError::Trouble(format!("reading from the command: {error}"))),
            }
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
fn keep_last_line(stderr: std::process::ChildStderr, last_words: &Mutex<String>) {
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.by_ref().take(LAST_WORDS_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line).trim().replace(|c: char| c.is_control(), " ");
                if !text.is_empty() {
                    log::debug!(line = text.as_str(); "the command says");
                    *last_words.lock().unwrap_or_else(PoisonError::into_inner) = text;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::path::Path;

    use super::*;
    use crate::testing::photo_jpeg;

    fn stream_file(folder: &Path, parts: &[&[u8]]) -> String {
        let path = folder.join("stream.mjpeg");
        std::fs::File::create(&path).unwrap().write_all(&parts.concat()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn shell(script: &str, finite: bool) -> CommandLine {
        CommandLine { argv: vec!["/bin/sh".into(), "-c".into(), script.into()], finite }
    }

    fn open(line: &CommandLine, already: &[(Input, bool)]) -> Result<Stream, SourceError> {
        Stream::open(line, already, &Arc::default())
    }

    fn pictures(stream: &mut Stream) -> (Vec<Vec<u8>>, Result<Next, SourceError>) {
        let mut pictures = Vec::new();
        loop {
            match stream.next() {
                Ok(Next::Frame(Captured { picture: Picture::File(jpeg), .. })) => pictures.push(jpeg),
                Ok(Next::PassedOver { .. }) => {}
                other => return (pictures, other),
            }
        }
    }

    #[test]
    fn pictures_pass_byte_for_byte_and_status_0_ends_a_finite_input() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (photo_jpeg(320, 240, 1), photo_jpeg(320, 240, 2));
        let file = stream_file(folder.path(), &[&a, &b]);
        let mut stream = open(&shell(&format!("cat {file}"), true), &[]).unwrap();
        assert_eq!(pictures(&mut stream), (vec![a, b], Ok(Next::End)));
    }

    #[test]
    fn garbage_between_pictures_is_passed_over_with_a_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (photo_jpeg(320, 240, 1), photo_jpeg(320, 240, 2));
        let file = stream_file(folder.path(), &[b"hello", &a, b"[info] something", &b]);
        let mut stream = open(&shell(&format!("cat {file}"), true), &[]).unwrap();
        let mut reasons = Vec::new();
        let mut frames = 0;
        loop {
            match stream.next().unwrap() {
                Next::Frame(_) => frames += 1,
                Next::PassedOver { why, .. } => reasons.push(why),
                Next::End => break,
            }
        }
        assert_eq!(frames, 2);
        assert!(!reasons.is_empty() && reasons.iter().all(|why| why.contains("-f mjpeg")), "{reasons:?}");
    }

    #[test]
    fn a_failing_command_is_trouble_with_its_last_words() {
        let mut stream = open(&shell("echo no such camera >&2; exit 3", true), &[]).unwrap();
        let (none, end) = pictures(&mut stream);
        assert!(none.is_empty());
        let Err(SourceError::Trouble(why)) = end else { panic!("{end:?}") };
        assert!(why.contains("exit status: 3"), "{why}");
        // The last words arrive over another pipe and may come late.
        assert!(why.contains("try its command line"), "{why}");
    }

    #[test]
    fn a_live_command_that_ends_is_trouble_whatever_its_status() {
        let mut stream = open(&shell("true", false), &[]).unwrap();
        assert!(matches!(stream.next(), Err(SourceError::Trouble(_))));
    }

    #[test]
    fn a_program_that_does_not_exist_is_fatal_and_named() {
        let line = CommandLine { argv: vec!["no-such-program-anywhere".into()], finite: false };
        let error = open(&line, &[]).unwrap_err();
        assert!(matches!(&error, SourceError::Fatal(why) if why.contains("no-such-program-anywhere")), "{error}");
    }

    #[test]
    fn a_restart_passes_by_what_was_read_and_notices_another_stream() {
        let folder = tempfile::tempdir().unwrap();
        let frames: Vec<Vec<u8>> = (0..3).map(|n| photo_jpeg(64, 48, n)).collect();
        let file = stream_file(folder.path(), &[&frames[0], &frames[1], &frames[2]]);
        let line = shell(&format!("cat {file}"), true);
        let already: Vec<(Input, bool)> =
            (0..2).map(|n| (input_of(&format!("frame {n}"), &frames[n], 0), true)).collect();
        let mut stream = open(&line, &already).unwrap();
        assert_eq!(pictures(&mut stream), (vec![frames[2].clone()], Ok(Next::End)));

        let other = vec![(input_of("frame 0", b"another", 0), true)];
        let (_, end) = pictures(&mut open(&line, &other).unwrap());
        assert!(matches!(end, Err(SourceError::Fatal(why)) if why.contains("--new-job")));

        let longer: Vec<(Input, bool)> = already
            .into_iter()
            .chain([(input_of("frame 2", &frames[2], 0), true), (input_of("frame 3", b"x", 0), true)])
            .collect();
        let (_, end) = pictures(&mut open(&line, &longer).unwrap());
        assert!(matches!(end, Err(SourceError::Fatal(why)) if why.contains("frame 3")));
    }

    #[test]
    fn a_dropped_source_kills_its_program_and_the_programs_children() {
        let folder = tempfile::tempdir().unwrap();
        let pid_file = folder.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait", pid_file.display());
        let stream = open(&shell(&script, false), &[]).unwrap();
        let pid = loop {
            match std::fs::read_to_string(&pid_file) {
                Ok(text) => break text.trim().to_owned(),
                Err(_) => std::thread::yield_now(),
            }
        };
        drop(stream);
        let is_running = || {
            std::fs::read_to_string(format!("/proc/{pid}/stat"))
                .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
        };
        let began = std::time::Instant::now();
        while is_running() {
            assert!(began.elapsed().as_secs() < 20, "the grandchild lives");
            std::thread::yield_now();
        }
    }
}
