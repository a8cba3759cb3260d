use proptest::prelude::*;

use super::*;

const PX_MAX: u32 = 16_000_000;

fn level_side(side: u32, level: u32) -> u32 {
    (0..level).fold(side, |side, _| halved(side))
}

/// A box of `side` px somewhere in a picture, and the tiles of `level` that hold it whole.
fn holders(plan: &Plan, level: u32, left: u32, top: u32, side: u32) -> usize {
    let whole = |tile: &&TileArea| {
        let (x, y) = (signed(left) - signed(tile.left_px), signed(top) - signed(tile.top_px));
        let found = Rect { left: x, top: y, right: x + signed(side) - 1, bottom: y + signed(side) - 1 };
        tile.level == level
            && found.left >= 0
            && found.top >= 0
            && found.right < signed(tile.width_px)
            && found.bottom < signed(tile.height_px)
            && tile.to_picture(found).is_some()
    };
    plan.tiles().iter().filter(whole).count()
}

fn a_face() -> impl Strategy<Value = SeenFace> {
    // Few places and scores, so that overlaps and ties are common.
    (0..12i32, 0..12i32, 1..8i32, 0..4u8).prop_map(|(x, y, side, score)| SeenFace {
        rect: Rect { left: x * 40 - 20, top: y * 40 - 20, right: x * 40 + side * 25, bottom: y * 40 + side * 25 },
        score: f32::from(score) / 2.0,
    })
}

fn moved() -> impl Strategy<Value = Areas> {
    let area = (0u16..3_000, 0u16..3_000, 1u16..500, 1u16..500)
        .prop_map(|(left_px, top_px, width_px, height_px)| Area { left_px, top_px, width_px, height_px });
    prop::collection::vec(area, 1..=8).prop_map(|areas| Areas::try_from(areas).expect("as many as are allowed"))
}

#[test]
fn around_a_face_that_moves_a_twentieth_of_a_camera_picture_is_searched() {
    let area = Area { left_px: 320, top_px: 160, width_px: 96, height_px: 96 };
    let plan = Plan::of_moved(1280, 720, PX_MAX, Areas::try_from(vec![area]).ok().as_ref());
    let sizes: Vec<_> = plan.tiles().iter().map(|t| (t.level, t.left_px, t.top_px, t.width_px, t.height_px)).collect();
    assert_eq!(sizes, [(0, 232, 72, 272, 272), (1, 72, 0, 224, 216)]);
}

#[test]
fn areas_outside_of_the_picture_count_for_nothing() {
    let outside = Area { left_px: 1280, top_px: 0, width_px: 10, height_px: 10 };
    let inside = Area { left_px: 600, top_px: 300, width_px: 9_000, height_px: 9_000 };
    let plan = |areas: &[Area]| Plan::of_moved(1280, 720, PX_MAX, Areas::try_from(areas.to_vec()).ok().as_ref());
    assert_eq!(plan(&[outside]), Plan::of(1280, 720, PX_MAX));
    assert_eq!(plan(&[inside, outside]).tiles(), plan(&[inside]).tiles());
}

#[test]
fn a_picture_that_fits_a_tile_is_searched_whole() {
    for (width, height) in [(1, 1), (1, 640), (640, 480), (640, 640), (35, 12)] {
        let plan = Plan::of(width, height, PX_MAX);
        assert_eq!(plan.tiles().len(), 1, "{width}×{height}");
        let tile = plan.tiles()[0];
        assert_eq!((tile.level, tile.left_px, tile.top_px), (0, 0, 0));
        assert_eq!((tile.width_px, tile.height_px), (width, height));
        let over_the_edge = Rect { left: -7, top: -3, right: 900, bottom: 900 };
        assert_eq!(tile.to_picture(over_the_edge), Some(over_the_edge), "no edge of it is an inner one");
    }
}

#[test]
fn a_camera_picture_is_seven_tiles() {
    let plan = Plan::of(1280, 720, PX_MAX);
    let sizes: Vec<_> = plan.tiles().iter().map(|t| (t.level, t.left_px, t.top_px, t.width_px, t.height_px)).collect();
    let mut expected = Vec::new();
    for top in [0, 312] {
        for left in [0, 394, 789] {
            expected.push((0, left, top, 491, 408));
        }
    }
    expected.push((1, 0, 0, 640, 360));
    assert_eq!(sizes, expected);
}

