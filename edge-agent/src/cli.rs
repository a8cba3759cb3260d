//! The command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use microlambda_runtime::last_end::note_damage;
use microlambda_runtime::{ConfigError, Verbosity, exit, logging, shutdown_signal};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::config::{Config, EXAMPLE};
use crate::node::{self, NodeError};
use crate::store::{SqliteStore, StoreError};
use crate::{explain, inspect, report};

/// An edge node of MicroLambda: runs face-recognition steps of at most r-limit-ms each, hands the state on, reports new faces
#[derive(Debug, Parser)]
#[command(
    name = "edge-agent",
    version,
    after_help = "Examples:
  edge-agent example-config > edge.toml      write a configuration to edit
  edge-agent validate --config edge.toml     check it
  edge-agent run --config edge.toml          run the node
  edge-agent faces list --config edge.toml   who has been seen
  edge-agent inspect photo.jpg               look at a picture without a broker

Exit codes: 0 well, 1 failed while running, 2 wrong command line, 3 wrong configuration."
)]
pub struct Cli {
    #[command(flatten)]
    verbosity: Verbosity,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the node until SIGTERM or Ctrl-C
    #[command(after_help = "Example:\n  edge-agent run --config /etc/microlambda/edge.toml")]
    Run(ConfigArg),
    /// Check a configuration and that the files it names are there: worker, models, password, certificate
    #[command(after_help = "Example:\n  edge-agent validate --config edge.toml")]
    Validate {
        #[command(flatten)]
        config: ConfigArg,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a configuration with every default, commented
    #[command(after_help = "Example:\n  edge-agent example-config > edge.toml")]
    ExampleConfig,
    /// Who has been seen
    #[command(
        subcommand,
        after_help = "Examples:\n  edge-agent faces list\n  edge-agent faces picture 0123456789abcdef0123456789abcdef face.jpg"
    )]
    Faces(FacesCommand),
    /// What was reported, the latest last: new faces and recognised ones
    #[command(after_help = "Examples:\n  edge-agent events\n  edge-agent events --last 1000 --json | jq '.[].face'")]
    Events {
        #[command(flatten)]
        report: ReportArgs,
        /// At most so many, the newest
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        last: u32,
    },
    /// Why an event was reported: distances, size, sharpness, views
    #[command(
        after_help = "Examples:\n  edge-agent explain 0123456789abcdef0123456789abcdef\n  edge-agent events --json | jq -r '.[-1].id' | xargs edge-agent explain"
    )]
    Explain {
        #[command(flatten)]
        report: ReportArgs,
        /// The event's id, as `events --json` shows it; a face's id is that of its first event
        event: String,
    },
    /// What this node's chains have reached; also while the agent runs
    #[command(after_help = "Examples:\n  edge-agent status\n  edge-agent status --json | jq '.chains[].head'")]
    Status(ReportArgs),
    /// Check the database: SQLite's own check, then every record is folded again and compared
    #[command(after_help = "Example:\n  edge-agent check --config /etc/microlambda/edge.toml")]
    Check(ReportArgs),
    /// Show the faces of pictures: box, size, sharpness, usable or why not; needs no broker
    #[command(
        after_help = "Examples:\n  edge-agent inspect photo.jpg\n  edge-agent inspect --models /srv/models photo.jpg\n  edge-agent inspect --json --encodings a.jpg b.png"
    )]
    Inspect(inspect::InspectArgs),
}

