//! The agent's loop: one task owns the node and waits for the bus, the worker, a deadline, or the signal to stop. The
//! connection is polled on a thread of its own and never waits for this one.

use std::io::ErrorKind;
use std::time::Duration;

use microlambda_faces::FaceParams;
use microlambda_runtime::{Link, LinkEvent, LinkEvents, Message, Watchdog, boot_id, monotonic_us, notify};
use microlambda_wire::{Topic, TopicPrefix};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::world::Agent;
use super::{Node, NodeError, status};
use crate::config::Config;
use crate::store::{Opened, Rest, SqliteStore, Store, StoreError};
use crate::worker::{WorkerCommand, WorkerEvent};

/// A clean stop waits at most so long for the running unit, again so long for peers that ask for what it came to, and for the broker.
const STOP_PATIENCE: Duration = Duration::from_millis(1_500);
/// A node does not begin with less room on its disk than this, bytes: its first commit would end it, after it has made others wait for it.
const ROOM_BYTES_MIN: u64 = 4 << 20;
/// The loop looks around at least this often.
const WAKE_MAX: Duration = Duration::from_secs(3_600);
/// Messages of the worker that are read ahead of the loop, and handled in one round of it, at most.
const HEARD_MAX: usize = 64;
/// Before a kill that was put off the loop waits at least so long for the worker's word: what lies in the socket is read only while it waits.
const LISTEN_MIN: Duration = Duration::from_millis(5);

/// Runs a node until `stop` resolves, with its connection on the runtime `bus`: the node waits for its disk.
///
/// # Errors
/// [`NodeError`]; a broker that is absent is no error, the node waits for it.
pub async fn run(
    config: Config,
    opened: Opened,
    bus: &Handle,
    stop: impl Future<Output = ()>,
) -> Result<(), NodeError> {
    let Opened { store, damaged, kept, copies, rest } = opened;
    store.need_room(ROOM_BYTES_MIN)?;
    let mut stop = std::pin::pin!(stop);
    let (store, gone) = tokio::select! {
        biased;
        folded = fold_again(store, config.faces) => folded?,
        // What it has begun is taken back when the database is opened next.
        () = &mut stop => return Ok(()),
    };
    let name = config.node_name()?;
    let boot = boot_id().map_err(|source| NodeError::System { what: "cannot draw a boot id", source })?;
    let prefix = TopicPrefix::new(&config.site);
    // No name has a colon: no other site's node has this id on the same broker.
    let mut link_config = config.broker.link_config(format!("microlambda-edge:{}:{name}", config.site))?;
    link_config.filters = Topic::edge_filters(&prefix, &name);
    link_config.will = Some(status::last_will(&prefix, &name, &boot));
    link_config.inbox_bytes_max = 8 << 20;
    let program = config.worker_program()?;
    let command = WorkerCommand {
        program,
        models_dir: config.models_dir.clone(),
        engine: config.engine,
        memory_mb: config.worker_memory_mb,
    };
    let (worker_events, worker_rx) = mpsc::channel(HEARD_MAX);
    let (link, mut link_events) = {
        let _on_bus = bus.enter();
        Link::start(link_config)
    };
    log::info!(node:% = name, boot:% = boot, site:% = config.site; "edge agent starting");
    let world = Agent { link: link.clone(), state_dir: config.state_dir.clone(), command, worker_events, worker: None };
    let mut node = Node::open(config, boot.clone(), store, world)?;
    node.withdraw_faces(gone);
    node.databases_are_kept(kept, damaged.as_ref(), copies);
    let outcome = tokio::select! {
        outcome = node.main_loop(&mut link_events, worker_rx, stop) => outcome,
        damage = damage_of(rest) => Err(damage.into()),
    };
    if let Err(error) = &outcome {
        say_last_words(&link, status::last_words(&prefix, &name, &boot, &error.to_string())).await;
    }
    outcome
}

/// Says why this node ends. What cannot be said, the broker says in part: it has the will.
async fn say_last_words(link: &Link, words: Message) {
    match link.publish(words.topic, words.payload, words.retain) {
        Ok(()) => {
            link.close(STOP_PATIENCE).await;
        }
        Err(why) => log::debug!("not published: {why}"),
    }
}