#[test]
fn no_size_of_face_is_searched_on_two_levels_and_none_on_neither() {
    let smallest_px = 40.0;
    for (width, height) in [(640, 480), (1280, 720), (4000, 3000), (9000, 50)] {
        let plan = Plan::of(width, height, PX_MAX);
        for tile in plan.tiles() {
            let Some(layers) = tile.layers_max() else {
                assert_eq!(tile.level, plan.last_level(), "{width}×{height}");
                continue;
            };
            assert!(tile.level < plan.last_level(), "{width}×{height}");
            let largest_px = smallest_px * 1.2_f64.powi(signed(layers) - 1);
            assert!(largest_px < 2.0 * smallest_px && 1.2 * largest_px > 2.0 * smallest_px, "{largest_px}");
            assert!(largest_px < f64::from(FACE_PX_MAX), "one of {largest_px} px may lie in no tile");
        }
    }
}

#[test]
fn what_moved_is_searched_in_all_sizes_on_every_level() {
    let area = Area { left_px: 700, top_px: 300, width_px: 100, height_px: 200 };
    let plan = Plan::of_moved(1280, 720, PX_MAX, Areas::try_from(vec![area]).ok().as_ref());
    assert!(plan.last_level() > plan.first_level());
    assert!(plan.tiles().iter().all(|tile| tile.layers_max().is_none()));
}

#[test]
fn a_picture_without_pixels_has_no_tiles() {
    assert!(Plan::of(0, 0, PX_MAX).tiles().is_empty());
    assert!(Plan::of(5, 0, PX_MAX).tiles().is_empty());
}

#[test]
fn a_picture_above_the_bound_starts_at_a_coarser_level_and_keeps_its_coordinates() {
    let plan = Plan::of(8_000, 6_000, PX_MAX);
    assert_eq!(plan.first_level(), 1);
    let tile = plan.tiles()[0];
    assert_eq!(
        tile.to_picture(Rect { left: 10, top: 20, right: 59, bottom: 69 }),
        Some(Rect { left: 20, top: 40, right: 119, bottom: 139 })
    );
}

#[test]
fn a_detection_at_an_inner_edge_is_dropped_and_at_an_outer_edge_kept() {
    let plan = Plan::of(1280, 640, PX_MAX);
    let first = plan.tiles()[0];
    let touching = Rect { left: 400, top: 5, right: signed(first.width_px) - 1, bottom: 150 };
    assert_eq!(first.to_picture(touching), None);
    let outer = Rect { left: -4, top: -4, right: 90, bottom: 90 };
    assert_eq!(first.to_picture(outer), Some(outer));
    assert_eq!(plan.tiles()[1].to_picture(outer), None);
}

#[test]
fn boxes_are_clipped_as_python_does_and_empty_ones_dropped() {
    let plan = Plan::of(100, 80, PX_MAX);
    let face = |left, top, right, bottom| SeenFace { rect: Rect { left, top, right, bottom }, score: 1.0 };
    let merged = plan.merge(&[face(-5, -6, 300, 300), face(-50, 10, 0, 60), face(120, 10, 160, 50)]);
    assert_eq!(merged, vec![face(0, 0, 100, 80)]);
}

#[test]
fn of_two_boxes_of_one_face_the_surer_stays() {
    let plan = Plan::of(1280, 720, PX_MAX);
    let face = |left, score| SeenFace { rect: Rect { left, top: 100, right: left + 99, bottom: 199 }, score };
    assert_eq!(plan.merge(&[face(100, 0.3), face(110, 0.9), face(400, 0.2)]), vec![face(110, 0.9), face(400, 0.2)]);
    let inside = SeenFace { rect: Rect { left: 130, top: 120, right: 169, bottom: 159 }, score: 0.1 };
    assert_eq!(plan.merge(&[inside, face(100, 0.9)]), vec![face(100, 0.9)]);
}

