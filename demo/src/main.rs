//! The demo's door: see `microlambda_demo`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use microlambda_demo::relay::{self, Endpoint};
use microlambda_demo::{DemoArgs, run, run_embedded};

#[derive(Parser)]
#[command(name = "microlambda-demo", version, about, long_about = None, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
#[command(about = "Shows a long face-recognition job travel over short invocations, on real agents")]
struct Cli {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    demo: DemoArgs,
}

const EXAMPLES: &str = "\
Examples:
  microlambda-demo                                 the default photos on two nodes
  microlambda-demo --photos ~/Pictures --nodes 3   your own, on three
  microlambda-demo --r-limit-ms 200 --no-kill      shorter steps, nobody is killed
  microlambda-demo --broker mqtt://localhost       on a broker that runs already

Ends with 0 if all nodes and one long run came to the same result (where a picture could not be searched, all nodes
alone: then the long run cannot be compared), with 130 after Ctrl-C, else with 1.";

/// What the demo starts of itself as processes of their own.
#[derive(Subcommand)]
enum Part {
    /// The embedded broker
    #[command(hide = true)]
    Broker {
        /// On 127.0.0.1
        #[arg(long)]
        port: u16,
    },
    /// Carries connections in and out of an agent's namespaces
    #[command(hide = true)]
    Relay {
        /// Where to accept: tcp:host:port or unix:/path
        #[arg(long)]
        from: Endpoint,
        /// Where to connect
        #[arg(long)]
        to: Endpoint,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.part {
        Some(Part::Broker { port }) => run_embedded(port),
        Some(Part::Relay { from, to }) => relay::run(&from, &to),
        None => run(&cli.demo),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            anstream::eprintln!("microlambda-demo: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
