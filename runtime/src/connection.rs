//! The task behind a link: connect, subscribe, carry messages both ways, and again.
//!
//! Each connection has its own rumqttc client, so that nothing of a former one (requests in its channel, packet ids) can
//! reach the next. Inside a connection two futures run side by side: the *poller* drives rumqttc's event loop and never
//! waits for anything else; the *writer* waits for room in rumqttc's request channel. A poller that published itself
//! would deadlock once that channel is full.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use bytes::Bytes;
use native_tls::{Certificate, TlsConnector};
use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, LastWill, MqttOptions, NetworkOptions, Outgoing as Sent, Packet,
    QoS, SubscribeFilter, SubscribeReasonCode, TlsConfiguration, Transport,
};
use tokio::sync::mpsc::{self, OwnedPermit};

use crate::backoff::{Backoff, jittered};
use crate::broker::BrokerUrl;
use crate::clock::monotonic_us;
use crate::discovery::Brokers;
use crate::link::{LinkConfig, LinkEvent, Outgoing, Shared, State};
use crate::log_limiter::LogLimiter;
use crate::remedy::{explain, is_oversized};

/// Requests in rumqttc's channel at most; the outbox is ours, so a few are enough.
const CHANNEL_REQUESTS: usize = 8;
/// Brokers limit the filters of one SUBSCRIBE packet (some cloud brokers to 8).
const FILTERS_PER_SUBSCRIBE: usize = 8;
/// Time to connect, and to write a packet to the socket.
pub(crate) const NETWORK_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection after one that ended over a message that is too large is told of once it has held for so long.
const HELD: Duration = Duration::from_secs(20);
/// Brokers and networks that do not take a longer payload are met, bytes.
const LARGE_BYTES: usize = 64 << 10;
/// A shorter payload is copied out of the receive buffer, which it would keep alive otherwise, bytes.
const COPY_BYTES_MAX: usize = 16 << 10;

/// Why a connection ended.
enum End {
    Closed,
    Failed {
        why: String,
        /// No broker answers at the address.
        absent: bool,
        /// The next connection ends like this one, until a person does something.
        standing: bool,
    },
}

impl End {
    /// The broker, or the network on the way to it, does not take this client.
    fn failed(why: String) -> Self {
        Self::Failed { why, absent: false, standing: false }
    }

    /// The largest payload that may have been the reason; 0 if none was.
    fn lost_bytes_max(&self, flight: &Flight) -> usize {
        match self {
            // The broker sent too much; what it was sent meanwhile is not to blame.
            Self::Failed { standing: true, .. } => 0,
            Self::Failed { standing: false, .. } | Self::Closed => flight.largest_bytes(),
        }
    }
}

/// What ends connection after connection until a person does something, and what the log was told of it.
#[derive(Default)]
struct Standing {
    why: String,
    told: LogLimiter,
}

impl Standing {
    /// Whether the log is to be told: something else than before, or the same again once in an hour.
    fn is_news(&mut self, why: &str, now_us: u64) -> bool {
        if self.why != why {
            *self = Self { why: why.to_owned(), told: LogLimiter::standing() };
        }
        self.told.is_due(now_us)
    }
}

/// Runs until the link is closed or its owner has dropped the events.
pub(crate) async fn keep_up(
    config: LinkConfig,
    shared: Arc<Shared>,
    mut outbox: mpsc::UnboundedReceiver<Outgoing>,
    inbox: mpsc::Sender<LinkEvent>,
) {
    let mut backoff = Backoff::new(config.backoff_max);
    let mut brokers = Brokers::new(config.broker.clone());
    let mut reported = false;
    let (mut told, mut is_standing) = (Standing::default(), false);
    loop {
        // Not connected: waiting for the caller to make room for the two notices holds nothing up.
        let (Ok(up_notice), Ok(down_notice)) =
            (inbox.clone().reserve_owned().await, inbox.clone().reserve_owned().await)
        else {
            break;
        };
        let began = Instant::now();
        let connected_before = shared.lock().counters.connected;
        let end = match next_broker(&mut brokers, &shared).await {
            Ok(broker) => {
                let end = run_once(&config, &broker, &shared, &mut outbox, &inbox, up_notice, is_standing).await;
                if shared.lock().counters.connected > connected_before {
                    brokers.prefer(broker);
                }
                end
            }
            Err(end) => end,
        };
        take_down(&shared, &mut outbox);
        let (why, absent, standing) = match end {
            End::Closed => break,
            End::Failed { why, absent, standing } => (why, absent, standing),
        };
        is_standing = standing;
        let was_up = {
            let mut state = shared.lock();
            state.counters.failures += 1;
            state.counters.connected > connected_before
        };
        let is_outage = was_up || !reported;
        let is_news = if standing { told.is_news(&why, monotonic_us()) } else { is_outage };
        if is_news {
            log::warn!(broker:% = config.broker, why:% = why; "not connected to the broker, trying on");
        } else {
            log::debug!(broker:% = config.broker, why:% = why; "still not connected to the broker");
        }
        if is_outage {
            down_notice.send(LinkEvent::Disconnected { why });
            reported = true;
        }
        let pause = backoff.pause(was_up.then(|| began.elapsed()), absent);
        let closing = shared.wait_until(|state| state.closing);
        if tokio::time::timeout(jittered(pause), closing).await.is_ok() {
            break;
        }
    }
    shared.lock().ended = true;
    shared.changed.notify_waiters();
}

