//! A slow link before a broker: what is sent is delayed as bandwidth and distance demand, and noted.
//!
//! Delay is its own; bandwidth is the kernel's where there is a [`crate::cable::Cable`] to lead through, and its own where namespaces, rights or modules
//! for that are lacking. Bytes are delayed, none are lost.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use microlambda_demo::monotonic_us;
use microlambda_demo::relay::{Endpoint, Stream};
use microlambda_wire::TopicPrefix;
use serde::Serialize;

use crate::bus::Kind;

/// So much is sent at a time, bytes: a message waits for its own bytes, not for those behind it.
const PIECE_BYTES: usize = 4 << 10;
/// Pieces under way in one direction at most; then the sender has to wait.
const PIECES_MAX: usize = 1 << 10;

/// What a link is like, in each direction alike.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Line {
    /// Bandwidth, Mbit/s of 10^6 bits; infinite where something else limits it.
    pub mbit_per_s: f64,
    /// From a question to its answer, ms: half of it each way.
    pub round_trip_ms: f64,
}

impl Line {
    /// The lines that show what bandwidth does, and what distance does: every bandwidth at the middle round trip, every round trip at the middle
    /// bandwidth, and the slowest and farthest together.
    pub fn cross(mbit_per_s: &[f64], round_trip_ms: &[f64]) -> Vec<Self> {
        let middle = |values: &[f64]| values.get(values.len() / 2).copied();
        let (Some(bandwidth), Some(distance)) = (middle(mbit_per_s), middle(round_trip_ms)) else { return Vec::new() };
        let slowest = mbit_per_s.iter().copied().fold(f64::INFINITY, f64::min);
        let farthest = round_trip_ms.iter().copied().fold(0.0, f64::max);
        let all = mbit_per_s
            .iter()
            .flat_map(|&mbit_per_s| round_trip_ms.iter().map(move |&round_trip_ms| Self { mbit_per_s, round_trip_ms }));
        let shown = |line: &Self| {
            line.mbit_per_s == bandwidth
                || line.round_trip_ms == distance
                || (line.mbit_per_s == slowest && line.round_trip_ms == farthest)
        };
        all.filter(shown).collect()
    }
}

/// A packet that was handed to the link.
#[derive(Debug, Clone, Copy)]
pub struct Crossing {
    /// When its last byte was, µs of the machine's monotonic clock.
    pub at_us: u64,
    /// What it carries.
    pub kind: Kind,
    /// Its length, with MQTT's header.
    pub bytes: usize,
}

/// A listener for one client, and what runs through it. Ends on drop.
pub struct Link {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    broker: Endpoint,
    line: Line,
    prefix: TopicPrefix,
    crossings: Mutex<Vec<Crossing>>,
    stop: AtomicBool,
}

