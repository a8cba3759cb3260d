//! The agent's loop: MQTT on one side, the spool and the source on the other.

use std::time::Duration;

use microlambda_runtime::{
    Echo, Link, LinkConfig, LinkEvent, LinkEvents, LogLimiter, Message, Watchdog, boot_id, monotonic_us, notify,
};
use microlambda_wire::{
    CameraHead, CameraStatus, ChainClass, FrameMeta, Name, NodeStatus, RecordNote, Topic, TopicPrefix, Want,
    from_payload, to_payload, write_frame_meta,
};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

mod announce;
mod oversize_backoff;
mod undelivered;

use announce::Said;
use oversize_backoff::OversizeBackoff;
use undelivered::Undelivered;

use crate::RunError;
use crate::audience::{Answer, Audience, Release};
use crate::config::Config;
use crate::run::Options;
use crate::source::pump::{Phase, Pump, Report};
use crate::spool::Stored;
use crate::spool::thread::{SpoolHandle, SpoolStatus};

/// Frames are read from the spool only while less than this waits for the broker, bytes.
const SERVE_BYTES: usize = 384 << 10;
/// The loop looks around at least this often: releases and silences have no event of their own.
const TICK: Duration = Duration::from_secs(1);
/// The spool's thread has this long for one request before the watchdog is no longer fed.
const SPOOL_STUCK: Duration = Duration::from_secs(60);
/// At the end: to send what is queued, and for the source to stop.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Messages that wait for the broker, or for this agent, at most.
const QUEUE_MESSAGES_MAX: usize = 256;

/// The agent without its source: what it owns and what it has said.
pub(crate) struct Agent {
    config: Config,
    options: Options,
    prefix: TopicPrefix,
    boot: Name,
    pub(crate) spool: SpoolHandle,
    spool_status: watch::Receiver<SpoolStatus>,
    audience: Audience,
    /// The record under way: for whom, which number, the answer.
    reading: Option<(Name, u64, oneshot::Receiver<Option<Stored>>)>,
    releasing: Option<(Release, oneshot::Receiver<u64>)>,
    /// Since when the spool's thread owes an answer.
    asked_spool: Option<Instant>,
    oversize_backoff: OversizeBackoff,
    undelivered: Undelivered,
    /// Own heads that come back on this connection.
    echo: Echo,
    /// What the broker takes and does not pass on, as the log tells it.
    withheld_told: LogLimiter,
    freed_on_one: u64,
    refused_messages: u64,
    refusals: LogLimiter,
    bus_connections: u64,
    /// Records wait, and no node of the site has been heard for long.
    unheard: bool,
    /// That was told since a node was last heard.
    unheard_said: bool,
    /// Damaged spools kept in the state directory, and what to tell about them.
    kept_aside: (u32, String),
    /// Chains begun because the spool had been set back, and the last chain that is to be given up.
    begun_anew: u64,
    given_up: Option<Name>,
    head: Said<CameraHead>,
    status: Said<CameraStatus>,
    /// What the service manager was told last.
    told: String,
    watchdog: Watchdog,
    ready: bool,
    done_said: bool,
}

impl Agent {
    pub(crate) fn new(
        config: Config,
        options: Options,
        spool: SpoolHandle,
        kept_aside: (u32, String),
    ) -> Result<Self, RunError> {
        let spool_status = spool.status();
        let (chain, complete) = (spool_status.borrow().view.chain.clone(), spool_status.borrow().view.is_complete());
        Ok(Self {
            prefix: TopicPrefix::new(&config.site),
            boot: boot_id().map_err(RunError::system)?,
            audience: Audience::new(chain, now_ms()),
            config,
            options,
            spool,
            spool_status,
            reading: None,
            releasing: None,
            asked_spool: None,
            oversize_backoff: OversizeBackoff::default(),
            undelivered: Undelivered::default(),
            echo: Echo::default(),
            withheld_told: LogLimiter::standing(),
            freed_on_one: 0,
            refused_messages: 0,
            refusals: LogLimiter::default(),
            bus_connections: 0,
            unheard: false,
            unheard_said: false,
            kept_aside,
            begun_anew: 0,
            given_up: None,
            head: Said { last: None },
            status: Said { last: None },
            told: String::new(),
            watchdog: Watchdog::from_env(),
            ready: false,
            done_said: complete,
        })
    }