/// Forgets what the ended connection had not delivered.
fn take_down(shared: &Shared, outbox: &mut mpsc::UnboundedReceiver<Outgoing>) {
    let mut state = shared.lock();
    state.up = false;
    state.counters.lost += state.queued.messages as u64;
    state.queued = crate::link::Queued::default();
    // With `up` false and the lock held nothing is added any more.
    while outbox.try_recv().is_ok() {}
    drop(state);
    shared.changed.notify_waiters();
}

/// The broker to try, unless the link is closed while it is searched for.
async fn next_broker(brokers: &mut Brokers, shared: &Shared) -> Result<BrokerUrl, End> {
    tokio::select! {
        broker = brokers.next() => broker.map_err(End::failed),
        end = close_idle(shared) => Err(end),
    }
}

async fn run_once(
    config: &LinkConfig,
    broker: &BrokerUrl,
    shared: &Shared,
    outbox: &mut mpsc::UnboundedReceiver<Outgoing>,
    inbox: &mpsc::Sender<LinkEvent>,
    up_notice: OwnedPermit<LinkEvent>,
    is_standing: bool,
) -> End {
    let (client, event_loop) = match open(config, broker) {
        Ok(opened) => opened,
        Err(why) => return End::failed(why),
    };
    let flight = Flight::default();
    let poller = Poller {
        config,
        broker,
        shared,
        client: &client,
        flight: &flight,
        inbox,
        up_notice: Some(up_notice),
        is_standing,
        up_at: None,
        event_loop,
    };
    let end = tokio::select! {
        end = poller.run() => end,
        end = write(&client, outbox, &flight) => end,
        end = close_idle(shared) => end,
    };
    let mut state = shared.lock();
    if state.up {
        state.counters.lost_bytes_max = end.lost_bytes_max(&flight);
    }
    end
}

/// Ends an attempt that has not connected when the link is closed, and any connection when the link is abandoned.
async fn close_idle(shared: &Shared) -> End {
    shared.wait_until(State::ends_at_once).await;
    End::Closed
}

fn open(config: &LinkConfig, broker: &BrokerUrl) -> Result<(AsyncClient, EventLoop), String> {
    let mut options = MqttOptions::new(config.client_id.clone(), broker.host.clone(), broker.port);
    options.set_clean_session(true);
    options.set_keep_alive(Duration::from_secs(config.keep_alive.as_secs().max(1)));
    options.set_max_packet_size(config.packet_bytes_max, config.packet_bytes_max);
    if let Some((username, password)) = &config.credentials {
        options.set_credentials(username.clone(), password.clone());
    }
    if let Some(will) = &config.will {
        options.set_last_will(LastWill::new(will.topic.clone(), will.payload.clone(), QoS::AtLeastOnce, will.retain));
    }
    if broker.tls {
        let connector = tls_connector(config.ca_pem.as_deref())
            .map_err(|error| format!("no TLS to {}: {error}; check `ca-file` in [broker]", broker))?;
        options.set_transport(Transport::tls_with_config(TlsConfiguration::NativeConnector(connector)));
    }
    let (client, mut event_loop) = AsyncClient::new(options, CHANNEL_REQUESTS);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(NETWORK_TIMEOUT.as_secs());
    event_loop.set_network_options(network);
    Ok((client, event_loop))
}

/// Trusts the authorities in `ca_pem` and no other, or without it those of the system.
fn tls_connector(ca_pem: Option<&[u8]>) -> Result<TlsConnector, native_tls::Error> {
    let mut builder = TlsConnector::builder();
    if let Some(pem) = ca_pem {
        // Whoever names an authority does not want a public one to be able to stand in for the broker.
        builder.disable_built_in_roots(true);
        for certificate in Certificate::stack_from_pem(pem)? {
            builder.add_root_certificate(certificate);
        }
    }
    builder.build()
}

