//! One long invocation that keeps its state as often as a limit would: a line of the benchmark `figure`, and no part of the product.
//!
//! It takes an edge agent's configuration and runs finite jobs alone and to their end, each in one step of the worker. Every `chain.r-limit-ms`, after the
//! unit that runs then, it commits what is new to an edge agent's database, and goes on. Nothing is handed over, so that nothing but the end is announced.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use edge_agent::config::Config;
use edge_agent::store::{Advance, SqliteStore, Store as _};
use edge_agent::worker::{Worker, WorkerCommand, WorkerEvent};
use microlambda::Head;
use microlambda_benches::{Error, exit};
use microlambda_faces::content::Entry;
use microlambda_faces::fold::{FoldState, Folded, lambda_digest};
use microlambda_faces::proto::{FromWorker, StepTimes, ToWorker, UnitOutcome};
use microlambda_faces::{FaceAt, Thumbnail};
use microlambda_runtime::{Link, LinkEvent, boot_id, logging, monotonic_us};
use microlambda_wire::{
    CameraHead, Continuation, DoneNote, Name, Payload, Record, RecordNote, StepTiming, Topic, TopicPrefix, Want,
    from_payload, strip_frame_meta, to_payload,
};
use tokio::sync::mpsc;

/// Records asked for and not handed to the worker yet at most.
const CREDIT: u64 = 32;
/// Frames handed to the worker and not finished at most, as an edge agent does.
const FEED_AHEAD: usize = 4;
/// A step of this length is not ended by its limit, µs.
const UNLIMITED_US: u64 = 3_600_000_000;

