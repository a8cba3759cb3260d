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
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, LastWill, MqttOptions, NetworkOptions,
    Outgoing as Sent, Packet, QoS, StateError, SubscribeFilter, SubscribeReasonCode, TlsConfiguration, Transport,
};
use tokio::sync::mpsc::{self, OwnedPermit};

use crate::broker::BrokerUrl;
use crate::discovery::Brokers;
use crate::link::{LinkConfig, LinkEvent, Outgoing, Shared};

/// Requests in rumqttc's channel at most; the outbox is ours, so a few are enough.
const CHANNEL_REQUESTS: usize = 8;
/// Brokers limit the filters of one SUBSCRIBE packet (some cloud brokers to 8).
const FILTERS_PER_SUBSCRIBE: usize = 8;
/// Time to connect, and to write a packet to the socket.
const NETWORK_TIMEOUT: Duration = Duration::from_secs(10);
/// The first pause after a failure; it doubles.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest pause where nobody listens: such a try costs nobody anything, and the chains stand still until the broker that
/// returns is found.
const BACKOFF_ABSENT_MAX: Duration = Duration::from_millis(200);
/// A connection that held so many times longer than the pause before the next attempt was sound: the pauses start again from
/// the shortest. Two clients with one id end each other's connections after one pause.
const SOUND_PAUSES: u32 = 4;
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
    },
}

impl End {
    /// The broker, or the network on the way to it, does not take this client.
    fn failed(why: String) -> Self {
        Self::Failed { why, absent: false }
    }
}

/// The pauses between attempts to connect.
struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    fn new(max: Duration) -> Self {
        Self { next: BACKOFF_MIN.min(max), max }
    }

    /// How long to wait before the next attempt, after a connection that `held` so long, or none; `absent` if nobody listens.
    fn pause(&mut self, held: Option<Duration>, absent: bool) -> Duration {
        if held.is_some_and(|held| held >= self.next * SOUND_PAUSES) {
            self.next = BACKOFF_MIN.min(self.max);
        }
        let longest = if absent { BACKOFF_ABSENT_MAX.min(self.max) } else { self.max };
        let pause = self.next.min(longest);
        self.next = (pause * 2).min(longest);
        pause
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
                let end = run_once(&config, &broker, &shared, &mut outbox, &inbox, up_notice).await;
                if shared.lock().counters.connected > connected_before {
                    brokers.prefer(broker);
                }
                end
            }
            Err(end) => end,
        };
        take_down(&shared, &mut outbox);
        let (why, absent) = match end {
            End::Closed => break,
            End::Failed { why, absent } => (why, absent),
        };
        let was_up = {
            let mut state = shared.lock();
            state.counters.failures += 1;
            state.counters.connected > connected_before
        };
        if was_up || !reported {
            log::warn!(broker:% = config.broker, why:% = why; "not connected to the broker, trying on");
            down_notice.send(LinkEvent::Disconnected { why });
            reported = true;
        } else {
            log::debug!(broker:% = config.broker, why:% = why; "still not connected to the broker");
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

/// `pause`, shortened by up to a quarter, so that many clients of one broker do not come back in step.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [0_u8];
    // Without random numbers the pause is whole: nothing depends on it.
    let _ = getrandom::fill(&mut byte);
    pause - pause * u32::from(byte[0]) / 1_024
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
        event_loop,
    };
    let end = tokio::select! {
        end = poller.run() => end,
        end = write(&client, outbox, &flight) => end,
        end = close_idle(shared) => end,
    };
    let mut state = shared.lock();
    if state.up {
        state.counters.lost_bytes_max = flight.largest_bytes();
    }
    end
}

/// Ends an attempt that has not connected when the link is closed.
async fn close_idle(shared: &Shared) -> End {
    shared.wait_until(|state| state.closing && !state.up).await;
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
    /// By packet id.
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
    event_loop: EventLoop,
}

