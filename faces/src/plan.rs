//! How a picture is cut into tiles, and how what the tiles found becomes one list of faces.
//!
//! The plan is a function of the picture's size and of where something moved, so that units do not depend on `r_limit`: level `k` is the picture
//! halved `k` times, each level is cut into overlapping tiles, and the last level is one tile. Small faces are
//! found in the fine levels, large ones in the coarse levels. A detection that touches an edge which cuts
//! through the picture is dropped, because a neighbour or the next level holds that face whole.
//!
//! Of a picture of which only parts may show something new, each level is searched around these parts, as far as a face that reaches into one
//! of them may extend.

use std::cmp::Ordering;

use microlambda_wire::{Area, Areas};

use crate::{FACES_MAX, Face, FaceOutcome, FrameAnalysis, Partial, Rect, SeenFace, Tile, Unusable};

/// No tile is longer than this on either side, px of its level: the largest unit, about 0.4 megapixels.
pub const TILE_SIDE_PX_MAX: u32 = 640;
/// Neighbouring tiles share at least this many columns or rows, px of their level.
pub const TILE_OVERLAP_PX: u32 = 96;
/// Layers of the detector's pyramid that are searched on each level but the last of a whole picture, with windows of 40, 48, 58 and 69 px (its boxes are
/// nine tenths of that). The next level begins with a window of 80. Parts that moved are searched in all layers: they are small, and a face in motion,
/// blurred and turned, is found more often if it has more chances.
pub const LAYERS_PER_LEVEL: u32 = 4;
/// A detection this near to an inner edge may be the visible part of a larger face, px of the level.
pub const EDGE_MARGIN_PX: i32 = 2;
/// Every face up to this size lies whole inside one tile of its level, px of the level; the next level holds twice that.
pub const FACE_PX_MAX: u32 = TILE_OVERLAP_PX - 2 * EDGE_MARGIN_PX.unsigned_abs();
/// A level whose shorter side is below this holds no face that the level before it does not, px: the detector's smallest
/// face in a picture enlarged twice.
pub const LEVEL_SIDE_PX_MIN: u32 = 40;

/// A face up to this size that reaches into a part that moved lies whole in what is searched, px of the level: twice the detector's smallest,
/// which the next level finds as well.
const MOVED_FACE_PX: u32 = 2 * LEVEL_SIDE_PX_MIN;
/// Around a part that moved so much is searched as well, px of the level.
const MOVED_MARGIN_PX: u32 = MOVED_FACE_PX + EDGE_MARGIN_PX.unsigned_abs();
/// Areas start and end at multiples of this, px of the level: the detector's cells lie as they lie in the whole tile.
const AREA_STEP_PX: u32 = 8;

/// So many detections are kept until the merge, the surest: thousands of times what pictures show. A state inside a frame has to
/// fit a message.
pub const FOUND_MAX: usize = 2_048;

/// Two boxes with a larger intersection over union show one face, in 1/1,000,000: dlib's own rule for this detector.
const IOU_PPM_MAX: i64 = 330_082;
/// A box of which a larger part lies inside a surer one shows the same face, in 1/1,000,000: dlib's own rule as well.
const COVERED_PPM_MAX: i64 = 788_571;
const PPM: i64 = 1_000_000;

/// One tile, in pixels of its level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TileArea {
    /// How often the picture is halved.
    pub level: u32,
    /// Leftmost column.
    pub left_px: u32,
    /// Topmost row.
    pub top_px: u32,
    /// Columns.
    pub width_px: u32,
    /// Rows.
    pub height_px: u32,
    /// Columns of the whole level.
    level_width_px: u32,
    /// Rows of the whole level.
    level_height_px: u32,
    /// Whether all layers of the detector's pyramid are searched.
    all_layers: bool,
}

impl TileArea {
    /// Pixels to search: the work of the unit.
    pub fn pixels(&self) -> u64 {
        u64::from(self.width_px) * u64::from(self.height_px)
    }

    /// How many layers of the detector's pyramid are searched, finest first; `None` for all.
    pub fn layers_max(&self) -> Option<u32> {
        (!self.all_layers).then_some(LAYERS_PER_LEVEL)
    }

