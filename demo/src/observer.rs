//! Watches one site: every message typed, with the time of its receipt.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use microlambda_wire::{
    AheadNote, CameraHead, CameraStatus, ClaimNote, Continuation, DoneNote, EventNote, FaceNote, Name, NodeStatus,
    Payload, PayloadError, RecordNote, SyncHave, SyncWant, Topic, TopicPrefix, Want, from_payload,
};
use rumqttc::{Client, Connection, Event, Packet, Publish, QoS, SubscribeFilter, SubscribeReasonCode};

use crate::Error;
use crate::clock::monotonic_us;
use crate::url::BrokerUrl;

/// So many messages wait for a slow reader; then the connection waits too.
const QUEUE_LEN: usize = 65_536;
/// The broker answers a connection and a subscription within this time.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// What an observer publishes comes back to it within this time, or does not at all: by its access rules a broker may grant a subscription and
/// deliver nothing, or acknowledge a message and drop it.
const ECHO_PATIENCE: Duration = Duration::from_secs(5);
/// In the topic of the message by which an observer hears itself: a wish to a camera that nobody is, named by the observer's client id.
const PROBE: &str = "/camera/microlambda-observer-";
/// Pause between attempts to connect.
const RETRY: Duration = Duration::from_millis(50);
/// Everything of a site but pictures and state on its way, which are large and mean nothing to people.
const FILTERS: [&str; 10] = [
    "camera/+/status",
    "camera/+/head",
    "camera/+/want",
    "camera/+/record/+",
    "chain/+/continuation",
    "chain/+/claim",
    "chain/+/done",
    "event",
    "face/+",
    "node/+/status",
];

/// What an observer tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// Connected and subscribed (again).
    Connected,
    /// The connection is gone; another is being tried until [`Report::Connected`].
    Lost(String),
    /// The broker does not let this client subscribe to this filter: nothing will be seen there.
    Denied(String),
    /// A message of ours.
    Seen(Box<Seen>),
    /// A message on our topics that is not ours, or not sound.
    Refused {
        /// The topic that it came on.
        topic: String,
        /// What is wrong with it.
        why: String,
    },
}

/// A message of ours, as it was received.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// When it came, µs of the machine's monotonic clock.
    pub at_us: u64,
    /// True if the broker had kept it from before the subscription.
    pub retained: bool,
    /// Where it was published.
    pub topic: Topic,
    /// What the message says.
    pub note: Note,
}

/// A payload, by its topic.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "each variant carries the payload type of the same name")]
pub enum Note {
    CameraStatus(CameraStatus),
    CameraHead(CameraHead),
    Want(Want),
    Record(RecordNote),
    Continuation(Box<Continuation>),
    Claim(ClaimNote),
    Ahead(AheadNote),
    Done(DoneNote),
    SyncWant(SyncWant),
    SyncHave(SyncHave),
    Event(EventNote),
    Face(FaceNote),
    NodeStatus(NodeStatus),
    /// A picture of so many bytes.
    Picture(usize),
    /// An empty payload: a retained topic was cleared.
    Cleared,
}

