//! Memory of processes.

use serde::Serialize;

/// Memory of one process, MB of 10^6 bytes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Resident {
    /// `VmRSS`.
    pub now: f64,
    /// `VmHWM`: the largest ever, from the start on.
    pub peak: f64,
    /// Of `now`, what is backed by files: programs and libraries, shared between processes.
    pub files: f64,
}

impl Resident {
    /// What a process has resident; `None` if it is gone.
    pub fn of(pid: u32) -> Option<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let mb = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            let kib: f64 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().ok()?;
            Some(kib * 1_024.0 / 1e6)
        };
        Some(Self { now: mb("VmRSS")?, peak: mb("VmHWM")?, files: mb("RssFile")? + mb("RssShmem")? })
    }
}