    /// A detection in the tile's own coordinates as a box of the picture, not yet clipped; `None` if it touches an edge
    /// inside the picture.
    pub fn to_picture(&self, found: Rect) -> Option<Rect> {
        let inner_left = self.left_px > 0;
        let inner_top = self.top_px > 0;
        let inner_right = self.left_px + self.width_px < self.level_width_px;
        let inner_bottom = self.top_px + self.height_px < self.level_height_px;
        let cut = (inner_left && found.left < EDGE_MARGIN_PX)
            || (inner_top && found.top < EDGE_MARGIN_PX)
            || (inner_right && found.right > signed(self.width_px) - 1 - EDGE_MARGIN_PX)
            || (inner_bottom && found.bottom > signed(self.height_px) - 1 - EDGE_MARGIN_PX);
        if cut {
            return None;
        }
        let (left, top) = (signed(self.left_px), signed(self.top_px));
        Some(Rect {
            left: scaled_up(found.left.saturating_add(left), self.level),
            top: scaled_up(found.top.saturating_add(top), self.level),
            right: scaled_up(found.right.saturating_add(left).saturating_add(1), self.level).saturating_sub(1),
            bottom: scaled_up(found.bottom.saturating_add(top).saturating_add(1), self.level).saturating_sub(1),
        })
    }
}

/// The next unit of an analysis under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextUnit {
    /// Search this tile of the plan.
    Tile(u32),
    /// Encode this face of [`Partial::to_encode`].
    Face(u32),
    /// Nothing: [`Plan::finished`] has the analysis.
    Finished,
}

/// All tiles of a picture, in the order in which they are searched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    width_px: u32,
    height_px: u32,
    first_level: u32,
    tiles: Vec<TileArea>,
    moved: Option<Areas>,
}

/// A part of a level that is searched: its two edges across and down, px; the second of each is not inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Field {
    across: (u32, u32),
    down: (u32, u32),
}

impl Field {
    fn pixels(&self) -> u64 {
        u64::from(self.across.1 - self.across.0) * u64::from(self.down.1 - self.down.0)
    }

    /// The smallest field around both.
    fn around(&self, other: &Self) -> Self {
        let both = |a: (u32, u32), b: (u32, u32)| (a.0.min(b.0), a.1.max(b.1));
        Self { across: both(self.across, other.across), down: both(self.down, other.down) }
    }
}

impl Plan {
    /// The plan of a picture of this size. Levels of more than `picture_px_max` pixels are left out: a larger
    /// picture is scaled down first, and its boxes are still those of the picture as it came.
    pub fn of(width_px: u32, height_px: u32, picture_px_max: u32) -> Self {
        Self::of_moved(width_px, height_px, picture_px_max, None)
    }

    /// The same for a picture in which only `moved` may show something new; areas outside of the picture count for nothing, and if all of them are
    /// the whole picture is searched.
    pub fn of_moved(width_px: u32, height_px: u32, picture_px_max: u32, moved: Option<&Areas>) -> Self {
        let moved = moved.filter(|areas| areas.iter().any(|area| starts_inside(area, width_px, height_px)));
        let mut plan = Self { width_px, height_px, first_level: 0, tiles: Vec::new(), moved: moved.cloned() };
        let (mut width, mut height, mut level) = (width_px, height_px, 0);
        if width == 0 || height == 0 {
            return plan;
        }
        while u64::from(width) * u64::from(height) > u64::from(picture_px_max.max(1)) {
            (width, height, level) = (halved(width), halved(height), level + 1);
        }
        plan.first_level = level;
        loop {
            let (next_width, next_height) = (halved(width), halved(height));
            let is_last = width <= TILE_SIDE_PX_MAX && height <= TILE_SIDE_PX_MAX
                || next_width.min(next_height) < LEVEL_SIDE_PX_MIN;
            for field in plan.fields(level, (width, height), is_last) {
                plan.push_field(level, (width, height), is_last, field);
            }
            if is_last {
                return plan;
            }
            (width, height, level) = (next_width, next_height, level + 1);
        }
    }

    /// How often the picture is halved before anything else: 0 unless it has more pixels than the bound.
    pub fn first_level(&self) -> u32 {
        self.first_level
    }

    /// How often it is halved for the coarsest tile.
    pub fn last_level(&self) -> u32 {
        self.tiles.last().map_or(self.first_level, |tile| tile.level)
    }

    /// The tiles, finest level first, then by row and column.
    pub fn tiles(&self) -> &[TileArea] {
        &self.tiles
    }

    /// The faces among all detections of all tiles (picture coordinates, any order), surest first: each
    /// clipped to the picture, and none that overlaps a surer one as dlib's detector defines it. One tile has been
    /// through that rule inside the detector already and is only clipped. At most [`FACES_MAX`].
    pub fn merge(&self, found: &[SeenFace]) -> Vec<SeenFace> {
        let mut sorted: Vec<SeenFace> = found.to_vec();
        sorted.sort_by(surest_first);
        sorted.dedup();
        let mut kept: Vec<SeenFace> = Vec::new();
        for face in sorted {
            let rect = clipped(face.rect, self.width_px, self.height_px);
            if rect.left >= rect.right || rect.top >= rect.bottom {
                continue;
            }
            let face = SeenFace { rect, ..face };
            if self.tiles.len() == 1 || !kept.iter().any(|surer| same_face(surer.rect, face.rect)) {
                kept.push(face);
            }
        }
        // Clipping may have changed the order of faces with equal scores.
        kept.sort_by(surest_first);
        kept.dedup();
        kept.truncate(FACES_MAX);
        kept
    }

