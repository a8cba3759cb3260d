//! What a node knows of a finite chain ahead of its cursor: analyses that are here, who works on what, and its own invocation.
//!
//! All of it is in memory. Nothing refers to an analysis ahead before it is folded, and whoever hears of one hears all of it: so
//! if it is lost, its frame is analysed again, and nothing else happens. A sync for each would cost more than that.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use microlambda::fanout::Fanout;
use microlambda_faces::content::{Ahead, DELTA_BYTES_MAX, Entry, to_bytes};
use microlambda_faces::{FaceAt, Partial, Thumbnail};

use super::invocation::Invocation;

/// Analyses kept per chain at most, bytes: as many as frames in the buffer.
const HELD_BYTES_MAX: usize = 6 << 20;
/// … and by number. Further ahead than this nothing is taken.
pub(super) const HELD_LEN_MAX: u64 = 512;
/// Content of one message at most, bytes; a single analysis may be larger, and is at most some 200 KB.
const PART_BYTES_MAX: usize = 128 << 10;
/// What goes along with each picture of a face, at most.
const PICTURE_OVERHEAD_BYTES: usize = 24;
/// Records that a node takes at once until it knows how long one takes, and at most: what peers wait for is not far off.
const BATCH_FIRST: u64 = 4;
const BATCH_MAX: u64 = 16;
/// After an invocation that came to nothing the next one waits so long, doubled each time, µs.
const PAUSE_US: u64 = 1_000_000;
/// … up to 2 to this power.
const PAUSE_DOUBLINGS_MAX: u32 = 6;

/// Pictures of a frame's faces, each with the face's index.
pub(super) type Thumbnails = Vec<(u32, Vec<u8>)>;

/// An analysis that is here and not folded yet.
struct Held {
    entry: Entry,
    thumbnails: Thumbnails,
    bytes: usize,
    /// Made here, and not told yet.
    unsaid: bool,
}

/// A frame whose analysis an invocation has begun.
pub(super) struct Begun {
    pub sequence: u64,
    /// Its state, if a unit is done.
    pub partial: Option<Partial>,
    pub thumbnails: Thumbnails,
}

/// An invocation that works ahead.
pub(super) struct AheadRun {
    pub invocation: Invocation,
    pub records: Range<u64>,
    /// Pictures of the first frame that is not finished.
    pub thumbnails: Thumbnails,
    pub told_to_stop: bool,
    /// Frames finished.
    pub finished: u64,
}

/// How an invocation ahead ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AheadEnd {
    /// By its limit, or for lack of frames: what is begun goes on in the next one.
    Finished,
    /// It only got ready what its next unit needs.
    Prepared,
    /// Its frames did not come.
    NoInput,
    /// Its unit is too large for this node, failed, or had to be killed: the frame is left to the chain's own order.
    Failed,
}

/// See the module's text.
#[derive(Default)]
pub(super) struct AheadOf {
    /// Who works on what.
    pub fanout: Fanout,
    pub run: Option<AheadRun>,
    begun: Option<Begun>,
    held: BTreeMap<u64, Held>,
    held_bytes: usize,
    /// Frames that this node leaves to the chain's own order.
    left: BTreeSet<u64>,
    /// The frame that the last invocation only prepared.
    prepared: Option<u64>,
    /// Whether the chain has moved since it was opened. A unit that takes the computer down leaves no trace ahead of the chain: so
    /// a node that came back waits until it sees that others get on.
    moved: bool,
    not_before_us: u64,
    /// Invocations in a row that came to nothing.
    fruitless: u32,
    /// What a frame took lately, µs; 0 if nothing is known.
    frame_us: u64,
    /// Whether peers believe that this node works on something.
    announced: bool,
}

impl AheadOf {
    /// Whether the analysis of a record is here.
    pub fn holds(&self, sequence: u64) -> bool {
        self.held.contains_key(&sequence)
    }

    /// Whether this node has nothing to do about a record ahead of the chain.
    pub fn is_closed(&self, sequence: u64) -> bool {
        self.held.contains_key(&sequence) || self.left.contains(&sequence)
    }

    /// Whether an invocation here works on a record, or will come to it.
    pub fn is_at(&self, sequence: u64) -> bool {
        self.run.as_ref().is_some_and(|run| run.invocation.is_running() && run.records.contains(&sequence))
    }

    /// Hands out what an invocation has begun of a frame, for the step whose turn it is.
    pub fn take_begun(&mut self, sequence: u64) -> Option<Begun> {
        self.begun.take_if(|begun| begun.sequence == sequence)
    }

    /// The first number from `sequence` on whose analysis is not here.
    pub fn first_not_held(&self, sequence: u64) -> u64 {
        (sequence..).find(|at| !self.holds(*at)).unwrap_or(sequence)
    }

    /// Keeps an analysis, unless it is known or there is no room for it.
    pub fn hold(&mut self, entry: Entry, thumbnails: Thumbnails, own: bool) {
        let Ok(encoded) = to_bytes(&entry) else { return };
        let bytes = encoded.len() + thumbnails.iter().map(|(_, jpeg)| jpeg.len()).sum::<usize>();
        let sequence = entry.sequence;
        if self.holds(sequence) {
            return;
        }
        // What is folded first is of most use.
        while self.held.len() as u64 >= HELD_LEN_MAX || self.held_bytes + bytes > HELD_BYTES_MAX {
            match self.held.last_key_value() {
                Some((&last, _)) if last > sequence => drop(self.take(last)),
                _ => return,
            }
        }
        self.held_bytes += bytes;
        self.held.insert(sequence, Held { entry, thumbnails, bytes, unsaid: own });
        if self.begun.as_ref().is_some_and(|begun| begun.sequence == sequence) {
            self.begun = None;
        }
    }

