//! The fold: analyses, in order, become people and events. Cheap, exact, the same on every node.
//!
//! No BLAS, fixed summation order, IEEE 754 arithmetic only: equal analyses give equal states down to the last bit.

use std::sync::Arc;

use microlambda::{Digest, DigestBuilder, Head, Version};
use microlambda_wire::{EventKind, Record};

use crate::content::{ContentError, Delta, Entry, PartialEntry, to_bytes};
use crate::encoding::ROUGH_ERROR;
use crate::judge::{Judgement, Why, judge};
use crate::recent::{Recent, Seen};
use crate::{Analysis, Encoding, Face, FaceAt, FaceOutcome, FaceParams, FrameAnalysis, Tile};

/// A chain compares faces with so many people, those it saw last: 4096 with five encodings each are 10 MB. Whoever comes back after so many others is new again.
pub const PEOPLE_MAX: usize = 4_096;
/// At most so many encodings of a person are kept.
pub const EXEMPLARS_MAX: usize = 5;
/// A further encoding is kept when it is at least this far from all kept ones: below it shows nothing new.
const NOVELTY_MIN: f64 = 0.3;
/// … and at most this part of the threshold away: near the threshold it may be somebody else's.
pub(crate) const CONFIDENT_PART: f64 = 0.9;

/// One kept encoding of a person.
#[derive(Debug, Clone, PartialEq)]
pub struct Exemplar {
    /// The face it is of.
    pub at: FaceAt,
    /// How it looks there.
    pub encoding: Encoding,
}

/// A person of one chain.
#[derive(Debug, Clone, PartialEq)]
pub struct Person {
    /// How many were seen before: what digests name it by.
    pub number: usize,
    /// Where first seen, which the face's id is made from.
    pub first: FaceAt,
    /// When first seen, ms since 1970.
    pub first_seen_ms: u64,
    /// When last seen, ms since 1970.
    pub last_seen_ms: u64,
    /// The frame in which last seen: of two people, who was seen longer ago is forgotten first.
    pub last_sequence: u64,
    /// In how many frames.
    pub frames: u64,
    /// Kept encodings, at least one.
    pub exemplars: Vec<Exemplar>,
}

/// The people known.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Gallery {
    /// The [`PEOPLE_MAX`] seen last, in the order first seen. Shared, so that a fold on trial copies only the people it changes.
    pub people: Vec<Arc<Person>>,
    /// How many were ever seen: the number of the next one.
    pub ever: usize,
    /// Who was where in the last frames.
    pub recent: Recent,
}

/// A face that was matched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sighting {
    /// The face in its frame.
    pub face_index: u32,
    /// [`Person::number`].
    pub person: usize,
    /// [`Person::first`].
    pub first: FaceAt,
    /// Distance to that person's nearest kept encoding; 0 for somebody new.
    pub distance: f64,
    /// In how many frames that person was seen by then, this one counted.
    pub frames: u64,
    /// When that person was seen last by then, ms since 1970.
    pub last_seen_ms: u64,
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
    /// Usable faces that are nobody's: too weak as evidence for somebody new, or waiting for further views.
    pub unassigned: u32,
    /// Where people were first seen whom the gallery has forgotten with this entry.
    pub forgotten: Vec<FaceAt>,
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
    DigestBuilder::new("microlambda faces 6")
        .number(params.distance_max.to_bits())
        .number(u64::from(params.face_px_min))
        .number(u64::from(params.sharpness_min.to_bits()))
        .number(u64::from(params.score_min.to_bits()))
        .number(u64::from(params.new_person_score_min.to_bits()))
        .number(params.absence_ms)
        .number(u64::from(params.picture_px_max))
        .finish()
}

/// The digest of the state that a record leads to from `parent`, with whom its faces were taken for: face, [`Person::number`], and whether its
/// encoding was kept. So that a store can tell that a record is what it was, whatever it was folded with.
///
/// # Errors
/// [`ContentError`] if the analysis cannot be written.
pub fn record_digest(
    parent: &Digest,
    entry: &Entry,
    taken: impl IntoIterator<Item = (u32, usize, bool)>,
) -> Result<Digest, ContentError> {
    Ok(digest_after(parent, entry, &to_bytes(&entry.analysis)?, taken))
}

fn digest_after(
    parent: &Digest,
    entry: &Entry,
    analysis_bytes: &[u8],
    taken: impl IntoIterator<Item = (u32, usize, bool)>,
) -> Digest {
    let builder =
        DigestBuilder::new("record").field(&parent.0).field(&entry.record.canonical_bytes()).field(analysis_bytes);
    let face = |digest: DigestBuilder, (face_index, person, kept): (u32, usize, bool)| {
        digest.number(u64::from(face_index)).number(person as u64).number(u64::from(kept))
    };
    taken.into_iter().fold(builder, face).finish()
}

