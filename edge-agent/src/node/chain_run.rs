//! One chain on this node: the pure machine, the folded state, and the frames and step under way.

use std::collections::BTreeMap;

use microlambda::{Attempt, Chain, Head};
use microlambda_faces::content::{Delta, Entry, PartialEntry};
use microlambda_faces::fold::{FoldState, Folded};
use microlambda_faces::{FaceAt, Thumbnail};
use microlambda_wire::{ChainClass, ChainOrigin, FrameSummary, Name, Record, StepTiming};

use super::ahead_of::AheadOf;
use super::invocation::Invocation;
use super::sync::Staged;

/// Bytes of frames kept per chain at most, of frames that are not larger than a third of it.
const BUFFER_BYTES_MAX: usize = 6 << 20;
/// Larger frames find room for so many: one that the worker is at, the next one, and one on its way.
const LARGE_FRAMES: usize = 3;
/// Records kept per chain at most.
const BUFFER_LEN_MAX: usize = 64;

/// A camera that says nothing for so long is off, or out of reach, µs: its head comes every 5 s.
const SILENT_US: u64 = 15_000_000;

/// Pictures of faces kept per chain until their frames are folded, bytes; of more the oldest go, for they are for people only.
const PICTURE_BYTES_MAX: usize = 4 << 20;

/// A record that arrived and is not folded yet.
pub(super) struct Buffered {
    pub record: Record,
    /// Empty for records that are not frames.
    pub jpeg: Vec<u8>,
}

impl Buffered {
    pub fn is_restart(&self) -> bool {
        matches!(self.record, Record::Restart { .. })
    }
}

/// Content that was folded on trial and waits for the chain's decision.
pub(super) struct Pending {
    pub fold: FoldState,
    pub folded: Vec<Folded>,
    pub delta: Delta,
    pub timing: Option<StepTiming>,
    /// From a peer that holds it for longer: those of its events that are still to be seen on the bus. `None` if all are.
    pub unpublished: Option<Vec<Name>>,
}

/// What the last own commit added, for the continuation.
#[derive(Default)]
pub(super) struct Announcement {
    pub delta: Vec<u8>,
    pub timing: Option<StepTiming>,
    pub frames: Vec<FrameSummary>,
}

/// A step that was started here.
pub(super) struct Step {
    pub attempt: Attempt,
    pub invocation: Invocation,
    /// The boundary it started from.
    pub base: Head,
    pub entries: Vec<Entry>,
    /// When the step could first be claimed, µs.
    pub open_since_us: u64,
    /// Entries whose analyses were here already.
    pub absorbed: u64,
}

impl Step {
    /// The record whose analysis comes next.
    pub fn cursor(&self) -> u64 {
        self.entries.last().map_or(self.base.version.sequence, Entry::next_sequence)
    }
}

/// The node's open wish for frames.
#[derive(Debug, Clone, Copy)]
pub(super) struct OpenWant {
    /// The first record asked for.
    pub start: u64,
    /// One more than the last record asked for.
    pub end: u64,
    /// When the first missing record was first asked for, came to be, or something last arrived, µs.
    pub waits_since_us: u64,
    /// The same, or when it was asked for again, µs.
    pub asked_at_us: u64,
    /// Until when the camera serves it, µs, or [`RUN_OUT`](Self::RUN_OUT).
    pub expires_at_us: u64,
}

impl OpenWant {
    /// It has run out, and is kept for what is on its way: that is not asked for again.
    pub const RUN_OUT: u64 = u64::MAX;

    pub fn has_run_out(&self) -> bool {
        self.expires_at_us == Self::RUN_OUT
    }

    /// Whether a record was asked for, or comes right behind what was.
    pub fn reaches(&self, sequence: u64) -> bool {
        (self.start..=self.end).contains(&sequence)
    }
}

