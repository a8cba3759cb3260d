//! A broker that keeps no promise: it loses, repeats, delays and reorders for each subscriber, and forgets what it retained.

use std::collections::BTreeMap;
use std::rc::Rc;

use microlambda_runtime::Message;

use super::random::Random;

/// How badly it behaves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manners {
    /// Deliveries lost, of 1000.
    pub lost_permille: u64,
    /// Deliveries repeated, of 1000.
    pub repeated_permille: u64,
    /// Deliveries that take up to a hundred times as long, of 1000.
    pub late_permille: u64,
    /// An ordinary delivery takes up to this, µs.
    pub delay_us_max: u64,
}

/// Who is on the bus: its place in [`Bus::clients`].
pub type ClientId = usize;

/// A message on its way to one subscriber.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// To whom.
    pub to: ClientId,
    /// In which session of the subscriber; it is void in another one.
    pub session: u32,
    /// What.
    pub message: Rc<Message>,
    /// Whether it was kept from before the subscription.
    pub retained: bool,
    /// When it arrives, µs.
    pub at_us: u64,
}

/// A client.
#[derive(Debug, Clone)]
pub struct Client {
    filters: Vec<Vec<String>>,
    /// Whether it is connected.
    pub connected: bool,
    /// Raised by each connection.
    pub session: u32,
    will: Option<Rc<Message>>,
}

/// The broker.
#[derive(Debug, Default)]
pub struct Bus {
    /// Everybody that was ever connected.
    pub clients: Vec<Client>,
    retained: BTreeMap<String, Rc<Message>>,
    /// How it behaves at the moment.
    pub manners: Manners,
    /// Deliveries lost and repeated so far.
    pub faults: u64,
}

impl Bus {
    /// A client, not connected.
    pub fn add(&mut self, filters: &[String]) -> ClientId {
        let filters = filters.iter().map(|filter| filter.split('/').map(str::to_owned).collect()).collect();
        self.clients.push(Client { filters, connected: false, session: 0, will: None });
        self.clients.len() - 1
    }

    /// A client connects and is given what is retained.
    pub fn connect(&mut self, id: ClientId, will: Option<Message>, now_us: u64, random: &mut Random) -> Vec<Delivery> {
        let client = &mut self.clients[id];
        client.connected = true;
        client.session += 1;
        client.will = will.map(Rc::new);
        let wanted: Vec<Rc<Message>> =
            self.retained.values().filter(|message| self.clients[id].wants(&message.topic)).cloned().collect();
        wanted.into_iter().flat_map(|message| self.deliver(id, &message, true, now_us, random)).collect()
    }

    /// A client's connection ends; `cleanly` without its will.
    pub fn disconnect(&mut self, id: ClientId, cleanly: bool, now_us: u64, random: &mut Random) -> Vec<Delivery> {
        let client = &mut self.clients[id];
        client.connected = false;
        match client.will.take().filter(|_| !cleanly) {
            Some(will) => self.publish(&will, now_us, random),
            None => Vec::new(),
        }
    }

    /// The broker restarts: everybody is gone, and with it all that it kept.
    pub fn forget(&mut self) {
        self.retained.clear();
        for client in &mut self.clients {
            client.connected = false;
            client.will = None;
        }
    }

    /// A message arrives at the broker.
    pub fn publish(&mut self, message: &Rc<Message>, now_us: u64, random: &mut Random) -> Vec<Delivery> {
        if message.retain {
            if message.payload.is_empty() {
                self.retained.remove(&message.topic);
            } else {
                self.retained.insert(message.topic.clone(), message.clone());
            }
        }
        let subscribers: Vec<ClientId> = (0..self.clients.len())
            .filter(|id| self.clients[*id].connected && self.clients[*id].wants(&message.topic))
            .collect();
        subscribers.into_iter().flat_map(|id| self.deliver(id, message, false, now_us, random)).collect()
    }

    fn deliver(
        &mut self,
        to: ClientId,
        message: &Rc<Message>,
        retained: bool,
        now_us: u64,
        random: &mut Random,
    ) -> Vec<Delivery> {
        let manners = self.manners;
        let copies = if random.permille(manners.lost_permille) {
            0
        } else {
            1 + usize::from(random.permille(manners.repeated_permille))
        };
        self.faults += u64::from(copies != 1);
        let session = self.clients[to].session;
        (0..copies)
            .map(|_| {
                let factor = if random.permille(manners.late_permille) { random.between(1, 100) } else { 1 };
                let delay_us = 100 + random.below(manners.delay_us_max.max(1)) * factor;
                Delivery { to, session, message: message.clone(), retained, at_us: now_us + delay_us }
            })
            .collect()
    }
}

impl Client {
    fn wants(&self, topic: &str) -> bool {
        self.filters.iter().any(|filter| {
            let mut levels = topic.split('/');
            filter.iter().all(|level| levels.next().is_some_and(|found| level == "+" || level == found))
                && levels.next().is_none()
        })
    }
}
