//! What a figure was measured on.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// The machine, as far as it says.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Model of its processor, or its architecture.
    pub processor: String,
    /// Hardware threads this process may use.
    pub cpus: usize,
    /// Memory, MB.
    pub memory_mb: u64,
    /// Kernel and version.
    pub kernel: String,
    /// Whether it runs under a hypervisor.
    pub virtual_machine: bool,
    /// File system of the folder that databases were written to.
    pub file_system: String,
    /// Load average over one minute when the benchmark began.
    pub load: f64,
}

impl Machine {
    /// Asks the kernel. Databases of the benchmark lie in the folder for temporary files.
    pub fn here() -> Self {
        let cpu = read("/proc/cpuinfo");
        let field = |text: &str, key: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix(':'));
            value.map(|value| value.trim().to_owned())
        };
        let board =
            || Some(read("/proc/device-tree/model").trim_matches('\0').to_owned()).filter(|name| !name.is_empty());
        let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let memory_kib: u64 = memory.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
        Self {
            processor: field(&cpu, "model name").or_else(board).unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mb: memory_kib * 1_024 / 1_000_000,
            kernel: format!("{} {}", read("/proc/sys/kernel/ostype").trim(), read("/proc/sys/kernel/osrelease").trim()),
            virtual_machine: field(&cpu, "flags")
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            file_system: file_system(&std::env::temp_dir()),
            load: load_average(),
        }
    }

    /// One line for people.
    pub fn text(&self) -> String {
        format!("{}; load average before the run {:.1}", self.identity(), self.load)
    }

    /// What is the same in each run on it.
    pub fn identity(&self) -> String {
        let cpus = if self.cpus == 1 { "1 CPU".to_owned() } else { format!("{} CPUs", self.cpus) };
        let kind = if self.virtual_machine { "virtual machine" } else { "machine" };
        format!(
            "a {kind} with {}, {cpus}, {} MB of memory, {}, databases on {}",
            self.processor, self.memory_mb, self.kernel, self.file_system
        )
    }
}

/// Load average over the last minute; 0 where it is not known.
pub fn load_average() -> f64 {
    read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

/// How long one thread of a process has had a core so far, and waited for one, µs, as the kernel's scheduler counts it; zeros if it is gone.
pub fn schedstat_us(pid: u32, thread: u32) -> [u64; 2] {
    let text = read(&format!("/proc/{pid}/task/{thread}/schedstat"));
    let mut fields = text.split_whitespace().map(|ns| ns.parse::<u64>().unwrap_or(0) / 1_000);
    [fields.next().unwrap_or(0), fields.next().unwrap_or(0)]
}

/// How long all running threads of a process have had a core so far, µs.
pub(crate) fn process_cpu_us(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let threads = threads.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    threads.map(|thread| schedstat_us(pid, thread)[0]).sum()
}

/// The type of the file system that holds `path`: of all mounts above it the deepest.
fn file_system(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let mounts = read("/proc/self/mounts");
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        path.starts_with(point).then_some((point.len(), kind))
    });
    mounts.max_by_key(|(len, _)| *len).map_or_else(String::new, |(_, kind)| kind.to_owned())
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