#[derive(Debug, Parser)]
#[command(name = "keeper")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs job after job until it is killed
    Run {
        /// An edge agent's configuration
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

fn main() -> ExitCode {
    let Cli { command: Command::Run { config } } = Cli::parse();
    logging::init(microlambda_runtime::Verbosity::default());
    exit(run(&config))
}

fn run(config: &std::path::Path) -> Result<(), Error> {
    let config = Config::load(config)?;
    // As in an edge agent, the connection has a thread of its own.
    let bus = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(keep(config, bus.handle()))
}

async fn keep(config: Config, bus: &tokio::runtime::Handle) -> Result<(), Error> {
    let (name, prefix) = (config.node_name()?, TopicPrefix::new(&config.site));
    let mut link_config = config.broker.link_config(format!("keeper-{name}"))?;
    link_config.filters = Topic::edge_filters(&prefix, &name);
    let (link, mut events) = {
        let _on_bus = bus.enter();
        Link::start(link_config)
    };
    let command = WorkerCommand {
        program: config.worker_program()?,
        models_dir: config.models_dir.clone(),
        engine: config.engine,
        memory_mb: config.worker_memory_mb,
    };
    let (sender, mut said) = mpsc::channel(64);
    let worker = Worker::spawn(&command, 1, sender)?;
    let store = SqliteStore::open(&config.state_dir)?;
    let mut keeper = Keeper { boot: boot_id()?, name, prefix, link, worker, store, config, engine: None, job: None };
    loop {
        tokio::select! {
            biased;
            Some(event) = said.recv() => keeper.on_worker(event)?,
            Some(event) = events.recv() => {
                if let LinkEvent::Message { topic, payload, .. } = event {
                    keeper.on_message(&topic, &payload)?;
                }
            }
        }
    }
}

struct Keeper {
    config: Config,
    name: Name,
    boot: Name,
    prefix: TopicPrefix,
    link: Link,
    worker: Worker,
    store: SqliteStore,
    /// What the worker calls its engine, once it is ready.
    engine: Option<String>,
    job: Option<Job>,
}

/// The job of one camera.
struct Job {
    chain: Name,
    camera: Name,
    seen_at_us: u64,
    /// One more than its last record.
    next: u64,
    fold: FoldState,
    /// What has arrived and is not folded yet.
    records: BTreeMap<u64, (Record, Vec<u8>)>,
    /// One more than the last record that was asked for.
    wanted: u64,
    next_feed: u64,
    fed: VecDeque<u64>,
    told_end: bool,
    thumbnails: Vec<Thumbnail>,
    /// Folded and not committed yet.
    fresh: Vec<(Entry, Folded)>,
    committed: Head,
    committed_at_us: u64,
}

impl Keeper {
    fn on_message(&mut self, topic: &str, payload: &[u8]) -> Result<(), Error> {
        match Topic::parse(&self.prefix, topic)? {
            Topic::CameraHead { .. } => self.camera_head(&from_payload(payload)?),
            Topic::CameraFrame { .. } => {
                let (meta, jpeg) = strip_frame_meta(payload)?;
                let (chain, sequence) = (meta.chain.clone(), meta.sequence);
                self.record(&chain, sequence, meta.into_record(), jpeg)
            }
            Topic::CameraRecord { .. } => {
                let RecordNote { chain, sequence, record } = from_payload(payload)?;
                self.record(&chain, sequence, record, Vec::new())
            }
            _ => Ok(()),
        }
    }

    fn camera_head(&mut self, head: &CameraHead) -> Result<(), Error> {
        if head.end.is_none() || self.job.as_ref().is_some_and(|job| job.chain == head.chain) {
            return Ok(());
        }
        let fold = FoldState::genesis(self.config.faces);
        self.store.add_chain(&head.chain, &head.camera, head.class, fold.head())?;
        let now_us = monotonic_us();
        self.job = Some(Job {
            chain: head.chain.clone(),
            camera: head.camera.clone(),
            seen_at_us: now_us,
            next: head.next,
            committed: fold.head(),
            fold,
            records: BTreeMap::new(),
            wanted: 0,
            next_feed: 0,
            fed: VecDeque::new(),
            told_end: false,
            thumbnails: Vec::new(),
            fresh: Vec::new(),
            committed_at_us: now_us,
        });
        self.want()
    }

    /// Asks for what follows, once half of what was asked for is used.
    fn want(&mut self) -> Result<(), Error> {
        let Some(job) = &mut self.job else { return Ok(()) };
        let ahead = job.wanted - job.next_feed;
        if ahead > CREDIT / 2 || job.wanted >= job.next {
            return Ok(());
        }
        let credit = (CREDIT - ahead).min(job.next - job.wanted);
        let want = Want {
            node: self.name.clone(),
            boot: self.boot.clone(),
            chain: job.chain.clone(),
            cursor: job.wanted,
            credit: u32::try_from(credit)?,
            committed: job.committed.version.sequence,
            expires_ms: 60_000,
        };
        job.wanted += credit;
        let topic = Topic::CameraWant { camera: job.camera.clone() };
        self.publish(&topic, &want, false)
    }

    fn record(&mut self, chain: &Name, sequence: u64, record: Record, jpeg: Vec<u8>) -> Result<(), Error> {
        let Some(job) = self.job.as_mut().filter(|job| job.chain == *chain) else { return Ok(()) };
        job.records.insert(sequence, (record, jpeg));
        self.feed()
    }

    fn feed(&mut self) -> Result<(), Error> {
        let Some(job) = &mut self.job else { return Ok(()) };
        while self.engine.is_some() && job.fed.len() < FEED_AHEAD && !job.told_end {
            let sequence = job.next_feed;
            let Some((record, jpeg)) = job.records.get(&sequence) else { break };
            let message = match record {
                Record::Frame { moved, .. } => {
                    if sequence == 0 {
                        send(&self.worker, &start(&self.config))?;
                    }
                    job.fed.push_back(sequence);
                    job.next_feed += 1;
                    ToWorker::Frame { sequence, jpeg: jpeg.clone(), moved: moved.clone(), more: true }
                }
                Record::Gap { .. } | Record::End { .. } | Record::Restart { .. } => {
                    job.told_end = true;
                    ToWorker::NoMoreFrames
                }
            };
            send(&self.worker, &message)?;
        }
        self.want()
    }

    fn on_worker(&mut self, event: WorkerEvent) -> Result<(), Error> {
        let message = match event {
            WorkerEvent::Said(_, message) => *message,
            WorkerEvent::Gone(_, why) => return Err(why.into()),
        };
        match message {
            FromWorker::Ready { engine, .. } => {
                log::info!("worker ready");
                self.engine = Some(engine);
                self.feed()
            }
            FromWorker::Tried { .. }
            | FromWorker::Begin { .. }
            | FromWorker::Refused { .. }
            | FromWorker::Prepared { .. } => Ok(()),
            FromWorker::Unit { sequence, outcome, thumbnail, .. } => self.unit_ended(sequence, outcome, thumbnail),
            FromWorker::Stopped { report, .. } => self.ended(report),
            FromWorker::Fatal { message } => Err(message.into()),
        }
    }

    fn unit_ended(&mut self, sequence: u64, outcome: UnitOutcome, thumbnail: Option<Vec<u8>>) -> Result<(), Error> {
        let (faces, engine) = (outcome.faces(), self.engine.clone().unwrap_or_default());
        let Some(job) = &mut self.job else { return Ok(()) };
        if let (Some(jpeg), Some(index)) = (thumbnail, faces.checked_sub(1)) {
            let at = FaceAt { sequence, face_index: u32::try_from(index)? };
            job.thumbnails.push(Thumbnail { at, jpeg });
        }
        if let UnitOutcome::Done(analysis) = outcome {
            let (record, _) = job.records.remove(&sequence).ok_or("a frame that nobody asked for")?;
            job.fed.pop_front();
            job.fold_in(Entry { sequence, record, analysis: Some(analysis), engine })?;
            self.feed()?;
        }
        let due_us = self.config.chain.r_limit_ms * 1_000;
        match &self.job {
            Some(job) if monotonic_us() >= job.committed_at_us + due_us => self.commit().map(|_| ()),
            _ => Ok(()),
        }
    }

    fn ended(&mut self, times: StepTimes) -> Result<(), Error> {
        let Some(job) = &mut self.job else { return Ok(()) };
        let sequence = job.fold.head().version.sequence;
        let (record, _) = job.records.remove(&sequence).ok_or("the end is missing")?;
        job.fold_in(Entry { sequence, record, analysis: None, engine: String::new() })?;
        let commit_us = self.commit()?;
        self.announce(times, commit_us)
    }

    /// Commits what is new; how long it took, µs.
    fn commit(&mut self) -> Result<u64, Error> {
        let Some(job) = &mut self.job else { return Ok(0) };
        let (started_us, head) = (monotonic_us(), job.fold.head());
        self.store.advance(&Advance {
            chain: &job.chain,
            from_sequence: job.committed.version.sequence,
            entries: job.fresh.iter().map(|(entry, folded)| (entry, folded)).collect(),
            partial: None,
            head,
            holder: self.name.as_str(),
            fold: &job.fold,
            thumbnails: &job.thumbnails,
            then: None,
        })?;
        job.fresh.clear();
        job.committed = head;
        job.committed_at_us = monotonic_us();
        Ok(job.committed_at_us - started_us)
    }

    /// Says that the job is done, as an edge agent does after its last step.
    fn announce(&self, times: StepTimes, commit_us: u64) -> Result<(), Error> {
        let Some(job) = &self.job else { return Ok(()) };
        let lambda = lambda_digest(&self.config.faces);
        let timing = StepTiming {
            r_limit_us: UNLIMITED_US,
            used_us: times.used_us,
            busy_us: times.busy_us,
            units: times.units,
            claim_us: times.first_unit_start_us.saturating_sub(job.seen_at_us),
            commit_us,
            first_unit_at_us: times.first_unit_start_us,
            last_unit_at_us: times.last_unit_end_us,
            worker_cpu_us: times.cpu_us,
        };
        let note = Continuation {
            chain: job.chain.clone(),
            node: self.name.clone(),
            boot: self.boot.clone(),
            lambda,
            origin: None,
            parent: Head::genesis(lambda),
            head: job.committed,
            delta: None,
            again: false,
            timing: Some(timing),
            frames: Vec::new(),
        };
        self.publish(&Topic::Continuation { chain: job.chain.clone() }, &note, false)?;
        let totals = self.store.totals(&job.chain)?;
        let done = DoneNote {
            chain: job.chain.clone(),
            camera: job.camera.clone(),
            head: job.committed,
            frames: totals.frames,
            unreadable: totals.unreadable,
            faces_seen: totals.faces_seen,
            people: Vec::new(),
        };
        self.publish(&Topic::Done { chain: job.chain.clone() }, &done, true)
    }

    fn publish<T: Payload>(&self, topic: &Topic, payload: &T, retain: bool) -> Result<(), Error> {
        Ok(self.link.publish(topic.build(&self.prefix), to_payload(payload)?, retain)?)
    }
}

impl Job {
    fn fold_in(&mut self, entry: Entry) -> Result<(), Error> {
        let folded = self.fold.fold(&entry)?;
        self.fresh.push((entry, folded));
        Ok(())
    }
}

fn start(config: &Config) -> ToWorker {
    ToWorker::Start {
        step: 1,
        r_limit_us: UNLIMITED_US,
        units_max: u32::MAX,
        costs: Vec::new(),
        params: config.faces,
        resume: None,
    }
}

fn send(worker: &Worker, message: &ToWorker) -> Result<(), Error> {
    if worker.send(message) { Ok(()) } else { Err("the worker takes nothing".into()) }
}