impl Shared {
    fn crossings(&self) -> MutexGuard<'_, Vec<Crossing>> {
        self.crossings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    /// Listens on a free port of this machine, and leads to `broker`.
    ///
    /// # Errors
    /// No port can be listened on.
    pub fn start(broker: Endpoint, line: Line, prefix: TopicPrefix) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared =
            Arc::new(Shared { broker, line, prefix, crossings: Mutex::default(), stop: AtomicBool::new(false) });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.stop.load(Ordering::Relaxed) {
                    return;
                }
                // A broker that is down shows as a closed connection.
                let _ = carry(&accepting, client);
            }
        });
        Ok(Self { address, shared })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All that was handed to it so far, in either direction.
    pub fn crossings(&self) -> Vec<Crossing> {
        self.shared.crossings().clone()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

/// Starts the threads of one connection; they end with it.
fn carry(shared: &Arc<Shared>, client: TcpStream) -> io::Result<()> {
    let broker = Stream::connect(&shared.broker)?;
    client.set_nodelay(true)?;
    let client = Stream::Tcp(client);
    for (from, to) in [(&client, &broker), (&broker, &client)] {
        let (from, to) = (from.try_clone()?, to.try_clone()?);
        let (sender, receiver) = sync_channel(PIECES_MAX);
        let shared = Arc::clone(shared);
        thread::spawn(move || accept_bytes(&shared, from, &sender));
        thread::spawn(move || deliver(&receiver, to));
    }
    Ok(())
}

/// Takes what one end sends and decides when it arrives.
fn accept_bytes(shared: &Shared, mut from: Stream, sender: &SyncSender<(Instant, Vec<u8>)>) {
    let (mut packets, mut piece) = (Packets::default(), vec![0; PIECE_BYTES]);
    let one_way = Duration::from_secs_f64(shared.line.round_trip_ms / 2_000.0);
    let mut free_at = Instant::now();
    while let Ok(bytes) = from.read(&mut piece)
        && bytes > 0
    {
        let takes = Duration::from_secs_f64(bytes as f64 * 8.0 / (shared.line.mbit_per_s * 1e6));
        free_at = free_at.max(Instant::now()) + takes;
        let at_us = monotonic_us();
        packets.push(&piece[..bytes], |topic, bytes| {
            let kind = topic.map_or(Kind::Rest, |topic| Kind::of(&shared.prefix, topic));
            shared.crossings().push(Crossing { at_us, kind, bytes });
        });
        if sender.send((free_at + one_way, piece[..bytes].to_vec())).is_err() {
            return;
        }
    }
}

/// Hands over what has arrived; closes the connection when nothing follows.
fn deliver(receiver: &Receiver<(Instant, Vec<u8>)>, mut to: Stream) {
    for (arrives_at, piece) in receiver {
        thread::sleep(arrives_at.saturating_duration_since(Instant::now()));
        if to.write_all(&piece).is_err() {
            break;
        }
    }
    to.shutdown();
}

/// A stream of bytes as the MQTT packets that it consists of.
#[derive(Default)]
struct Packets(Vec<u8>);

impl Packets {
    /// Adds bytes and tells of each packet that is whole now: its topic, if it is a message, and its length.
    fn push(&mut self, bytes: &[u8], mut each: impl FnMut(Option<&str>, usize)) {
        self.0.extend_from_slice(bytes);
        let mut at = 0;
        while let Some((topic, length)) = first_packet(&self.0[at..]) {
            each(topic, length);
            at += length;
        }
        self.0.drain(..at);
    }
}

/// Topic and length of the packet that `bytes` begin with (MQTT 3.1.1, sections 2.2 and 3.3); `None` until it is whole.
fn first_packet(bytes: &[u8]) -> Option<(Option<&str>, usize)> {
    const PUBLISH: u8 = 3;
    let (mut rest_bytes, mut digits) = (0_usize, 0);
    loop {
        let digit = *bytes.get(1 + digits)?;
        rest_bytes |= usize::from(digit & 0x7f) << (7 * digits);
        digits += 1;
        if digit & 0x80 == 0 || digits == 4 {
            break;
        }
    }
    let length = 1 + digits + rest_bytes;
    let body = bytes.get(1 + digits..length)?;
    let topic = || {
        let (topic_bytes, rest) = body.split_first_chunk::<2>()?;
        std::str::from_utf8(rest.get(..usize::from(u16::from_be_bytes(*topic_bytes)))?).ok()
    };
    Some((if bytes[0] >> 4 == PUBLISH { topic() } else { None }, length))
}

#[cfg(test)]
mod tests {
    use microlambda_wire::Name;

    use super::*;

    #[test]
    fn a_cross_of_lines_has_both_middles_and_the_worst_corner() {
        let lines = Line::cross(&[5.0, 20.0, 100.0], &[1.0, 10.0, 50.0]);
        let shown: Vec<(f64, f64)> = lines.iter().map(|line| (line.mbit_per_s, line.round_trip_ms)).collect();
        let wanted = [(5.0, 10.0), (5.0, 50.0), (20.0, 1.0), (20.0, 10.0), (20.0, 50.0), (100.0, 10.0)];
        assert_eq!(shown, wanted);
        assert_eq!(Line::cross(&[5.0], &[1.0]), [Line { mbit_per_s: 5.0, round_trip_ms: 1.0 }]);
        assert_eq!(Line::cross(&[5.0], &[]), []);
    }

    /// A message of `payload_bytes` in MQTT's form, as a node would say it.
    fn message(topic: &str, payload_bytes: usize) -> Vec<u8> {
        let rest = 2 + topic.len() + payload_bytes;
        assert!((128..16_384).contains(&rest), "two digits");
        let mut bytes = vec![0x30, (rest % 128) as u8 | 0x80, (rest / 128) as u8, 0, topic.len() as u8];
        bytes.extend_from_slice(topic.as_bytes());
        bytes.resize(bytes.len() + payload_bytes, 0x5a);
        bytes
    }

    #[test]
    fn packets_are_told_apart_however_they_are_cut() {
        let mut stream = message("microlambda/bench/chain/c/continuation", 300);
        let first = stream.len();
        stream.extend([0xc0, 0]);
        for cut in 0..stream.len() {
            let (mut packets, mut told) = (Packets::default(), Vec::new());
            for part in [&stream[..cut], &stream[cut..]] {
                packets.push(part, |topic, length| told.push((topic.map(str::to_owned), length)));
            }
            assert_eq!(told, [(Some("microlambda/bench/chain/c/continuation".to_owned()), first), (None, 2)]);
        }
    }

    #[test]
    fn a_message_takes_its_bytes_by_the_bandwidth_and_half_a_round_trip() {
        let broker = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let line = Line { mbit_per_s: 1.0, round_trip_ms: 40.0 };
        let prefix = TopicPrefix::new(&Name::new("bench").expect("a name"));
        let address = Endpoint::Tcp(broker.local_addr().expect("an address").to_string());
        let link = Link::start(address, line, prefix).expect("a link");
        let mut client = TcpStream::connect(link.address()).expect("a connection");
        let (mut served, _) = broker.accept().expect("a connection");
        let sent = message("microlambda/bench/camera/door/frame/a", 10_000);
        let began = Instant::now();
        client.write_all(&sent).expect("a write");
        let mut came = vec![0; sent.len()];
        served.read_exact(&mut came).expect("a read");
        let took = began.elapsed();
        assert_eq!(came, sent);
        assert!(took >= Duration::from_millis(20 + 80), "10 KB at 1 Mbit/s took {took:?}");
        let crossed: Vec<(Kind, usize)> = link.crossings().iter().map(|one| (one.kind, one.bytes)).collect();
        assert_eq!(crossed, [(Kind::Frames, sent.len())]);
    }
}
