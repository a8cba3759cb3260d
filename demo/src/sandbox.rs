//! Namespaces of their own for agents, so that each sees only its own state directory and the broker.
//!
//! A sandbox is held by a small relay process that sits in fresh mount and network namespaces. Covered directories
//! are empty there, but for the kept ones; the network is a loopback with one port, which the relay carries over a
//! Unix socket to a second relay outside and so to the broker. Agents enter it, may be killed and may enter again.
//! No bridge, no address and no route of the machine is touched, and where user namespaces are allowed it works
//! without root.

use std::ffi::OsString;
use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use microlambda_runtime::printable;

use crate::process::{Process, spawn_error, tail};
use crate::url::BrokerUrl;
use crate::{Error, Programs, relay};

/// Where agents in a sandbox find the broker.
const INSIDE: (&str, u16) = ("127.0.0.1", 1883);
/// What each agent has for itself.
const NAMESPACES: [&str; 4] = ["--mount", "--net", "--propagation", "private"];
/// A Unix socket's path is no longer, bytes (`sun_path` of unix(7), less its end).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Covers directories, puts the kept ones back, and becomes the relay. Arguments: a directory for its use, numbers of
/// kept and of covered directories, these in the same order, and the program. The first holds the kept ones in between,
/// in this namespace alone. As it may be covered itself, it is entered before, and paths in it are taken as they are
/// written. The lists stay arguments, as a path may hold any character: what is needed again goes to the end of them.
const SCRIPT: &str = r#"
set -eu
ip link set lo up
mkdir -p "$1"
mount -t tmpfs -o mode=0755 microlambda "$1"
cd "$1"
kept=$2; covered=$3; shift 3
number=0
while [ "$number" -lt "$kept" ]; do
    mkdir $number
    mount --bind "$1" $number
    set -- "$@" "$1"; shift; number=$((number + 1))
done
while [ "$covered" -gt 0 ]; do
    mount -t tmpfs -o mode=0755 microlambda "$1"
    shift; covered=$((covered - 1))
done
program=$(($# - kept))
while [ "$program" -gt 0 ]; do set -- "$@" "$1"; shift; program=$((program - 1)); done
number=0
while [ "$number" -lt "$kept" ]; do
    mkdir -p "$1"
    mount --no-canonicalize --bind ./$number "$1"
    shift; number=$((number + 1))
done
cd /
exec "$@"
"#;

/// How far agents are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Isolation {
    /// Namespaces where the system allows them, else separate processes and directories alone.
    Auto,
    /// Namespaces, or an error.
    Namespaces,
    /// Separate processes and directories alone.
    None,
}

impl Isolation {
    /// What tests ask for: namespaces, without which they fail where `MICROLAMBDA_WALLS=required` says that the system has them.
    pub fn of_tests() -> Self {
        if std::env::var_os("MICROLAMBDA_WALLS").is_some_and(|walls| walls == "required") {
            Self::Namespaces
        } else {
            Self::Auto
        }
    }
}

/// What keeps the agents of one job apart.
#[derive(Debug)]
pub enum Walls {
    /// Each agent has mount and network namespaces of its own.
    Namespaces {
        /// The socket that leads to the broker; in a directory of its own.
        socket: PathBuf,
        /// The relay from the socket to the broker.
        outer: Box<Process>,
    },
    /// Nothing but directories; says why.
    None(String),
}

impl fmt::Display for Walls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespaces { .. } => f.write_str("each agent in mount and network namespaces of its own"),
            Self::None(why) => write!(f, "none ({why})"),
        }
    }
}

impl Walls {
    /// Prepares `isolation` for agents that use `broker`; `dir` gets the socket.
    ///
    /// # Errors
    /// [`Error::Isolation`] if namespaces were demanded and cannot be made.
    pub fn new(isolation: Isolation, programs: &Programs, dir: &Path, broker: &BrokerUrl) -> Result<Self, Error> {
        Self::around(isolation, programs, dir, broker, &[], &[])
    }

