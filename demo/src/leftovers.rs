//! A run's own directory, and what a former run whose driver was killed has left there.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::Error;
use crate::process::{signal_pid, start_ticks};

/// Marks a directory as ours to clear, and lists the processes of its run.
const PROCESSES: &str = "processes.txt";

/// Held by a driver that uses an output folder. It dies with the driver, however that ends, and with nothing else: what
/// a killed driver leaves running is then the next one's to end.
#[derive(Debug)]
pub(crate) struct OutLock(#[expect(dead_code, reason = "the lock is the open file")] File);

impl OutLock {
    /// Locks `out`.
    ///
    /// # Errors
    /// [`Error::Busy`] if another driver holds it, [`Error::File`].
    pub fn take(out: &Path) -> Result<Self, Error> {
        let path = out.join("lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|e| Error::file(&path, e))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(Error::Busy { path: out.to_path_buf() }),
            Err(TryLockError::Error(e)) => Err(Error::file(&path, e)),
        }
    }
}

/// The directory of one run.
#[derive(Debug)]
pub(crate) struct RunDir(PathBuf);

impl RunDir {
    /// Makes `path` anew. Processes that a former run left running are ended: each is named by pid and start time, so
    /// that no other process can be meant. Says how many there were.
    ///
    /// # Errors
    /// [`Error::File`], also if the directory is not of a former run.
    pub fn renew(path: &Path) -> Result<(Self, usize), Error> {
        let list = path.join(PROCESSES);
        let mut ended = 0;
        if let Ok(text) = fs::read_to_string(&list) {
            for line in text.lines() {
                let mut fields = line.split(' ').map(str::parse::<u64>);
                let (Some(Ok(pid)), Some(Ok(ticks))) = (fields.next(), fields.next()) else {
                    continue;
                };
                let Ok(pid) = u32::try_from(pid) else { continue };
                if start_ticks(pid) == Some(ticks) {
                    signal_pid(pid, Signal::KILL);
                    ended += 1;
                }
            }
            fs::remove_dir_all(path).map_err(|e| Error::file(path, e))?;
        } else if path.exists() {
            return Err(Error::file(path, "not of a former run: remove it, or choose another `--out`"));
        }
        fs::create_dir_all(path).map_err(|e| Error::file(path, e))?;
        fs::write(&list, "").map_err(|e| Error::file(&list, e))?;
        Ok((Self(path.to_path_buf()), ended))
    }

    /// Where the directory is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes down the processes that run now.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn record(&self, pids: impl IntoIterator<Item = u32>) -> Result<(), Error> {
        let line = |pid: u32| start_ticks(pid).map(|ticks| format!("{pid} {ticks}\n"));
        let text: String = pids.into_iter().filter_map(line).collect();
        let list = self.0.join(PROCESSES);
        fs::write(&list, text).map_err(|e| Error::file(&list, e))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_former_run_s_processes_are_ended_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let (run, ended) = RunDir::renew(&path).unwrap();
        assert_eq!(ended, 0);
        let mut left = Command::new("sleep").arg("600").spawn().unwrap();
        let mut other = Command::new("sleep").arg("600").spawn().unwrap();
        run.record([left.id()]).unwrap();
        let list = path.join(PROCESSES);
        // The pid of `other`, but of a process that started at another time.
        let text = fs::read_to_string(&list).unwrap() + &format!("{} 1\nrubbish\n", other.id());
        fs::write(&list, text).unwrap();
        fs::write(path.join("state"), "old").unwrap();
        assert_eq!(RunDir::renew(&path).unwrap().1, 1);
        assert_eq!(left.wait().unwrap().signal(), Some(9));
        assert_eq!(other.try_wait().unwrap(), None);
        assert!(!path.join("state").exists());
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn an_output_folder_has_one_driver_at_a_time_and_is_free_when_that_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let lock = OutLock::take(dir.path()).unwrap();
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let error = OutLock::take(dir.path()).unwrap_err().to_string();
        assert!(error.contains("another demo is at work") && error.contains("--out"), "{error}");
        drop(lock);
        // A process that the former driver started does not hold the lock; one that another test starts at this moment
        // holds it from its fork to its exec.
        let until = Instant::now() + Duration::from_secs(10);
        while OutLock::take(dir.path()).is_err() {
            assert!(Instant::now() < until, "the lock outlives its driver");
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_directory_that_is_not_ours_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis"), "x").unwrap();
        let error = RunDir::renew(dir.path()).unwrap_err().to_string();
        assert!(error.contains("--out"), "{error}");
        assert!(dir.path().join("thesis").exists());
    }
}
