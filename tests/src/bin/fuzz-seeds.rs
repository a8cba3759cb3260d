//! Writes the seeds of a fuzz target into a folder, one file each.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use microlambda_tests::fuzz::{TARGETS, seeds};

/// Writes the seeds of a fuzz target into a folder; without arguments it names all targets.
#[derive(Parser)]
#[command(after_help = "Example:\n  fuzz-seeds topics fuzz/corpus/topics")]
struct Arguments {
    /// The target
    #[arg(requires = "folder")]
    target: Option<String>,
    /// Where to write them
    folder: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (Some(target), Some(folder)) = (arguments.target, arguments.folder) else {
        TARGETS.iter().for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    };
    if !TARGETS.iter().any(|(name, _)| *name == target) {
        eprintln!("fuzz-seeds: there is no target {target}; run it without arguments for a list");
        return ExitCode::from(2);
    }
    let write = || {
        std::fs::create_dir_all(&folder)?;
        let seeds = seeds::of(&target);
        seeds.iter().enumerate().try_for_each(|(n, seed)| std::fs::write(folder.join(format!("seed-{n:02}")), seed))
    };
    match write() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fuzz-seeds: cannot write to {}: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}