    /// The state of a picture of which nothing is done yet.
    pub fn begin(&self) -> Partial {
        Partial { width_px: self.width_px, height_px: self.height_px, moved: self.moved.clone(), ..Partial::default() }
    }

    /// Whether `partial` can be a state of this picture: sizes, counts and boxes agree with the plan.
    pub fn accepts(&self, partial: &Partial) -> bool {
        let searched = partial.tiles_done as usize;
        let inside = |face: &SeenFace| {
            let rect = clipped(face.rect, self.width_px, self.height_px);
            rect == face.rect && rect.left < rect.right && rect.top < rect.bottom && face.score.is_finite()
        };
        (partial.width_px, partial.height_px, &partial.moved) == (self.width_px, self.height_px, &self.moved)
            && searched <= self.tiles.len()
            && partial.tiles_set_aside.len() <= searched
            && (searched == self.tiles.len() || (partial.to_encode.is_empty() && partial.faces.is_empty()))
            && (searched < self.tiles.len() || partial.found.is_empty())
            // What the merge would carry on into a state that is refused.
            && partial.found.iter().all(|face| face.score.is_finite())
            && partial.found.len() <= FOUND_MAX
            && partial.to_encode.len() <= FACES_MAX
            && partial.faces.len() <= partial.to_encode.len()
            && partial.faces.iter().zip(&partial.to_encode).all(|(face, seen)| face.seen.rect == seen.rect && face.seen.score.is_finite())
            && partial.to_encode.iter().all(inside)
    }

    /// What comes next.
    pub fn next_unit(&self, partial: &Partial) -> NextUnit {
        if (partial.tiles_done as usize) < self.tiles.len() {
            NextUnit::Tile(partial.tiles_done)
        } else if partial.faces.len() < partial.to_encode.len() {
            NextUnit::Face(index(partial.faces.len()))
        } else {
            NextUnit::Finished
        }
    }

    /// Records what the next tile showed, in picture coordinates; after the last tile the faces to encode are settled.
    pub fn tile_done(&self, partial: &mut Partial, found: &[SeenFace]) {
        partial.found.extend(found.iter().filter(|face| face.score.is_finite()));
        if partial.found.len() > FOUND_MAX {
            partial.found.sort_by(surest_first);
            partial.found.truncate(FOUND_MAX);
        }
        partial.tiles_done = partial.tiles_done.saturating_add(1);
        if partial.tiles_done as usize >= self.tiles.len() {
            partial.to_encode = self.merge(&std::mem::take(&mut partial.found));
        }
    }

    /// Records that the next unit is given up, with the reason; nothing if there is none.
    pub fn set_aside(&self, partial: &mut Partial, why: &str) {
        match self.next_unit(partial) {
            NextUnit::Tile(index) => {
                partial.tiles_set_aside.push(Tile { index, why: why.to_owned() });
                self.tile_done(partial, &[]);
            }
            NextUnit::Face(index) => {
                let seen = partial.to_encode[index as usize];
                let outcome = FaceOutcome::Unusable(Unusable::SetAside { why: why.to_owned() });
                partial.faces.push(Face { seen, sharpness: 0.0, outcome });
            }
            NextUnit::Finished => {}
        }
    }

    /// The analysis, once no unit is left.
    pub fn finished(&self, partial: &Partial) -> Option<FrameAnalysis> {
        (self.next_unit(partial) == NextUnit::Finished).then(|| FrameAnalysis {
            width_px: self.width_px,
            height_px: self.height_px,
            faces: partial.faces.iter().filter(|face| face.is_recorded()).cloned().collect(),
            tiles_set_aside: partial.tiles_set_aside.clone(),
            scene: partial.scene,
        })
    }

    /// What is searched of a level.
    fn fields(&self, level: u32, (width, height): (u32, u32), is_last: bool) -> Vec<Field> {
        let whole = Field { across: (0, width), down: (0, height) };
        let Some(moved) = &self.moved else { return vec![whole] };
        let grown = |area: Area| {
            // On the last level faces may be of any size; one that moved has moved at its edges.
            let longer_px = u32::from(area.width_px.max(area.height_px)) >> level.min(31);
            let margin_px = if is_last { MOVED_MARGIN_PX.max(longer_px / 2) } else { MOVED_MARGIN_PX };
            field_of(area, level, (width, height), margin_px)
        };
        let inside = moved.iter().filter(|area| starts_inside(*area, self.width_px, self.height_px));
        let mut fields: Vec<Field> = inside.map(grown).collect();
        while let Some((a, b)) = pair_to_join(&fields) {
            let other = fields.swap_remove(b);
            fields[a] = fields[a].around(&other);
        }
        if fields.iter().map(Field::pixels).sum::<u64>() >= whole.pixels() { vec![whole] } else { fields }
    }

