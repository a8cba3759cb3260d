//! From a configuration to a running agent, and to its end.

use std::path::PathBuf;
use std::time::Duration;

use microlambda_runtime::{Link, last_end, notify, shutdown_signal, unix_ms};
use microlambda_wire::ChainClass;

use crate::RunError;
use crate::agent::{Agent, CLOSE_TIMEOUT};
use crate::config::{Config, SourceConfig};
use crate::source::pump::{Opener, Pump, PumpConfig};
use crate::source::{command, folder, v4l2};
use crate::spool::thread::SpoolHandle;
use crate::spool::{INPUTS_PAGE, Identity, Opened, Spool, SpoolError};

/// With `--exit-when-done`, a finite command that failed so often in a row without a new picture is given up.
const FAILURES_MAX: u32 = 3;

/// How a run is to begin and to end, as its command line says.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Forget the spool and start a new chain.
    pub new_job: bool,
    /// End when a finite input is done and every frame was freed, or when its command fails again and again.
    pub exit_when_done: bool,
}

/// Runs until a signal, a fatal error, or (if asked) the end of the job.
///
/// # Errors
/// [`RunError`].
pub async fn run(config: Config, options: Options) -> Result<(), RunError> {
    let shutdown = shutdown_signal().map_err(RunError::system)?;
    let Opened { spool, damaged, kept } = open_spool(&config, options)?;
    let kept_aside = (kept, told(&config, kept, damaged.as_ref()));
    let state_dir = config.state_dir.clone();
    let complete_before = spool.view().is_complete();
    let input_ended = spool.view().end.is_some();
    if input_ended {
        say_ended(&config, &spool);
    }
    let spool = SpoolHandle::start(spool).map_err(RunError::system)?;
    let pump = if input_ended { None } else { Some(start_pump(&config, options, &spool)?) };
    let mut agent = Agent::new(config, options, spool, kept_aside)?;
    // The events are kept until the end: without them the link would close before the last status is sent.
    let (link, mut events) = Link::start(agent.link_config()?);
    let outcome = if complete_before && options.exit_when_done {
        agent.verdict(None).map(drop).map_err(RunError::Run)
    } else {
        agent.serve(&link, &mut events, pump.as_ref(), shutdown).await
    };
    notify::stopping();
    let report = pump.as_ref().map(|pump| pump.report.borrow().clone()).unwrap_or_default();
    agent.leave(&link, report).await;
    if let Some(pump) = pump {
        pump.stop(CLOSE_TIMEOUT).await;
    }
    let damaged = matches!(outcome, Err(RunError::Damage(_))) || agent.is_damaged();
    agent.spool.close();
    let noted = if damaged { last_end::note_damage(&state_dir) } else { last_end::note_clean_end(&state_dir) };
    if let Err(why) = noted {
        log::warn!("how this run ended cannot be noted, and the next start checks more than it needs to: {why}");
    }
    log::info!("stopped");
    outcome
}

/// What to tell about damaged spools.
fn told(config: &Config, kept: u32, damaged: Option<&(PathBuf, String)>) -> String {
    let found = damaged.map_or(String::new(), |(place, why)| {
        format!("; the last one, in {}, was found at this start and a new chain begun: {why}", place.display())
    });
    let folder = config.state_dir.display();
    match kept {
        0 => String::new(),
        _ => format!(
            "{kept} damaged spool(s) kept in {folder}: check the disk, and remove the folders `damaged-…` once all is well{found}"
        ),
    }
}

fn open_spool(config: &Config, options: Options) -> Result<Opened, RunError> {
    if options.new_job && crate::spool::replace(&config.state_dir)? {
        log::info!(folder:% = config.state_dir.display(); "the former spool was removed");
    }
    let identity =
        Identity { camera: config.camera.clone(), class: config.source.class(), source: config.source.describe() };
    let open = || Spool::open_or_renew(&config.state_dir, &identity, config.spool, unix_ms());
    let opened = match open() {
        // A package starts its service with the configuration that it brings: nothing was done for that yet.
        Err(SpoolError::Other { holds, untouched: true, .. }) => {
            log::info!("the spool was made for {holds} and never held anything: it is replaced");
            crate::spool::replace(&config.state_dir)?;
            open()?
        }
        opened => opened?,
    };
    let view = opened.spool.view();
    log::info!(
        chain:% = view.chain, oldest = view.oldest, next = view.next, frames = view.frames, bytes = view.bytes;
        "spool opened"
    );
    Ok(opened)
}

/// A finite input that was read to its end is not read again.
fn say_ended(config: &Config, spool: &Spool) {
    let state = if spool.view().is_complete() { "complete, and all frames were freed" } else { "read to its end" };
    log::info!(source = config.source.describe().as_str(); "this job is {state}; `camera-agent run --new-job` starts anew");
    if let SourceConfig::Folder { path } = &config.source {
        let page = |from: usize| spool.inputs(from as u64).ok().filter(|page| !page.is_empty());
        match folder::Folder::open(path, (0..).step_by(INPUTS_PAGE).map_while(page).flatten()) {
            Ok(folder) if folder.remaining() > 0 => log::warn!(
                files = folder.remaining();
                "pictures were added after the job's end and are not read: run with --new-job to read the folder again"
            ),
            Ok(_) => {}
            Err(error) => log::debug!(why:% = error; "the folder is not what it was"),
        }
    }
}

fn start_pump(config: &Config, options: Options, spool: &SpoolHandle) -> Result<Pump, RunError> {
    let source = config.source.clone();
    let opener: Opener = Box::new(move |already, killer| match &source {
        SourceConfig::Folder { path } => Ok(Box::new(folder::Folder::open(path, already)?)),
        SourceConfig::Command(line) => Ok(Box::new(command::Stream::open(line, already, killer)?)),
        SourceConfig::V4l2(wish) => v4l2::open(wish).map(|device| Box::new(device) as _),
    });
    let settings = PumpConfig {
        frame: config.frame_bounds(),
        state_dir: config.state_dir.clone(),
        image_interval: (config.image_interval_s > 0).then(|| Duration::from_secs(config.image_interval_s)),
        finite: config.source.class() == ChainClass::Batch,
        failures_max: failures_max(&config.source, options),
        still_interval: (config.still_interval_s > 0).then(|| Duration::from_secs(config.still_interval_s)),
    };
    Pump::start(opener, spool.source_handle(), settings).map_err(RunError::system)
}

/// Whoever waits for the end of a job must learn that its command gives nothing. A folder that is away may come back.
fn failures_max(source: &SourceConfig, options: Options) -> Option<u32> {
    let is_finite_command = matches!(source, SourceConfig::Command(line) if line.finite);
    (options.exit_when_done && is_finite_command).then_some(FAILURES_MAX)
}
