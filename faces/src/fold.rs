//! The fold: analyses, in order, become people and events. Cheap, exact, the same on every node.
//!
//! No BLAS, fixed summation order, IEEE 754 arithmetic only: equal analyses give equal states down to the last bit.

use std::sync::Arc;

use microlambda::{Digest, DigestBuilder, Head, Version};
use microlambda_wire::{EventKind, Record};

use crate::content::{ContentError, Delta, Entry, PartialEntry, to_bytes};
use crate::{Analysis, Encoding, FaceOutcome, FaceParams, FrameAnalysis, Unusable};

/// A chain knows at most so many people: 4096 with five encodings each are 10 MB.
pub const PEOPLE_MAX: usize = 4_096;
/// At most so many encodings of a person are kept.
pub const EXEMPLARS_MAX: usize = 5;
/// A further encoding is kept when it is at least this far from all kept ones: below it shows nothing new.
const NOVELTY_MIN: f64 = 0.3;
/// … and at most this part of the threshold away: near the threshold it may be somebody else's.
const CONFIDENT_PART: f64 = 0.9;

/// One kept encoding of a person.
#[derive(Debug, Clone, PartialEq)]
pub struct Exemplar {
    /// The frame it is from.
    pub sequence: u64,
    /// The face in that frame.
    pub face_index: u32,
    /// 128 values.
    pub encoding: Encoding,
}

/// A person of one chain. Its place in [`Gallery::people`] is its number in digests.
#[derive(Debug, Clone, PartialEq)]
pub struct Person {
    /// The frame in which first seen.
    pub first_sequence: u64,
    /// The face in that frame.
    pub first_face_index: u32,
    /// When first seen, ms since 1970.
    pub first_seen_ms: u64,
    /// When last seen, ms since 1970.
    pub last_seen_ms: u64,
    /// In how many frames.
    pub frames: u64,
    /// Kept encodings, at least one.
    pub exemplars: Vec<Exemplar>,
}

/// The people known so far.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Gallery {
    /// In the order first seen. Shared, so that a fold on trial copies only the people it changes.
    pub people: Vec<Arc<Person>>,
}

/// A face that was matched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sighting {
    /// The face in its frame.
    pub face_index: u32,
    /// Index into [`Gallery::people`].
    pub person: usize,
    /// Distance to the nearest kept encoding; 0 for somebody new.
    pub distance: f64,
    /// Whether the encoding was kept.
    pub kept: bool,
    /// Set if this is to be reported.
    pub event: Option<EventKind>,
}

/// What folding one entry gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Folded {
    /// The state after it.
    pub head: Head,
    /// Faces that were matched, or are new.
    pub sightings: Vec<Sighting>,
    /// Usable faces that nobody matched and that were too weak as evidence for somebody new, or found the gallery full.
    pub unassigned: u32,
    /// Whether the entry is the chain's end.
    pub done: bool,
}

/// The folded state of a chain at a record boundary.
#[derive(Debug, Clone, PartialEq)]
pub struct FoldState {
    params: FaceParams,
    head: Head,
    gallery: Gallery,
}

/// A delta that does not fold to what it says.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FoldError {
    /// It is malformed in itself.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// It starts elsewhere.
    #[error("starts from {found:?}, not from the state at hand {expected:?}")]
    OtherParent {
        /// The state at hand.
        expected: Head,
        /// Where it starts.
        found: Head,
    },
    /// It leads elsewhere: the sender folds differently, or the content was changed on the way.
    #[error(
        "leads to {found:?}, but announces {announced:?}: do both nodes run the same version and [faces] settings?"
    )]
    OtherHead {
        /// What it says.
        announced: Head,
        /// What it gave.
        found: Head,
    },
}

/// Digest of the lambda's identity: nodes that differ in it cannot share a chain.
pub fn lambda_digest(params: &FaceParams) -> Digest {
    DigestBuilder::new("microlambda faces 1")
        .number(params.distance_max.to_bits())
        .number(u64::from(params.face_px_min))
        .number(u64::from(params.sharpness_min.to_bits()))
        .number(u64::from(params.score_min.to_bits()))
        .number(u64::from(params.new_person_score_min.to_bits()))
        .number(params.absence_ms)
        .number(u64::from(params.picture_px_max))
        .finish()
}