#[test]
fn an_analysis_goes_through_its_tiles_then_its_faces_and_ends() {
    let plan = Plan::of(1280, 720, PX_MAX);
    let mut partial = plan.begin();
    let face = SeenFace { rect: Rect { left: 10, top: 10, right: 99, bottom: 99 }, score: 1.0 };
    for tile in 0..7 {
        assert!(plan.accepts(&partial));
        assert_eq!(plan.next_unit(&partial), NextUnit::Tile(tile));
        if tile == 3 {
            plan.set_aside(&mut partial, "it took two nodes down");
        } else {
            plan.tile_done(&mut partial, &[face]);
        }
    }
    assert_eq!((plan.next_unit(&partial), partial.units()), (NextUnit::Face(0), 7));
    assert_eq!((partial.to_encode.as_slice(), partial.found.len()), ([face].as_slice(), 0));
    assert_eq!(plan.finished(&partial), None);
    plan.set_aside(&mut partial, "again");
    assert!(plan.accepts(&partial));
    assert_eq!(plan.next_unit(&partial), NextUnit::Finished);
    let analysis = plan.finished(&partial).expect("no unit is left");
    assert_eq!(analysis.tiles_set_aside, [Tile { index: 3, why: "it took two nodes down".into() }]);
    assert_eq!(analysis.faces[0].outcome, FaceOutcome::Unusable(Unusable::SetAside { why: "again".into() }));
    let before = partial.clone();
    plan.set_aside(&mut partial, "nothing is left");
    assert_eq!(partial, before);
}

#[test]
fn a_score_that_is_no_number_is_no_detection_and_makes_no_state() {
    let plan = Plan::of(1280, 720, PX_MAX);
    let face = |score| SeenFace { rect: Rect { left: 10, top: 10, right: 99, bottom: 99 }, score };
    let mut partial = plan.begin();
    plan.tile_done(&mut partial, &[face(f32::NAN), face(1.0), face(f32::INFINITY)]);
    assert_eq!(partial.found, [face(1.0)]);
    // A stranger's: the merge after the last tile would make a state of it that everybody refuses.
    for score in [f32::NAN, f32::INFINITY] {
        assert!(!plan.accepts(&Partial { found: vec![face(score)], ..partial.clone() }));
    }
}

#[test]
fn detections_and_tiles_set_aside_are_bounded() {
    let plan = Plan::of(1280, 720, PX_MAX);
    let seen = |n: usize| {
        let left = i32::try_from(n % 1_000).unwrap_or(0);
        SeenFace { rect: Rect { left, top: 10, right: left + 50, bottom: 60 }, score: n as f32 }
    };
    let all: Vec<SeenFace> = (0..2 * FOUND_MAX).map(seen).collect();
    let (mut at_once, mut in_parts) = (plan.begin(), plan.begin());
    plan.tile_done(&mut at_once, &all);
    plan.tile_done(&mut at_once, &[]);
    plan.tile_done(&mut in_parts, &all[FOUND_MAX..]);
    plan.tile_done(&mut in_parts, &all[..FOUND_MAX]);
    assert_eq!(at_once.found.len(), FOUND_MAX);
    assert!(at_once.found.iter().all(|face| face.score >= FOUND_MAX as f32), "the surest are kept");
    at_once.found.sort_by(surest_first);
    in_parts.found.sort_by(surest_first);
    assert_eq!(at_once, in_parts, "in whatever order they were found");
    assert!(plan.accepts(&at_once));
    assert!(!plan.accepts(&Partial { found: all, ..at_once.clone() }));
    let tiles = (0..3).map(|index| Tile { index, why: String::new() }).collect();
    assert!(!plan.accepts(&Partial { tiles_set_aside: tiles, ..at_once }), "more set aside than searched");
}

