//! The program `edge-agent`: parses its arguments and calls the library.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    edge_agent::cli::run(edge_agent::cli::Cli::parse())
}