pub(super) struct ChainRun {
    pub chain: Chain,
    pub camera: Name,
    pub class: ChainClass,
    pub fold: FoldState,
    pub partial: Option<PartialEntry>,
    pub step: Option<Step>,
    /// Workers killed in the unit at the head, whatever other units ended in between.
    pub kills_at_head: u32,
    pub pending: Option<Pending>,
    pub ahead: AheadOf,
    /// The beginning of a branch that beats ours only further on, as far as it has come.
    pub staged: Option<Staged>,
    pub announcement: Announcement,
    pub want: Option<OpenWant>,
    /// What the camera was last told to be committed here, and when.
    pub reported: Option<(u64, u64)>,
    /// Whether the store has a row for it: one of which only the name was heard has none yet.
    pub is_stored: bool,
    /// Whether this chain's output was seen on the bus.
    pub done_on_bus: bool,
    /// When the head last moved, µs.
    pub open_since_us: u64,
    /// When its camera last spoke of it, or it moved, µs.
    pub touched_us: u64,
    /// Whether its camera has begun another chain.
    pub is_left: bool,
    /// When it last had the worker and got on, or could not, µs; 0 if never.
    pub worked_at_us: u64,
    /// Frames a step took lately, times 16.
    pub frames_per_step_x16: u64,
    /// How long a frame takes from the camera to here lately, or after the one before it, µs: rises at once, sinks slowly.
    pub frame_us: u64,
    /// Size of the frames lately, bytes: rises at once, sinks slowly.
    frame_bytes: usize,
    /// Pictures of faces that were encoded here. Whoever folds their frame at last, these belong to it.
    pictures: Vec<Thumbnail>,
    buffer: BTreeMap<u64, Buffered>,
    buffer_bytes: usize,
}

impl ChainRun {
    /// Whose chain it is, for peers.
    pub fn origin(&self) -> ChainOrigin {
        ChainOrigin { camera: self.camera.clone(), class: self.class }
    }

    pub fn new(
        chain: Chain,
        camera: Name,
        class: ChainClass,
        fold: FoldState,
        partial: Option<PartialEntry>,
        now_us: u64,
    ) -> Self {
        Self {
            chain,
            camera,
            class,
            fold,
            partial,
            step: None,
            kills_at_head: 0,
            pending: None,
            ahead: AheadOf::default(),
            staged: None,
            announcement: Announcement::default(),
            want: None,
            reported: None,
            is_stored: true,
            done_on_bus: false,
            open_since_us: now_us,
            touched_us: now_us,
            is_left: false,
            worked_at_us: 0,
            frames_per_step_x16: 16,
            frame_us: 0,
            frame_bytes: 0,
            pictures: Vec::new(),
            buffer: BTreeMap::new(),
            buffer_bytes: 0,
        }
    }

    /// The lesser comes first where several want the worker: live chains, each after those that have waited longer, so that a camera that outpaces its
    /// node leaves the others their turn; then batch chains, of which one that has the worker keeps it.
    pub fn turn(&self) -> (ChainClass, u64) {
        match self.class {
            ChainClass::Live => (ChainClass::Live, self.worked_at_us),
            ChainClass::Batch => (ChainClass::Batch, 0),
        }
    }

    /// Whether its next step would wait for a frame that nobody sends: the camera has been silent, and what it said last, which the broker
    /// keeps, need not hold any more.
    pub fn waits_for_silent_camera(&self, now_us: u64) -> bool {
        let at = self.next_step_at();
        let is_silent = self.touched_us.saturating_add(SILENT_US) <= now_us;
        is_silent && !self.chain.is_behind_input() && self.buffered(at).is_none() && !self.ahead.holds(at)
    }

    /// Whether its step has done nothing yet, so that the unit it is at is the one at the head.
    pub fn is_at_head(&self) -> bool {
        self.step.as_ref().is_some_and(|step| {
            let begun = self.partial.as_ref().map(|begun| &begun.partial);
            step.base == self.fold.head() && step.entries.is_empty() && step.invocation.partial.as_ref() == begun
        })
    }

    /// The next record to fold.
    pub fn boundary(&self) -> u64 {
        self.fold.head().version.sequence
    }

    pub fn forget_want(&mut self) {
        self.want = None;
        self.reported = None;
    }

