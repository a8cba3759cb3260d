//! A gallery that is full forgets who was seen longest ago.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use microlambda::Digest;
use microlambda_faces::content::Entry;
use microlambda_faces::fold::{FoldState, Folded, PEOPLE_MAX, Sighting};
use microlambda_faces::{
    Analysis, Encoding, FACES_MAX, Face, FaceAt, FaceOutcome, FaceParams, FrameAnalysis, Rect, SeenFace,
};
use microlambda_wire::{EventKind, Record};

/// Somebody's encoding: everybody is further than 0.9 from everybody else, as good as surely.
fn encoding(person: usize) -> Encoding {
    let bytes = Digest::of(&person.to_le_bytes()).0;
    let values = bytes.iter().flat_map(|byte| [0, 2, 4, 6].map(|shift| f32::from(byte >> shift & 3) * 0.1));
    Encoding::try_from(values.collect::<Vec<f32>>()).unwrap()
}

fn frame(sequence: u64, people: impl IntoIterator<Item = usize>) -> Entry {
    let face = |(place, person): (i32, usize)| Face {
        seen: SeenFace { rect: Rect { left: 100 * place, top: 10, right: 100 * place + 79, bottom: 89 }, score: 1.0 },
        sharpness: 100.0,
        outcome: FaceOutcome::Encoded(encoding(person)),
    };
    let faces: Vec<Face> = (0..).zip(people).map(face).collect();
    let analysis = FrameAnalysis { width_px: 640, height_px: 480, faces, tiles_set_aside: Vec::new(), scene: None };
    let record = Record::Frame {
        // An hour apart, so that nobody is recognised out of turn.
        captured_at_ms: sequence * 3_600_000,
        digest: Digest::of(&sequence.to_le_bytes()),
        label: String::new(),
        moved: None,
    };
    Entry { sequence, record, analysis: Some(Analysis::Frame(analysis)), engine: "test".into() }
}

/// A stream that goes on.
struct Stream(FoldState);

impl Stream {
    /// One in which as many people were seen as a gallery holds.
    fn full() -> Self {
        let mut stream = Self(FoldState::genesis(FaceParams::default()));
        for first in (0..PEOPLE_MAX).step_by(FACES_MAX) {
            assert!(stream.see(first..first + FACES_MAX).iter().all(is_new));
        }
        stream
    }

    fn fold(&mut self, people: impl IntoIterator<Item = usize>) -> Folded {
        let entry = frame(self.0.head().version.sequence, people);
        self.0.fold(&entry).unwrap()
    }

    fn see(&mut self, people: impl IntoIterator<Item = usize>) -> Vec<Sighting> {
        self.fold(people).sightings
    }
}

fn is_new(sighting: &Sighting) -> bool {
    sighting.event == Some(EventKind::NewFace)
}

#[test]
fn who_comes_after_a_gallery_is_full_is_reported() {
    let mut stream = Stream::full();
    let [sighting] = stream.see([PEOPLE_MAX])[..] else { panic!("one face, one sighting") };
    assert!(is_new(&sighting) && sighting.person == PEOPLE_MAX);
    assert_eq!((stream.0.gallery().people.len(), stream.0.gallery().ever), (PEOPLE_MAX, PEOPLE_MAX + 1));
}

#[test]
fn who_was_seen_longest_ago_is_forgotten_and_new_when_seen_again() {
    let mut stream = Stream::full();
    assert!(!is_new(&stream.see([0])[0]), "the first one is known still");
    let forgotten = [1, 2].map(|face_index| FaceAt { sequence: 0, face_index });
    assert_eq!(stream.fold([PEOPLE_MAX, PEOPLE_MAX + 1]).forgotten, forgotten);
    let gallery = stream.0.gallery();
    assert!(gallery.person(0).is_some() && gallery.person(3).is_some(), "seen since, or a place too late");
    assert!(gallery.person(1).is_none() && gallery.person(2).is_none(), "seen longest ago");
    let [sighting] = stream.see([1])[..] else { panic!("one face, one sighting") };
    assert!(is_new(&sighting) && sighting.person == PEOPLE_MAX + 2);
    assert_eq!(sighting.first, FaceAt { sequence: stream.0.head().version.sequence - 1, face_index: 0 });
}

#[test]
fn who_is_seen_in_the_frame_that_fills_the_gallery_is_not_forgotten_in_it() {
    let mut stream = Stream::full();
    let sightings = stream.see([PEOPLE_MAX, 0]);
    assert!(is_new(&sightings[0]) && !is_new(&sightings[1]));
    assert!(stream.0.gallery().person(0).is_some() && stream.0.gallery().person(1).is_none());
}
