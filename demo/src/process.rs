//! Child processes: started with their output in a file, signalled by their own pid, measured through `/proc`.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use crate::Error;

/// How often a wait for another process looks again.
pub(crate) const POLL: Duration = Duration::from_millis(5);
/// So much of the end of a log is read for its last lines, bytes.
const LOG_TAIL_BYTES: u64 = 16 << 10;

/// What a process has used so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// CPU time, user and system, µs.
    pub cpu_us: u64,
    /// Resident memory, bytes.
    pub rss_bytes: u64,
}

/// Something to run again and again: a program, its arguments and where its output goes.
///
/// Ended on drop with SIGKILL, together with its children.
#[derive(Debug)]
pub struct Process {
    label: String,
    argv: Vec<OsString>,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// Starts `argv` (program first); standard output and error are appended to `log`.
    ///
    /// # Errors
    /// [`Error::Spawn`] or [`Error::File`].
    pub fn start(label: &str, argv: Vec<OsString>, log: &Path) -> Result<Self, Error> {
        let mut process = Self { label: label.to_string(), argv, log: log.to_path_buf(), child: None };
        process.respawn()?;
        Ok(process)
    }

    /// Starts the same command again. The former process must have ended.
    ///
    /// # Errors
    /// [`Error::Spawn`] or [`Error::File`].
    pub fn respawn(&mut self) -> Result<(), Error> {
        let running = self.exited().is_none() && self.child.is_some();
        assert!(!running, "{} is still running", self.label);
        let log =
            OpenOptions::new().create(true).append(true).open(&self.log).map_err(|e| Error::file(&self.log, e))?;
        let errors = log.try_clone().map_err(|e| Error::file(&self.log, e))?;
        let (program, args) = self.argv.split_first().ok_or_else(|| Error::Spawn {
            program: self.label.clone(),
            why: "no program named".into(),
            remedy: "name one".into(),
        })?;
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::from(log))
            .stderr(Stdio::from(errors))
            .spawn()
            .map_err(|e| spawn_error(program, &e))?;
        self.child = Some(child);
        Ok(())
    }

    /// What the program is called in messages.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The pid of the running process; `None` once it was seen to have ended.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// How it ended, if it has ended by itself or by a signal.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// Waits for the end, at most for `patience`.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + patience;
        loop {
            if let Some(status) = self.exited() {
                return Some(status);
            }
            if Instant::now() >= until {
                return None;
            }
            std::thread::sleep(POLL);
        }
    }

    /// SIGKILL to the process alone, as a crash would take it; then reaps it. Says when the signal was sent, µs of
    /// the machine's monotonic clock.
    pub fn kill(&mut self) -> u64 {
        let at_us = crate::clock::monotonic_us();
        self.signal(Signal::KILL);
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
        at_us
    }

    /// SIGTERM, and the time to end cleanly; `None` if it is still there after `patience`.
    pub fn terminate(&mut self, patience: Duration) -> Option<ExitStatus> {
        self.signal(Signal::TERM);
        let status = self.wait(patience)?;
        self.child = None;
        Some(status)
    }

    /// SIGSTOP: the process freezes, its connections stay open.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT: undoes [`Process::freeze`].
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// As [`Process::freeze`], with its children and theirs. Says when it begins, µs of the machine's monotonic clock.
    pub fn freeze_all(&self) -> u64 {
        let at_us = crate::clock::monotonic_us();
        // First itself: it would notice that its children stand still.
        self.freeze();
        self.signal_children(Signal::STOP);
        at_us
    }

    /// Undoes [`Process::freeze_all`].
    pub fn thaw_all(&self) {
        self.signal_children(Signal::CONT);
        self.thaw();
    }

    /// SIGKILL to its children and theirs, not to itself. Says when, µs of the machine's monotonic clock.
    pub fn kill_children(&self) -> u64 {
        let children = self.children();
        let at_us = crate::clock::monotonic_us();
        children.into_iter().for_each(|pid| signal_pid(pid, Signal::KILL));
        at_us
    }

    fn signal_children(&self, signal: Signal) {
        for pid in self.children() {
            signal_pid(pid, signal);
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            signal_pid(pid, signal);
        }
    }

    /// What the process itself uses.
    pub fn usage(&self) -> Usage {
        self.pid().map(usage).unwrap_or_default()
    }

    /// Pids of its children and of theirs.
    pub fn children(&self) -> Vec<u32> {
        self.pid().map(descendants).unwrap_or_default()
    }

    /// What its children use together.
    pub fn children_usage(&self) -> Usage {
        self.children().into_iter().map(usage).fold(Usage::default(), |sum, one| Usage {
            cpu_us: sum.cpu_us + one.cpu_us,
            rss_bytes: sum.rss_bytes + one.rss_bytes,
        })
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last `lines` of its output.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }

    /// As [`Process::check_running`], for those who share it: it is looked at only, and whoever owns it may reap it.
    ///
    /// # Errors
    /// [`Error::Exited`] with the last lines of its log.
    pub fn check_present(&self) -> Result<(), Error> {
        let Some(pid) = self.pid().and_then(|pid| Pid::from_raw(pid.cast_signed())) else {
            return Ok(());
        };
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let Ok(Some(status)) = rustix::process::waitid(WaitId::Pid(pid), look) else {
            return Ok(());
        };
        let how = status.exit_status().map(|code| format!("exit status: {code}"));
        let signal = status.terminating_signal().unwrap_or(0);
        let status = how.unwrap_or_else(|| format!("signal: {signal}"));
        Err(Error::Exited { label: self.label.clone(), status, log: self.log_tail(12) })
    }

    /// An error if it has ended.
    ///
    /// # Errors
    /// [`Error::Exited`] with the last lines of its log.
    pub fn check_running(&mut self) -> Result<(), Error> {
        match self.exited() {
            None => Ok(()),
            Some(status) => {
                Err(Error::Exited { label: self.label.clone(), status: status.to_string(), log: self.log_tail(12) })
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.exited().is_none() {
            // Children are asked for before their parent is gone: afterwards they belong to init.
            let children = self.children();
            self.kill();
            for pid in children {
                signal_pid(pid, Signal::KILL);
            }
        }
    }
}

/// What to say when `program` does not start.
pub(crate) fn spawn_error(program: &std::ffi::OsStr, error: &std::io::Error) -> Error {
    let path = Path::new(program);
    if error.kind() == std::io::ErrorKind::NotFound && path.is_absolute() {
        return Error::Binary { path: path.to_path_buf() };
    }
    let program = path.display().to_string();
    let remedy = format!("install the package that holds `{program}`");
    Error::Spawn { program, why: error.to_string(), remedy }
}

/// Sends `signal` to `pid`; a process that is gone already is fine.
pub(crate) fn signal_pid(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// The fields of `/proc/<pid>/stat` behind the program's name: state first, then the parent's pid.
fn stat_fields(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_string).collect())
}

