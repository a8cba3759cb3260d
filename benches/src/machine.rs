//! What a figure was measured on, and when.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

use crate::scratch::scratch_dir;
use crate::workspace;

/// The machine as far as it says, and the occasion.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Model of its processor, or its architecture.
    pub processor: String,
    /// What tells it from others of that name: family, model and stepping, or implementer and part; the widest vector instructions.
    pub processor_kind: String,
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
    /// The commit of the sources when it began, with a + if they had been changed; empty if git does not know.
    pub commit: String,
    /// When it began, UTC.
    pub began: String,
}

impl Machine {
    /// Asks the kernel, git and the clock: to be called before anything is measured.
    pub fn here() -> Self {
        let cpu = read("/proc/cpuinfo");
        let board =
            || Some(read("/proc/device-tree/model").trim_matches('\0').to_owned()).filter(|name| !name.is_empty());
        let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let memory_kib: u64 = memory.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
        Self {
            processor: field(&cpu, "model name").or_else(board).unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            processor_kind: processor_kind(&cpu),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mb: memory_kib * 1_024 / 1_000_000,
            kernel: format!("{} {}", read("/proc/sys/kernel/ostype").trim(), read("/proc/sys/kernel/osrelease").trim()),
            virtual_machine: field(&cpu, "flags")
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            file_system: file_system(&scratch_dir()),
            load: load_average(),
            commit: commit(),
            began: now(),
        }
    }

    /// One line for people.
    pub fn text(&self) -> String {
        let commit = if self.commit.is_empty() { "unknown" } else { &self.commit };
        format!(
            "{}; load average before the run {:.1}; commit {commit}, begun {}",
            self.identity(),
            self.load,
            self.began
        )
    }

    /// What is the same in each run on it.
    pub fn identity(&self) -> String {
        let cpus = if self.cpus == 1 { "1 CPU".to_owned() } else { format!("{} CPUs", self.cpus) };
        let kind = if self.virtual_machine { "virtual machine" } else { "machine" };
        format!(
            "a {kind} with {} ({}), {cpus}, {} MB of memory, {}, databases on {}",
            self.processor, self.processor_kind, self.memory_mb, self.kernel, self.file_system
        )
    }
}

/// The value of the first line of the form `key : value`.
fn field(text: &str, key: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix(':'));
    value.map(|value| value.trim().to_owned())
}

/// What tells processors of one name apart, by `/proc/cpuinfo`; of different cores each part.
fn processor_kind(cpuinfo: &str) -> String {
    let named = |key, name| field(cpuinfo, key).map(|value| format!("{name} {value}"));
    let x86 = [named("cpu family", "family"), named("model", "model"), named("stepping", "stepping")];
    let mut parts: Vec<&str> = cpuinfo.lines().filter_map(|line| line.strip_prefix("CPU part")).collect();
    parts.sort_unstable();
    parts.dedup();
    let part = |part: &&str| format!("part {}", part.trim_start_matches([' ', '\t', ':']));
    let arm = [named("CPU implementer", "implementer")].into_iter().flatten().chain(parts.iter().map(part));
    let kind = x86.into_iter().flatten().chain(arm).chain([widest_vectors(cpuinfo).to_owned()]);
    kind.collect::<Vec<_>>().join(", ")
}

/// The widest vector instructions that the kernel lets programs use.
fn widest_vectors(cpuinfo: &str) -> &'static str {
    const NAMES: [(&str, &str); 9] = [
        ("avx512f", "AVX-512"),
        ("avx2", "AVX2"),
        ("avx", "AVX"),
        ("sse4_2", "SSE4.2"),
        ("sse2", "SSE2"),
        ("sve2", "SVE2"),
        ("sve", "SVE"),
        ("asimd", "NEON"),
        ("neon", "NEON"),
    ];
    let flags = field(cpuinfo, "flags").or_else(|| field(cpuinfo, "Features")).unwrap_or_default();
    let has = |wanted: &str| flags.split(' ').any(|flag| flag == wanted);
    NAMES.iter().find(|(flag, _)| has(flag)).map_or("no known vector instructions", |(_, name)| name)
}

/// The commit of the sources. Documents are left out of what makes it a changed one: a benchmark before this one has written there.
fn commit() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").arg("-C").arg(workspace()).args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else { return String::new() };
    let changes = git(&["status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)docs"]);
    if changes.is_some_and(|changes| changes.is_empty()) { commit } else { commit + "+" }
}

/// The time of day, UTC, as [`Machine::began`] has it.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string()
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

/// The type of the file system that holds `path`, or will if it is made: of all mounts above it the deepest.
pub(crate) fn file_system(path: &Path) -> String {
    let there = path.ancestors().find_map(|folder| folder.canonicalize().ok());
    let path = there.unwrap_or_else(|| path.to_path_buf());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_of_one_name_are_told_apart() {
        let x86 = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\nstepping\t: 1\n\
                   flags\t\t: fpu sse2 avx avx2 avx512f\n";
        assert_eq!(processor_kind(x86), "family 25, model 17, stepping 1, AVX-512");
        assert_eq!(field(x86, "model name").as_deref(), Some("AMD EPYC"));
        let arm64 = "Features\t: fp asimd crc32\nCPU implementer\t: 0x41\nCPU part\t: 0xd05\n\nCPU part\t: 0xd0a\nCPU part\t: 0xd05\n";
        assert_eq!(processor_kind(arm64), "implementer 0x41, part 0xd05, part 0xd0a, NEON");
        assert_eq!(processor_kind(""), "no known vector instructions");
    }

    #[test]
    fn a_machine_is_the_same_at_another_hour() {
        let now = Machine::here();
        let later = Machine { load: now.load + 1.0, commit: "0000000+".into(), began: "later".into(), ..now.clone() };
        assert_eq!(now.identity(), later.identity());
        assert!(later.text().ends_with("commit 0000000+, begun later"), "{}", later.text());
    }

    #[test]
    fn a_folder_that_is_to_be_made_lies_where_its_parent_does() {
        assert_eq!(file_system(Path::new("/proc/no/such/folder")), "proc");
    }
}