    /// Takes a record that arrived; false if there is no room or no use for it.
    pub fn buffer_insert(&mut self, sequence: u64, record: Record, jpeg: Vec<u8>) -> bool {
        if matches!(record, Record::Restart { .. }) && !self.is_at_work() {
            // What came before of these frames is of a generation that is over.
            let lost = sequence..sequence.saturating_add(record.span());
            let lost: Vec<u64> = self.buffer.range(lost).map(|(&sequence, _)| sequence).collect();
            lost.into_iter().for_each(|sequence| self.buffer_drop(sequence));
        }
        if sequence < self.boundary() || self.buffer.contains_key(&sequence) {
            return false;
        }
        if !jpeg.is_empty() {
            self.frame_bytes = jpeg.len().max(self.frame_bytes - self.frame_bytes / 8);
        }
        if !self.buffer_make_room(sequence, jpeg.len()) {
            return false;
        }
        self.buffer_bytes += jpeg.len();
        self.buffer.insert(sequence, Buffered { record, jpeg });
        true
    }

    /// Makes room by dropping what lies further ahead: a step's next frame must find some, whatever was fetched for later.
    fn buffer_make_room(&mut self, sequence: u64, bytes: usize) -> bool {
        while self.buffer.len() >= BUFFER_LEN_MAX || self.buffer_bytes + bytes > self.buffer_bytes_max() {
            match self.buffer.last_key_value() {
                Some((&last, _)) if last > sequence => self.buffer_drop(last),
                Some(_) => return false,
                None => return true,
            }
        }
        true
    }

    fn buffer_bytes_max(&self) -> usize {
        BUFFER_BYTES_MAX.max(LARGE_FRAMES * self.frame_bytes)
    }

    /// Frames of the present size for which there is room from `sequence` on. Those further ahead give way, those that the worker is at do not.
    pub fn room_at(&self, sequence: u64) -> u64 {
        let fit = (self.buffer_bytes_max() / self.frame_bytes.max(1)).clamp(1, BUFFER_LEN_MAX);
        let kept = self.buffer.range(..sequence).filter(|(_, buffered)| !buffered.jpeg.is_empty()).count();
        fit.saturating_sub(kept) as u64
    }

    /// Whether the worker was given any of what is buffered.
    fn is_at_work(&self) -> bool {
        self.step.as_ref().is_some_and(|step| step.invocation.is_running())
            || self.ahead.run.as_ref().is_some_and(|ahead| ahead.invocation.is_running())
    }

    pub fn buffered(&self, sequence: u64) -> Option<&Buffered> {
        self.buffer.get(&sequence)
    }

    /// The first number from `sequence` on that is neither in the buffer nor analysed.
    pub fn first_missing(&self, sequence: u64) -> u64 {
        let mut missing = sequence;
        loop {
            missing = match self.buffer.get(&missing) {
                Some(buffered) => missing.saturating_add(buffered.record.span()),
                None if self.ahead.holds(missing) => missing.saturating_add(1),
                None => return missing,
            };
        }
    }

    /// Drops a record: a long step would fill the buffer with what it is done with.
    pub fn buffer_drop(&mut self, sequence: u64) {
        if let Some(buffered) = self.buffer.remove(&sequence) {
            self.buffer_bytes = self.buffer_bytes.saturating_sub(buffered.jpeg.len());
        }
    }

    /// Keeps the picture of a face until its frame is folded.
    pub fn keep_picture(&mut self, sequence: u64, face_index: u32, jpeg: Vec<u8>) {
        let at = FaceAt { sequence, face_index };
        self.pictures.retain(|picture| picture.at != at);
        self.pictures.push(Thumbnail { at, jpeg });
        let mut bytes: usize = self.pictures.iter().map(|picture| picture.jpeg.len()).sum();
        while bytes > PICTURE_BYTES_MAX {
            bytes -= self.pictures.remove(0).jpeg.len();
        }
    }

    /// The pictures kept.
    pub fn pictures(&self) -> &[Thumbnail] {
        &self.pictures
    }

    /// Drops what is folded.
    pub fn trim(&mut self) {
        let boundary = self.boundary();
        self.pictures.retain(|picture| picture.at.sequence >= boundary);
        let keep = self.buffer.split_off(&self.boundary());
        self.buffer = keep;
        self.buffer_bytes = self.buffer.values().map(|buffered| buffered.jpeg.len()).sum();
    }
}
