use proptest::prelude::*;

use super::*;
use crate::luma::CELL_PIXELS;

const COLUMNS: usize = 80;
const ROWS: usize = 45;
const FRAME_US: u64 = 100_000;
const STILL_US: u64 = 5_000_000;

/// A scene in cells, with what may happen to it.
#[derive(Debug, Clone)]
struct Scene {
    means: Vec<f32>,
    random: u64,
}

impl Scene {
    /// Brightness between 30 and 220 with some structure.
    fn new(seed: u64) -> Self {
        let mean = |at: usize| {
            let (x, y) = ((at % COLUMNS) as f32, (at / COLUMNS) as f32);
            125.0 + 60.0 * (x / 9.0 + seed as f32).sin() + 35.0 * (y / 5.0 + x / 31.0).cos()
        };
        Self { means: (0..COLUMNS * ROWS).map(mean).collect(), random: seed.wrapping_mul(2).wrapping_add(1) }
    }

    /// Something of `contrast` that covers `cells` × `cells` from this cell on; the parts say how much of its first column and row.
    fn with(&self, contrast: f32, cells: f32, x: f32, y: f32) -> Self {
        let covered = |at: f32, from: f32| (at + 1.0).min(from + cells) - at.max(from);
        let mut scene = self.clone();
        for (at, mean) in scene.means.iter_mut().enumerate() {
            let across = covered((at % COLUMNS) as f32, x).max(0.0);
            let down = covered((at / COLUMNS) as f32, y).max(0.0);
            *mean = (*mean + contrast * across * down).clamp(0.0, 255.0);
        }
        scene
    }

    /// As a camera sees it: brightness times `gain`, Gaussian noise of `sigma`.
    fn seen(&mut self, gain: f32, sigma: f32) -> Cells {
        let mut means = self.means.clone();
        for mean in &mut means {
            // Twelve uniform values less their mean are as good as normal.
            let sum: f32 = (0..12).map(|_| self.uniform()).sum::<f32>() - 6.0;
            *mean = (*mean * gain + sigma * sum).clamp(0.0, 255.0);
        }
        Cells::new(COLUMNS, means).unwrap()
    }

    /// From 0 to 1 (xorshift).
    fn uniform(&mut self) -> f32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 40) as f32 / (1 << 24) as f32
    }
}

/// Judges a picture and keeps it if it is to be kept.
fn look(gate: &mut Gate, cells: Cells, now_us: u64) -> Verdict {
    let verdict = gate.judge(Some(cells), now_us);
    if verdict != Verdict::Still {
        gate.kept();
    }
    verdict
}

/// The verdict on a picture after those in which a scene that has come to rest is looked at again.
fn at_rest(gate: &mut Gate, mut cells: impl FnMut() -> Cells, now_us: u64) -> Verdict {
    for _ in 0..LINGER_PICTURES {
        assert_eq!(look(gate, cells(), now_us), Verdict::Moved);
    }
    look(gate, cells(), now_us)
}

/// Whether all of a face lies in what is searched.
fn is_searched(moved: Option<&Areas>, x: f32, y: f32, cells: f32) -> bool {
    let px = |cells: f32| (cells * CELL_PIXELS as f32) as u16;
    moved.is_none_or(|areas| {
        areas.iter().any(|area| {
            px(x) >= area.left_px
                && px(x + cells) <= area.left_px + area.width_px
                && px(y) >= area.top_px
                && px(y + cells) <= area.top_px + area.height_px
        })
    })
}

/// Cells that are searched of a picture.
fn searched_cells(gate: &Gate) -> u32 {
    let cells = |px: u16| u32::from(px) / CELL_PIXELS;
    let moved = gate.moved().expect("not all of the picture");
    moved.iter().map(|area| cells(area.width_px) * cells(area.height_px)).sum()
}

/// A gate that has seen a still scene for three seconds.
fn settled(scene: &mut Scene, sigma: f32) -> (Gate, u64) {
    let mut gate = Gate::new(STILL_US);
    for picture in 0..30 {
        look(&mut gate, scene.seen(1.0, sigma), picture * FRAME_US);
    }
    (gate, 30 * FRAME_US)
}

#[test]
fn a_still_scene_is_kept_once_an_interval() {
    let mut scene = Scene::new(1);
    let mut gate = Gate::new(STILL_US);
    let verdicts: Vec<Verdict> =
        (0..101).map(|picture| look(&mut gate, scene.seen(1.0, 0.3), picture * FRAME_US)).collect();
    let kept: Vec<usize> = (0..101).filter(|picture| verdicts[*picture] != Verdict::Still).collect();
    assert_eq!(kept, [0, 50, 100]);
    assert_eq!((verdicts[0], verdicts[50]), (Verdict::Moved, Verdict::Due));
}

#[test]
fn an_interval_of_nothing_keeps_every_picture() {
    let mut scene = Scene::new(1);
    let mut gate = Gate::new(0);
    assert!((0..20).all(|picture| look(&mut gate, scene.seen(1.0, 0.3), picture) != Verdict::Still));
}