/// A client that watches a site; ends on drop.
pub struct Observer {
    reports: Receiver<Report>,
    client: Client,
    stop: Arc<AtomicBool>,
    repeats: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Observer {
    /// Connects and subscribes to `site`; returns when the broker has granted that, and has delivered a message of this client's own.
    ///
    /// # Errors
    /// [`Error::Broker`] if it does not within ten seconds, refuses a subscription, or delivers nothing for five seconds.
    pub fn connect(url: &BrokerUrl, site: &Name) -> Result<Self, Error> {
        let id = client_id("observer");
        let (client, connection) = Client::new(url.options(&id), 16);
        let (sender, reports) = sync_channel(QUEUE_LEN);
        let (echo, echoed) = sync_channel(1);
        let stop = Arc::new(AtomicBool::new(false));
        let repeats = Arc::new(AtomicU64::new(0));
        let poll = Poll {
            prefix: TopicPrefix::new(site),
            filters: FILTERS.iter().map(|filter| format!("microlambda/{site}/{filter}")).collect(),
            client: client.clone(),
            probe: format!("microlambda/{site}/camera/{id}/want"),
            echo: Some(echo),
            sender,
            stop: Arc::clone(&stop),
            repeats: Arc::clone(&repeats),
            events: HashSet::new(),
            lost: false,
        };
        let thread = Some(thread::spawn(move || poll.run(connection)));
        let observer = Self { reports, client, stop, repeats, thread };
        let until = Instant::now() + CONNECT_PATIENCE;
        let mut why = "no answer".to_string();
        loop {
            match observer.next(until.saturating_duration_since(Instant::now())) {
                Some(Report::Connected) => {
                    return echoed.recv_timeout(ECHO_PATIENCE).map(|()| observer).map_err(|_| unheard(url));
                }
                Some(Report::Lost(reason)) => why = reason,
                Some(Report::Denied(filter)) => return Err(denied(url, &filter)),
                Some(Report::Seen(_) | Report::Refused { .. }) => {}
                None => {
                    return Err(Error::Broker { url: url.to_string(), why });
                }
            }
        }
    }

    /// The next report, waiting for at most `patience`.
    pub fn next(&self, patience: Duration) -> Option<Report> {
        self.reports.recv_timeout(patience).ok()
    }

    /// Waits until `wanted` makes something of a message, or `patience` is over. All other reports are dropped.
    pub fn wait<T>(&self, patience: Duration, mut wanted: impl FnMut(&Seen) -> Option<T>) -> Option<T> {
        let until = Instant::now() + patience;
        loop {
            match self.next(until.saturating_duration_since(Instant::now()))? {
                Report::Seen(seen) => {
                    if let Some(found) = wanted(&seen) {
                        return Some(found);
                    }
                }
                Report::Connected | Report::Lost(_) | Report::Denied(_) | Report::Refused { .. } => {}
            }
        }
    }

    /// Events that came again under an id seen before; they are not reported.
    pub fn event_repeats(&self) -> u64 {
        self.repeats.load(Ordering::Relaxed)
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread, which ends on the disconnection; it is not waited for where the broker is frozen.
        let _ = self.client.try_disconnect();
        drop(self.thread.take());
    }
}

/// The thread that owns the connection. It never waits for room in the client's own queue.
struct Poll {
    prefix: TopicPrefix,
    filters: Vec<String>,
    client: Client,
    /// Where it publishes to see whether that comes back.
    probe: String,
    /// Told once it has; `None` from then on.
    echo: Option<SyncSender<()>>,
    sender: SyncSender<Report>,
    stop: Arc<AtomicBool>,
    repeats: Arc<AtomicU64>,
    events: HashSet<Name>,
    /// The loss was told; attempts that fail are not.
    lost: bool,
}

impl Poll {
    fn run(mut self, mut connection: Connection) {
        while !self.stop.load(Ordering::Relaxed) {
            let report = match connection.recv() {
                Ok(Ok(Event::Incoming(Packet::ConnAck(_)))) => {
                    // Subscriptions do not outlive a connection without a session.
                    let filters = self.filters.iter().map(|f| SubscribeFilter::new(f.clone(), QoS::AtLeastOnce));
                    let _ = self.client.try_subscribe_many(filters);
                    None
                }
                Ok(Ok(Event::Incoming(Packet::SubAck(answer)))) => {
                    self.lost = false;
                    let mut answers = self.filters.iter().zip(&answer.return_codes);
                    let denied = answers.find(|(_, code)| **code == SubscribeReasonCode::Failure);
                    if denied.is_none() && self.echo.is_some() {
                        let _ = self.client.try_publish(self.probe.as_str(), QoS::AtLeastOnce, false, "probe");
                    }
                    Some(denied.map_or(Report::Connected, |(filter, _)| Report::Denied(filter.clone())))
                }
                Ok(Ok(Event::Incoming(Packet::Publish(publish)))) if publish.topic.contains(PROBE) => {
                    if let Some(echo) = self.echo.take_if(|_| publish.topic == self.probe) {
                        let _ = echo.try_send(());
                    }
                    None
                }
                Ok(Ok(Event::Incoming(Packet::Publish(publish)))) => self.read(&publish),
                Ok(Ok(_)) => None,
                Ok(Err(error)) => {
                    thread::sleep(RETRY);
                    let told = std::mem::replace(&mut self.lost, true);
                    (!told).then(|| Report::Lost(error.to_string()))
                }
                Err(_) => return,
            };
            if report.is_some_and(|report| self.sender.send(report).is_err()) {
                return;
            }
        }
    }