#[test]
fn a_state_of_another_picture_is_refused() {
    let plan = Plan::of(320, 240, PX_MAX);
    let mut searched = plan.begin();
    let face = SeenFace { rect: Rect { left: 10, top: 10, right: 99, bottom: 99 }, score: 1.0 };
    plan.tile_done(&mut searched, &[face]);
    assert!(plan.accepts(&searched));
    assert!(!Plan::of(320, 241, PX_MAX).accepts(&searched));
    assert!(!plan.accepts(&Partial { tiles_done: 2, ..searched.clone() }));
    assert!(!plan.accepts(&Partial { tiles_done: 0, ..searched.clone() }));
    assert!(!plan.accepts(&Partial { found: vec![face], ..searched.clone() }));
    let outside = SeenFace { rect: Rect { left: 10, top: 10, right: 900, bottom: 99 }, ..face };
    assert!(!plan.accepts(&Partial { to_encode: vec![outside], ..searched.clone() }));
    let done = |seen| Face { seen, sharpness: 0.0, outcome: FaceOutcome::Unusable(Unusable::NoEncoding) };
    let looked_at = SeenFace { score: 0.5, ..face };
    assert!(!plan.accepts(&Partial { faces: vec![done(looked_at); 2], ..searched.clone() }));
    let other = SeenFace { rect: Rect { left: 11, ..face.rect }, ..face };
    assert!(!plan.accepts(&Partial { faces: vec![done(other)], ..searched.clone() }));
    let no_number = SeenFace { score: f32::NAN, ..face };
    assert!(!plan.accepts(&Partial { faces: vec![done(no_number)], ..searched.clone() }));
    let two =
        Partial { to_encode: vec![face, SeenFace { score: 0.1, ..face }], faces: vec![done(looked_at)], ..searched };
    assert!(plan.accepts(&two), "a second look may have changed the score");
}

