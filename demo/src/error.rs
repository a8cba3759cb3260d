//! What can go wrong, each with its remedy.

use std::path::{Path, PathBuf};

/// Why the demo, or a part of its harness, could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The folder of photos cannot be used.
    #[error("no photos in {}: {why}; give a folder with JPEG or PNG pictures (`--photos DIR`), or run `make setup` for the default ones", path.display())]
    Photos {
        /// The folder of photos.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A recognition model is not where it should be.
    #[error("the model {} is missing: run `make setup`", path.display())]
    Model {
        /// The file that is missing.
        path: PathBuf,
    },
    /// A program of ours is not where it should be.
    #[error("the program {} is missing: run `make build`", path.display())]
    Binary {
        /// The file that is missing.
        path: PathBuf,
    },
    /// A program of the system cannot be started.
    #[error("cannot start {program}: {why}; {remedy}")]
    Spawn {
        /// What was to be started.
        program: String,
        /// What the system says.
        why: String,
        /// What to do about it.
        remedy: String,
    },
    /// The port is taken.
    #[error("port {port} on 127.0.0.1 is in use: choose another with `--port`, or leave it out to take a free one")]
    Port {
        /// The port that is taken.
        port: u16,
    },
    /// The broker's address cannot be used, or nobody answers there.
    #[error("broker {url:?}: {why}")]
    Broker {
        /// The broker's address.
        url: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// A file or directory cannot be used.
    #[error("{}: {why}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What the system says, or what to do.
        why: String,
    },
    /// Separate namespaces were asked for and cannot be made.
    #[error(
        "cannot isolate the agents: {0}; use `--isolation none`, or `--isolation auto`, which goes without where it must"
    )]
    Isolation(String),
    /// A program ended that should have gone on.
    #[error("{label} ended unexpectedly ({status}); its last lines:\n{log}")]
    Exited {
        /// The program that ended.
        label: String,
        /// How it ended, with its exit status or signal.
        status: String,
        /// The end of its log.
        log: String,
    },
    /// Something did not happen in time.
    #[error("still waiting for {what}, and nothing has gone on for {after_s} s{logs}")]
    Timeout {
        /// What did not happen.
        what: String,
        /// How long it was waited for, s.
        after_s: u64,
        /// The ends of the logs concerned, or empty.
        logs: String,
    },
    /// No node can do the next unit within its limit.
    #[error("nothing has gone on for {after_s} s, and every node says that its limit is too short:{said}")]
    TooSlow {
        /// How long nothing went on, s.
        after_s: u64,
        /// What the agents say, each on a line of its own behind a line break.
        said: String,
    },
    /// A command of an agent failed.
    #[error("`{command}` failed ({status}): {message}")]
    Command {
        /// The command line that failed.
        command: String,
        /// How the command ended.
        status: String,
        /// What the command printed.
        message: String,
    },
    /// The run came to an end, and its result is wrong.
    #[error("the result is wrong: {0}")]
    Wrong(String),
    /// Not one picture became a frame that could be searched.
    #[error("not one of {photos} in {} could be used: give a folder with sound JPEG or PNG pictures (`--photos DIR`){}", path.display(), listed(why))]
    NothingUsable {
        /// The folder of photos.
        path: PathBuf,
        /// How many it holds, in words.
        photos: String,
        /// The camera's reason for each, as far as it gave them.
        why: Vec<String>,
    },
    /// Another demo uses the output folder.
    #[error("another demo is at work in {}: wait for its end, or choose another folder with `--out DIR`", path.display())]
    Busy {
        /// The output folder.
        path: PathBuf,
    },
    /// Ctrl-C, or a request to end.
    #[error("interrupted: everything that was started has been ended")]
    Interrupted,
}

/// The exit code of a program that Ctrl-C ended, as shells give it: 128 and SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

/// So many reasons stand in a message at most.
const REASONS_MAX: usize = 5;

fn listed(why: &[String]) -> String {
    let named = why.iter().take(REASONS_MAX).map(|reason| format!("\n  {reason}")).collect::<String>();
    match why.len().saturating_sub(REASONS_MAX) {
        0 => named,
        more => named + &format!("\n  and {more} more"),
    }
}

impl Error {
    /// What the program ends with.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Self::Interrupted) { INTERRUPTED } else { 1 }
    }

    /// An error about a file, from what the system says.
    pub(crate) fn file(path: &Path, why: impl ToString) -> Self {
        Self::File { path: path.to_path_buf(), why: why.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interruption_has_the_exit_code_that_shells_expect() {
        assert_eq!(Error::Interrupted.exit_code(), 130);
        assert_eq!(Error::Wrong("x".into()).exit_code(), 1);
    }

    #[test]
    fn pictures_that_could_not_be_used_are_listed_up_to_a_bound() {
        let error = |count: usize| {
            let why = (0..count).map(|n| format!("{n}.jpg: it is empty")).collect();
            Error::NothingUsable { path: "p".into(), photos: "9 photos".into(), why }.to_string()
        };
        assert!(error(0).contains("not one of 9 photos in p could be used: give a folder"), "{}", error(0));
        assert!(error(7).contains("0.jpg: it is empty") && error(7).contains("and 2 more"), "{}", error(7));
    }
}