    /// As [`Walls::new`], for agents that are to see `cover` empty, each but for its share of `keep` (existing
    /// directories). That is tried as well: a system that has namespaces may refuse a directory.
    ///
    /// # Errors
    /// As [`Walls::new`].
    pub fn around(
        isolation: Isolation,
        programs: &Programs,
        dir: &Path,
        broker: &BrokerUrl,
        cover: &[PathBuf],
        keep: &[PathBuf],
    ) -> Result<Self, Error> {
        if isolation == Isolation::None {
            return Ok(Self::None("not asked for".into()));
        }
        match Self::namespaces(programs, dir, broker, cover, keep) {
            Ok(walls) => Ok(walls),
            // Without the remedy of the error, which is taken here.
            Err(Error::Isolation(why)) if isolation == Isolation::Auto => {
                Ok(Self::None(format!("namespaces cannot be made here: {why}")))
            }
            Err(error) if isolation == Isolation::Auto => Ok(Self::None(error.to_string())),
            Err(error) => Err(error),
        }
    }

    fn namespaces(
        programs: &Programs,
        dir: &Path,
        broker: &BrokerUrl,
        cover: &[PathBuf],
        keep: &[PathBuf],
    ) -> Result<Self, Error> {
        let bus = dir.join("bus");
        let socket = bus.join("broker.sock");
        if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            return Err(Error::Isolation(format!("the path {} is too long for a socket", socket.display())));
        }
        std::fs::create_dir_all(&bus).map_err(|e| Error::file(&bus, e))?;
        // Tried once with nothing to run, so that what cannot be walled in is known before any agent starts.
        let trial = walled_in(programs, &bus, cover, keep, vec!["true".into()]);
        let output = Command::new(&trial[0])
            .args(&trial[1..])
            .stdin(Stdio::null())
            .output()
            .map_err(|e| Error::Isolation(format!("unshare: {e}")))?;
        if !output.status.success() {
            return Err(Error::Isolation(refusal(&output.stderr)));
        }
        let (host, port) = broker.address();
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_string() };
        let _ = std::fs::remove_file(&socket);
        let argv = relay::command(programs, &format!("unix:{}", socket.display()), &format!("tcp:{host}:{port}"));
        let mut outer = Process::start("relay", argv, &bus.join("relay.log"))?;
        while !socket.exists() {
            outer.check_running()?;
            std::thread::sleep(crate::process::POLL);
        }
        Ok(Self::Namespaces { socket, outer: Box::new(outer) })
    }

    /// True if agents see only what is theirs.
    pub fn hold(&self) -> bool {
        matches!(self, Self::Namespaces { .. })
    }

    /// The process that the walls need, if any.
    pub fn process(&self) -> Option<&Process> {
        match self {
            Self::Namespaces { outer, .. } => Some(outer),
            Self::None(_) => None,
        }
    }

    /// An error if that process has ended.
    ///
    /// # Errors
    /// [`Error::Exited`] with the last lines of its log.
    pub fn check(&self) -> Result<(), Error> {
        self.process().map_or(Ok(()), Process::check_present)
    }
}

/// The namespaces of one agent.
#[derive(Debug)]
pub struct Sandbox {
    holder: std::process::Child,
    log: PathBuf,
}

