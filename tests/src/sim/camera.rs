//! A camera: the real [`Audience`] over a spool's double.

use std::collections::BTreeMap;

use camera_agent::audience::{Answer, Audience, Release};
use camera_agent::spool::{empty_manifest, next_manifest};
use microlambda::Digest;
use microlambda_runtime::Message;
use microlambda_wire::{
    CameraHead, ChainClass, EndMark, FrameMeta, GapReason, Name, NodeStatus, Payload, Record, RecordNote, Topic,
    TopicPrefix, Want, from_payload, to_payload, write_frame_meta,
};

use super::Sabotage;
use super::truth;

/// The head is repeated this often, µs.
const HEAD_US: u64 = 5_000_000;
/// A batch head is said at most this often, µs.
const HEAD_PAUSE_US: u64 = 100_000;
/// The camera looks around this often, µs.
const TICK_US: u64 = 1_000_000;

/// What survives a power cut of the camera.
#[derive(Debug, Clone)]
struct Spool {
    /// Each with the number of its picture, if it is a frame.
    records: BTreeMap<u64, (Record, Option<u64>)>,
    next: u64,
    sent_mark: u64,
    manifest: Digest,
    end: Option<EndMark>,
}

/// A simulated camera agent.
pub struct SimCamera {
    /// Its place among the cameras.
    pub index: usize,
    /// Its name.
    pub name: Name,
    /// Its chain.
    pub chain: Name,
    /// Live or batch.
    pub class: ChainClass,
    prefix: TopicPrefix,
    spool: Spool,
    /// A spool that lies: what it held before what is not synced.
    unsynced: Option<Spool>,
    frames_max: usize,
    audience: Audience,
    /// Pictures taken so far.
    pub taken: u64,
    /// Pictures it will take.
    pub to_take: u64,
    /// Live frames that found no room.
    pub dropped: u64,
    head_said: Option<(CameraHead, u64)>,
    /// The most that any node said to have committed.
    committed: u64,
    released: Option<Release>,
    sabotage: Option<Sabotage>,
}

impl SimCamera {
    /// A camera with an empty spool.
    pub fn new(index: usize, class: ChainClass, to_take: u64, frames_max: usize, sabotage: Option<Sabotage>) -> Self {
        let name = super::name(&format!("camera-{index}"));
        let chain = super::name(&format!("camera-{index}-spool"));
        Self {
            index,
            audience: Audience::new(chain.clone(), 0),
            prefix: super::prefix(),
            name,
            chain,
            class,
            spool: Spool { records: BTreeMap::new(), next: 0, sent_mark: 0, manifest: empty_manifest(), end: None },
            unsynced: None,
            frames_max,
            taken: 0,
            to_take,
            dropped: 0,
            head_said: None,
            committed: 0,
            released: None,
            sabotage,
        }
    }

    /// One more than the newest record.
    pub fn next(&self) -> u64 {
        self.spool.next
    }

    /// The oldest record held.
    pub fn oldest(&self) -> u64 {
        self.spool.records.keys().next().copied().unwrap_or(self.spool.next)
    }

    /// Frames held.
    pub fn held(&self) -> usize {
        self.spool.records.values().filter(|(_, picture)| picture.is_some()).count()
    }

    /// Frames it may hold.
    pub fn frames_max(&self) -> usize {
        self.frames_max
    }

    /// Whether everything was taken.
    pub fn has_ended(&self) -> bool {
        self.taken >= self.to_take && (self.class == ChainClass::Live || self.spool.end.is_some())
    }

    /// The process dies and starts again: only the spool is left.
    pub fn restart(&mut self, now_us: u64) {
        if let Some(before) = self.unsynced.take() {
            self.spool = before;
        }
        self.audience = Audience::new(self.chain.clone(), now_us / 1_000);
        self.head_said = None;
    }

    /// Takes the next picture. False if a finite input has to wait for room.
    pub fn take_picture(&mut self, now_us: u64) -> bool {
        if self.has_ended() {
            return true;
        }
        if self.sabotage == Some(Sabotage::ReuseNumbers) {
            self.unsynced = Some(self.spool.clone());
        }
        if self.taken >= self.to_take {
            let count = self.spool.next;
            let end = EndMark { count, manifest: self.spool.manifest };
            self.spool.records.insert(count, (Record::End { count, manifest: end.manifest }, None));
            self.spool.next += 1;
            self.spool.end = Some(end);
            return true;
        }
        if self.held() >= self.frames_max && !self.make_room() {
            self.dropped += u64::from(self.class == ChainClass::Live);
            self.taken += u64::from(self.class == ChainClass::Live);
            return self.class == ChainClass::Live;
        }
        let number = self.taken;
        self.taken += 1;
        let digest = Digest::of(&truth::jpeg(self.index, number));
        self.spool.manifest = next_manifest(self.spool.manifest, digest);
        let record = Record::Frame {
            captured_at_ms: 1_000 + now_us / 1_000,
            digest,
            label: format!("{number:03}"),
            moved: None,
        };
        self.spool.records.insert(self.spool.next, (record, Some(number)));
        self.spool.next += 1;
        true
    }

    /// Turns the oldest frame that was never sent into a gap.
    fn make_room(&mut self) -> bool {
        if self.class == ChainClass::Batch {
            return false;
        }
        let mark = if self.sabotage == Some(Sabotage::GapOverSent) { 0 } else { self.spool.sent_mark };
        let oldest = self.spool.records.range(mark..).find(|(_, (_, picture))| picture.is_some());
        let Some((&sequence, _)) = oldest else { return false };
        self.spool.records.remove(&sequence);
        let before = self.spool.records.range_mut(mark..sequence).next_back();
        match before {
            Some((start, (Record::Gap { count, .. }, _))) if *start + *count == sequence => *count += 1,
            _ => {
                let gap = Record::Gap { count: 1, reason: GapReason::SpoolFull };
                self.spool.records.insert(sequence, (gap, None));
            }
        }
        true
    }