#[derive(Debug, Subcommand)]
enum FacesCommand {
    /// List all known faces with the frames they were seen in
    #[command(after_help = "Examples:\n  edge-agent faces list\n  edge-agent faces list --json")]
    List(ReportArgs),
    /// Write the picture kept of a face to a file
    #[command(after_help = "Example:\n  edge-agent faces picture 0123456789abcdef0123456789abcdef face.jpg")]
    Picture {
        #[command(flatten)]
        config: ConfigArg,
        /// The face's id, as `faces list` shows it
        face: String,
        /// Where to write the JPEG
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
struct ConfigArg {
    /// Configuration file
    #[arg(short, long, default_value = "/etc/microlambda/edge.toml", env = "MICROLAMBDA_EDGE_CONFIG")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct ReportArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Any error of a command, by exit code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("{0}")]
    Failed(String),
    /// Standard output is closed: no error, and no reason to go on.
    #[error("nobody reads any more")]
    NobodyReads,
}

/// Runs a command; errors go to standard error, with what to do.
pub fn run(cli: Cli) -> ExitCode {
    logging::init(cli.verbosity);
    match dispatch(cli.command) {
        Ok(()) | Err(CommandError::NobodyReads) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("edge-agent: {error}");
            ExitCode::from(match error {
                CommandError::Config(_) | CommandError::Node(NodeError::Config(_)) => exit::CONFIG,
                CommandError::Store(_)
                | CommandError::Node(_)
                | CommandError::Failed(_)
                | CommandError::NobodyReads => exit::RUN,
            })
        }
    }
}

fn dispatch(command: Command) -> Result<(), CommandError> {
    match command {
        Command::Run(arg) => run_node(Config::load(&arg.config)?),
        Command::Validate { config, json } => {
            let path = config.config;
            let outcome = checked(&path).map_err(|error| CommandError::from(error.in_file(&path)));
            let config = report::or_json(outcome, json, |error| json!({ "valid": false, "error": error }))?;
            report::validated(&path, &config, json)
        }
        Command::ExampleConfig => report::print(EXAMPLE),
        Command::Faces(FacesCommand::List(args)) => report::faces(&Config::load(&args.config.config)?, args.json),
        Command::Faces(FacesCommand::Picture { config, face, file }) => {
            report::picture(&Config::load(&config.config)?, &face, &file)
        }
        Command::Events { report: args, last } => report::events(&Config::load(&args.config.config)?, last, args.json),
        Command::Explain { report: args, event } => {
            explain::explain(&Config::load(&args.config.config)?, &event, args.json)
        }
        Command::Status(args) => report::status(&args.config.config, args.json),
        Command::Check(args) => report::check(&args.config.config, args.json),
        Command::Inspect(args) => inspect::run(&args),
    }
}

/// The configuration, if all that it names is there.
fn checked(path: &Path) -> Result<Config, ConfigError> {
    let config = Config::load(path)?;
    config.worker_program()?;
    config.check_models()?;
    config.broker.link_config("validate")?;
    Ok(config)
}

fn run_node(config: Config) -> Result<(), CommandError> {
    let state_dir = config.state_dir.clone();
    let opened = SqliteStore::open_or_renew(&state_dir, &config.faces)?;
    let bus = bus_runtime()?;
    let outcome = runtime()?.block_on(async {
        let stop =
            shutdown_signal().map_err(|error| CommandError::Failed(format!("cannot handle signals: {error}")))?;
        node::run(config, opened, bus.handle(), async {
            let signal = stop.await;
            log::info!(signal:? = signal; "asked to stop");
        })
        .await?;
        Ok(())
    });
    if let Err(CommandError::Node(NodeError::Store(error))) = &outcome
        && error.is_damage()
        && let Err(why) = note_damage(&state_dir)
    {
        log::error!("the damage cannot be noted for the next start: {why}");
    }
    outcome
}

/// The node's own thread: it waits for the disk, and for its worker without another thread in between.
pub(crate) fn runtime() -> Result<Runtime, CommandError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(no_runtime)
}

/// The connection's thread: nothing that the node does holds up what polls it.
fn bus_runtime() -> Result<Runtime, CommandError> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).thread_name("bus").enable_all().build().map_err(no_runtime)
}

fn no_runtime(error: std::io::Error) -> CommandError {
    CommandError::Failed(format!("cannot start the runtime: {error}"))
}
