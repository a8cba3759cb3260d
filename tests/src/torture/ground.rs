//! The ground that a site stands on: namespaces of its own where the system allows them.
//!
//! The program enters user, mount, pid and network namespaces before it starts anything, so that nothing of it touches the
//! machine, and the kernel ends and unmounts everything when it ends, however that happens. Inside, each agent has a network and
//! a clock of its own, and a small file system for its state.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use microlambda_demo::Process;

use super::Error;

/// Tells the program that it has been started inside, so that it does not go further in.
pub const INSIDE_VARIABLE: &str = "MICROLAMBDA_TORTURE_INSIDE";
/// The namespaces, entered together; they end with this program even if that is killed.
const UNSHARE: [&str; 11] = [
    "setpriv",
    "--pdeathsig",
    "KILL",
    "unshare",
    "--mount",
    "--pid",
    "--net",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "--propagation=private",
];
/// The site's own network; the brokers and proxies listen here.
const HUB: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// An agent's file system, bytes: room for some thousand records, and soon filled.
const STATE_BYTES: u64 = 64 << 20;
/// The driver has this long to say what it found after Ctrl-C.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// A wait for another process looks again after this.
const POLL: Duration = Duration::from_millis(20);

fn unshare() -> Command {
    let mut command = Command::new(UNSHARE[0]);
    command.args(&UNSHARE[1..]);
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
}

/// Runs this program again inside namespaces; `None` where the system has none to give, with the reason in `why`.
pub fn enter(stop: &Arc<AtomicBool>, why: &mut String) -> Option<ExitCode> {
    let trial = unshare().args(["sh", "-c", "mount -t tmpfs torture /mnt"]).stdin(Stdio::null()).output();
    match trial {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            *why = said.trim().lines().last().unwrap_or("refused by the system").to_owned();
            return None;
        }
        Err(error) => {
            *why = format!("unshare: {error}");
            return None;
        }
    }
    // The shell is the first process inside, and so the one that buries orphans.
    let program = std::env::current_exe().ok()?;
    let mut child = unshare()
        .args(["sh", "-c", "\"$@\"; exit $?", "sh"])
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(INSIDE_VARIABLE, "1")
        .spawn()
        .ok()?;
    let mut stop_by = None;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
            return Some(ExitCode::from(u8::try_from(code).unwrap_or(1)));
        }
        if stop.load(Ordering::Relaxed) && stop_by.is_none() {
            stop_by = Some(Instant::now() + STOP_PATIENCE);
        }
        if stop_by.is_some_and(|at| Instant::now() >= at) {
            let _ = child.kill();
        }
        thread::sleep(POLL);
    }
}

/// What the system gives.
#[derive(Debug, Clone)]
pub struct Ground {
    /// Where brokers and proxies listen.
    pub address: IpAddr,
    /// Whether each agent has a network of its own, else why not.
    pub networks: Result<(), String>,
    /// Whether each agent's state has a file system of its own, else why not.
    pub disks: Result<(), String>,
    /// Whether each agent's monotonic clock started at another time, else why not.
    pub clocks: Result<(), String>,
    /// Whether bandwidth can be limited on a link, else why not.
    pub shaping: Result<(), String>,
    /// Whether the kernel can lose and delay single packets on a link, else why not.
    pub netem: Result<(), String>,
}

impl Ground {
    /// Looks around; `outside` says why the program is not inside namespaces, if it is not.
    pub fn find(outside: Option<String>) -> Self {
        if let Some(why) = outside {
            let none = || Err(format!("no namespaces: {why}"));
            let address = Ipv4Addr::LOCALHOST.into();
            return Self { address, networks: none(), disks: none(), clocks: none(), shaping: none(), netem: none() };
        }
        let _ = run("ip", &["link", "set", "lo", "up"]);
        let networks = shell(&format!(
            "ip link add hub type bridge && ip addr add {HUB}/24 dev hub && ip link set hub up \
             && ip link add try0 type veth peer name try1"
        ));
        let shape = |qdisc: &str| match &networks {
            Ok(()) => shell(&format!("tc qdisc replace dev try0 root {qdisc}")),
            Err(why) => Err(why.clone()),
        };
        let shaping = shape("tbf rate 1mbit burst 32kbit latency 400ms");
        let netem = shape("netem loss 1% delay 20ms");
        let _ = run("ip", &["link", "del", "try0"]);
        let clocks = shell("unshare --time --monotonic 1000 --boottime 1000 --fork true");
        let address = if networks.is_ok() { HUB } else { Ipv4Addr::LOCALHOST };
        Self { address: address.into(), networks, disks: Ok(()), clocks, shaping, netem }
    }
}

/// One agent's place: its network, its clocks, its file system.
pub struct Plot {
    /// Holds the namespaces.
    holder: Option<Process>,
    /// This side of the agent's cable, if it has one.
    cable: Option<String>,
    entry: Vec<String>,
    /// Its state's folder.
    pub state: PathBuf,
    /// Takes all room while the disk is full.
    ballast: PathBuf,
    /// How far its wall clock is off, ms, as text.
    clock: PathBuf,
    small_disk: bool,
}