    /// The results of released frames are lost with all nodes that held them: a restart stands for these numbers, whatever is still held of them.
    pub fn write_restart(&mut self, sequence: u64, count: u64, generation: u32) {
        self.spool.records.retain(|at, _| !(sequence..sequence + count).contains(at));
        self.spool.records.insert(sequence, (Record::Restart { count, generation }, None));
    }

    /// What was freed at the last tick.
    pub fn take_release(&mut self) -> Option<Release> {
        self.released.take()
    }

    /// The connection is there.
    pub fn on_connected(&mut self, now_us: u64) {
        self.head_said = None;
        self.audience.on_connected(now_us / 1_000);
    }

    /// The connection is lost.
    pub fn on_disconnected(&mut self) {
        self.audience.on_disconnected();
    }

    /// Takes a message from the bus.
    pub fn on_message(&mut self, message: &Message, now_us: u64) {
        let now_ms = now_us / 1_000;
        match Topic::parse(&self.prefix, &message.topic) {
            Ok(Topic::CameraWant { .. }) => {
                let want = from_payload::<Want>(&message.payload).ok();
                self.committed = self.committed.max(want.as_ref().map_or(0, |want| want.committed));
                if let Some(want) = want
                    && self.audience.on_want(&want, self.oldest()..self.spool.next, now_ms) == Answer::Announce
                {
                    self.head_said = None;
                }
            }
            Ok(Topic::NodeStatus { node }) => {
                if let Ok(status) = from_payload::<NodeStatus>(&message.payload) {
                    self.audience.on_status(&node, status.online, now_ms);
                }
            }
            _ => {}
        }
    }

    /// Frees, serves and announces what is due; what it says, and when to look again.
    pub fn tick(&mut self, now_us: u64) -> (Vec<Message>, u64) {
        let now_ms = now_us / 1_000;
        let mut out = Vec::new();
        if self.class == ChainClass::Live {
            self.audience.on_spool((1_000 * self.held() / self.frames_max) as u64);
        }
        let mut release = self.audience.release(now_ms);
        if self.sabotage == Some(Sabotage::FreeOnOne) {
            release = Some(Release { below: self.committed, on_one: false });
        }
        if let Some(release) = release.filter(|release| release.below > self.oldest()) {
            self.released = Some(release);
            let freed: Vec<u64> = self
                .spool
                .records
                .iter()
                .take_while(|(sequence, (record, _))| *sequence + record.span() <= release.below)
                .map(|(sequence, _)| *sequence)
                .collect();
            for sequence in freed {
                self.spool.records.remove(&sequence);
            }
        }
        while let Some((node, asked)) = self.audience.next_read(self.spool.next, now_ms) {
            let found = self.spool.records.range(..=asked).next_back();
            let found = found.filter(|(sequence, (record, _))| *sequence + record.span() > asked);
            let Some((&sequence, (record, picture))) = found.map(|(at, kept)| (at, kept.clone())) else {
                self.audience.not_held(&node, asked);
                self.head_said = None;
                continue;
            };
            let last = sequence + record.span() - 1;
            if last >= self.spool.sent_mark {
                self.spool.sent_mark = last + 4;
            }
            if self.audience.sent(&node, asked, last + 1) {
                out.extend(self.record(node, sequence, record, picture));
            }
        }
        let head = self.head();
        let pause_us = if self.class == ChainClass::Live { 0 } else { HEAD_PAUSE_US };
        let due_us = match &self.head_said {
            None => now_us,
            Some((said, at_us)) => at_us + if *said == head { HEAD_US } else { pause_us },
        };
        if due_us <= now_us {
            out.push(self.message(&Topic::CameraHead { camera: self.name.clone() }, &head, true));
            self.head_said = Some((head, now_us));
            return (out, now_us + TICK_US);
        }
        (out, due_us.min(now_us + TICK_US))
    }

    fn head(&self) -> CameraHead {
        CameraHead {
            camera: self.name.clone(),
            chain: self.chain.clone(),
            class: self.class,
            oldest: self.oldest(),
            next: self.spool.next,
            end: self.spool.end,
        }
    }

    fn record(&self, node: Name, sequence: u64, record: Record, picture: Option<u64>) -> Option<Message> {
        let camera = self.name.clone();
        match (record, picture) {
            (Record::Frame { captured_at_ms, digest, label, moved }, Some(number)) => {
                let meta = FrameMeta {
                    v: 1,
                    camera: camera.clone(),
                    boot: super::name("boot"),
                    chain: self.chain.clone(),
                    sequence,
                    captured_at_ms,
                    digest,
                    label,
                    moved,
                };
                let payload = write_frame_meta(&truth::jpeg(self.index, number), &meta).ok()?;
                let topic = Topic::CameraFrame { camera, node }.build(&self.prefix);
                Some(Message { topic, payload, retain: false })
            }
            (record, _) => {
                let note = RecordNote { chain: self.chain.clone(), sequence, record };
                Some(self.message(&Topic::CameraRecord { camera, node }, &note, false))
            }
        }
    }

    fn message<T: Payload>(&self, topic: &Topic, payload: &T, retain: bool) -> Message {
        let payload = to_payload(payload).expect("a payload within its bounds");
        Message { topic: topic.build(&self.prefix), payload, retain }
    }
}
