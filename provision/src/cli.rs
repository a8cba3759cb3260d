//! The command line.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use microlambda_runtime::{exit, unix_ms};

use crate::apply::{Options, apply, join_file};
use crate::input::join::Member;
use crate::welcome;

/// Sets this device up from the files on its boot partition, and lets other nodes into its site
#[derive(Debug, Parser)]
#[command(
    name = "microlambda-provision",
    version,
    after_help = "Examples:
  microlambda-provision apply --dry-run        what would be done?
  sudo microlambda-provision join camera       the file that lets a camera in
  microlambda-provision welcome                what runs here, and what to do next

Exit codes: 0 well, 1 failed while running, 2 wrong command line, 3 something in the files is wrong."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Apply rpi-preseed.toml, microlambda.toml and join files; what was applied before is left alone
    #[command(after_help = "Examples:
  microlambda-provision apply                  what the device does at each start
  microlambda-provision apply --dry-run        only say what would be done
  microlambda-provision apply --boot /media/bootfs --root /tmp/root --dry-run")]
    Apply {
        /// The boot partition
        #[arg(long, value_name = "DIR", default_value = "/boot/firmware")]
        boot: PathBuf,
        #[command(flatten)]
        root: RootArg,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Print the file that lets a node, or somebody who watches, into this broker's site
    #[command(after_help = "Examples:
  sudo microlambda-provision join camera > microlambda-join.toml
  sudo microlambda-provision join viewer")]
    Join {
        /// Whom to let in
        role: JoinRole,
        #[command(flatten)]
        root: RootArg,
    },
    /// The login message: what runs, what it sees, what to do next
    #[command(after_help = "Example:
  microlambda-provision welcome")]
    Welcome {
        #[command(flatten)]
        root: RootArg,
    },
}

#[derive(Debug, Args)]
struct RootArg {
    /// Work below this folder instead of /
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum JoinRole {
    Camera,
    Edge,
    Viewer,
}

/// Runs a command line to its end.
pub fn run(cli: &Cli) -> ExitCode {
    let outcome = match &cli.command {
        Command::Apply { boot, root, dry_run } => {
            let now_unix_s = i64::try_from(unix_ms() / 1_000).unwrap_or(i64::MAX);
            let options = Options { boot: boot.clone(), root: root.root.clone(), dry_run: *dry_run, now_unix_s };
            apply(&options).map(|report| {
                print(&report.to_string());
                if report.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(exit::CONFIG) }
            })
        }
        Command::Join { role, root } => {
            let member = match role {
                JoinRole::Camera => Member::Camera,
                JoinRole::Edge => Member::Edge,
                JoinRole::Viewer => Member::Viewer,
            };
            join_file(&root.root, member).map(|text| {
                print(&text);
                ExitCode::SUCCESS
            })
        }
        Command::Welcome { root } => {
            print(&welcome::message(&welcome::look(&root.root)));
            Ok(ExitCode::SUCCESS)
        }
    };
    outcome.unwrap_or_else(|why| {
        eprintln!("microlambda-provision: {why}");
        ExitCode::from(exit::RUN)
    })
}

/// To standard output; whoever closed it does not want to read it.
fn print(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
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
            assert!(help.contains("microlambda-provision "), "{} has no example", command.get_name());
        }
    }
}
