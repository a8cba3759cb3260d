//! The bus as an outsider sees it: plain clients, and how much of what it carries.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use microlambda_demo::BrokerUrl;
use microlambda_wire::{Topic, TopicPrefix};
use rumqttc::{Client, Connection, Event, MqttOptions, NetworkOptions, Packet, QoS};
use serde::Serialize;

use crate::Error;

/// A broker on this machine answers within this time.
const PATIENCE: Duration = Duration::from_secs(30);
/// Whoever reads on and on looks this often whether it is to stop.
const LOOK: Duration = Duration::from_millis(100);
/// No packet is larger in either direction, bytes: the bound of everybody on the bus.
const PACKET_BYTES_MAX: usize = 17 << 20;

/// Connects to a broker and subscribes; the broker has granted it when this returns.
///
/// # Errors
/// The broker does not answer.
pub fn connect(broker: &BrokerUrl, id: &str, filter: &str) -> Result<(Client, Connection), Error> {
    let (host, port) = broker.address();
    let mut options = MqttOptions::new(id, host, port);
    options.set_keep_alive(Duration::from_secs(30)).set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
    let (client, mut connection) = Client::new(options, 16);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    connection.eventloop.set_network_options(network);
    client.subscribe(filter, QoS::AtLeastOnce)?;
    wait(&mut connection, |packet| matches!(packet, Packet::SubAck(_)))?;
    Ok((client, connection))
}

/// Reads packets up to one that is wanted.
///
/// # Errors
/// It does not come, or the connection is lost.
pub fn wait(connection: &mut Connection, wanted: impl Fn(&Packet) -> bool) -> Result<(), Error> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        let event = connection.recv_timeout(PATIENCE).map_err(|why| format!("no answer of the broker: {why:?}"))?;
        match event? {
            Event::Incoming(packet) if wanted(&packet) => return Ok(()),
            Event::Incoming(_) | Event::Outgoing(_) => {}
        }
    }
    Err(format!("the broker did not answer within {} s", PATIENCE.as_secs()).into())
}

/// What a message carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// State by value: with a continuation, or asked for.
    State,
    /// Frames and other records of a camera.
    Frames,
    /// Bids, wishes, announcements, reports; and whatever is no message of ours, acknowledgements among them.
    Rest,
}

impl Kind {
    /// Of a message under this topic.
    pub fn of(prefix: &TopicPrefix, topic: &str) -> Self {
        match Topic::parse(prefix, topic) {
            Ok(Topic::Continuation { .. } | Topic::SyncWant { .. } | Topic::SyncHave { .. } | Topic::Ahead { .. }) => {
                Self::State
            }
            Ok(Topic::CameraFrame { .. } | Topic::CameraRecord { .. } | Topic::CameraImage { .. }) => Self::Frames,
            Ok(
                Topic::CameraStatus { .. }
                | Topic::CameraHead { .. }
                | Topic::CameraWant { .. }
                | Topic::Claim { .. }
                | Topic::Done { .. }
                | Topic::Face { .. }
                | Topic::Event
                | Topic::NodeStatus { .. },
            )
            | Err(_) => Self::Rest,
        }
    }
}

/// Counts everything that is published under a filter; ends on drop.
pub struct Counter {
    client: Client,
    shared: Arc<Counts>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Counts {
    messages: AtomicU64,
    bytes: AtomicU64,
    stop: AtomicBool,
    lost: Mutex<Option<String>>,
}

impl Counter {
    /// Begins to count; what the broker had kept before counts too.
    ///
    /// # Errors
    /// The broker does not answer.
    pub fn start(broker: &BrokerUrl, filter: &str) -> Result<Self, Error> {
        let (client, connection) = connect(broker, "bench-counter", filter)?;
        let shared = Arc::new(Counts::default());
        let counting = Arc::clone(&shared);
        Ok(Self { client, shared, thread: Some(thread::spawn(move || count(connection, &counting))) })
    }

    /// Messages so far, and the bytes of their payloads.
    ///
    /// # Errors
    /// The connection was lost on the way: something may be missing.
    pub fn so_far(&self) -> Result<(u64, u64), Error> {
        match &*self.shared.lost.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(why) => Err(format!("messages were not counted: {why}").into()),
            None => Ok((self.shared.messages.load(Ordering::Relaxed), self.shared.bytes.load(Ordering::Relaxed))),
        }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let _ = self.client.try_disconnect();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn count(mut connection: Connection, counts: &Counts) {
    while !counts.stop.load(Ordering::Relaxed) {
        match connection.recv_timeout(LOOK) {
            Ok(Ok(Event::Incoming(Packet::Publish(message)))) => {
                counts.messages.fetch_add(1, Ordering::Relaxed);
                counts.bytes.fetch_add(message.payload.len() as u64, Ordering::Relaxed);
            }
            Ok(Ok(_)) | Err(rumqttc::RecvTimeoutError::Timeout) => {}
            Ok(Err(why)) => {
                *counts.lost.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_string());
                return;
            }
            Err(rumqttc::RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use microlambda_wire::Name;

    use super::*;

    #[test]
    fn messages_are_told_apart_by_their_topics() {
        let prefix = TopicPrefix::new(&Name::new("bench").expect("a name"));
        let kind = |rest: &str| Kind::of(&prefix, &format!("microlambda/bench/{rest}"));
        assert_eq!(kind("chain/c/continuation"), Kind::State);
        assert_eq!(kind("sync/a/have"), Kind::State);
        assert_eq!(kind("camera/door/frame/a"), Kind::Frames);
        assert_eq!(kind("chain/c/claim"), Kind::Rest);
        assert_eq!(Kind::of(&prefix, "elsewhere"), Kind::Rest);
    }
}