proptest! {
    #[test]
    fn tiles_are_bounded_and_cover_every_level(width in 1u32..9_000, height in 1u32..9_000) {
        let plan = Plan::of(width, height, PX_MAX);
        prop_assert!(!plan.tiles().is_empty());
        for level in plan.first_level()..=plan.last_level() {
            let (w, h) = (level_side(width, level), level_side(height, level));
            let tiles: Vec<_> = plan.tiles().iter().filter(|tile| tile.level == level).collect();
            for tile in &tiles {
                prop_assert!(tile.width_px <= TILE_SIDE_PX_MAX && tile.height_px <= TILE_SIDE_PX_MAX);
                prop_assert!(tile.left_px + tile.width_px <= w && tile.top_px + tile.height_px <= h);
            }
            let row: Vec<_> = tiles.iter().filter(|tile| tile.top_px == 0).collect();
            let column: Vec<_> = tiles.iter().filter(|tile| tile.left_px == 0).collect();
            prop_assert_eq!(row.len() * column.len(), tiles.len());
            for pair in row.windows(2) {
                prop_assert!(pair[1].left_px + TILE_OVERLAP_PX <= pair[0].left_px + pair[0].width_px);
            }
            for pair in column.windows(2) {
                prop_assert!(pair[1].top_px + TILE_OVERLAP_PX <= pair[0].top_px + pair[0].height_px);
            }
            prop_assert_eq!(row.last().map(|tile| tile.left_px + tile.width_px), Some(w));
            prop_assert_eq!(column.last().map(|tile| tile.top_px + tile.height_px), Some(h));
        }
    }

    #[test]
    fn every_face_lies_whole_in_a_tile_of_its_level(
        width in 1u32..9_000, height in 1u32..9_000, x in 0.0f64..1.0, y in 0.0f64..1.0, size in 0.0f64..1.0,
    ) {
        let plan = Plan::of(width, height, PX_MAX);
        for level in plan.first_level()..=plan.last_level() {
            let (w, h) = (level_side(width, level), level_side(height, level));
            let one_tile = w <= TILE_SIDE_PX_MAX && h <= TILE_SIDE_PX_MAX;
            let largest = if one_tile { w.min(h) } else { FACE_PX_MAX.min(w).min(h) };
            let side = 1 + (f64::from(largest - 1) * size) as u32;
            let (left, top) = ((f64::from(w - side) * x) as u32, (f64::from(h - side) * y) as u32);
            prop_assert!(holders(&plan, level, left, top, side) > 0, "{side} px at {left},{top} of level {level}, {w}×{h}");
        }
    }

    #[test]
    fn no_face_is_too_large_for_the_last_level(width in 1u32..9_000, height in 1u32..9_000) {
        let plan = Plan::of(width, height, PX_MAX);
        let (w, h) = (level_side(width, plan.last_level()), level_side(height, plan.last_level()));
        prop_assert!(
            (w <= TILE_SIDE_PX_MAX && h <= TILE_SIDE_PX_MAX) || w.min(h) <= FACE_PX_MAX,
            "{w}×{h} is neither one tile nor narrow"
        );
    }

    #[test]
    fn every_face_that_reaches_into_what_moved_lies_whole_in_what_is_searched(
        width in 641u32..3_000, height in 641u32..3_000, areas in moved(), x in 0.0f64..1.0, y in 0.0f64..1.0,
    ) {
        let plan = Plan::of_moved(width, height, PX_MAX, Some(&areas));
        for level in plan.first_level()..plan.last_level() {
            let (w, h) = (level_side(width, level), level_side(height, level));
            // Somewhere around the first area, so that it reaches into it.
            let area = areas.iter().next().expect("one");
            let side = MOVED_FACE_PX;
            let near = |first: u16, length: u16, part: f64, level_px: u32| {
                let (first, end) = (u32::from(first) >> level, (u32::from(first) + u32::from(length)).div_ceil(1 << level));
                let (lowest, highest) = ((first + 1).saturating_sub(side), end.min(level_px).saturating_sub(1));
                (lowest + (f64::from(highest.saturating_sub(lowest)) * part) as u32).min(level_px - side)
            };
            let (left, top) = (near(area.left_px, area.width_px, x, w), near(area.top_px, area.height_px, y, h));
            let inside = starts_inside(area, width, height);
            prop_assert!(!inside || holders(&plan, level, left, top, side) > 0, "{side} px at {left},{top} of level {level}, {w}×{h}");
        }
    }

    #[test]
    fn what_moved_is_never_more_work_than_the_whole_picture(width in 1u32..3_000, height in 1u32..3_000, areas in moved()) {
        let (plan, whole) = (Plan::of_moved(width, height, PX_MAX, Some(&areas)), Plan::of(width, height, PX_MAX));
        prop_assert_eq!((plan.first_level(), plan.last_level()), (whole.first_level(), whole.last_level()));
        for tile in plan.tiles() {
            let (w, h) = (level_side(width, tile.level), level_side(height, tile.level));
            prop_assert!(tile.width_px > 0 && tile.height_px > 0 && tile.width_px <= TILE_SIDE_PX_MAX && tile.height_px <= TILE_SIDE_PX_MAX);
            prop_assert!(tile.left_px + tile.width_px <= w && tile.top_px + tile.height_px <= h);
        }
        // Twelve tiles in place of one part of a level overlap; that is bounded.
        let pixels = |plan: &Plan| plan.tiles().iter().map(TileArea::pixels).sum::<u64>();
        prop_assert!(pixels(&plan) <= 2 * pixels(&whole), "{} and {}", pixels(&plan), pixels(&whole));
        prop_assert!(plan.accepts(&plan.begin()));
        prop_assert_eq!(whole.accepts(&plan.begin()), plan.moved.is_none());
    }

    #[test]
    fn the_merge_does_not_depend_on_the_order(
        faces in prop::collection::vec(a_face(), 0..30).prop_flat_map(|v| (Just(v.clone()), Just(v).prop_shuffle())),
        one_tile: bool,
    ) {
        let plan = if one_tile { Plan::of(480, 480, PX_MAX) } else { Plan::of(800, 700, PX_MAX) };
        prop_assert_eq!(plan.merge(&faces.0), plan.merge(&faces.1));
    }

    #[test]
    fn the_merge_of_a_merge_changes_nothing(faces in prop::collection::vec(a_face(), 0..30), one_tile: bool) {
        let plan = if one_tile { Plan::of(480, 480, PX_MAX) } else { Plan::of(800, 700, PX_MAX) };
        let once = plan.merge(&faces);
        prop_assert_eq!(plan.merge(&once), once);
    }

    #[test]
    fn no_two_merged_faces_are_the_same(faces in prop::collection::vec(a_face(), 0..30)) {
        let merged = Plan::of(800, 700, PX_MAX).merge(&faces);
        for (i, a) in merged.iter().enumerate() {
            for b in &merged[i + 1..] {
                prop_assert!(!same_face(a.rect, b.rect));
            }
        }
    }
}
