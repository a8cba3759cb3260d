//! People who exist as encodings only, drawn at random and the same in each run.

use microlambda::Digest;
use microlambda_faces::content::Entry;
use microlambda_faces::{
    Analysis, ENCODING_LEN, Encoding, Face, FaceOutcome, FrameAnalysis, Rect, SCENE_BLOCKS, Scene, SeenFace,
};
use microlambda_wire::Record;

use crate::random::Random;

/// Two people are about so far apart: as two people of the test photos mostly are.
const APART: f32 = 0.85;
/// When the first frame was taken, ms since 1970.
const BEGAN_MS: u64 = 1_700_000_000_000;
/// One frame a second, as a camera that is told to be sparing gives them.
const FRAME_MS: u64 = 1_000;

/// Somebody: values that are even between two bounds, so that all are about [`APART`] from each other.
pub(super) fn somebody(random: &mut Random) -> Encoding {
    // The difference of two such values has the mean square of a third of twice the bound's square.
    encoding(direction(random).map(|value| value * APART * (1.5 / ENCODING_LEN as f32).sqrt()))
}

/// A view of somebody, about `far` from the middle of all views.
pub(super) fn view(of: &Encoding, far: f32, random: &mut Random) -> Encoding {
    let scale = far * (3.0 / ENCODING_LEN as f32).sqrt();
    encoding(of.values().iter().zip(direction(random)).map(|(value, offset)| value + scale * offset))
}

/// 128 values from -1 to 1.
fn direction(random: &mut Random) -> impl Iterator<Item = f32> {
    (0..ENCODING_LEN).map(move |_| random.below(1 << 24) as f32 / (1 << 23) as f32 - 1.0)
}

fn encoding(values: impl Iterator<Item = f32>) -> Encoding {
    Encoding::try_from(values.collect::<Vec<f32>>()).expect("128 values near 0")
}

/// The record of a clear picture of one face, with its analysis.
pub(super) fn frame_of(sequence: u64, encoding: Encoding) -> Entry {
    let rect = Rect { left: 200, top: 100, right: 349, bottom: 249 };
    let face = Face { seen: SeenFace { rect, score: 1.0 }, sharpness: 100.0, outcome: FaceOutcome::Encoded(encoding) };
    let analysis = FrameAnalysis {
        width_px: 640,
        height_px: 480,
        faces: vec![face],
        tiles_set_aside: Vec::new(),
        scene: Some(Scene([100; SCENE_BLOCKS])),
    };
    let record = Record::Frame {
        captured_at_ms: BEGAN_MS + FRAME_MS * sequence,
        digest: Digest::of(&sequence.to_le_bytes()),
        label: String::new(),
        moved: None,
    };
    Entry { sequence, record, analysis: Some(Analysis::Frame(analysis)), engine: "benchmark".into() }
}