    /// `None` for an event that was seen before.
    fn read(&mut self, publish: &Publish) -> Option<Report> {
        let at_us = monotonic_us();
        let refused = |why: String| Some(Report::Refused { topic: publish.topic.clone(), why });
        let topic = match Topic::parse(&self.prefix, &publish.topic) {
            Ok(topic) => topic,
            Err(error) => return refused(error.to_string()),
        };
        let note = match read_note(&topic, &publish.payload) {
            Ok(note) => note,
            Err(error) => return refused(error.to_string()),
        };
        if let Note::Event(event) = &note
            && !self.events.insert(event.id.clone())
        {
            self.repeats.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(Report::Seen(Box::new(Seen { at_us, retained: publish.retain, topic, note })))
    }
}

/// What to do about [`Report::Denied`].
pub(crate) fn denied(url: &BrokerUrl, filter: &str) -> Error {
    let why = format!("it does not let this user subscribe to {filter}: allow that, or name another user");
    Error::Broker { url: url.to_string(), why }
}

/// What to do about a broker that grants everything and delivers nothing.
fn unheard(url: &BrokerUrl) -> Error {
    let why = "what is published on it does not come back: let this user read and write `microlambda/#`, or name another user";
    Error::Broker { url: url.to_string(), why: why.into() }
}

/// Reads a payload as what its topic says it is.
///
/// # Errors
/// [`PayloadError`] if it is something else.
pub fn read_note(topic: &Topic, payload: &[u8]) -> Result<Note, PayloadError> {
    fn read<T: Payload>(payload: &[u8], note: impl FnOnce(T) -> Note) -> Result<Note, PayloadError> {
        from_payload(payload).map(note)
    }
    if payload.is_empty() {
        return Ok(Note::Cleared);
    }
    match topic {
        Topic::CameraStatus { .. } => read(payload, Note::CameraStatus),
        Topic::CameraHead { .. } => read(payload, Note::CameraHead),
        Topic::CameraWant { .. } => read(payload, Note::Want),
        Topic::CameraRecord { .. } => read(payload, Note::Record),
        Topic::CameraFrame { .. } | Topic::CameraImage { .. } => Ok(Note::Picture(payload.len())),
        Topic::Continuation { .. } => read(payload, |note| Note::Continuation(Box::new(note))),
        Topic::Claim { .. } => read(payload, Note::Claim),
        Topic::Ahead { .. } => read(payload, Note::Ahead),
        Topic::Done { .. } => read(payload, Note::Done),
        Topic::SyncWant { .. } => read(payload, Note::SyncWant),
        Topic::SyncHave { .. } => read(payload, Note::SyncHave),
        Topic::Face { .. } => read(payload, Note::Face),
        Topic::Event => read(payload, Note::Event),
        Topic::NodeStatus { .. } => read(payload, Note::NodeStatus),
    }
}

/// A client id that no other client of this machine has.
pub(crate) fn client_id(role: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("microlambda-{role}-{}-{number}-{}", std::process::id(), monotonic_us())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    /// Reads one packet of less than 16 KiB and returns what follows its length.
    fn packet(stream: &mut impl std::io::Read) -> Vec<u8> {
        let mut head = [0; 2];
        stream.read_exact(&mut head).unwrap();
        let mut length = usize::from(head[1] & 0x7f);
        if head[1] & 0x80 != 0 {
            let mut more = [0];
            stream.read_exact(&mut more).unwrap();
            length += usize::from(more[0]) << 7;
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).unwrap();
        body
    }

    #[test]
    fn a_subscription_that_the_broker_refuses_is_named_at_once() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = BrokerUrl::loopback(server.local_addr().unwrap().port());
        let broker = thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            packet(&mut stream);
            stream.write_all(&[0x20, 2, 0, 0]).unwrap();
            let subscribe = packet(&mut stream);
            let mut answer = vec![0x90, 2 + FILTERS.len() as u8, subscribe[0], subscribe[1]];
            answer.extend([1; FILTERS.len()]);
            answer[4 + 1] = 0x80;
            stream.write_all(&answer).unwrap();
            // Until the client goes.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let error = Observer::connect(&url, &Name::new("demo").unwrap()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("subscribe to microlambda/demo/camera/+/head"), "{error}");
        broker.join().unwrap();
    }
}