/// Payload sizes on their way through rumqttc, so that an acknowledgement gives their room back.
#[derive(Default)]
struct Flight {
    /// Handed to rumqttc, no packet id yet, in order.
    handed: Mutex<VecDeque<usize>>,
    /// Handed to rumqttc and not acknowledged, by packet id.
    unacknowledged: Mutex<BTreeMap<u16, usize>>,
}

impl Flight {
    fn hand(&self, payload_bytes: usize) {
        self.handed.lock().unwrap_or_else(PoisonError::into_inner).push_back(payload_bytes);
    }

    fn sent(&self, packet_id: u16) {
        if let Some(bytes) = self.handed.lock().unwrap_or_else(PoisonError::into_inner).pop_front() {
            self.unacknowledged.lock().unwrap_or_else(PoisonError::into_inner).insert(packet_id, bytes);
        }
    }

    /// The largest payload that is not acknowledged; 0 if there is none.
    fn largest_bytes(&self) -> usize {
        let handed = self.handed.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().max();
        let sent = self.unacknowledged.lock().unwrap_or_else(PoisonError::into_inner).values().copied().max();
        handed.max(sent).unwrap_or(0)
    }

    fn acknowledged(&self, packet_id: u16) -> Option<usize> {
        self.unacknowledged.lock().unwrap_or_else(PoisonError::into_inner).remove(&packet_id)
    }
}

/// Moves messages from the outbox into rumqttc's channel; ends only when the client is gone.
async fn write(client: &AsyncClient, outbox: &mut mpsc::UnboundedReceiver<Outgoing>, flight: &Flight) -> End {
    while let Some(message) = outbox.recv().await {
        flight.hand(message.payload.len());
        if let Err(error) = client.publish_bytes(message.topic, QoS::AtLeastOnce, message.retain, message.payload).await
        {
            return End::failed(error.to_string());
        }
    }
    End::Closed
}

struct Poller<'a> {
    config: &'a LinkConfig,
    broker: &'a BrokerUrl,
    shared: &'a Shared,
    client: &'a AsyncClient,
    flight: &'a Flight,
    inbox: &'a mpsc::Sender<LinkEvent>,
    up_notice: Option<OwnedPermit<LinkEvent>>,
    /// The last connection ended in a way that is likely to end this one: that it is up is no news before it has held.
    is_standing: bool,
    up_at: Option<Instant>,
    event_loop: EventLoop,
}

