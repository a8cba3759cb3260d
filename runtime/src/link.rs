//! One MQTT 3.1.1 connection that keeps itself up.
//!
//! The link reconnects by itself, subscribes anew each time and says [`LinkEvent::Connected`] once the broker has
//! confirmed the subscriptions. It keeps nothing over a reconnect: what was queued or unacknowledged is dropped and
//! counted, because a caller re-announces its newest state on `Connected`, and older news would only arrive after it.
//! Neither [`Link::publish`] nor the task that reads from the broker ever waits for the other side.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};

use crate::connection;
use crate::discovery::BrokerAddress;

/// No packet is larger in either direction unless set otherwise, bytes.
pub const PACKET_BYTES_MAX_DEFAULT: usize = 20 << 20;
/// Room for topic and header of a packet, bytes: a payload may be this much smaller than a packet.
pub(crate) const PACKET_OVERHEAD_BYTES: usize = 1 << 10;
/// Connection notices have their own places in the inbox, so that a full inbox never loses one: one for
/// `Connected` and one for `Disconnected` are reserved before each attempt.
const INBOX_NOTICES: usize = 2;

/// A message to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The topic that it is published on.
    pub topic: String,
    /// The bytes that it carries.
    pub payload: Vec<u8>,
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
}

/// How to connect. The bounds apply to this connection alone.
#[derive(Clone)]
pub struct LinkConfig {
    /// Where the broker is.
    pub broker: BrokerAddress,
    /// Client id: the same at every start, and no other client's.
    pub client_id: String,
    /// User name and password.
    pub credentials: Option<(String, String)>,
    /// PEM certificates of the authorities to trust instead of the system's, for TLS.
    pub ca_pem: Option<Vec<u8>>,
    /// What the broker publishes when this client vanishes.
    pub will: Option<Message>,
    /// Topic filters, subscribed to at QoS 1 after each connect.
    pub filters: Vec<String>,
    /// No packet is larger in either direction, bytes. A larger one from the broker ends the connection.
    pub packet_bytes_max: usize,
    /// How often an idle connection is probed. A silent broker is noticed after up to twice this time.
    pub keep_alive: Duration,
    /// Messages queued or unacknowledged at most.
    pub outbox_messages_max: usize,
    /// Payload bytes queued or unacknowledged at most; a single message may always go.
    pub outbox_bytes_max: usize,
    /// Received messages waiting for the caller at most; more are dropped and counted.
    pub inbox_messages_max: usize,
    /// Received payload bytes waiting for the caller at most; more are dropped and counted.
    pub inbox_bytes_max: usize,
    /// The longest pause between two attempts to connect.
    pub backoff_max: Duration,
}

impl LinkConfig {
    /// Default bounds, no subscriptions, no will, no credentials.
    pub fn new(broker: impl Into<BrokerAddress>, client_id: impl Into<String>) -> Self {
        Self {
            broker: broker.into(),
            client_id: client_id.into(),
            credentials: None,
            ca_pem: None,
            will: None,
            filters: Vec::new(),
            packet_bytes_max: PACKET_BYTES_MAX_DEFAULT,
            keep_alive: Duration::from_secs(10),
            outbox_messages_max: 1_024,
            outbox_bytes_max: 32 << 20,
            inbox_messages_max: 1_024,
            inbox_bytes_max: 32 << 20,
            backoff_max: Duration::from_secs(3),
        }
    }
}

impl std::fmt::Debug for LinkConfig {
    /// Shows no password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkConfig")
            .field("broker", &self.broker)
            .field("client_id", &self.client_id)
            .field("username", &self.credentials.as_ref().map(|(username, _)| username))
            .field("filters", &self.filters)
            .finish_non_exhaustive()
    }
}

/// What the link tells its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// Connected and subscribed: announce everything now.
    Connected,
    /// The connection is lost, or the first attempt failed; `why` says what to do. Sent once per outage.
    Disconnected {
        /// What is wrong and what to do, for people.
        why: String,
    },
    /// A message arrived.
    Message {
        /// The topic that it came on.
        topic: String,
        /// Payload. Short ones own their bytes; long ones share the receive buffer, so copy what is kept for long.
        payload: Bytes,
        /// True if the broker had kept it from before the subscription.
        retain: bool,
    },
}

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Not connected: announce it again on [`LinkEvent::Connected`].
    #[error("not connected to the broker")]
    NotConnected,
    /// The outbox has no room: the broker or the network is slower than this program.
    #[error("the outbox is full")]
    Full,
    /// The payload exceeds the packet bound and would never pass.
    #[error("a payload of {bytes} bytes exceeds the bound of {bytes_max}")]
    TooLarge {
        /// The payload's length, bytes.
        bytes: usize,
        /// The longest payload that passes, bytes.
        bytes_max: usize,
    },
    /// The topic is empty, too long or has a wildcard.
    #[error("not a topic to publish on")]
    BadTopic,
}

