//! The camera agent's program.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    camera_agent::memory::keep_small();
    camera_agent::cli::run(camera_agent::cli::Cli::parse())
}