/// When `pid` was started, in clock ticks since boot: with the pid, it names a process for ever.
pub(crate) fn start_ticks(pid: u32) -> Option<u64> {
    stat_fields(pid)?.get(19)?.parse().ok()
}

/// What one process uses; zero if it is gone.
pub fn usage(pid: u32) -> Usage {
    let number = |fields: &[String], index: usize| fields.get(index).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    let Some(fields) = stat_fields(pid) else {
        return Usage::default();
    };
    let ticks = number(&fields, 11) + number(&fields, 12);
    let page_bytes = rustix::param::page_size() as u64;
    Usage {
        cpu_us: ticks * 1_000_000 / rustix::param::clock_ticks_per_second().max(1),
        rss_bytes: number(&fields, 21) * page_bytes,
    }
}

/// All processes whose parent, or parent's parent …, is `ancestor`.
fn descendants(ancestor: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|pid| Some((pid, stat_fields(pid)?.get(1)?.parse().ok()?)))
        .collect();
    let mut found = vec![ancestor];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.split_off(1)
}

/// The last `lines` of a text file; empty if it cannot be read.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let read = |path: &Path| -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(end.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read(path).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, dir: &Path) -> Process {
        Process::start("shell", vec!["sh".into(), "-c".into(), script.into()], &dir.join("log")).unwrap()
    }

    #[test]
    fn a_killed_process_is_gone_and_can_be_started_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut process = shell("echo up; exec sleep 600", dir.path());
        let first = process.pid().unwrap();
        process.kill();
        assert_eq!(process.pid(), None);
        assert_eq!(stat_fields(first), None, "a reaped process leaves nothing in /proc");
        process.respawn().unwrap();
        assert_ne!(process.pid().unwrap(), first);
    }

    #[test]
    fn dropping_a_process_ends_its_children_too() {
        let dir = tempfile::tempdir().unwrap();
        let process = shell("sleep 600 & wait", dir.path());
        let until = Instant::now() + Duration::from_secs(10);
        let child = loop {
            // Between fork and exec a child may show no memory at all.
            if let [child] = process.children()[..]
                && usage(child).rss_bytes > 0
            {
                break child;
            }
            assert!(Instant::now() < until, "the shell never started its child");
            std::thread::sleep(POLL);
        };
        drop(process);
        let until = Instant::now() + Duration::from_secs(10);
        // The orphan is reaped by init, or stays a zombie where there is none.
        while stat_fields(child).is_some_and(|fields| fields[0] != "Z") {
            assert!(Instant::now() < until, "the child outlived its parent's handle");
            std::thread::sleep(POLL);
        }
    }

    #[test]
    fn an_early_end_is_reported_with_the_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let mut process = shell("echo one; echo two >&2; exit 3", dir.path());
        assert_eq!(process.wait(Duration::from_secs(10)).and_then(|status| status.code()), Some(3));
        let message = process.check_running().unwrap_err().to_string();
        assert!(message.contains("exit status: 3") && message.contains("one\ntwo"), "{message}");
    }

    #[test]
    fn a_process_that_is_gone_can_be_told_by_those_who_do_not_own_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut process = shell("echo up; exec sleep 600", dir.path());
        assert!(process.check_present().is_ok());
        signal_pid(process.pid().unwrap(), Signal::KILL);
        let until = Instant::now() + Duration::from_secs(10);
        let error = loop {
            match process.check_present() {
                Err(error) => break error.to_string(),
                Ok(()) => assert!(Instant::now() < until, "nobody notices"),
            }
        };
        assert!(error.contains("shell ended unexpectedly (signal: 9)"), "{error}");
        assert!(process.check_running().is_err(), "it is still there to be reaped");
        process.kill();
        assert!(process.check_present().is_ok(), "its owner ended it");
    }

    #[test]
    fn a_frozen_process_uses_no_cpu_until_it_is_thawed() {
        let dir = tempfile::tempdir().unwrap();
        let process = shell("while :; do :; done", dir.path());
        let grow = |than: u64| {
            let until = Instant::now() + Duration::from_secs(20);
            while process.usage().cpu_us <= than {
                assert!(Instant::now() < until, "the loop uses no CPU");
                std::thread::sleep(POLL);
            }
        };
        grow(20_000);
        process.freeze();
        let until = Instant::now() + Duration::from_secs(10);
        while stat_fields(process.pid().unwrap()).unwrap()[0] != "T" {
            assert!(Instant::now() < until, "never stopped");
            std::thread::sleep(POLL);
        }
        let frozen_us = process.usage().cpu_us;
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(process.usage().cpu_us, frozen_us);
        process.thaw();
        grow(frozen_us);
    }

    #[test]
    fn a_missing_program_of_ours_names_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("edge-agent");
        let error = Process::start("x", vec![missing.into()], &dir.path().join("log")).unwrap_err();
        assert!(error.to_string().contains("make build"), "{error}");
    }
}
