//! A proxy that knows MQTT 3.1.1: it loses, repeats, delays and reorders single messages, and acknowledges what it loses.
//!
//! One proxy stands before each agent, so that what is lost is lost for that subscriber (or publisher) alone. It also cuts
//! connections, lets them stand still, limits their bandwidth, and looks for another broker where one does not answer.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::v4::{PubAck, Publish};
use rumqttc::mqttbytes::{Error as CodecError, PacketType, QoS, check};

use crate::sim::random::Random;

/// No packet is larger, bytes: the agents' own bound.
const PACKET_BYTES_MAX: usize = 20 << 20;
/// One direction of a connection holds so much before the proxy stops reading, bytes.
const LANE_BYTES_MAX: usize = 8 << 20;
/// Under a bandwidth limit so much is written at a time, bytes.
const PIECE_BYTES: usize = 4 << 10;
/// A broker that accepts a connection answers within this, or another one is tried.
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);

/// What a proxy does to the messages of its agent at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Manners {
    /// Messages lost, of a thousand.
    pub lost_permille: u64,
    /// Messages that come twice, of a thousand.
    pub repeated_permille: u64,
    /// Messages that come late, behind others, of a thousand.
    pub late_permille: u64,
    /// By so much at most, ms.
    pub delay_ms_max: u64,
    /// Nothing passes either way, and the connection stays.
    pub stalled: bool,
    /// So much passes each way, bytes per second; 0 for any amount.
    pub bytes_per_s: u64,
}

/// What a proxy has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Counts {
    /// Messages seen.
    pub messages: u64,
    /// Lost, and acknowledged in the receiver's name.
    pub lost: u64,
    /// Delivered twice.
    pub repeated: u64,
    /// Delivered late, and so behind others.
    pub late: u64,
    /// Connections cut.
    pub cut: u64,
    /// Connections made.
    pub connections: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.messages += other.messages;
        self.lost += other.lost;
        self.repeated += other.repeated;
        self.late += other.late;
        self.cut += other.cut;
        self.connections += other.connections;
    }
}

/// A listener, and everything that runs through it. Ends on drop.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    brokers: Vec<SocketAddr>,
    /// Which broker is tried next.
    turn: AtomicUsize,
    manners: Mutex<Manners>,
    changed: Condvar,
    random: Mutex<Random>,
    counts: Mutex<Counts>,
    open: Mutex<Vec<Arc<Line>>>,
    stop: AtomicBool,
    numbers: AtomicU64,
}

/// One connection.
struct Line {
    client: TcpStream,
    broker: TcpStream,
    /// Toward the client, toward the broker.
    lanes: [Lane; 2],
    answered: AtomicBool,
    closed: AtomicBool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Toward {
    Client = 0,
    Broker = 1,
}

impl Toward {
    fn other(self) -> Self {
        if self == Self::Client { Self::Broker } else { Self::Client }
    }
}

#[derive(Default)]
struct Lane {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    /// By the time at which each goes out, then in order.
    packets: BinaryHeap<Reverse<(Instant, u64, Bytes)>>,
    bytes: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// Listens on a free port of `on`, and leads to the first of `brokers` that answers.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub fn start(on: IpAddr, brokers: Vec<SocketAddr>, seed: u64) -> io::Result<Self> {
        let listener = TcpListener::bind((on, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            brokers,
            turn: AtomicUsize::new(0),
            manners: Mutex::default(),
            changed: Condvar::new(),
            random: Mutex::new(Random::new(seed)),
            counts: Mutex::default(),
            open: Mutex::default(),
            stop: AtomicBool::new(false),
            numbers: AtomicU64::new(0),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting));
        Ok(Self { address, shared })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what it does from now on.
    pub fn behave(&self, change: impl FnOnce(&mut Manners)) {
        change(&mut lock(&self.shared.manners));
        self.shared.changed.notify_all();
    }

