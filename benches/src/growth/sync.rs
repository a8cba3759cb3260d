//! A peer that lacks a chain's last steps, brought up to date by a node: the agents' own code, without processes and bus.

use std::path::Path;
use std::time::Instant;

use edge_agent::config::Config;
use edge_agent::node::{Node, World};
use edge_agent::store::{Room, SqliteStore};
use microlambda::Head;
use microlambda_faces::proto::ToWorker;
use microlambda_runtime::{LinkCounters, Message, PublishError};
use microlambda_wire::{Continuation, Name, Topic, TopicPrefix, from_payload};

use crate::{Error, since};

/// The bus goes back and forth at most so often before the peer must have come to the same.
const ROUNDS_MAX: usize = 16;

/// A bus that keeps what is said until somebody takes it; no worker ever comes up.
struct Desk {
    began: Instant,
    said: Vec<Message>,
}

impl World for Desk {
    fn now_us(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    fn is_connected(&self) -> bool {
        true
    }

    fn publish(&mut self, message: Message) -> Result<(), PublishError> {
        self.said.push(message);
        Ok(())
    }

    fn queued(&self) -> usize {
        self.said.len()
    }

    fn bus_counters(&self) -> LinkCounters {
        LinkCounters::default()
    }

    fn spawn_worker(&mut self, _incarnation: u64) -> Result<(), String> {
        Ok(())
    }

    fn send_to_worker(&mut self, _message: &ToWorker) -> bool {
        false
    }

    /// There is none.
    fn worker_waited_us(&self) -> u64 {
        0
    }

    /// Nobody looks at how full the disk is.
    fn room(&self) -> Option<Room> {
        None
    }

    fn kill_worker(&mut self) {}

    fn show_status(&mut self, _line: &str) {}
}

/// A node on a database, and how others hear it.
struct Party {
    node: Node<SqliteStore, Desk>,
    prefix: TopicPrefix,
}

impl Party {
    fn open(name: &str, state: &Path) -> Result<Self, Error> {
        let mut config = Config::defaults()?;
        config.node = Some(Name::new(name)?);
        let prefix = TopicPrefix::new(&config.site);
        let desk = Desk { began: Instant::now(), said: Vec::new() };
        Ok(Self { node: Node::open(config, Name::new("boot")?, SqliteStore::open(state)?, desk)?, prefix })
    }

    /// What it has said since it was last asked, as far as it is `wanted`.
    fn take(&mut self, wanted: impl Fn(&Topic) -> bool) -> Vec<Message> {
        let prefix = self.prefix.clone();
        let mut said = std::mem::take(&mut self.node.world().said);
        said.retain(|message| Topic::parse(&prefix, &message.topic).is_ok_and(|topic| wanted(&topic)));
        said
    }

    /// Hears messages; their payloads' bytes.
    fn hear(&mut self, messages: &[Message]) -> Result<u64, Error> {
        for message in messages {
            self.node.on_message(&message.topic, &message.payload, false)?;
        }
        Ok(messages.iter().map(|message| message.payload.len() as u64).sum())
    }

    /// Has it announce what it holds.
    fn announce(&mut self) -> Result<Vec<Message>, Error> {
        self.node.on_connected()?;
        Ok(self.take(|topic| matches!(topic, Topic::Continuation { .. })))
    }
}

/// Lets the node of one folder announce its head to the node of the other until both hold the same: ms and bytes.
///
/// # Errors
/// A database cannot be used, or the peer does not come to the same.
pub(super) fn bring_up_to_date(holder: &Path, peer: &Path) -> Result<(f64, u64), Error> {
    let (mut holder, mut peer) = (Party::open("holder", holder)?, Party::open("peer", peer)?);
    let announced = holder.announce()?;
    let start = Instant::now();
    let mut bytes = peer.hear(&announced)?;
    for _ in 0..ROUNDS_MAX {
        let wants = peer.take(|topic| matches!(topic, Topic::SyncWant { .. }));
        if wants.is_empty() {
            break;
        }
        bytes += holder.hear(&wants)?;
        let haves = holder.take(|topic| matches!(topic, Topic::SyncHave { .. }));
        bytes += peer.hear(&haves)?;
    }
    let took_ms = since(start);
    let (held, reached) = (head(&announced)?, head(&peer.announce()?)?);
    if held == reached {
        Ok((took_ms, bytes))
    } else {
        Err(format!("the peer came to {reached:?}, not {held:?}").into())
    }
}

fn head(announced: &[Message]) -> Result<Head, Error> {
    let message = announced.first().ok_or("nothing was announced")?;
    Ok(from_payload::<Continuation>(&message.payload)?.head)
}