    fn push_field(
        &mut self,
        level: u32,
        (level_width_px, level_height_px): (u32, u32),
        is_last_level: bool,
        field: Field,
    ) {
        let all_layers = is_last_level || self.moved.is_some();
        let (columns, width_px) = cuts(field.across.1 - field.across.0);
        let (rows, height_px) = cuts(field.down.1 - field.down.0);
        for row in &rows {
            for column in &columns {
                let (left_px, top_px) = (field.across.0 + column, field.down.0 + row);
                self.tiles.push(TileArea {
                    level,
                    left_px,
                    top_px,
                    width_px,
                    height_px,
                    level_width_px,
                    level_height_px,
                    all_layers,
                });
            }
        }
    }
}

/// Half of a side, rounded down: the side of the next level, px; never 0.
pub fn halved(side_px: u32) -> u32 {
    (side_px / 2).max(1)
}

/// A box clipped as Python's `face_recognition` does it: the right and bottom sides may equal the picture's width and height.
pub fn clipped(rect: Rect, width_px: u32, height_px: u32) -> Rect {
    rect.intersect(&Rect { left: 0, top: 0, right: signed(width_px), bottom: signed(height_px) })
}

/// Starts of the tiles along a side, evenly spread, and their common length.
fn cuts(side_px: u32) -> (Vec<u32>, u32) {
    if side_px <= TILE_SIDE_PX_MAX {
        return (vec![0], side_px);
    }
    let tiles = (side_px - TILE_OVERLAP_PX).div_ceil(TILE_SIDE_PX_MAX - TILE_OVERLAP_PX);
    let length = (side_px + (tiles - 1) * TILE_OVERLAP_PX).div_ceil(tiles);
    let start = |i: u32| u64::from(i) * u64::from(side_px - length) / u64::from(tiles - 1);
    ((0..tiles).map(|i| u32::try_from(start(i)).unwrap_or(u32::MAX)).collect(), length)
}

fn starts_inside(area: Area, width_px: u32, height_px: u32) -> bool {
    u32::from(area.left_px) < width_px && u32::from(area.top_px) < height_px
}

/// An area of the picture with a margin, as a part of a level.
fn field_of(area: Area, level: u32, (width, height): (u32, u32), margin_px: u32) -> Field {
    let side = |start: u16, length: u16, level_px: u32| {
        let (first, end) = (u32::from(start), u32::from(start) + u32::from(length));
        // A level leaves an odd last column or row of the one before out.
        let first = (first >> level.min(31)).min(level_px - 1);
        let end = end.div_ceil(1 << level.min(31));
        let from = first.saturating_sub(margin_px) / AREA_STEP_PX * AREA_STEP_PX;
        (from, (end + margin_px).next_multiple_of(AREA_STEP_PX).min(level_px))
    };
    Field { across: side(area.left_px, area.width_px, width), down: side(area.top_px, area.height_px, height) }
}

/// Two fields that are no more to search as one.
fn pair_to_join(fields: &[Field]) -> Option<(usize, usize)> {
    let pairs = (0..fields.len()).flat_map(|a| (a + 1..fields.len()).map(move |b| (a, b)));
    let mut cheaper =
        pairs.filter(|&(a, b)| fields[a].around(&fields[b]).pixels() <= fields[a].pixels() + fields[b].pixels());
    cheaper.next()
}

fn surest_first(a: &SeenFace, b: &SeenFace) -> Ordering {
    b.score.total_cmp(&a.score).then_with(|| a.rect.cmp(&b.rect))
}

fn same_face(a: Rect, b: Rect) -> bool {
    let common = a.intersect(&b).area();
    let bounding = Rect {
        left: a.left.min(b.left),
        top: a.top.min(b.top),
        right: a.right.max(b.right),
        bottom: a.bottom.max(b.bottom),
    };
    let covers =
        |part: i64, whole: i64, ppm: i64| i128::from(part) * i128::from(PPM) > i128::from(whole) * i128::from(ppm);
    common > 0
        && (covers(common, bounding.area(), IOU_PPM_MAX)
            || covers(common, a.area(), COVERED_PPM_MAX)
            || covers(common, b.area(), COVERED_PPM_MAX))
}

fn index(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

fn signed(px: u32) -> i32 {
    i32::try_from(px).unwrap_or(i32::MAX)
}

fn scaled_up(px: i32, level: u32) -> i32 {
    let scaled = i64::from(px) << level.min(31);
    i32::try_from(scaled).unwrap_or(if scaled < 0 { i32::MIN } else { i32::MAX })
}

#[cfg(test)]
mod tests;