/// The id of an event, and of the face if it is the first of one: 32 hexadecimal digits.
pub fn event_id(chain: &str, at: FaceAt) -> String {
    let digest = DigestBuilder::new("event").field(chain.as_bytes()).number(at.sequence);
    digest.number(u64::from(at.face_index)).finish().short(32)
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
        let mut forgotten = Vec::new();
        let (sightings, unassigned, set_aside) = match (&entry.record, &entry.analysis) {
            (Record::Frame { captured_at_ms, .. }, Some(Analysis::Frame(analysis))) => {
                let (sightings, unassigned) = self.fold_frame(entry.sequence, *captured_at_ms, analysis);
                forgotten = self.gallery.forget();
                (sightings, unassigned, units_set_aside(&analysis.faces, &analysis.tiles_set_aside))
            }
            (Record::Frame { .. }, Some(Analysis::Unreadable { .. })) => (Vec::new(), 0, 0),
            (Record::Frame { .. }, Some(Analysis::SetAside { .. })) => (Vec::new(), 0, 1),
            (Record::Gap { .. } | Record::End { .. } | Record::Restart { .. }, None) => (Vec::new(), 0, 0),
            _ => return Err(ContentError::WrongAnalysis(entry.sequence)),
        };
        let seen = |s: &Sighting| Seen { face_index: s.face_index, person: s.person, distance: s.distance };
        self.gallery.recent.push(entry, &sightings.iter().map(seen).collect::<Vec<_>>());
        let taken = sightings.iter().map(|sighting| (sighting.face_index, sighting.person, sighting.kept));
        let digest = digest_after(&self.head.digest, entry, &analysis_bytes, taken);
        let generation = match entry.record {
            Record::Restart { generation, .. } => generation.max(self.head.version.generation),
            Record::Frame { .. } | Record::Gap { .. } | Record::End { .. } => self.head.version.generation,
        };
        let version = Version { generation, sequence: entry.next_sequence(), unit: 0 };
        let set_aside = self.head.set_aside.saturating_add(set_aside);
        self.head = Head { version, digest, set_aside };
        let done = matches!(entry.record, Record::End { .. });
        Ok(Folded { head: self.head, sightings, unassigned, forgotten, done })
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
        let set_aside = units_set_aside(&partial.partial.faces, &partial.partial.tiles_set_aside);
        let version = Version { unit, ..self.head.version };
        Ok(Head { version, digest, set_aside: self.head.set_aside.saturating_add(set_aside) })
    }

    /// Folds entries: what each gave, and the head that they lead to, or the state inside the frame behind them if there is one.
    ///
    /// # Errors
    /// As for [`FoldState::fold`] and [`FoldState::partial_head`]; the entries before the error are folded by then.
    pub fn extend(
        &mut self,
        entries: &[Entry],
        partial: Option<&PartialEntry>,
    ) -> Result<(Vec<Folded>, Head), ContentError> {
        let folded = entries.iter().map(|entry| self.fold(entry)).collect::<Result<Vec<_>, _>>()?;
        let head = match partial {
            Some(partial) => self.partial_head(partial)?,
            None => self.head,
        };
        Ok((folded, head))
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
        let (folded, found) = self.extend(&delta.entries, delta.partial.as_ref())?;
        if found == delta.head { Ok(folded) } else { Err(FoldError::OtherHead { announced: delta.head, found }) }
    }

    /// What [`FoldState::fold`] decides about the usable faces of a frame from here, and why; for people.
    pub fn explain(&self, captured_at_ms: u64, frame: &FrameAnalysis) -> Vec<Judgement> {
        judge(&self.params, &self.gallery, captured_at_ms, frame)
    }

    fn fold_frame(&mut self, sequence: u64, captured_at_ms: u64, frame: &FrameAnalysis) -> (Vec<Sighting>, u32) {
        let mut sightings: Vec<Sighting> = Vec::new();
        let mut unassigned = 0;
        for judgement in judge(&self.params, &self.gallery, captured_at_ms, frame) {
            let face = frame.faces.get(judgement.face_index as usize);
            let (Some(person), Some(FaceOutcome::Encoded(encoding))) =
                (judgement.person, face.map(|face| &face.outcome))
            else {
                unassigned += 1;
                continue;
            };
            let at = FaceAt { sequence, face_index: judgement.face_index };
            let exemplar = Exemplar { at, encoding: encoding.clone() };
            if judgement.why.is_new() {
                sightings.push(self.gallery.add(captured_at_ms, exemplar));
                continue;
            }
            let in_frame = sightings.iter().any(|sighting| sighting.person == person);
            match self.seen_again(person, captured_at_ms, exemplar, &judgement, in_frame) {
                Some(sighting) => sightings.push(sighting),
                None => unassigned += 1,
            }
        }
        (sightings, unassigned)
    }

    /// Notes a view of somebody known, and keeps it if it shows something new and is surely theirs.
    fn seen_again(
        &mut self,
        person: usize,
        captured_at_ms: u64,
        exemplar: Exemplar,
        judgement: &Judgement,
        in_frame: bool,
    ) -> Option<Sighting> {
        let place = self.gallery.place(person)?;
        let known = Arc::make_mut(&mut self.gallery.people[place]);
        let FaceAt { sequence, face_index } = exemplar.at;
        let distance = known.distance(&exemplar.encoding);
        let confident_max = self.params.distance_max * CONFIDENT_PART;
        let confident = match (judgement.why, judgement.followed) {
            (Why::Followed, Some((_, view))) => judgement.clear && view <= confident_max,
            _ => judgement.strong && distance <= confident_max,
        };
        let kept = confident && distance >= NOVELTY_MIN && known.exemplars.len() < EXEMPLARS_MAX;
        if kept {
            known.exemplars.push(exemplar);
        }
        let absent_ms = captured_at_ms.saturating_sub(known.last_seen_ms);
        known.last_seen_ms = known.last_seen_ms.max(captured_at_ms);
        known.last_sequence = sequence;
        known.frames += u64::from(!in_frame);
        let report = absent_ms >= self.params.absence_ms && !in_frame;
        let event = report.then_some(EventKind::Recognised);
        let &mut Person { first, frames, last_seen_ms, .. } = known;
        Some(Sighting { face_index, person, first, distance, frames, last_seen_ms, kept, event })
    }
}

