//! What the pictures show: a function of the seed, known to the simulated engine and to the invariants.

use microlambda::Digest;
use microlambda_faces::content::Entry;
use microlambda_faces::plan::{NextUnit, Plan};
use microlambda_faces::proto::UnitOutcome;
use microlambda_faces::{
    Analysis, ENCODING_LEN, Encoding, Face, FaceOutcome, FaceParams, Partial, Rect, SCENE_BLOCKS, Scene, SeenFace,
};

use microlambda_wire::Record;

use super::random::Random;

/// People that walk by each camera.
const PEOPLE: u64 = 5;
/// Sizes of pictures, px: of one tile and of three.
const SIZES_PX: [(u32, u32); 3] = [(320, 240), (320, 240), (900, 300)];

/// One picture of one camera.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Columns and rows, px; 0 if it cannot be read.
    pub size_px: (u32, u32),
    /// The people in it, each with the tile that shows it.
    people: Vec<(u64, u32)>,
    /// A unit that no engine survives.
    pub poison_unit: Option<u32>,
    salt: u64,
    scene: Scene,
}

/// The picture `number` of camera `camera`. With `poison` a few have a unit that always fails.
pub fn picture(seed: u64, camera: usize, number: u64, poison: bool) -> Picture {
    let mut random = Random::new(seed ^ (camera as u64) << 40 ^ number << 8 ^ 0x51);
    let size_px = if random.permille(30) { (0, 0) } else { random.pick(&SIZES_PX) };
    let tiles = Plan::of(size_px.0, size_px.1, FaceParams::default().picture_px_max).tiles().len() as u64;
    let mut people: Vec<(u64, u32)> = Vec::new();
    if tiles > 0 {
        for _ in 0..random.pick(&[0, 0, 1, 1, 1, 2, 3]) {
            let person = random.below(PEOPLE);
            if people.iter().all(|(known, _)| *known != person) {
                people.push((person, u32::try_from(random.below(tiles)).unwrap_or_default()));
            }
        }
    }
    let salt = random.bits();
    let units = tiles + people.len() as u64;
    let poison_unit = (poison && units > 0 && random.permille(60)).then(|| random.below(units) as u32);
    // The camera is turned every eleven pictures.
    let block = |at: usize| if (at as u64 + number / 11).is_multiple_of(3) { 200 } else { 30 };
    Picture { size_px, people, poison_unit, salt, scene: Scene(std::array::from_fn::<u8, SCENE_BLOCKS, _>(block)) }
}

/// When a picture is taken, ms since 1970: three in a row, and the next ones 40 s later.
pub fn captured_at_ms(number: u64) -> u64 {
    40_000 * (number / 3) + 300 * (number % 3)
}

/// The bytes of a picture: a JPEG as far as our envelope looks, that says which one it is.
pub fn jpeg(camera: usize, number: u64) -> Vec<u8> {
    let mut bytes = vec![0xff, 0xd8, 0xff, 0xfe, 0, 18];
    bytes.extend((camera as u64).to_be_bytes());
    bytes.extend(number.to_be_bytes());
    bytes.extend([0xff, 0xd9]);
    bytes
}

/// Which picture the bytes are: camera and number.
pub fn which(jpeg: &[u8]) -> Option<(usize, u64)> {
    let number = |bytes: &[u8]| Some(u64::from_be_bytes(bytes.try_into().ok()?));
    Some((usize::try_from(number(jpeg.get(6..14)?)?).ok()?, number(jpeg.get(14..22)?)?))
}

/// The finished record of picture `number`.
pub fn entry(seed: u64, camera: usize, number: u64, kernel: u32) -> Entry {
    let digest = Digest::of(&jpeg(camera, number));
    let record =
        Record::Frame { captured_at_ms: captured_at_ms(number), digest, label: number.to_string(), moved: None };
    let analysis = picture(seed, camera, number, false).analysis(kernel);
    Entry { sequence: number, record, analysis: Some(analysis), engine: format!("kernel {kernel}") }
}

impl Picture {
    /// How it is cut into units.
    pub fn plan(&self) -> Plan {
        Plan::of(self.size_px.0, self.size_px.1, FaceParams::default().picture_px_max)
    }

    /// Does the next unit as an engine would whose last bits depend on `kernel`.
    pub fn advance(&self, partial: &mut Partial, kernel: u32) -> UnitOutcome {
        let plan = self.plan();
        if plan.tiles().is_empty() {
            return UnitOutcome::Done(Analysis::Unreadable { why: "the simulated picture cannot be read".into() });
        }
        if partial.units() == 0 {
            partial.scene = Some(self.scene);
        }
        match plan.next_unit(partial) {
            NextUnit::Tile(index) => {
                let seen: Vec<SeenFace> = self.seen().filter(|(at, _)| *at == index).map(|(_, seen)| seen).collect();
                plan.tile_done(partial, &seen);
            }
            NextUnit::Face(index) => {
                let seen = partial.to_encode[index as usize];
                partial.faces.push(self.face(seen, kernel));
            }
            NextUnit::Finished => {}
        }
        match plan.finished(partial) {
            Some(analysis) => UnitOutcome::Done(Analysis::Frame(analysis)),
            None => UnitOutcome::Partial(partial.clone()),
        }
    }

    /// The whole analysis.
    pub fn analysis(&self, kernel: u32) -> Analysis {
        let mut partial = self.plan().begin();
        loop {
            if let UnitOutcome::Done(analysis) = self.advance(&mut partial, kernel) {
                return analysis;
            }
        }
    }

    fn seen(&self) -> impl Iterator<Item = (u32, SeenFace)> {
        self.people.iter().zip(0_i32..).map(|(&(person, tile), index)| {
            let left = 10 + 90 * index;
            let rect = Rect { left, top: 40, right: left + 63, bottom: 103 };
            (tile, SeenFace { rect, score: 1.0 + person as f32 / 8.0 })
        })
    }

    fn face(&self, seen: SeenFace, kernel: u32) -> Face {
        let index = usize::try_from((seen.rect.left - 10) / 90).unwrap_or_default();
        let person = self.people.get(index).map_or(0, |(person, _)| *person);
        let mut values = vec![0.0_f32; ENCODING_LEN];
        let axis = usize::try_from(person).unwrap_or_default();
        values[axis] = 1.0;
        // Now and then a pose that is worth keeping, or one by which nobody is known; always the noise of a camera.
        values[20 + axis] = match (self.salt >> index) % 8 {
            0 | 4 => 0.4,
            1 => 0.69,
            _ => 0.05,
        };
        values[40 + axis] = (self.salt >> (index * 8) & 0xff) as f32 / 5_000.0;
        values[100] = kernel as f32 * 1e-6;
        let sharpness = if (self.salt >> index) % 8 < 3 { 8.0 } else { 50.0 };
        Face { seen, sharpness, outcome: FaceOutcome::Encoded(Encoding::try_from(values).expect("finite values")) }
    }
}
