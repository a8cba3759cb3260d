//! What dlib's search for faces needs, counted from its definition: arithmetic, and bytes that its stages hand to each other.
//!
//! Counted are additions, multiplications, divisions, roots and comparisons of numbers; converting, moving and selecting them are not.

/// Pixels of a cell's side.
const CELL_PX: u64 = 8;
/// The pyramid ends above pictures of which a side is shorter, px (`get_min_pyramid_layer_width` of dlib's detector).
const SIDE_PX_MIN: u64 = 64;
/// Separable filters of the detector's five parts: 61, 58, 54, 66 and 66 (`dlib::num_separable_filters`).
const FILTERS: u64 = 305;
/// The detector's parts.
const DETECTORS: u64 = 5;
/// Values of a cell's histogram.
const ORIENTATIONS: u64 = 18;
/// Values that describe a cell.
const FEATURES: u64 = 31;

/// For each pixel of a level, to get it from a finer one: four weights, and for each of three channels their sum with four values.
const SCALE: u64 = 4 + 3 * (4 + 3);
/// … the strongest of three gradients: of each two differences and the square of its length; two comparisons.
const GRADIENT: u64 = 3 * (2 + 3) + 2;
/// … its direction among nine and their opposites, its length, its four parts, and adding these to four cells.
const VOTE: u64 = 9 * (3 + 2) + 1 + 7 + 4;
/// For each cell: its energy, four blocks' bounds and factors, 27 features of four parts each, nine sums of opposites, and texture.
const DESCRIBE: u64 = 9 * 3 + 4 * (4 + 3) + 27 * (4 * 2 + 3) + 9 + (6 * 4 * 3 + 4);
/// … each filter of ten taps along the row and then along the column, onto a sum; and each detector's comparison.
const FILTER: u64 = FILTERS * (10 + 9 + 10 + 10) + DETECTORS;

/// Bytes of a pixel: written, read for its features, and read for the next level.
const PIXEL_BYTES: u64 = 3 * 3;
/// Bytes of a cell: its histogram written and read, features written once and read by each detector, whose sum is written and read.
const CELL_BYTES: u64 = ORIENTATIONS * 4 * 2 + FEATURES * 4 * (1 + DETECTORS) + DETECTORS * 4 * 2;

/// What one search needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct SearchCost {
    /// Pixels of all levels of the pyramid.
    pub pixels: u64,
    /// Operations.
    pub operations: u64,
    /// Bytes from stage to stage; the less of them go through memory, the more fit the caches.
    pub bytes: u64,
}

impl SearchCost {
    /// Of a picture that is searched at twice its size.
    pub fn of(width_px: u32, height_px: u32) -> Self {
        let (mut width_px, mut height_px) = (2 * u64::from(width_px), 2 * u64::from(height_px));
        let mut cost = Self::default();
        while width_px >= SIDE_PX_MIN && height_px >= SIDE_PX_MIN {
            let pixels = width_px * height_px;
            // Half a cell is one; the outermost are not described.
            let cells = [width_px, height_px].map(|px| (px + CELL_PX / 2) / CELL_PX - 2);
            let cells = cells[0] * cells[1];
            cost.pixels += pixels;
            cost.operations += pixels * (SCALE + GRADIENT + VOTE) + cells * (DESCRIBE + FILTER);
            cost.bytes += pixels * PIXEL_BYTES + cells * CELL_BYTES;
            (width_px, height_px) = (5 * width_px / 6, 5 * height_px / 6);
        }
        cost
    }
}

impl std::ops::Add for SearchCost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            pixels: self.pixels + other.pixels,
            operations: self.operations + other.operations,
            bytes: self.bytes + other.bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_of_one_level_costs_its_pixels_and_cells() {
        let cost = SearchCost::of(32, 32);
        assert_eq!(cost.pixels, 64 * 64);
        assert_eq!(cost.operations, 64 * 64 * (SCALE + GRADIENT + VOTE) + 6 * 6 * (DESCRIBE + FILTER));
        assert_eq!(cost.bytes, 64 * 64 * PIXEL_BYTES + 6 * 6 * CELL_BYTES);
    }

    #[test]
    fn all_levels_hold_a_little_less_than_the_sum_of_the_series() {
        // Each level has 25/36 of the pixels before: all together 36/11 of the first.
        let first = 2.0 * 1280.0 * 2.0 * 720.0;
        let share = SearchCost::of(1280, 720).pixels as f64 / (first * 36.0 / 11.0);
        assert!((0.99..1.0).contains(&share), "{share}");
    }

    #[test]
    fn a_picture_too_small_for_a_level_costs_nothing() {
        assert_eq!(SearchCost::of(31, 500), SearchCost::default());
    }
}