/// Folds what was folded with other settings again, which may take long, on a thread of its own.
async fn fold_again(store: SqliteStore, faces: FaceParams) -> Result<(SqliteStore, Vec<String>), NodeError> {
    let (done, folded) = oneshot::channel();
    let fold = move || {
        let gone = notify::while_starting(|| store.fold_again(&faces));
        drop(done.send(gone.map(|gone| (store, gone))));
    };
    std::thread::Builder::new()
        .name("fold".into())
        .spawn(fold)
        .map_err(|source| NodeError::System { what: "cannot start a thread", source })?;
    let ended = |_| NodeError::System { what: "cannot fold the records", source: ErrorKind::BrokenPipe.into() };
    Ok(folded.await.map_err(ended)??)
}

/// Checks what the start has left for later, on a thread of its own that ends with the process at the latest, and resolves if that is damaged.
async fn damage_of(rest: Option<Rest>) -> StoreError {
    let (found, damage) = oneshot::channel();
    let check = |rest: Rest| match rest.check() {
        Err(error) if error.is_damage() => drop(found.send(error)),
        Err(error) => log::warn!("the database could not be checked: {error}"),
        Ok(()) => {}
    };
    if let Some(rest) = rest
        && let Err(error) = std::thread::Builder::new().name("check".into()).spawn(move || check(rest))
    {
        log::warn!("the database is not checked: {error}");
    }
    match damage.await {
        Ok(damage) => damage,
        Err(_) => std::future::pending().await,
    }
}

impl<S: Store> Node<S, Agent> {
    async fn main_loop(
        mut self,
        bus: &mut LinkEvents,
        mut worker: mpsc::Receiver<WorkerEvent>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), NodeError> {
        let mut watchdog = Watchdog::from_env();
        let mut stop = std::pin::pin!(stop);
        notify::ready();
        let (mut stop_at, mut given_up) = (None, false);
        loop {
            let wake = self.next_wake(watchdog.interval());
            let wake = stop_at.map_or(wake, |at: Instant| wake.min(at.saturating_duration_since(Instant::now())));
            // What is on the bus might hold the loop up again, until the worker is killed unheard.
            let listens = self.worker.listens();
            let wake = if listens { wake.max(LISTEN_MIN) } else { wake };
            tokio::select! {
                biased;
                () = &mut stop, if stop_at.is_none() => {
                    notify::stopping();
                    self.begin_stop()?;
                    stop_at = Some(Instant::now() + STOP_PATIENCE);
                }
                Some(event) = worker.recv() => self.hear(event, &mut worker)?,
                event = bus.recv(), if !listens => match event {
                    Some(event) => self.on_bus(event)?,
                    None => return Err(NodeError::ConnectionEnded),
                },
                () = tokio::time::sleep(wake) => {}
            }
            self.tick()?;
            watchdog.progress();
            let late = stop_at.is_some_and(|at| Instant::now() >= at);
            if late && !given_up {
                self.abandon_running_step()?;
                stop_at = Some(Instant::now() + STOP_PATIENCE);
            }
            if stop_at.is_some() && (!self.is_busy() || (late && given_up)) {
                self.end_stop()?;
                if !self.world().link.close(STOP_PATIENCE).await {
                    log::warn!("the broker did not acknowledge everything: peers will ask for what they miss");
                }
                return Ok(self.store.note_clean_end()?);
            }
            given_up |= late;
        }
    }

    /// Handles what the worker says, and whatever else it has said by now: the end of the step comes with the last unit.
    fn hear(&mut self, event: WorkerEvent, worker: &mut mpsc::Receiver<WorkerEvent>) -> Result<(), NodeError> {
        self.on_worker(event)?;
        for _ in 1..HEARD_MAX {
            let Ok(event) = worker.try_recv() else { break };
            self.on_worker(event)?;
        }
        Ok(())
    }

    fn on_bus(&mut self, event: LinkEvent) -> Result<(), NodeError> {
        match event {
            LinkEvent::Connected => self.on_connected(),
            // The connection has told of it.
            LinkEvent::Disconnected { .. } => Ok(()),
            LinkEvent::Message { topic, payload, retain } => self.on_message(&topic, &payload, retain),
        }
    }

    fn next_wake(&self, watchdog: Option<Duration>) -> Duration {
        let wait = Duration::from_micros(self.next_wake_us().saturating_sub(monotonic_us())).min(WAKE_MAX);
        watchdog.map_or(wait, |interval| wait.min(interval))
    }
}
