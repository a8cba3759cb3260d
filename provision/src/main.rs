//! `microlambda-provision`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use microlambda_provision::cli::{Cli, run};

fn main() -> ExitCode {
    run(&Cli::parse())
}
