//! Tortures a site of real processes.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use microlambda_tests::torture::brokers::BrokerKind;
use microlambda_tests::torture::fault::Fault;
use microlambda_tests::torture::ground::{self, Ground};
use microlambda_tests::torture::{Options, run};

/// Two cameras, three edge nodes, a real broker, and faults of every kind at random instants; then everything must be right
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  torture --minutes 10                      ten minutes of faults, a seed from the clock
  torture --seconds 60 --seed 7             the short form of `make test`
  torture --broker nats --minutes 5         on three NATS servers
  torture --only agent-kill,cut --seconds 60")]
struct Args {
    /// Draws the faults; from the clock if absent
    #[arg(long)]
    seed: Option<u64>,
    /// Minutes of faults
    #[arg(long, default_value_t = 5)]
    minutes: u64,
    /// Seconds of faults, instead of minutes
    #[arg(long)]
    seconds: Option<u64>,
    /// The broker
    #[arg(long, value_enum, default_value_t = BrokerKind::Mosquitto)]
    broker: BrokerKind,
    /// Only these faults
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Folder for logs, databases and reports
    #[arg(long, default_value = "target/torture")]
    out: PathBuf,
    /// Stay outside of namespaces
    #[arg(long)]
    outside: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        if let Err(error) = signal_hook::flag::register(signal, Arc::clone(&stop)) {
            eprintln!("torture: {error}");
            return ExitCode::FAILURE;
        }
    }
    let inside = std::env::var_os(ground::INSIDE_VARIABLE).is_some();
    let mut why = if args.outside { Some("not asked for".to_owned()) } else { None };
    if !inside && !args.outside {
        let mut refused = String::new();
        if let Some(code) = ground::enter(&stop, &mut refused) {
            return code;
        }
        why = Some(refused);
    }
    match torture(args, why, &stop) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("torture: {error}");
            ExitCode::FAILURE
        }
    }
}

fn torture(
    args: Args,
    outside: Option<String>,
    stop: &AtomicBool,
) -> Result<String, microlambda_tests::torture::Error> {
    // One site at a time: several would measure each other.
    let turn = File::create(std::env::temp_dir().join("microlambda-tests.lock"))?;
    turn.lock()?;
    let drawn = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_millis() as u64 % 1_000_000);
    let only = args.only.iter().map(|name| fault(name)).collect::<Result<Vec<Fault>, String>>()?;
    let seed = args.seed.unwrap_or_else(drawn);
    eprintln!("torture: seed {seed}");
    let options = Options {
        seed,
        broker: args.broker,
        faults: Duration::from_secs(args.seconds.unwrap_or(args.minutes * 60)),
        only,
        out: args.out,
    };
    let ground = Ground::find(outside);
    run(&options, &ground, stop)
}

fn fault(name: &str) -> Result<Fault, String> {
    let known = |fault: &Fault| serde_json::to_value(fault).ok().and_then(|n| n.as_str().map(str::to_owned));
    let found = Fault::ALL.into_iter().find(|fault| known(fault).as_deref() == Some(name));
    found.ok_or_else(|| {
        format!("no fault is called {name:?}: {}", Fault::ALL.iter().filter_map(known).collect::<Vec<_>>().join(", "))
    })
}