/// The id of an event, and of the face if it is the first of one: 32 hexadecimal digits.
pub fn event_id(chain: &str, sequence: u64, face_index: u32) -> String {
    let digest =
        DigestBuilder::new("event").field(chain.as_bytes()).number(sequence).number(u64::from(face_index)).finish();
    digest.short(32)
}

impl FoldState {
    /// The state before the first record. It does not name the chain: equal inputs give equal digests wherever they ran.
    pub fn genesis(params: FaceParams) -> Self {
        Self { params, head: Head::genesis(lambda_digest(&params)), gallery: Gallery::default() }
    }

    /// The state as a store kept it; `head` is at a record boundary.
    pub fn restore(params: FaceParams, head: Head, gallery: Gallery) -> Self {
        Self { params, head, gallery }
    }

    /// Version and digest, at a record boundary.
    pub fn head(&self) -> Head {
        self.head
    }

    /// The people known.
    pub fn gallery(&self) -> &Gallery {
        &self.gallery
    }

    /// Folds one entry.
    ///
    /// # Errors
    /// [`ContentError::OutOfOrder`] or [`ContentError::WrongAnalysis`]; the state is unchanged then.
    pub fn fold(&mut self, entry: &Entry) -> Result<Folded, ContentError> {
        if entry.sequence != self.head.version.sequence {
            return Err(ContentError::OutOfOrder { expected: self.head.version.sequence, got: entry.sequence });
        }
        let analysis_bytes = to_bytes(&entry.analysis)?;
        let (sightings, unassigned, set_aside) = match (&entry.record, &entry.analysis) {
            (Record::Frame { captured_at_ms, .. }, Some(Analysis::Frame(analysis))) => {
                let (sightings, unassigned) = self.fold_frame(entry.sequence, *captured_at_ms, analysis);
                (sightings, unassigned, units_set_aside(analysis))
            }
            (Record::Frame { .. }, Some(Analysis::Unreadable { .. })) => (Vec::new(), 0, 0),
            (Record::Frame { .. }, Some(Analysis::SetAside { .. })) => (Vec::new(), 0, 1),
            (Record::Gap { .. } | Record::End { .. } | Record::Restart { .. }, None) => (Vec::new(), 0, 0),
            _ => return Err(ContentError::WrongAnalysis(entry.sequence)),
        };
        let mut digest = DigestBuilder::new("record")
            .field(&self.head.digest.0)
            .field(&entry.record.canonical_bytes())
            .field(&analysis_bytes);
        for sighting in &sightings {
            digest = digest.number(u64::from(sighting.face_index)).number(sighting.person as u64);
            digest = digest.number(u64::from(sighting.kept));
        }
        let generation = match entry.record {
            Record::Restart { generation, .. } => generation.max(self.head.version.generation),
            Record::Frame { .. } | Record::Gap { .. } | Record::End { .. } => self.head.version.generation,
        };
        let version = Version { generation, sequence: entry.next_sequence(), unit: 0 };
        let set_aside = self.head.set_aside.saturating_add(set_aside);
        self.head = Head { version, digest: digest.finish(), set_aside };
        Ok(Folded { head: self.head, sightings, unassigned, done: matches!(entry.record, Record::End { .. }) })
    }

    /// The head of the state inside the frame that follows.
    ///
    /// # Errors
    /// [`ContentError::OutOfOrder`] if `partial` is of another frame, [`ContentError::WrongAnalysis`] if it is no state of
    /// any picture: nothing could follow it, and a chain that adopted it would stand still.
    pub fn partial_head(&self, partial: &PartialEntry) -> Result<Head, ContentError> {
        if partial.sequence != self.head.version.sequence {
            return Err(ContentError::OutOfOrder { expected: self.head.version.sequence, got: partial.sequence });
        }
        if !partial.partial.is_sound(self.params.picture_px_max) {
            return Err(ContentError::WrongAnalysis(partial.sequence));
        }
        let unit = partial.partial.units();
        let digest = DigestBuilder::new("partial")
            .field(&self.head.digest.0)
            .number(u64::from(unit))
            .field(&to_bytes(&partial.partial)?)
            .finish();
        let faces = partial.partial.faces.iter().filter(|face| is_set_aside(&face.outcome)).count();
        let set_aside = u32::try_from(faces + partial.partial.tiles_set_aside.len()).unwrap_or(u32::MAX);
        let version = Version { unit, ..self.head.version };
        Ok(Head { version, digest, set_aside: self.head.set_aside.saturating_add(set_aside) })
    }

