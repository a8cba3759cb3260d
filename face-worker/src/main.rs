//! `face-worker`: see the library's documentation.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match face_worker::run(&face_worker::Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("face-worker: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
