//! Events on their way to the bus: published by the node that committed them, or by whoever notices that nobody did.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use microlambda_wire::{EventNote, Name, Topic};

use super::{Node, NodeError, World};
use crate::store::{EVENTS_MAX, Store};

/// Events, and pictures, noted at most before they are written.
const NOTES_MAX: usize = 256;
/// Notes are written after this, µs: one sync for many.
const NOTES_US: u64 = 2_000_000;
/// Events waited for at most; the rest stays in the store and is loaded when these are done with.
const WAITING_MAX: usize = 2_048;
/// Events published in a peer's place at once: the connection takes so many with their faces.
const RESCUES_MAX: usize = 64;
/// Ids remembered to recognise repeats, and news that comes before its state.
const RECENT_MAX: usize = 2_048;

/// What this node knows of events and the bus.
pub(super) struct EventBook {
    /// Committed here and not yet seen on the bus: with the time at which this node publishes them itself, µs.
    waiting: BTreeMap<String, (EventNote, u64)>,
    /// Whether the store may hold more of them.
    more_stored: bool,
    /// Seen on the bus lately.
    recent: VecDeque<String>,
    /// Seen on the bus, not yet noted in the store.
    seen: Vec<String>,
    /// Pictures from the bus, not yet in the store.
    thumbnails: Vec<(String, Vec<u8>)>,
    notes_at_us: u64,
}

impl EventBook {
    pub fn new(stored: Vec<EventNote>, now_us: u64) -> Self {
        let mut book = Self {
            waiting: BTreeMap::new(),
            more_stored: false,
            recent: VecDeque::new(),
            seen: Vec::new(),
            thumbnails: Vec::new(),
            notes_at_us: u64::MAX,
        };
        book.load(stored, now_us);
        book
    }

    /// Takes what the store holds. These events may have been published, so peers' word is heard first.
    fn load(&mut self, stored: Vec<EventNote>, now_us: u64) {
        self.more_stored = stored.len() >= EVENTS_MAX;
        let at_us = now_us.saturating_add(NOTES_US);
        self.waiting.extend(stored.into_iter().map(|event| (event.id.to_string(), (event, at_us))));
    }

    /// When [`Node::book_tick`] has something to do, µs; without the bus nothing can be published, however long it is due.
    pub fn deadline_us(&self, connected: bool) -> u64 {
        let publish_us = self.waiting.values().map(|(_, at_us)| *at_us).min().filter(|_| connected);
        publish_us.unwrap_or(u64::MAX).min(self.notes_at_us)
    }

    /// An event was committed here; it is published at `at_us` unless seen before then, or already.
    pub fn expect(&mut self, event: EventNote, now_us: u64, at_us: u64) {
        if self.recent.iter().any(|id| id == event.id.as_str()) {
            self.note_on_bus(&event, now_us);
        } else if self.waiting.len() < WAITING_MAX {
            self.waiting.insert(event.id.to_string(), (event, at_us));
        } else {
            self.more_stored = true;
        }
    }

    /// Notes that an event was seen on the bus.
    pub fn note_on_bus(&mut self, event: &EventNote, now_us: u64) {
        self.seen.push(event.id.to_string());
        self.notes_at_us = self.notes_at_us.min(now_us.saturating_add(NOTES_US));
    }

    /// Waits no longer for the events of which `is_none` is true.
    pub fn forget(&mut self, is_none: impl Fn(&EventNote) -> bool) {
        self.waiting.retain(|_, (event, _)| !is_none(event));
    }

    /// Those of a chain's events in these records that nobody has published, as far as is known here.
    pub fn unpublished(&self, chain: &Name, records: Range<u64>) -> impl Iterator<Item = Name> {
        let events = self.waiting.values().map(|(event, _)| event);
        events
            .filter(move |event| event.chain == *chain && records.contains(&event.sequence))
            .map(|event| event.id.clone())
    }

    /// Keeps a picture of `face` from the bus until it is written, the first one of each; false if there is no room.
    pub fn keep_thumbnail(&mut self, face: &str, jpeg: &[u8], now_us: u64) -> bool {
        if self.thumbnails.iter().any(|(known, _)| known == face) {
            return true;
        }
        let has_room = self.thumbnails.len() < NOTES_MAX;
        if has_room {
            self.thumbnails.push((face.to_owned(), jpeg.to_vec()));
            self.notes_at_us = self.notes_at_us.min(now_us.saturating_add(NOTES_US));
        }
        has_room
    }

    /// Whether as much is noted as is written at once.
    fn is_full(&self) -> bool {
        self.seen.len().max(self.thumbnails.len()) >= NOTES_MAX
    }
}

impl<S: Store, W: World> Node<S, W> {
    /// An event was seen on the bus, from whichever node.
    pub(super) fn event_on_bus(&mut self, event: &EventNote) {
        let book = &mut self.book;
        if book.recent.iter().any(|id| id == event.id.as_str()) {
            self.counters.event_repeats += 1;
            return;
        }
        if book.recent.len() >= RECENT_MAX {
            book.recent.pop_front();
        }
        book.recent.push_back(event.id.to_string());
        // One that found no place among those waited for is waited for by the store.
        if book.waiting.remove(event.id.as_str()).is_some() || book.more_stored {
            book.note_on_bus(event, self.world.now_us());
        }
    }

    pub(super) fn book_tick(&mut self, now_us: u64) -> Result<(), NodeError> {
        if self.world.is_connected() && self.is_settled() {
            let again_us = now_us.saturating_add(self.lease_us());
            let mut due = Vec::new();
            let is_due = |(_, at_us): &&mut (EventNote, u64)| *at_us <= now_us;
            for (event, at_us) in self.book.waiting.values_mut().filter(is_due).take(RESCUES_MAX) {
                *at_us = again_us;
                due.push(event.clone());
            }
            if !due.is_empty() {
                // Pictures that came from the bus belong to these faces.
                self.write_notes()?;
            }
            for event in due {
                self.counters.events_rescued += 1;
                self.publish(&Topic::Event, &event, false);
                self.publish_new_face(&event)?;
            }
        }
        if self.book.notes_at_us <= now_us || self.book.is_full() {
            self.write_notes()?;
        }
        if self.book.more_stored && self.book.waiting.is_empty() {
            self.write_notes()?;
            self.book.load(self.store.events_not_on_bus()?, now_us);
        }
        Ok(())
    }

    pub(super) fn write_notes(&mut self) -> Result<(), NodeError> {
        let (seen, thumbnails) = (std::mem::take(&mut self.book.seen), std::mem::take(&mut self.book.thumbnails));
        self.book.notes_at_us = u64::MAX;
        if !seen.is_empty() || !thumbnails.is_empty() {
            self.store.note_bus(&seen, &thumbnails)?;
        }
        Ok(())
    }

    /// `r_limit` and grace: how long others are given before this node acts for them, µs.
    pub(super) fn lease_us(&self) -> u64 {
        (self.config.chain.r_limit_ms.min(60_000) + self.config.chain.grace_ms) * 1_000
    }
}