    /// Cuts every connection in the middle of whatever it carries; how many there were.
    pub fn cut(&self) -> u64 {
        let lines = std::mem::take(&mut *lock(&self.shared.open));
        let open = lines.iter().filter(|line| !line.closed.load(Ordering::Relaxed)).count() as u64;
        lines.iter().for_each(|line| line.close());
        lock(&self.shared.counts).cut += open;
        open
    }

    /// What it has done.
    pub fn counts(&self) -> Counts {
        *lock(&self.shared.counts)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.behave(|manners| *manners = Manners::default());
        self.cut();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming().flatten() {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            // A broker that is down shows as a closed connection.
            let Some(broker) = connect(&shared) else { return };
            let _ = client.set_nodelay(true);
            let _ = broker.set_nodelay(true);
            let line = Line {
                client,
                broker,
                lanes: Default::default(),
                answered: AtomicBool::new(false),
                closed: AtomicBool::new(false),
            };
            carry(&shared, &Arc::new(line));
        });
    }
}

fn connect(shared: &Shared) -> Option<TcpStream> {
    let count = shared.brokers.len();
    let first = shared.turn.load(Ordering::Relaxed);
    for turn in first..first + count {
        if let Ok(stream) = TcpStream::connect_timeout(&shared.brokers[turn % count], CONNECT_PATIENCE) {
            shared.turn.store(turn % count, Ordering::Relaxed);
            return Some(stream);
        }
    }
    None
}

/// Runs one connection until either end closes.
fn carry(shared: &Arc<Shared>, line: &Arc<Line>) {
    {
        let mut open = lock(&shared.open);
        open.retain(|line| !line.closed.load(Ordering::Relaxed));
        open.push(Arc::clone(line));
    }
    lock(&shared.counts).connections += 1;
    let run = |work: fn(&Shared, &Line, Toward) -> io::Result<()>, toward: Toward| {
        let (shared, line) = (Arc::clone(shared), Arc::clone(line));
        thread::spawn(move || {
            let _ = work(&shared, &line, toward);
            line.close();
            shared.changed.notify_all();
        })
    };
    let threads =
        [Toward::Client, Toward::Broker].map(|toward| [run(read_packets, toward), run(write_packets, toward)]);
    for thread in threads.into_iter().flatten() {
        let _ = thread.join();
    }
    // It took the connection and never said a word: it stands still, or has no quorum.
    if !line.answered.load(Ordering::Relaxed) {
        shared.turn.fetch_add(1, Ordering::Relaxed);
    }
}

impl Line {
    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.broker.shutdown(Shutdown::Both);
        self.lanes.iter().for_each(|lane| lane.changed.notify_all());
    }

    fn end(&self, toward: Toward) -> &TcpStream {
        if toward == Toward::Client { &self.client } else { &self.broker }
    }

    fn push(&self, shared: &Shared, toward: Toward, at: Instant, packet: Bytes) {
        let lane = &self.lanes[toward as usize];
        let mut queue = lock(&lane.queue);
        queue.bytes += packet.len();
        queue.packets.push(Reverse((at, shared.numbers.fetch_add(1, Ordering::Relaxed), packet)));
        drop(queue);
        lane.changed.notify_all();
    }
}

/// Reads packets from the one end and decides what becomes of each on its way to the other.
fn read_packets(shared: &Shared, line: &Line, toward: Toward) -> io::Result<()> {
    let mut from = line.end(toward.other());
    let lane = &line.lanes[toward as usize];
    let (mut buffer, mut chunk) = (BytesMut::new(), vec![0; 64 << 10]);
    loop {
        let mut queue = lock(&lane.queue);
        while queue.bytes > LANE_BYTES_MAX && !line.closed.load(Ordering::Relaxed) {
            queue =
                lane.changed.wait_timeout(queue, Duration::from_millis(100)).map_or_else(|e| e.into_inner().0, |w| w.0);
        }
        drop(queue);
        let bytes = from.read(&mut chunk)?;
        if bytes == 0 {
            return Ok(());
        }
        buffer.extend_from_slice(&chunk[..bytes]);
        loop {
            let header = match check(buffer.iter(), PACKET_BYTES_MAX) {
                Ok(header) => header,
                Err(CodecError::InsufficientBytes(_)) => break,
                Err(error) => return Err(io::Error::other(error)),
            };
            let packet = buffer.split_to(header.frame_length()).freeze();
            match header.packet_type() {
                Ok(PacketType::Publish) => {
                    let publish = Publish::read(header, packet.clone()).map_err(io::Error::other)?;
                    message(shared, line, toward, packet, &publish);
                }
                kind => {
                    if matches!(kind, Ok(PacketType::ConnAck)) {
                        line.answered.store(true, Ordering::Relaxed);
                    }
                    line.push(shared, toward, Instant::now(), packet);
                }
            }
        }
    }
}

