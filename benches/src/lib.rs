//! What the benchmarks share: a site of real agents, pictures cut from real photos, statistics, and the report.
//!
//! Each benchmark is a program of its own (`cargo bench -p microlambda-benches --bench budget -- --help`). It prints a
//! Markdown table, writes its figures as JSON to `target/bench/`, and puts its section into `docs/benchmarks.md`; a quick run leaves that alone.

#![forbid(unsafe_code)]

pub mod bus;
pub mod cable;
pub mod chart;
pub mod distances;
pub mod faults;
pub mod figure;
pub mod gap;
pub mod growth;
pub mod inference;
pub mod latency;
pub mod link;
mod machine;
pub mod pairs;
pub mod photos;
pub mod pictures;
pub mod process;
mod programs;
pub mod random;
pub mod raw_table;
pub mod reference;
pub mod report;
mod resident;
mod scratch;
pub mod search_cost;
mod site;
pub mod stats;
pub mod video;
pub mod worker;

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

pub use machine::{Machine, load_average, now, schedstat_us};
pub use programs::check_programs;
pub use resident::Resident;
pub use site::{GRACE_MS, Outcome, Site, StepSeen};

/// What stops a benchmark: said once, on standard error.
pub type Error = Box<dyn std::error::Error>;

/// Switches that all benchmarks have.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Common {
    /// Print only; leave `docs/benchmarks.md` and `target/bench` as they are
    #[arg(long)]
    pub dry: bool,
    /// A look: a smaller run, where the benchmark has one; results go to `target/bench/quick`, and `docs` keep those of the last full run
    #[arg(long)]
    pub quick: bool,
    /// Given by `cargo bench` to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The top of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

/// The folder for results, and for databases while they are made: `bench` in cargo's target directory.
pub fn bench_dir() -> PathBuf {
    // A relative one is taken from the top, where the scripts run cargo: benchmarks are started elsewhere.
    let target = std::env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty());
    workspace().join(target.unwrap_or_else(|| "target".into())).join("bench")
}

/// The checked models and photos that `make setup` fetched.
pub fn data_dir() -> PathBuf {
    std::env::var_os("MICROLAMBDA_DATA").map_or_else(|| workspace().join("target/data"), PathBuf::from)
}

/// Turns a benchmark's result into the exit code of its process.
pub fn exit(result: Result<(), Error>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Starts this program anew unless these variables are set as they are to be: libraries read some before `main`.
///
/// # Errors
/// It cannot be started; else it does not come back.
pub fn restart_with(environment: &[(&str, &str)]) -> Result<(), Error> {
    if environment.iter().all(|(name, value)| std::env::var(name).is_ok_and(|set| set == *value)) {
        return Ok(());
    }
    let environment = environment.iter().copied();
    Err(Command::new(std::env::current_exe()?).args(std::env::args_os().skip(1)).envs(environment).exec().into())
}

/// µs as ms.
pub fn ms(us: u64) -> f64 {
    us as f64 / 1_000.0
}

/// The time since `start`, ms.
pub fn since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1_000.0
}