impl Poller<'_> {
    async fn run(mut self) -> End {
        let mut subscribing = 0;
        let mut answered = false;
        let mut disconnecting = false;
        loop {
            if !disconnecting && self.shared.lock().is_flushed() {
                disconnecting = self.client.try_disconnect().is_ok();
            }
            let event = {
                let shared = self.shared;
                let flushed = shared.wait_until(State::is_flushed);
                match poll_or(&mut self.event_loop, flushed, disconnecting).await {
                    Some(Ok(event)) => event,
                    Some(Err(_)) if disconnecting => return End::Closed,
                    Some(Err(error)) => return self.lost(&error, answered),
                    None => continue,
                }
            };
            // A silent connection has its probes: something happens every few seconds.
            if self.is_standing && self.up_at.is_some_and(|at| at.elapsed() >= HELD) {
                self.is_standing = false;
                self.tell_up();
            }
            match event {
                Event::Incoming(Packet::ConnAck(_)) => {
                    answered = true;
                    match self.subscribe() {
                        Ok(0) => self.up(),
                        Ok(packets) => subscribing = packets,
                        Err(why) => return End::failed(why),
                    }
                }
                Event::Incoming(Packet::SubAck(answer)) => {
                    if answer.return_codes.iter().any(|code| matches!(code, SubscribeReasonCode::Failure)) {
                        return End::failed(format!(
                            "the broker refuses a subscription out of {:?}: allow this user to read them in its access rules",
                            self.config.filters
                        ));
                    }
                    subscribing -= 1;
                    if subscribing == 0 {
                        self.up();
                    }
                }
                Event::Incoming(Packet::Publish(publish)) => {
                    self.receive(publish.topic, &publish.payload, publish.retain);
                }
                Event::Incoming(Packet::PubAck(answer)) => self.acknowledged(answer.pkid),
                Event::Outgoing(Sent::Publish(packet_id)) => self.flight.sent(packet_id),
                Event::Outgoing(Sent::Disconnect) => return End::Closed,
                Event::Incoming(_) | Event::Outgoing(_) => {}
            }
        }
    }

    fn lost(&self, error: &ConnectionError, answered: bool) -> End {
        let refused = matches!(error, ConnectionError::Io(io) if io.kind() == std::io::ErrorKind::ConnectionRefused);
        // A tunnel or a load balancer before an absent broker takes the connection and closes it.
        let closed = matches!(error, ConnectionError::MqttState(_)) && !answered;
        let standing = is_oversized(error);
        let mut why = explain(error, answered, self.broker, self.config);
        let largest_bytes = self.flight.largest_bytes();
        if largest_bytes > LARGE_BYTES && !standing {
            why += &format!(
                ". A message of {largest_bytes} bytes was under way: the broker may refuse such long ones, or the network be too slow"
            );
        }
        End::Failed { why, absent: refused || closed, standing }
    }

    /// Asks for all filters; returns how many packets that took. The channel is empty at this time.
    fn subscribe(&self) -> Result<usize, String> {
        let parts = self.config.filters.chunks(FILTERS_PER_SUBSCRIBE);
        let packets = parts.len();
        for part in parts {
            let filters = part.iter().map(|filter| SubscribeFilter::new(filter.clone(), QoS::AtLeastOnce));
            self.client.try_subscribe_many(filters).map_err(|error| {
                format!("cannot subscribe to {} filters ({error}): use wildcards", self.config.filters.len())
            })?;
        }
        Ok(packets)
    }

    fn up(&mut self) {
        {
            let mut state = self.shared.lock();
            state.up = true;
            state.counters.connected += 1;
        }
        self.shared.changed.notify_waiters();
        self.up_at = Some(Instant::now());
        if !self.is_standing {
            self.tell_up();
        }
        if let Some(notice) = self.up_notice.take() {
            notice.send(LinkEvent::Connected);
        }
    }

    fn tell_up(&self) {
        log::info!(broker:% = self.broker, client = self.config.client_id.as_str(); "connected to the broker");
    }

    fn receive(&self, topic: String, payload: &Bytes, retain: bool) {
        let mut state = self.shared.lock();
        let bytes = payload.len();
        let fits = state.inbox_bytes == 0 || state.inbox_bytes + bytes <= self.config.inbox_bytes_max;
        let payload = if bytes <= COPY_BYTES_MAX { Bytes::copy_from_slice(payload) } else { payload.clone() };
        if fits && self.inbox.try_send(LinkEvent::Message { topic, payload, retain }).is_ok() {
            state.inbox_bytes += bytes;
            state.counters.received += 1;
        } else {
            state.counters.inbox_dropped += 1;
        }
    }

    fn acknowledged(&self, packet_id: u16) {
        if let Some(bytes) = self.flight.acknowledged(packet_id) {
            let mut state = self.shared.lock();
            state.queued.messages -= 1;
            state.queued.bytes -= bytes;
            state.counters.acknowledged += 1;
            drop(state);
            self.shared.changed.notify_waiters();
        }
    }
}

/// The event loop's next event, or `None` when `flushed` came first.
async fn poll_or(
    event_loop: &mut EventLoop,
    flushed: impl Future<Output = ()>,
    disconnecting: bool,
) -> Option<Result<Event, ConnectionError>> {
    tokio::select! {
        biased;
        event = event_loop.poll() => Some(event),
        () = flushed, if !disconnecting => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_the_broker_that_is_too_long_is_not_blamed_on_what_was_under_way() {
        let flight = Flight::default();
        flight.hand(200_000);
        assert_eq!(End::failed("reset".into()).lost_bytes_max(&flight), 200_000);
        let oversized = End::Failed { why: "30 MB".into(), absent: false, standing: true };
        assert_eq!(oversized.lost_bytes_max(&flight), 0);
    }

    #[test]
    fn what_ends_every_connection_is_told_once_an_hour_and_something_else_at_once() {
        let mut standing = Standing::default();
        let told = |standing: &mut Standing, why: &str, from_s: u64| -> Vec<u64> {
            (from_s..from_s + 7_300).step_by(3).filter(|second| standing.is_news(why, second * 1_000_000)).collect()
        };
        assert_eq!(told(&mut standing, "30 MB", 0), [0, 3_600, 7_200]);
        assert_eq!(told(&mut standing, "40 MB", 7_300), [7_300, 10_900, 14_500]);
    }
}