    /// Hands an analysis out to be folded, with pictures of its faces.
    pub fn take(&mut self, sequence: u64) -> Option<(Entry, Thumbnails)> {
        let held = self.held.remove(&sequence)?;
        self.held_bytes = self.held_bytes.saturating_sub(held.bytes);
        Some((held.entry, held.thumbnails))
    }

    /// The chain has come to `boundary`: forgets what is behind it.
    pub fn moved_to(&mut self, boundary: u64) {
        self.moved = true;
        self.held = self.held.split_off(&boundary);
        self.held_bytes = self.held.values().map(|held| held.bytes).sum();
        self.left = self.left.split_off(&boundary);
        self.begun = self.begun.take().filter(|begun| begun.sequence >= boundary);
    }

    /// Whether this node may work ahead now. `at_start` says that the chain has folded nothing yet.
    pub fn may_begin(&self, at_start: bool, now_us: u64) -> bool {
        (self.moved || at_start) && self.run.is_none() && self.not_before_us <= now_us
    }

    /// Records that one invocation gets through, and some more: it is to end by its limit, with the next one's first frames here.
    pub fn batch(&self, r_limit_us: u64) -> u64 {
        match self.frame_us {
            0 => BATCH_FIRST,
            frame_us => (r_limit_us.saturating_mul(5) / 4 / frame_us).saturating_add(1).min(BATCH_MAX),
        }
    }

    /// An invocation of `used_us` has finished so many frames.
    pub fn learn(&mut self, frames: u64, used_us: u64) {
        if let Some(frame_us) = used_us.checked_div(frames) {
            let former_us = if self.frame_us == 0 { frame_us } else { self.frame_us };
            self.frame_us = (former_us - former_us / 4 + frame_us / 4).max(1);
        }
    }

    /// The frame to go on with.
    pub fn begun(&self) -> Option<u64> {
        self.begun.as_ref().map(|begun| begun.sequence)
    }

    /// Begins an invocation on these records.
    pub fn begin(&mut self, id: u64, records: Range<u64>, now_us: u64) {
        let begun = self.begun.take_if(|begun| begun.sequence == records.start);
        let (partial, thumbnails) = begun.map_or((None, Vec::new()), |begun| (begun.partial, begun.thumbnails));
        let invocation = Invocation::new(id, records.start, partial, now_us);
        self.announced = true;
        self.run = Some(AheadRun { invocation, records, thumbnails, told_to_stop: false, finished: 0 });
    }

    /// The invocation has ended.
    pub fn end(&mut self, end: AheadEnd, now_us: u64) {
        let Some(run) = self.run.take() else { return };
        let at = run.invocation.place();
        let again = end == AheadEnd::Prepared && run.finished == 0 && self.prepared == Some(at);
        self.prepared = (end == AheadEnd::Prepared).then_some(at);
        let fails = end == AheadEnd::Failed || again;
        if fails {
            self.left.insert(at);
        } else if run.invocation.partial.is_some() || end == AheadEnd::Prepared {
            self.begun = Some(Begun { sequence: at, partial: run.invocation.partial, thumbnails: run.thumbnails });
        }
        if run.finished > 0 {
            self.fruitless = 0;
        } else if fails || end == AheadEnd::NoInput {
            self.not_before_us = now_us.saturating_add(PAUSE_US << self.fruitless.min(PAUSE_DOUBLINGS_MAX));
            self.fruitless = self.fruitless.saturating_add(1);
        }
    }

    /// This node leaves a record to the chain's own order.
    pub fn leave(&mut self, sequence: u64) {
        self.left.insert(sequence);
    }

    /// What is to be told: the records under way, and finished analyses in parts of a message each. `None` if there is nothing new.
    pub fn news(&mut self, afresh: bool) -> Option<(Range<u64>, Vec<Ahead>)> {
        let records = self.run.as_ref().map_or(0..0, |run| run.records.clone());
        let mut parts: Vec<(usize, Ahead)> = Vec::new();
        for (sequence, held) in self.held.iter_mut().filter(|(_, held)| held.unsaid) {
            held.unsaid = false;
            if parts.last().is_none_or(|(bytes, _)| bytes + held.bytes > PART_BYTES_MAX) {
                parts.push((0, Ahead::default()));
            }
            if let Some((bytes, part)) = parts.last_mut() {
                *bytes += held.bytes - held.thumbnails.iter().map(|(_, jpeg)| jpeg.len()).sum::<usize>();
                part.entries.push(held.entry.clone());
                // Those of a crowd do not all fit, and they are for people only.
                for (face, jpeg) in &held.thumbnails {
                    *bytes += jpeg.len() + PICTURE_OVERHEAD_BYTES;
                    if *bytes <= DELTA_BYTES_MAX {
                        let at = FaceAt { sequence: *sequence, face_index: *face };
                        part.thumbnails.push(Thumbnail { at, jpeg: jpeg.clone() });
                    }
                }
            }
        }
        let over = self.announced && records.is_empty();
        self.announced = !records.is_empty();
        (afresh || over || !parts.is_empty()).then(|| (records, parts.into_iter().map(|(_, part)| part).collect()))
    }

    /// When something is to be done that no message brings about, µs, after `now_us`.
    pub fn deadline_us(&self, now_us: u64) -> u64 {
        let input = self.run.as_ref().and_then(|run| run.invocation.input_deadline_us());
        let pause = Some(self.not_before_us);
        let over = self.fanout.next_end_us(now_us);
        [input, pause, over].into_iter().flatten().filter(|at_us| *at_us > now_us).min().unwrap_or(u64::MAX)
    }
}