/// Counters since the start of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkCounters {
    /// Connections made to a broker.
    pub connected: u64,
    /// Attempts that failed and connections that were lost.
    pub failures: u64,
    /// Messages received and handed on.
    pub received: u64,
    /// Messages received and dropped because the inbox was full.
    pub inbox_dropped: u64,
    /// Messages taken for publishing.
    pub published: u64,
    /// Of these, acknowledged by the broker.
    pub acknowledged: u64,
    /// Messages refused by [`Link::publish`], for whatever reason.
    pub refused: u64,
    /// Messages taken and then lost with their connection.
    pub lost: u64,
    /// The largest payload that was on its way to the broker when the last connection ended, bytes; 0 if none was, or
    /// if the connection ended over a message from the broker that is too long.
    pub lost_bytes_max: usize,
}

impl LinkCounters {
    /// The place of the newest message that was taken for publishing, among all that the broker may acknowledge.
    pub fn newest_place(&self) -> u64 {
        self.published - self.lost
    }

    /// Whether the broker has acknowledged the message with this place. Of one that was lost with its connection this
    /// says nothing.
    pub fn has_taken(&self, place: u64) -> bool {
        self.acknowledged >= place
    }
}

/// What waits for the broker: queued or unacknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Queued {
    /// How many messages wait.
    pub messages: usize,
    /// The length of their payloads together, bytes.
    pub bytes: usize,
}

/// A handle on the connection; clones share it.
#[derive(Clone)]
pub struct Link {
    pub(crate) shared: Arc<Shared>,
}

/// What the link's handle and its task share.
pub(crate) struct Shared {
    pub(crate) state: Mutex<State>,
    /// Signalled whenever something left the queue, the connection changed, or the link was asked to close.
    pub(crate) changed: Notify,
    outbox: mpsc::UnboundedSender<Outgoing>,
    messages_max: usize,
    bytes_max: usize,
    payload_bytes_max: usize,
}

/// A message on its way out.
pub(crate) struct Outgoing {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    pub(crate) retain: bool,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) up: bool,
    pub(crate) closing: bool,
    /// Nobody hears the link any more: it ends as if its process had died.
    pub(crate) abandoned: bool,
    pub(crate) ended: bool,
    pub(crate) queued: Queued,
    pub(crate) counters: LinkCounters,
    pub(crate) inbox_bytes: usize,
}

impl State {
    /// The link is to close, and the broker has acknowledged all that it took.
    pub(crate) fn is_flushed(&self) -> bool {
        self.closing && !self.abandoned && self.up && self.queued.messages == 0
    }