impl Person {
    /// Distance to the nearest kept encoding.
    fn distance(&self, encoding: &Encoding) -> f64 {
        self.exemplars.iter().map(|kept| kept.encoding.distance(encoding)).fold(f64::INFINITY, f64::min)
    }
}

impl Gallery {
    fn add(&mut self, captured_at_ms: u64, exemplar: Exemplar) -> Sighting {
        let (person, first) = (self.ever, exemplar.at);
        self.ever += 1;
        self.people.push(Arc::new(Person {
            number: person,
            first,
            first_seen_ms: captured_at_ms,
            last_seen_ms: captured_at_ms,
            last_sequence: first.sequence,
            frames: 1,
            exemplars: vec![exemplar],
        }));
        Sighting {
            face_index: first.face_index,
            person,
            first,
            distance: 0.0,
            frames: 1,
            last_seen_ms: captured_at_ms,
            kept: true,
            event: Some(EventKind::NewFace),
        }
    }

    /// Forgets who is beyond [`PEOPLE_MAX`], and says where they were first seen. Who that is is a function of when each person was seen last, so that a
    /// store need not keep it.
    fn forget(&mut self) -> Vec<FaceAt> {
        let Some(last) = self.people.len().checked_sub(PEOPLE_MAX + 1) else { return Vec::new() };
        let seen = |person: &Arc<Person>| (person.last_sequence, person.number);
        let mut order: Vec<(u64, usize)> = self.people.iter().map(seen).collect();
        let (_, forgotten, _) = order.select_nth_unstable(last);
        let forgotten = *forgotten;
        self.people.extract_if(.., |person| seen(person) <= forgotten).map(|person| person.first).collect()
    }

    fn place(&self, number: usize) -> Option<usize> {
        self.people.binary_search_by_key(&number, |person| person.number).ok()
    }

    /// The person of this number, unless forgotten.
    pub fn person(&self, number: usize) -> Option<&Person> {
        self.place(number).map(|place| &*self.people[place])
    }

    /// All people, each with the distance to the nearest kept encoding.
    pub fn distances(&self, encoding: &Encoding) -> impl Iterator<Item = (&Person, f64)> {
        self.people.iter().map(|known| (&**known, known.distance(encoding)))
    }

    /// The number of the person with the nearest kept encoding, and its distance. Of equal distances the person first seen wins.
    ///
    /// The same as the least of [`Gallery::distances`], to the bit.
    pub fn nearest(&self, encoding: &Encoding) -> Option<(usize, f64)> {
        self.nearest_but(encoding, None)
    }

    /// The same among all people but one.
    pub(crate) fn nearest_but(&self, encoding: &Encoding, but: Option<usize>) -> Option<(usize, f64)> {
        let mut nearest = None;
        // No distance above this is of interest any more.
        let mut square_max = f64::INFINITY;
        for known in self.people.iter().filter(|known| Some(known.number) != but) {
            let may_be_nearer = |kept: &&Exemplar| kept.encoding.square_at_least(encoding) <= square_max;
            let far = known.exemplars.iter().filter(may_be_nearer).map(|kept| kept.encoding.distance(encoding));
            let far = far.fold(f64::INFINITY, f64::min);
            if nearest.is_none_or(|(_, least)| far < least) {
                nearest = Some((known.number, far));
                square_max = far * far * (1.0 + ROUGH_ERROR);
            }
        }
        nearest
    }
}

fn units_set_aside(faces: &[Face], tiles_set_aside: &[Tile]) -> u32 {
    let faces = faces.iter().filter(|face| face.is_set_aside()).count();
    u32::try_from(faces + tiles_set_aside.len()).unwrap_or(u32::MAX)
}
