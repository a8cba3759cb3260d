//! The command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use microlambda_runtime::{Verbosity, logging, printable};
use serde::Serialize;
use serde_json::json;

use crate::RunError;
use crate::config::{Config, EXAMPLE};
use crate::run::{self, Options};
use crate::source::v4l2::{self, Offer};

/// Turns a camera, a folder of pictures or a stream into frames that edge nodes fetch over MQTT
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:
  camera-agent probe                                 what cameras are there?
  camera-agent example-config > camera.toml          a commented configuration to edit
  camera-agent validate --config camera.toml         is it right?
  camera-agent run --config camera.toml              run until stopped

Exit codes: 0 well, 1 failed while running, 2 wrong command line, 3 wrong configuration."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    verbosity: Verbosity,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run until stopped by a signal
    #[command(after_help = "Examples:
  camera-agent run --config /etc/microlambda/camera.toml
  camera-agent run --config job.toml --exit-when-done     a folder, until every frame was done
  camera-agent run --config job.toml --new-job            the same folder once more, from its start
  camera-agent run --config camera.toml -vv               tell about every frame")]
    Run {
        #[command(flatten)]
        config: ConfigArg,
        /// Remove the spool with all frames in it and start a new chain
        #[arg(long)]
        new_job: bool,
        /// End once a folder or a finite command was read and its frames were committed; fails if it had none, or if the
        /// command fails again and again
        #[arg(long)]
        exit_when_done: bool,
    },
    /// Check a configuration file, and that the broker's password and certificate can be read; no camera, folder or spool is opened
    #[command(after_help = "Example:
  camera-agent validate --config /etc/microlambda/camera.toml
  camera-agent validate --config camera.toml --json")]
    Validate {
        #[command(flatten)]
        config: ConfigArg,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// List V4L2 cameras and the formats they offer
    #[command(after_help = "Examples:
  camera-agent probe
  camera-agent probe --json")]
    Probe {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a commented configuration with every key
    #[command(after_help = "Example:
  camera-agent example-config > camera.toml")]
    ExampleConfig,
}

#[derive(Debug, Args)]
struct ConfigArg {
    /// Configuration file
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "/etc/microlambda/camera.toml",
        env = "MICROLAMBDA_CAMERA_CONFIG"
    )]
    config: PathBuf,
}

/// Runs a command line to its end.
pub fn run(cli: Cli) -> ExitCode {
    logging::init(cli.verbosity);
    let outcome = match cli.command {
        Command::Run { config, new_job, exit_when_done } => {
            Config::load(&config.config).map_err(RunError::from).and_then(|config| {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RunError::system)?;
                runtime.block_on(run::run(config, Options { new_job, exit_when_done }))
            })
        }
        Command::Validate { config, json } => validate(&config.config, json),
        Command::Probe { json } => probe(json),
        Command::ExampleConfig => print(EXAMPLE),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn validate(path: &Path, json: bool) -> Result<(), RunError> {
    let outcome = Config::load(path);
    if let (Err(error), true) = (&outcome, json) {
        print_json(&json!({ "valid": false, "error": error.to_string() }))?;
    }
    let config = outcome?;
    if json {
        return print_json(&config.report());
    }
    let (camera, source) = (&config.camera, printable(config.source.describe()));
    print(&format!("{} is valid: camera {camera}, {source}\n", printable(path.display())))
}

fn probe(json: bool) -> Result<(), RunError> {
    let found = v4l2::probe().map_err(RunError::Run)?;
    if json {
        print_json(&found)?;
    }
    if found.is_empty() {
        return Err(RunError::Run(
            "no camera found: plug one in and look for /dev/video*; a CSI camera or a network camera is read with \
             kind = \"command\" (see `camera-agent example-config`)"
                .into(),
        ));
    }
    if json {
        return Ok(());
    }
    let mut text = String::new();
    for device in found {
        // A device names itself, and may do so in any bytes.
        text += &format!("{}  {}\n", printable(device.device), printable(device.name));
        if !device.trouble.is_empty() {
            text += &format!("  no formats: {}\n", printable(device.trouble));
        }
        for same in
            device.formats.chunk_by(|a, b| (a.layout, a.width_px, a.height_px) == (b.layout, b.width_px, b.height_px))
        {
            let Offer { layout, width_px, height_px, .. } = same[0];
            let rates: Vec<String> = same.iter().filter_map(|offer| offer.fps).map(|fps| fps.to_string()).collect();
            let rates = if rates.is_empty() { "an unknown rate".into() } else { rates.join(", ") + " frames/s" };
            text += &format!("  {layout:?} {width_px}×{height_px} at {rates}\n");
        }
    }
    print(&text)
}

fn print_json(value: &impl Serialize) -> Result<(), RunError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| RunError::Run(error.to_string()))?;
    print(&(text + "\n"))
}

/// To standard output; whoever closed it does not want to read it.
fn print(text: &str) -> Result<(), RunError> {
    microlambda_runtime::print(text).map(drop).map_err(RunError::Run)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_command_shows_an_example() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("camera-agent "), "{} has no example", command.get_name());
        }
    }
}