    fn topic(&self, topic: &Topic) -> String {
        topic.build(&self.prefix)
    }

    pub(crate) fn link_config(&self) -> Result<LinkConfig, RunError> {
        let camera = &self.config.camera;
        // The same id at every start: the broker sends the will of a dead predecessor before this one is let in. No name has a colon: two
        // cameras never have one id, by which each would put the other out.
        let mut link = self.config.broker.link_config(format!("microlambda-camera:{}:{camera}", self.config.site))?;
        let last_words = CameraStatus { online: false, ..self.status_now(&Report::default()) };
        let status = Topic::CameraStatus { camera: camera.clone() };
        link.will = Some(Message {
            topic: self.topic(&status),
            payload: to_payload(&last_words).map_err(|error| RunError::Run(error.to_string()))?,
            retain: true,
        });
        link.filters = Topic::camera_filters(&self.prefix, camera);
        link.outbox_messages_max = QUEUE_MESSAGES_MAX;
        link.outbox_bytes_max = SERVE_BYTES + 2 * self.config.frame_bytes_max;
        link.inbox_messages_max = QUEUE_MESSAGES_MAX;
        link.inbox_bytes_max = 1 << 20;
        Ok(link)
    }

    pub(crate) async fn serve(
        &mut self,
        link: &Link,
        events: &mut LinkEvents,
        pump: Option<&Pump>,
        shutdown: impl Future<Output = microlambda_runtime::Signal>,
    ) -> Result<(), RunError> {
        // Without a source (its end was read in an earlier run) the channels below stay silent.
        let ended = watch::channel(Report { phase: Phase::Ended, ..Report::default() });
        let no_image = watch::channel(None);
        let mut report = pump.map_or(ended.1, |pump| pump.report.clone());
        let mut image = pump.map_or(no_image.1, |pump| pump.image.clone());
        tokio::pin!(shutdown);
        let mut heard_of_link = false;
        loop {
            let now = report.borrow().clone();
            // First, so that it is known when the service counts as started, and when it ends by itself.
            self.tell_manager(link.is_connected(), &now);
            if let Phase::Failed(why) = &now.phase {
                // The source may be quicker than the broker, and whoever watches the bus is to learn why this agent ends.
                let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.reach_broker(link, events)).await;
                self.publish_status(link, &now);
                return Err(RunError::Run(why.clone()));
            }
            let damage =
                Some(self.spool_status.borrow()).filter(|status| status.damaged).map(|status| status.trouble.clone());
            if let Some(why) = damage {
                self.publish_status(link, &now);
                return Err(RunError::Damage(why));
            }
            if self.is_done() {
                let verdict = self.verdict(pump.map(|_| &now));
                self.say_done(&verdict);
                if self.options.exit_when_done && self.has_said_head(link) {
                    return verdict.map(drop).map_err(RunError::Run);
                }
            }
            self.get_ready(&now, heard_of_link);
            self.follow_chain();
            self.listen_for_nodes(link);
            self.ask_spool(link);
            self.give_up_what_is_lost();
            let wake = self.announce(link, &now);
            self.feed_watchdog();
            let wants_room = link.queued().bytes >= SERVE_BYTES;
            tokio::select! {
                signal = &mut shutdown => {
                    log::info!(signal:? = signal; "stopping");
                    return Ok(());
                }
                event = events.recv() => match event {
                    Some(event) => {
                        heard_of_link = true;
                        let is_new_link = matches!(event, LinkEvent::Connected);
                        self.on_link(link, event);
                        // A source may have given its last picture before there was anybody to send it to.
                        if is_new_link {
                            self.publish_image(link, &image);
                        }
                    }
                    None => return Err(RunError::Run("the connection's task has ended".into())),
                },
                answer = answer_of(&mut self.reading) => self.on_record(link, answer),
                answer = release_of(&mut self.releasing) => self.on_released(answer),
                changed = self.spool_status.changed() => {
                    changed.map_err(|_| RunError::Run("the spool's thread has ended: please report that".into()))?;
                }
                Ok(()) = report.changed() => {}
                Ok(()) = image.changed() => self.publish_image(link, &image),
                () = link.drained_below(SERVE_BYTES), if wants_room => {}
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Whether the spool was found damaged.
    pub(crate) fn is_damaged(&self) -> bool {
        self.spool_status.borrow().damaged
    }

    fn is_done(&self) -> bool {
        self.spool_status.borrow().view.is_complete()
    }

    /// The newest head is with the broker, or there is no broker to tell.
    fn has_said_head(&self, link: &Link) -> bool {
        self.head.last.as_ref().is_some_and(|(head, _)| *head == self.head_now()) && link.queued().messages == 0
    }

    /// Tells the service manager once source and broker were tried.
    fn get_ready(&mut self, report: &Report, heard_of_link: bool) {
        if !self.ready && heard_of_link && report.phase != Phase::Starting {
            self.ready = true;
            notify::ready();
        }
    }

    /// Starts the next read and the next release; one of each is under way at a time.
    fn ask_spool(&mut self, link: &Link) {
        let queued_bytes = link.queued().bytes;
        if link.is_connected() {
            self.oversize_backoff.look(link.counters(), Instant::now());
        }
        let next = self.spool_status.borrow().view.next;
        if self.reading.is_none()
            && link.is_connected()
            && queued_bytes < SERVE_BYTES
            && self.oversize_backoff.lets_pass(Instant::now())
            && let Some((node, sequence)) = self.audience.next_read(next, now_ms())
        {
            self.reading = Some((node, sequence, self.spool.read(sequence)));
        }
        if self.config.source.class() == ChainClass::Live {
            self.audience.on_spool(self.spool_status.borrow().view.filled_permille(self.config.spool));
        }
        // A node may have committed some of the numbers of a restart, in a former generation. That frees nothing, and would be asked for
        // without end.
        if self.releasing.is_none()
            && let Some(release) = self.audience.release(now_ms())
            && self.spool_status.borrow().view.frees_below(release.below)
        {
            self.releasing = Some((release, self.spool.free(release.below)));
        }
        self.asked_spool = match (self.reading.is_some() || self.releasing.is_some(), self.asked_spool) {
            (true, since) => since.or_else(|| Some(Instant::now())),
            (false, _) => None,
        };
    }

    async fn reach_broker(&mut self, link: &Link, events: &mut LinkEvents) {
        while self.bus_connections == 0 || !link.is_connected() {
            let Some(event) = events.recv().await else { return };
            self.on_link(link, event);
        }
    }

    fn on_link(&mut self, link: &Link, event: LinkEvent) {
        match event {
            LinkEvent::Connected => {
                self.bus_connections += 1;
                self.head.last = None;
                self.status.last = None;
                self.audience.on_connected(now_ms());
            }
            LinkEvent::Disconnected { .. } => {
                self.audience.on_disconnected();
                self.undelivered.on_disconnected();
                self.echo = Echo::default();
                self.oversize_backoff.on_disconnected(link.counters().lost_bytes_max, Instant::now());
            }
            LinkEvent::Message { topic, payload, retain } => {
                if let Err(why) = self.on_message(link, &topic, &payload, retain) {
                    self.refused_messages += 1;
                    let level = if self.refusals.is_due(monotonic_us()) { log::Level::Warn } else { log::Level::Debug };
                    log::log!(level, topic = topic.as_str(), bytes = payload.len(); "message refused: {why}; see who publishes on MicroLambda's topics");
                }
            }
        }
    }

    fn on_message(&mut self, link: &Link, topic: &str, payload: &[u8], retained: bool) -> Result<(), String> {
        let topic = Topic::parse(&self.prefix, topic).map_err(|error| error.to_string())?;
        match topic {
            Topic::CameraWant { .. } => {
                let want: Want = from_payload(payload).map_err(|error| error.to_string())?;
                self.on_want(link, &want)
            }
            Topic::NodeStatus { node } => {
                // Whoever removes a node for good publishes an empty status.
                let online = if payload.is_empty() {
                    false
                } else {
                    let status: NodeStatus = from_payload(payload).map_err(|error| error.to_string())?;
                    if status.node != node {
                        return Err(format!("the status of {} on the topic of {node}", status.node));
                    }
                    status.online
                };
                self.audience.on_status(&node, online, now_ms());
                if !online {
                    self.undelivered.on_gone(&node);
                }
                Ok(())
            }
            // Taken away from the broker.
            Topic::CameraHead { .. } if payload.is_empty() => Ok(()),
            Topic::CameraHead { .. } => {
                let head: CameraHead = from_payload(payload).map_err(|error| error.to_string())?;
                let own = self.head_now();
                // What was kept from before says nothing of the access rules as they are.
                if head.chain == own.chain && !retained {
                    self.echo.on_heard();
                }
                // What this agent says never lies ahead of what it holds.
                if head.chain == own.chain && head.next > own.next {
                    self.was_set_back(&head.chain, "the head that the broker has kept", head.next, own.next);
                }
                Ok(())
            }
            other => Err(format!("{other:?} is not for a camera")),
        }
    }

    fn on_want(&mut self, link: &Link, want: &Want) -> Result<(), String> {
        let held = {
            let spool_status = self.spool_status.borrow();
            spool_status.view.oldest..spool_status.view.next
        };
        if want.chain == self.spool_status.borrow().view.chain && want.committed > held.end {
            self.was_set_back(&want.chain, want.node.as_str(), want.committed, held.end);
        }
        log::trace!(node:% = want.node, cursor = want.cursor, credit = want.credit, committed = want.committed; "want");
        match self.audience.on_want(want, held, now_ms()) {
            Answer::Serve => {
                self.undelivered.on_want(want, link.counters(), now_ms());
                Ok(())
            }
            Answer::Announce => {
                self.publish_head(link);
                Ok(())
            }
            Answer::Refuse => Err(format!("{} is one node too many", want.node)),
        }
    }

    /// Goes on without released frames that live nodes have asked for in vain for long enough.
    fn give_up_what_is_lost(&mut self) {
        let (oldest, complete) = {
            let spool_status = self.spool_status.borrow();
            (spool_status.view.oldest, spool_status.view.is_complete())
        };
        let after_ms = self.config.restart_after_s.saturating_mul(1_000);
        // What came of a finished job was published, and is kept by the broker.
        let Some(lost) = self.audience.lost(oldest, now_ms()).filter(|_| after_ms > 0 && !complete) else { return };
        if lost.for_ms >= after_ms {
            self.audience.give_up(lost);
            self.spool.restart(lost.from);
        }
    }

    /// A node has committed more records than this spool has ever written: it is an older copy of what it was. A finite input
    /// gives the same pictures under the same numbers again; a live one does not.
    fn was_set_back(&mut self, chain: &Name, witness: &str, known: u64, next: u64) {
        let live = self.spool_status.borrow().view.class == ChainClass::Live;
        if !live || self.given_up.as_ref() == Some(chain) {
            return;
        }
        log::error!(
            chain:% = chain, witness, known, next;
            "records are known that this spool never wrote: it was set back to an older copy, and a new chain begins. \
             What the lost part held and no node had taken is lost"
        );
        self.given_up = Some(chain.clone());
        self.spool.begin_anew();
    }

    /// Follows the spool to its new chain: what was asked of the old one is void. True if there is a new one.
    fn follow_chain(&mut self) -> bool {
        let chain = self.spool_status.borrow().view.chain.clone();
        let new = *self.audience.chain() != chain;
        if new {
            self.begun_anew += 1;
            self.audience = Audience::new(chain, now_ms());
            self.undelivered = Undelivered::default();
            (self.reading, self.releasing) = (None, None);
        }
        new
    }

    fn on_record(&mut self, link: &Link, (node, asked, stored): (Name, u64, Option<Stored>)) {
        self.asked_spool = None;
        if self.follow_chain() {
            return;
        }
        let Some(stored) = stored else {
            self.audience.not_held(&node, asked);
            self.publish_head(link);
            return;
        };
        if !self.audience.sent(&node, asked, stored.sequence + stored.record.span()) {
            return;
        }
        let sequence = stored.sequence;
        match self.send_record(link, &node, stored) {
            Ok(payload_bytes) => {
                let place = link.counters().newest_place();
                self.oversize_backoff.on_handed(payload_bytes, place);
                self.undelivered.on_handed(&node, asked, payload_bytes, place);
                log::trace!(node:% = node, sequence; "sent");
            }
            // The node asks again for what did not come.
            Err(why) => log::debug!(node:% = node, sequence, why = why.as_str(); "not sent"),
        }
    }

    /// Returns the payload's length, bytes.
    fn send_record(&self, link: &Link, node: &Name, stored: Stored) -> Result<usize, String> {
        let (camera, node) = (self.config.camera.clone(), node.clone());
        let Stored { sequence, record, jpeg } = stored;
        let (topic, payload) = match (record, jpeg) {
            (microlambda_wire::Record::Frame { captured_at_ms, digest, label, moved }, Some(jpeg)) => {
                let meta = FrameMeta {
                    v: 1,
                    camera: camera.clone(),
                    boot: self.boot.clone(),
                    chain: self.spool_status.borrow().view.chain.clone(),
                    sequence,
                    captured_at_ms,
                    digest,
                    label,
                    moved,
                };
                let frame = write_frame_meta(&jpeg, &meta).map_err(|error| error.to_string())?;
                (Topic::CameraFrame { camera, node }, frame)
            }
            (record, _) => {
                let note = RecordNote { chain: self.spool_status.borrow().view.chain.clone(), sequence, record };
                (Topic::CameraRecord { camera, node }, to_payload(&note).map_err(|error| error.to_string())?)
            }
        };
        let payload_bytes = payload.len();
        link.publish(self.topic(&topic), payload, false).map_err(|error| error.to_string())?;
        Ok(payload_bytes)
    }

    fn on_released(&mut self, (release, frames): (Release, u64)) {
        self.asked_spool = None;
        if release.on_one {
            self.freed_on_one += frames;
        }
        log::debug!(below = release.below, frames, on_one = release.on_one; "freed");
    }

    fn feed_watchdog(&mut self) {
        let stuck = self.asked_spool.is_some_and(|since| since.elapsed() > SPOOL_STUCK);
        if !stuck {
            self.watchdog.progress();
        }
    }
}

/// The answer of the read under way; waits for ever if there is none. Cancel-safe.
async fn answer_of(
    reading: &mut Option<(Name, u64, oneshot::Receiver<Option<Stored>>)>,
) -> (Name, u64, Option<Stored>) {
    let Some((_, _, answer)) = reading else { return std::future::pending().await };
    let stored = answer.await.ok().flatten();
    match reading.take() {
        Some((node, sequence, _)) => (node, sequence, stored),
        None => std::future::pending().await,
    }
}

async fn release_of(releasing: &mut Option<(Release, oneshot::Receiver<u64>)>) -> (Release, u64) {
    let Some((_, answer)) = releasing else { return std::future::pending().await };
    let frames = answer.await.unwrap_or(0);
    match releasing.take() {
        Some((release, _)) => (release, frames),
        None => std::future::pending().await,
    }
}

fn now_ms() -> u64 {
    monotonic_us() / 1_000
}

#[cfg(test)]
mod tests;