impl Sandbox {
    /// Makes namespaces in which `cover` is empty but for `keep` (existing directories), and the broker is at
    /// [`Sandbox::broker_url`].
    ///
    /// # Errors
    /// [`Error::Isolation`] with what the system says.
    pub fn new(
        programs: &Programs,
        socket: &Path,
        cover: &[PathBuf],
        keep: &[PathBuf],
        log: &Path,
    ) -> Result<Self, Error> {
        let bus = socket.parent().unwrap_or(socket);
        let (host, port) = INSIDE;
        let relay = relay::command(programs, &format!("tcp:{host}:{port}"), &format!("unix:{}", socket.display()));
        let argv = walled_in(programs, bus, cover, keep, relay);
        let errors = std::fs::File::create(log).map_err(|e| Error::file(log, e))?;
        let mut holder = Command::new(&argv[0])
            .args(&argv[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(errors))
            .spawn()
            .map_err(|e| spawn_error(&argv[0], &e))?;
        let mut line = String::new();
        if let Some(out) = holder.stdout.take() {
            let _ = BufReader::new(out).read_line(&mut line);
        }
        let sandbox = Self { holder, log: log.to_path_buf() };
        if line.trim() == relay::READY { Ok(sandbox) } else { Err(Error::Isolation(tail(log, 3))) }
    }

    /// The command that runs `argv` inside, under the pid of the command itself.
    pub fn enter(&self, argv: Vec<OsString>) -> Vec<OsString> {
        let mut command: Vec<OsString> =
            ["nsenter", "--target", &self.holder.id().to_string(), "--mount", "--net"].map(OsString::from).into();
        if !rustix::process::geteuid().is_root() {
            command.extend(["--user", "--preserve-credentials"].map(OsString::from));
        }
        command.push("--".into());
        command.extend(argv);
        command
    }

    /// The pid of the process that holds the namespaces.
    pub fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// An error if that process has ended: no agent of `whose` reaches the broker any more.
    ///
    /// # Errors
    /// [`Error::Exited`] with the last lines of its log.
    pub fn check(&mut self, whose: &str) -> Result<(), Error> {
        match self.holder.try_wait() {
            Ok(Some(status)) => Err(Error::Exited {
                label: format!("the sandbox of {whose}"),
                status: status.to_string(),
                log: tail(&self.log, 12),
            }),
            Ok(None) | Err(_) => Ok(()),
        }
    }

    /// Where the broker is found inside, with the user and password of `broker`.
    pub fn broker_url(broker: &BrokerUrl) -> BrokerUrl {
        broker.at(INSIDE.0, INSIDE.1)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // Not by its pid, which another process may have once this one was seen to have ended.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// The command that makes namespaces in which `cover` is empty but for `keep`, `bus` and our programs, and runs `inside`
/// there.
fn walled_in(
    programs: &Programs,
    bus: &Path,
    cover: &[PathBuf],
    keep: &[PathBuf],
    inside: Vec<OsString>,
) -> Vec<OsString> {
    let keep: Vec<&Path> = keep.iter().map(PathBuf::as_path).chain([bus, programs.dir.as_path()]).collect();
    let mut argv = unshare(&NAMESPACES);
    argv.extend(["sh", "-c", SCRIPT, "sh"].map(OsString::from));
    argv.push(scratch(bus).into());
    argv.extend([keep.len(), cover.len()].map(|count| OsString::from(count.to_string())));
    argv.extend(keep.into_iter().map(OsString::from));
    argv.extend(cover.iter().map(OsString::from));
    argv.extend(inside);
    argv
}

/// What a program said before it failed, on one line: mount(8) says what is wrong, and on the next where to look for
/// more.
fn refusal(errors: &[u8]) -> String {
    let text = String::from_utf8_lossy(errors);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { "refused by the system".into() } else { printable(lines.join(" ")) }
}

/// Where a sandbox puts its kept directories before it has covered others. `bus` is kept, which hides it in the end.
fn scratch(bus: &Path) -> PathBuf {
    bus.join("scratch")
}

/// `unshare` with these of its options, as root of a user namespace where the user is not root.
pub fn unshare(options: &[&str]) -> Vec<OsString> {
    let mut argv: Vec<OsString> = ["unshare"].iter().chain(options).map(OsString::from).collect();
    if !rustix::process::geteuid().is_root() {
        argv.extend(["--user", "--map-root-user"].map(OsString::from));
    }
    argv
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_on_one_line() {
        let said = b"mount: 0: bad superblock on /a\x1b.\n       dmesg(1) may have more information.\n";
        assert_eq!(refusal(said), "mount: 0: bad superblock on /a\\u{1b}. dmesg(1) may have more information.");
        assert_eq!(refusal(b"\n"), "refused by the system");
    }
}