impl Poller<'_> {
    async fn run(mut self) -> End {
        let mut subscribing = 0;
        let mut answered = false;
        let mut disconnecting = false;
        loop {
            if !disconnecting && self.is_flushed() {
                disconnecting = self.client.try_disconnect().is_ok();
            }
            let event = {
                let shared = self.shared;
                let flushed = shared.wait_until(|state| state.closing && state.up && state.queued.messages == 0);
                match poll_or(&mut self.event_loop, flushed, disconnecting).await {
                    Some(Ok(event)) => event,
                    Some(Err(_)) if disconnecting => return End::Closed,
                    Some(Err(error)) => return self.lost(&error, answered),
                    None => continue,
                }
            };
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
        let mut why = explain(error, answered, self.broker, self.config);
        let largest_bytes = self.flight.largest_bytes();
        if largest_bytes > LARGE_BYTES {
            why += &format!(
                ". A message of {largest_bytes} bytes was under way: the broker may refuse such long ones, or the network be too slow"
            );
        }
        End::Failed { why, absent: refused || closed }
    }

    fn is_flushed(&self) -> bool {
        let state = self.shared.lock();
        state.closing && state.up && state.queued.messages == 0
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
        log::info!(broker:% = self.broker, client = self.config.client_id.as_str(); "connected to the broker");
        if let Some(notice) = self.up_notice.take() {
            notice.send(LinkEvent::Connected);
        }
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

/// What to do about a failed handshake; OpenSSL's reason is known by its text alone.
fn tls_remedy(why: &str) -> &'static str {
    if why.contains("mismatch") {
        "the broker's certificate is for another host: write a name that it holds in `url` in [broker], or give the broker one for this name"
    } else if why.contains("certificate verify failed") {
        "no trusted authority signed the broker's certificate: `ca-file` in [broker] names the one that did"
    } else {
        "check `ca-file` in [broker] and that the broker speaks TLS on this port"
    }
}

/// What went wrong and what to do, in one line.
fn explain(error: &ConnectionError, answered: bool, broker: &BrokerUrl, config: &LinkConfig) -> String {
    match error {
        ConnectionError::Io(io) if io.kind() == std::io::ErrorKind::ConnectionRefused => {
            format!(
                "nothing listens at {broker}: start the broker there (for example mosquitto) or correct `url` in [broker]"
            )
        }
        ConnectionError::Io(io) if broker.host.ends_with(".local") && io.to_string().contains("lookup") => format!(
            "{broker}: {io}; names that end with .local need mDNS on this computer: install libnss-resolve or libnss-mdns"
        ),
        ConnectionError::Io(io) => format!("{broker}: {io}; check the network and `url` in [broker]"),
        ConnectionError::NetworkTimeout | ConnectionError::FlushTimeout => {
            format!(
                "{broker} does not answer within {} s: check the address, the network and the firewall",
                NETWORK_TIMEOUT.as_secs()
            )
        }
        ConnectionError::ConnectionRefused(
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized,
        ) => format!("{broker} refuses this client: check `username` and `password-file` in [broker]"),
        ConnectionError::ConnectionRefused(code) => format!("{broker} refuses the connection: {code:?}"),
        ConnectionError::Tls(tls) => format!("no TLS connection to {broker}: {tls}; {}", tls_remedy(&tls.to_string())),
        ConnectionError::MqttState(why) if !answered && !broker.tls => format!(
            "{broker} gives no answer ({why}): if it speaks TLS on this port, write mqtts:// in `url` in [broker]"
        ),
        ConnectionError::MqttState(StateError::ConnectionAborted) => format!(
            "{broker} closed the connection: it stopped, or another client uses the id {:?} too",
            config.client_id
        ),
        ConnectionError::MqttState(StateError::AwaitPingResp) => format!("{broker} has fallen silent"),
        other => format!("{broker}: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(3);

    #[test]
    fn a_broker_that_refuses_is_tried_ever_more_rarely_and_an_absent_one_is_not() {
        let mut backoff = Backoff::new(MAX);
        let refusals_ms: Vec<u128> = (0..7).map(|_| backoff.pause(None, false).as_millis()).collect();
        assert_eq!(refusals_ms, [100, 200, 400, 800, 1_600, 3_000, 3_000]);
        for _ in 0..1_000 {
            assert_eq!(backoff.pause(None, true), BACKOFF_ABSENT_MAX, "it is found soon after it returns");
        }
    }

    #[test]
    fn a_broker_that_leaves_every_other_second_is_found_soon_each_time() {
        let mut backoff = Backoff::new(MAX);
        for _ in 0..100 {
            assert!(backoff.pause(Some(Duration::from_secs(1)), false) <= BACKOFF_ABSENT_MAX);
            assert!(backoff.pause(None, true) <= BACKOFF_ABSENT_MAX);
        }
    }

    #[test]
    fn two_clients_with_one_id_end_each_others_connections_ever_more_rarely() {
        let mut backoff = Backoff::new(MAX);
        let mut held = BACKOFF_MIN;
        for _ in 0..20 {
            // The other one returns after a pause like this one's.
            held = backoff.pause(Some(held), false);
        }
        assert_eq!(held, MAX);
    }
}