    /// The link is to close, and there is no good-bye to say: no connection, or nobody who would say it.
    pub(crate) fn ends_at_once(&self) -> bool {
        self.closing && (!self.up || self.abandoned)
    }
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    /// Starts connecting in a task of the current tokio runtime. The link lives until [`close`](Link::close).
    ///
    /// Credentials, certificate and addresses are only tried, never fatal: a failed attempt is logged once with its
    /// remedy, reported as [`LinkEvent::Disconnected`] and repeated with growing pauses.
    pub fn start(config: LinkConfig) -> (Self, LinkEvents) {
        let (outbox, outbox_rx) = mpsc::unbounded_channel();
        let (inbox, inbox_rx) = mpsc::channel(config.inbox_messages_max.max(1) + INBOX_NOTICES);
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Notify::new(),
            outbox,
            messages_max: config.outbox_messages_max.max(1),
            bytes_max: config.outbox_bytes_max,
            payload_bytes_max: config.packet_bytes_max.saturating_sub(PACKET_OVERHEAD_BYTES),
        });
        tokio::spawn(connection::keep_up(config, shared.clone(), outbox_rx, inbox));
        let events = LinkEvents { inbox: inbox_rx, shared: shared.clone() };
        (Self { shared }, events)
    }

    /// Hands a message to the connection, QoS 1. Never waits.
    ///
    /// # Errors
    /// [`PublishError`]; the message is dropped and counted in [`LinkCounters::refused`].
    pub fn publish(
        &self,
        topic: impl Into<String>,
        payload: impl Into<Bytes>,
        retain: bool,
    ) -> Result<(), PublishError> {
        let (topic, payload) = (topic.into(), payload.into());
        let shared = &*self.shared;
        let mut state = shared.lock();
        let bytes = payload.len();
        let checked = if topic.is_empty() || topic.len() > PACKET_OVERHEAD_BYTES / 2 || topic.contains(['+', '#', '\0'])
        {
            Err(PublishError::BadTopic)
        } else if bytes > shared.payload_bytes_max {
            Err(PublishError::TooLarge { bytes, bytes_max: shared.payload_bytes_max })
        } else if !state.up || state.closing {
            Err(PublishError::NotConnected)
        } else if state.queued.messages >= shared.messages_max
            || (state.queued.messages > 0 && state.queued.bytes + bytes > shared.bytes_max)
        {
            Err(PublishError::Full)
        } else {
            Ok(())
        };
        let sent = checked.and_then(|()| {
            let outgoing = Outgoing { topic, payload, retain };
            shared.outbox.send(outgoing).map_err(|_| PublishError::NotConnected)
        });
        match sent {
            Ok(()) => {
                state.queued.messages += 1;
                state.queued.bytes += bytes;
                state.counters.published += 1;
            }
            Err(_) => state.counters.refused += 1,
        }
        sent
    }

    /// Whether messages can be published now.
    pub fn is_connected(&self) -> bool {
        let state = self.shared.lock();
        state.up && !state.closing
    }

    /// What waits for the broker.
    pub fn queued(&self) -> Queued {
        self.shared.lock().queued
    }

    /// Waits until fewer than `bytes` payload bytes wait for the broker (or the connection is lost, which empties the
    /// queue). Cancel-safe.
    pub async fn drained_below(&self, bytes: usize) {
        self.shared.wait_until(|state| state.queued.bytes < bytes).await;
    }

    /// Counters since the start.
    pub fn counters(&self) -> LinkCounters {
        self.shared.lock().counters
    }

    /// Takes no more messages, waits up to `timeout` until the broker has acknowledged what is queued, disconnects
    /// cleanly (the will is not sent) and ends the link. True if everything was acknowledged.
    pub async fn close(&self, timeout: Duration) -> bool {
        let lost_before = {
            let mut state = self.shared.lock();
            state.closing = true;
            state.counters.lost
        };
        self.shared.changed.notify_waiters();
        let ended = tokio::time::timeout(timeout, self.shared.wait_until(|state| state.ended)).await.is_ok();
        ended && self.shared.lock().counters.lost == lost_before
    }
}

impl Shared {
    /// Waits until `holds`; checked after every change.
    pub(crate) async fn wait_until(&self, holds: impl Fn(&State) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the check, so that a change between the two is not missed.
            changed.as_mut().enable();
            if holds(&self.lock()) {
                return;
            }
            changed.await;
        }
    }
}

/// What the link tells, in order. Dropped before [`Link::close`], it ends the connection as the death of this process
/// would, so that the broker publishes the will: an owner that fails has nobody else to say so.
pub struct LinkEvents {
    inbox: mpsc::Receiver<LinkEvent>,
    shared: Arc<Shared>,
}

impl LinkEvents {
    /// The next event; `None` after the link has closed. Cancel-safe.
    pub async fn recv(&mut self) -> Option<LinkEvent> {
        let event = self.inbox.recv().await;
        self.release(event)
    }

    /// The next event if one is there already.
    pub fn try_recv(&mut self) -> Option<LinkEvent> {
        let event = self.inbox.try_recv().ok();
        self.release(event)
    }

    fn release(&self, event: Option<LinkEvent>) -> Option<LinkEvent> {
        if let Some(LinkEvent::Message { payload, .. }) = &event {
            self.shared.lock().inbox_bytes -= payload.len();
        }
        event
    }
}

impl Drop for LinkEvents {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.closing = true;
            state.abandoned = true;
        }
        self.shared.changed.notify_waiters();
    }
}