#[test]
fn what_cannot_be_seen_or_compared_is_kept() {
    let mut scene = Scene::new(2);
    let (mut gate, now_us) = settled(&mut scene, 0.3);
    assert_eq!((gate.judge(None, now_us), gate.moved()), (Verdict::Moved, None));
    let other_size = Cells::new(COLUMNS / 2, vec![100.0; COLUMNS * ROWS]).unwrap();
    assert_eq!(look(&mut gate, other_size, now_us), Verdict::Moved);
    assert_eq!(look(&mut gate, scene.seen(1.0, 0.3), now_us), Verdict::Moved, "back at the former size");
    assert_eq!(look(&mut gate, scene.seen(1.0, 0.3), now_us), Verdict::Still);
    gate.judge(None, now_us);
    gate.kept();
    assert_eq!(look(&mut gate, scene.seen(1.0, 0.3), now_us), Verdict::Moved, "the last one kept could not be seen");
    assert_eq!(gate.moved(), None);
}

#[test]
fn a_picture_that_was_lost_is_made_up_for_by_the_next() {
    let mut scene = Scene::new(3);
    let (mut gate, now_us) = settled(&mut scene, 0.3);
    let mut with_face = scene.with(40.0, 2.5, 30.0, 20.0);
    // Judged as moved, but the spool had no room for it.
    assert_eq!(gate.judge(Some(with_face.seen(1.0, 0.3)), now_us), Verdict::Moved);
    assert_eq!(gate.judge(Some(with_face.seen(1.0, 0.3)), now_us), Verdict::Moved);
    assert!(is_searched(gate.moved().as_ref(), 30.0, 20.0, 2.5));
    gate.kept();
    assert_eq!(at_rest(&mut gate, || with_face.seen(1.0, 0.3), now_us), Verdict::Still);
}

#[test]
fn only_where_something_moved_is_searched_and_all_of_it_once_an_interval() {
    let mut scene = Scene::new(3);
    let (mut gate, now_us) = settled(&mut scene, 0.3);
    let mut whole = Vec::new();
    for picture in 0..100 {
        let (x, at_us) = (10.0 + picture as f32 / 2.0, now_us + picture * FRAME_US);
        assert_eq!(look(&mut gate, scene.with(40.0, 2.5, x, 20.0).seen(1.0, 0.3), at_us), Verdict::Moved);
        // `kept` has taken the picture's areas along: they are asked for before.
        gate.judge(Some(scene.with(40.0, 2.5, x + 0.5, 20.0).seen(1.0, 0.3)), at_us + FRAME_US);
        match gate.moved() {
            None => whole.push(picture),
            Some(moved) => {
                assert!(is_searched(Some(&moved), x + 0.5, 20.0, 2.5), "picture {picture}: {moved:?}");
                assert!(searched_cells(&gate) <= 60, "picture {picture}: {moved:?}");
            }
        }
    }
    assert_eq!(whole, [19, 69], "all of the first one was searched, and one every 5 s after it");
}

#[test]
fn who_creeps_beside_one_who_runs_is_searched_too() {
    let mut scene = Scene::new(4);
    let (mut gate, now_us) = settled(&mut scene, 0.3);
    let (mut creeps, mut searched) = (60.0, Vec::new());
    for picture in 0..40_u64 {
        // An eighth of a pixel a picture, while somebody else keeps every picture from being still.
        creeps += 1.0 / 128.0;
        let runs = if picture % 2 == 0 { 10.0 } else { 14.0 };
        let mut both = scene.with(40.0, 2.5, runs, 20.0).with(40.0, 3.0, creeps, 20.0);
        gate.judge(Some(both.seen(1.0, 0.3)), now_us);
        // Its edges move; around them is searched, as far as a face may reach.
        let reaches_it =
            |area: microlambda_wire::Area| f32::from(area.left_px + area.width_px) > creeps * CELL_PIXELS as f32;
        if gate.moved().is_none_or(|moved| moved.iter().any(reaches_it)) {
            searched.push(picture);
        }
        gate.kept();
    }
    // It comes, is looked at again, and once more whenever it has gone far enough.
    assert!(searched.starts_with(&[0, 1, 2, 3]) && (6..35).contains(&searched.len()), "{searched:?}");
}

#[test]
fn a_slow_approach_adds_up() {
    let mut scene = Scene::new(4);
    let (mut gate, mut now_us) = settled(&mut scene, 0.3);
    let mut cells = 2.5;
    look(&mut gate, scene.with(30.0, cells, 40.0, 22.0).seen(1.0, 0.3), now_us);
    at_rest(&mut gate, || scene.with(30.0, cells, 40.0, 22.0).seen(1.0, 0.3), now_us);
    let (mut kept, mut still) = (0, 0);
    for _ in 0..100 {
        // One pixel of forty in five pictures.
        (cells, now_us) = (cells + 1.0 / 80.0, now_us + FRAME_US);
        match look(&mut gate, scene.with(30.0, cells, 40.0, 22.0).seen(1.0, 0.3), now_us) {
            Verdict::Moved => kept += 1,
            Verdict::Still => still += 1,
            Verdict::Due => panic!("it grew by a quarter of a cell in an interval"),
        }
    }
    assert!(kept >= 5 && still >= 5, "{kept} kept, {still} left out");
}