    /// Folds a whole delta and checks that it leads where it says. `self` is at the delta's starting boundary.
    ///
    /// # Errors
    /// [`FoldError`]; the entries before the error are folded by then: restore the state from the store.
    pub fn apply(&mut self, delta: &Delta) -> Result<Vec<Folded>, FoldError> {
        delta.check()?;
        if delta.parent.version.sequence != self.head.version.sequence {
            return Err(FoldError::OtherParent { expected: self.head, found: delta.parent });
        }
        let folded = delta.entries.iter().map(|entry| self.fold(entry)).collect::<Result<Vec<_>, _>>()?;
        let found = match &delta.partial {
            Some(partial) => self.partial_head(partial)?,
            None => self.head,
        };
        if found == delta.head { Ok(folded) } else { Err(FoldError::OtherHead { announced: delta.head, found }) }
    }

    fn fold_frame(&mut self, sequence: u64, captured_at_ms: u64, analysis: &FrameAnalysis) -> (Vec<Sighting>, u32) {
        let mut sightings: Vec<Sighting> = Vec::new();
        let mut unassigned = 0;
        for (face, face_index) in analysis.faces.iter().zip(0_u32..) {
            let FaceOutcome::Encoded(encoding) = &face.outcome else { continue };
            let exemplar = || Exemplar { sequence, face_index, encoding: encoding.clone() };
            let strong = face.seen.score >= self.params.new_person_score_min;
            let nearest = self.gallery.nearest(encoding);
            if let Some((person, distance)) = nearest.filter(|(_, distance)| *distance <= self.params.distance_max) {
                let known = Arc::make_mut(&mut self.gallery.people[person]);
                let absent_ms = captured_at_ms.saturating_sub(known.last_seen_ms);
                let seen_in_frame = sightings.iter().any(|sighting| sighting.person == person);
                let confident = distance <= self.params.distance_max * CONFIDENT_PART;
                let kept = strong && confident && distance >= NOVELTY_MIN && known.exemplars.len() < EXEMPLARS_MAX;
                if kept {
                    known.exemplars.push(exemplar());
                }
                known.last_seen_ms = known.last_seen_ms.max(captured_at_ms);
                known.frames += u64::from(!seen_in_frame);
                let report = absent_ms >= self.params.absence_ms && !seen_in_frame;
                let event = report.then_some(EventKind::Recognised);
                sightings.push(Sighting { face_index, person, distance, kept, event });
            } else if strong && self.gallery.people.len() < PEOPLE_MAX {
                sightings.push(Sighting {
                    face_index,
                    person: self.gallery.people.len(),
                    distance: 0.0,
                    kept: true,
                    event: Some(EventKind::NewFace),
                });
                self.gallery.people.push(Arc::new(Person {
                    first_sequence: sequence,
                    first_face_index: face_index,
                    first_seen_ms: captured_at_ms,
                    last_seen_ms: captured_at_ms,
                    frames: 1,
                    exemplars: vec![exemplar()],
                }));
            } else {
                unassigned += 1;
            }
        }
        (sightings, unassigned)
    }
}

impl Gallery {
    /// The person with the nearest kept encoding, and its distance. Of equal distances the person first seen wins.
    pub fn nearest(&self, encoding: &[f32]) -> Option<(usize, f64)> {
        let mut nearest: Option<(usize, f64)> = None;
        for (person, known) in self.people.iter().enumerate() {
            for exemplar in &known.exemplars {
                let distance = distance(&exemplar.encoding, encoding);
                if nearest.is_none_or(|(_, least)| distance < least) {
                    nearest = Some((person, distance));
                }
            }
        }
        nearest
    }
}

/// Euclidean distance, summed in order in double precision.
pub fn distance(a: &[f32], b: &[f32]) -> f64 {
    let differences = a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b));
    differences.fold(0.0, |sum, difference| sum + difference * difference).sqrt()
}

fn is_set_aside(outcome: &FaceOutcome) -> bool {
    matches!(outcome, FaceOutcome::Unusable(Unusable::SetAside { .. }))
}

fn units_set_aside(analysis: &FrameAnalysis) -> u32 {
    let faces = analysis.faces.iter().filter(|face| is_set_aside(&face.outcome)).count();
    u32::try_from(faces + analysis.tiles_set_aside.len()).unwrap_or(u32::MAX)
}
