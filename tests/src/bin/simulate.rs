//! Simulates sites: one seed with its log, or random seeds for a given time.

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Parser, Subcommand};
use microlambda_tests::sim::{Options, run};

/// Runs the agents' own code in virtual time, on a bus and disks that keep no promise
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  simulate replay 4711       one seed, every event
  simulate soak --minutes 60 random seeds, until one fails or time is up")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one seed and print every event
    Replay {
        /// The seed
        seed: u64,
        /// Print only what it came to
        #[arg(long)]
        quiet: bool,
    },
    /// Run seeds from a random one on
    Soak {
        /// For so long
        #[arg(long, default_value_t = 10)]
        minutes: u64,
        /// The first seed; drawn from the clock if absent
        #[arg(long)]
        from: Option<u64>,
        /// At most so many seeds
        #[arg(long, default_value_t = u64::MAX)]
        seeds: u64,
    },
}

fn main() -> ExitCode {
    match Args::parse().command {
        Command::Replay { seed, quiet } => replay(seed, quiet),
        Command::Soak { minutes, from, seeds } => soak(minutes, from, seeds),
    }
}

fn replay(seed: u64, quiet: bool) -> ExitCode {
    let outcome = run(Options { log: !quiet, ..Options::seed(seed) });
    for line in &outcome.log {
        println!("{line}");
    }
    println!("seed {seed}: {} events, {} steps, {} s", outcome.events, outcome.steps, outcome.virtual_us / 1_000_000);
    match outcome.violation {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            println!("VIOLATED: {}: {}", violation.invariant, violation.what);
            ExitCode::FAILURE
        }
    }
}

fn soak(minutes: u64, from: Option<u64>, seeds: u64) -> ExitCode {
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let first = from.unwrap_or_else(|| clock() << 20);
    let (start, limit) = (Instant::now(), Duration::from_secs(60 * minutes));
    let mut done = 0;
    let (mut events, mut told) = (0, Instant::now());
    while start.elapsed() < limit && done < seeds {
        let seed = first.wrapping_add(done);
        let outcome = run(Options::seed(seed));
        (done, events) = (done + 1, events + outcome.events);
        if let Some(violation) = outcome.violation {
            println!("seed {seed} VIOLATED: {}: {}", violation.invariant, violation.what);
            println!("replay it: simulate replay {seed}");
            return ExitCode::FAILURE;
        }
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            let per_minute = done as f64 / start.elapsed().as_secs_f64() * 60.0;
            println!("{done} seeds, {per_minute:.0} a minute, {} events a seed", events / done);
        }
    }
    println!(
        "{done} seeds from {first} on, {} events a seed, in {:.0} s: all invariants held",
        events / done.max(1),
        start.elapsed().as_secs_f64()
    );
    ExitCode::SUCCESS
}