#[test]
fn a_lamp_of_one_cell_is_no_motion_and_a_band_across_the_picture_is_none() {
    let mut scene = Scene::new(5);
    let (mut gate, now_us) = settled(&mut scene, 0.3);
    assert_eq!(look(&mut gate, scene.with(60.0, 1.0, 40.0, 20.0).seen(1.0, 0.3), now_us), Verdict::Still);
    let mut banded = scene.clone();
    for (at, mean) in banded.means.iter_mut().enumerate() {
        *mean *= 1.0 + 0.06 * ((at / COLUMNS) as f32 / 6.0).sin();
    }
    assert_eq!(look(&mut gate, banded.seen(1.0, 0.3), now_us), Verdict::Still);
}

#[test]
fn who_moves_in_one_place_for_long_does_not_become_noise() {
    let mut scene = Scene::new(6);
    let (mut gate, mut now_us) = settled(&mut scene, 0.3);
    for picture in 0..600 {
        now_us += FRAME_US;
        let contrast = if picture % 2 == 0 { 25.0 } else { -25.0 };
        let verdict = look(&mut gate, scene.with(contrast, 2.5, 30.2, 20.7).seen(1.0, 0.3), now_us);
        assert_eq!(verdict, Verdict::Moved, "picture {picture}");
    }
}

#[test]
fn a_camera_that_was_turned_is_not_blind_afterwards() {
    let mut scene = Scene::new(7);
    let (mut gate, mut now_us) = settled(&mut scene, 0.3);
    for turn in 1..=20 {
        now_us += FRAME_US;
        assert_eq!(look(&mut gate, Scene::new(7 + turn).seen(1.0, 0.3), now_us), Verdict::Moved);
    }
    let mut scene = Scene::new(27);
    look(&mut gate, scene.seen(1.0, 0.3), now_us);
    assert_eq!(look(&mut gate, scene.with(20.0, 2.5, 30.0, 20.0).seen(1.0, 0.3), now_us), Verdict::Moved);
}

#[test]
fn a_flat_wall_hides_nobody_and_shows_no_motion_of_its_own() {
    let mut wall = Scene { means: vec![90.0; COLUMNS * ROWS], random: 9 };
    let (mut gate, now_us) = settled(&mut wall, 0.5);
    for gain in [0.95, 1.05, 1.0] {
        assert_eq!(look(&mut gate, wall.seen(gain, 0.5), now_us), Verdict::Still);
    }
    assert_eq!(look(&mut gate, wall.with(15.0, 2.5, 10.0, 10.0).seen(1.05, 0.5), now_us), Verdict::Moved, "comes");
    assert_eq!(look(&mut gate, wall.seen(0.96, 0.5), now_us), Verdict::Moved, "goes");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn noise_and_flicker_alone_are_no_motion(seed in 0_u64..1_000, sigma in 0.1_f32..1.5, amplitude in 0.0_f32..0.08) {
        let mut scene = Scene::new(seed);
        let mut gate = Gate::new(u64::MAX);
        let mut moved = 0;
        for picture in 0..130_u64 {
            let gain = 1.0 + amplitude * (picture as f32 * 1.7).sin();
            let verdict = look(&mut gate, scene.seen(gain, sigma), picture * FRAME_US);
            // The noise is learnt first.
            moved += u32::from(picture >= 30 && verdict != Verdict::Still);
        }
        // One that was taken for motion is followed by those that look there again.
        prop_assert!(moved <= 1 + u32::from(LINGER_PICTURES), "{moved} of 100 pictures");
    }

    #[test]
    fn a_face_of_forty_pixels_that_enters_leaves_or_moves_on_is_always_seen(
        seed in 0_u64..1_000, sigma in 0.1_f32..0.6, amplitude in 0.0_f32..0.06,
        contrast in prop_oneof![-60.0_f32..-18.0, 18.0_f32..60.0],
        x in 0.0_f32..75.0, y in 0.0_f32..42.0, turn in 0.0_f32..6.0,
    ) {
        let mut scene = Scene::new(seed);
        let (mut gate, now_us) = settled(&mut scene, sigma);
        let gain = |turn: f32| 1.0 + amplitude * turn.sin();
        let here = scene.with(contrast, 2.5, x, y).seen(gain(turn), sigma);
        prop_assert_eq!(look(&mut gate, here, now_us), Verdict::Moved, "enters");
        // A step at walking pace in a tenth of a second.
        let there = scene.with(contrast, 2.5, x + 1.7, y).seen(gain(turn + 1.0), sigma);
        prop_assert_eq!(look(&mut gate, there, now_us), Verdict::Moved, "moves on");
        prop_assert_eq!(look(&mut gate, scene.seen(gain(turn + 2.0), sigma), now_us), Verdict::Moved, "leaves");
    }
}