impl Plot {
    /// Makes a place for agent `number`, whose folder is `dir`; its monotonic clock is `ahead_s` ahead of the machine's.
    ///
    /// # Errors
    /// The system does not give what [`Ground::find`] found.
    pub fn new(ground: &Ground, number: usize, dir: &Path, ahead_s: u64) -> Result<Self, Error> {
        let state = dir.join("state");
        fs::create_dir_all(&state)?;
        let clock = dir.join("clock-step-ms");
        fs::write(&clock, "0")?;
        let small_disk = ground.disks.is_ok();
        if small_disk {
            let size = format!("size={STATE_BYTES},mode=0700");
            run("mount", &["-t", "tmpfs", "-o", &size, "torture", &state.to_string_lossy()])?;
        }
        let mut plot = Self {
            holder: None,
            cable: None,
            entry: Vec::new(),
            ballast: state.join("ballast"),
            state,
            clock,
            small_disk,
        };
        if ground.networks.is_ok() {
            plot.lay_cable(ground, number, dir, ahead_s)?;
        }
        Ok(plot)
    }

    fn lay_cable(&mut self, ground: &Ground, number: usize, dir: &Path, ahead_s: u64) -> Result<(), Error> {
        let log = dir.join("holder.log");
        let ahead = ahead_s.to_string();
        let mut argv: Vec<&str> = vec!["unshare", "--net"];
        if ground.clocks.is_ok() {
            argv.extend(["--time", "--monotonic", &ahead, "--boottime", &ahead]);
        }
        argv.extend([
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            "ip link set lo up && echo held by $$ && exec sleep infinity",
        ]);
        self.holder = Some(Process::start("holder", argv.into_iter().map(Into::into).collect(), &log)?);
        let until = Instant::now() + Duration::from_secs(10);
        let pid = loop {
            let text = fs::read_to_string(&log).unwrap_or_default();
            if let Some(pid) = text.strip_suffix('\n').and_then(|text| text.rsplit_once("held by ")) {
                break pid.1.to_owned();
            }
            if Instant::now() > until {
                return Err(format!("no namespaces for an agent: {text}").into());
            }
            thread::sleep(POLL);
        };
        let cable = format!("cable{number}");
        let enter = format!("nsenter --net --target {pid}");
        shell(&format!(
            "ip link add {cable} type veth peer name eth0 netns {pid} && ip link set {cable} master hub up \
             && {enter} ip addr add 10.77.0.{}/24 dev eth0 && {enter} ip link set eth0 up",
            10 + number
        ))?;
        self.cable = Some(cable);
        self.entry = ["nsenter", "--target", &pid, "--net"].map(str::to_owned).into();
        if ground.clocks.is_ok() {
            self.entry.push("--time".into());
        }
        self.entry.push("--".into());
        Ok(())
    }

    /// Writes a program that runs `program` in this place, under the pid of its own process.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn door(&self, file: &Path, program: &Path) -> Result<(), Error> {
        let entry = self.entry.join(" ");
        let clock = self.clock.display();
        let program = program.display();
        // A full disk by limit is an error to the agent, not a signal.
        let script = format!(
            "#!/bin/sh\ntrap '' XFSZ\nexec {entry} env MICROLAMBDA_CLOCK_STEP_FILE='{clock}' '{program}' \"$@\"\n"
        );
        fs::write(file, script)?;
        fs::set_permissions(file, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// Pulls the cable out, or plugs it in; false if there is none.
    ///
    /// # Errors
    /// The system refuses.
    pub fn plug(&self, up: bool) -> Result<bool, Error> {
        let Some(cable) = &self.cable else { return Ok(false) };
        run("ip", &["link", "set", cable, if up { "up" } else { "down" }])?;
        Ok(true)
    }

    /// Limits what reaches the agent, kbit/s, or takes the limit away; false if there is no cable.
    ///
    /// # Errors
    /// The system refuses.
    pub fn shape(&self, kbit_per_s: Option<u64>) -> Result<bool, Error> {
        let Some(cable) = &self.cable else { return Ok(false) };
        match kbit_per_s {
            Some(kbit) => {
                shell(&format!("tc qdisc replace dev {cable} root tbf rate {kbit}kbit burst 32kbit latency 1000ms"))?
            }
            None => {
                // There may be none to take away.
                let _ = run("tc", &["qdisc", "del", "dev", cable, "root"]);
            }
        }
        Ok(true)
    }

    /// Fills the agent's disk to the last byte; where it shares the machine's, its process may write no further instead.
    ///
    /// # Errors
    /// The limit cannot be set.
    pub fn fill(&self, pid: Option<u32>) -> Result<(), Error> {
        if self.small_disk {
            let mut file = fs::File::create(&self.ballast)?;
            let chunk = vec![0_u8; 64 << 10];
            for bytes in [chunk.len(), 4 << 10, 512, 1] {
                while io::Write::write_all(&mut file, &chunk[..bytes]).is_ok() {}
            }
            return Ok(());
        }
        match pid {
            Some(pid) => run("prlimit", &["--pid", &pid.to_string(), "--fsize=4096:"]),
            None => Ok(()),
        }
        .map_err(Into::into)
    }

    /// Gives the room back. A process under a limit keeps it for life where it may not raise it again.
    pub fn make_room(&self, pid: Option<u32>) {
        if self.small_disk {
            let _ = fs::remove_file(&self.ballast);
        } else if let Some(pid) = pid {
            let _ = run("prlimit", &["--pid", &pid.to_string(), "--fsize=unlimited:"]);
        }
    }

    /// Sets the agent's wall clock off by `step_ms` from the machine's.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn step_clock(&self, step_ms: i64) -> Result<(), Error> {
        // In one piece: it is read at any instant.
        let fresh = self.clock.with_extension("new");
        fs::write(&fresh, step_ms.to_string())?;
        fs::rename(&fresh, &self.clock)?;
        Ok(())
    }
}

fn shell(script: &str) -> Result<(), String> {
    run("sh", &["-c", script])
}

/// Runs a program of the system to its end.
fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}", said.trim().lines().last().unwrap_or("it failed")))
}