/// Decides what becomes of one message.
fn message(shared: &Shared, line: &Line, toward: Toward, packet: Bytes, publish: &Publish) {
    let manners = *lock(&shared.manners);
    let now = Instant::now();
    let (lost, repeated, late, delay, again) = {
        let mut random = lock(&shared.random);
        let delay = |random: &mut Random| Duration::from_millis(1 + random.below(manners.delay_ms_max));
        (
            random.permille(manners.lost_permille),
            random.permille(manners.repeated_permille),
            random.permille(manners.late_permille),
            delay(&mut random),
            delay(&mut random),
        )
    };
    let mut counts = lock(&shared.counts);
    counts.messages += 1;
    if lost {
        counts.lost += 1;
        if publish.qos == QoS::AtLeastOnce {
            let mut answer = BytesMut::new();
            if PubAck::new(publish.pkid).write(&mut answer).is_ok() {
                line.push(shared, toward.other(), now, answer.freeze());
            }
        }
        return;
    }
    if repeated {
        counts.repeated += 1;
        // Without a packet id, so that the receiver's acknowledgements stay in step.
        let copy = Publish { qos: QoS::AtMostOnce, pkid: 0, dup: false, ..publish.clone() };
        let mut bytes = BytesMut::new();
        if copy.write(&mut bytes).is_ok() {
            line.push(shared, toward, now + again, bytes.freeze());
        }
    }
    counts.late += u64::from(late);
    drop(counts);
    line.push(shared, toward, if late { now + delay } else { now }, packet);
}

/// Writes packets when their time has come.
fn write_packets(shared: &Shared, line: &Line, toward: Toward) -> io::Result<()> {
    let lane = &line.lanes[toward as usize];
    let mut to = line.end(toward);
    loop {
        let mut queue = lock(&lane.queue);
        let packet = loop {
            if line.closed.load(Ordering::Relaxed) {
                return Ok(());
            }
            let now = Instant::now();
            let wait = match queue.packets.peek() {
                Some(Reverse((at, _, _))) if *at <= now => match queue.packets.pop() {
                    Some(Reverse((_, _, packet))) => break packet,
                    None => continue,
                },
                Some(Reverse((at, _, _))) => *at - now,
                None => Duration::from_secs(1),
            };
            queue = lane.changed.wait_timeout(queue, wait).map_or_else(|e| e.into_inner().0, |w| w.0);
        };
        queue.bytes -= packet.len();
        drop(queue);
        lane.changed.notify_all();
        for piece in packet.chunks(PIECE_BYTES) {
            let bytes_per_s = wait_while_stalled(shared, line);
            to.write_all(piece)?;
            if let Some(us) = (piece.len() as u64 * 1_000_000).checked_div(bytes_per_s) {
                thread::sleep(Duration::from_micros(us));
            }
        }
    }
}

/// Returns the bandwidth once the line may carry something.
fn wait_while_stalled(shared: &Shared, line: &Line) -> u64 {
    let mut manners = lock(&shared.manners);
    while manners.stalled && !line.closed.load(Ordering::Relaxed) {
        manners =
            shared.changed.wait_timeout(manners, Duration::from_millis(200)).map_or_else(|e| e.into_inner().0, |w| w.0);
    }
    manners.bytes_per_s
}

#[cfg(test)]
mod tests;
