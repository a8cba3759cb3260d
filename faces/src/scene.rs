//! Whether one picture goes on where another left off: the same view of a camera that stands still, or something else.

use serde::{Deserialize, Serialize};

/// Blocks in a row of the grid.
const COLUMNS: usize = 8;
/// Rows of the grid.
const ROWS: usize = 4;
/// Blocks of the grid.
pub const SCENE_BLOCKS: usize = COLUMNS * ROWS;

/// Half of the blocks of a view that goes on are this near to what they were, once a change of the whole picture's light is taken out, in
/// steps of 256. Of a camera that stands still the median change is 0 or 1, somebody who walks by included; of two photos of people it is
/// 9 and more (`face-worker/tests/scenes.rs`).
const CHANGE_MAX: i32 = 4;

/// The coarse light of a picture: mean luma of 8 × 4 blocks, row by row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scene(pub [u8; SCENE_BLOCKS]);

impl Scene {
    /// Of packed RGB pixels; `None` of a picture with fewer columns or rows than the grid, or if there are not three bytes a pixel.
    pub fn of(width_px: u32, height_px: u32, rgb: &[u8]) -> Option<Self> {
        let (width, height) = (width_px as usize, height_px as usize);
        if width < COLUMNS || height < ROWS || rgb.len() != width * height * 3 {
            return None;
        }
        let (mut sums, mut counts) = ([0_u64; SCENE_BLOCKS], [0_u64; SCENE_BLOCKS]);
        for (y, row) in rgb.chunks_exact(width * 3).enumerate() {
            for column in 0..COLUMNS {
                let (from, to) = (column * width / COLUMNS, (column + 1) * width / COLUMNS);
                // Green counts twice: near enough to luma, and exact in integers.
                let luma = |pixel: &[u8]| u64::from(pixel[0]) + 2 * u64::from(pixel[1]) + u64::from(pixel[2]);
                let block = y * ROWS / height * COLUMNS + column;
                sums[block] += row[from * 3..to * 3].chunks_exact(3).map(luma).sum::<u64>();
                counts[block] += (to - from) as u64;
            }
        }
        let mut blocks = [0; SCENE_BLOCKS];
        for (block, (sum, count)) in blocks.iter_mut().zip(sums.iter().zip(counts)) {
            *block = u8::try_from(sum / (4 * count.max(1))).unwrap_or(u8::MAX);
        }
        Some(Self(blocks))
    }

    /// Whether this is the view of `former`, at most half of it changed by what moves, whatever the light. Plain walls are all alike.
    pub fn continues(&self, former: &Self) -> bool {
        self.change_from(former) <= CHANGE_MAX
    }

    /// The median change of a block, the change of the whole picture's light taken out; steps of 256.
    pub fn change_from(&self, former: &Self) -> i32 {
        let mut changes: Vec<i32> = self.0.iter().zip(former.0).map(|(a, b)| i32::from(*a) - i32::from(b)).collect();
        let light = median(&mut changes);
        let mut rest: Vec<i32> = changes.into_iter().map(|change| (change - light).abs()).collect();
        median(&mut rest)
    }
}

/// The upper median.
fn median(values: &mut [i32]) -> i32 {
    let middle = values.len() / 2;
    *values.select_nth_unstable(middle).1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(value: impl Fn(usize, usize) -> u8) -> Scene {
        let rgb: Vec<u8> =
            (0..60).flat_map(|y| (0..100).flat_map(move |x| [(x, y); 3])).map(|(x, y)| value(x, y)).collect();
        Scene::of(100, 60, &rgb).expect("a picture")
    }

    #[test]
    fn blocks_hold_their_mean() {
        let scene = picture(|x, y| if x < 50 && y < 30 { 200 } else { 10 });
        assert_eq!((scene.0[0], scene.0[7], scene.0[8], scene.0[24]), (200, 10, 200, 10));
    }

    #[test]
    fn a_view_goes_on_through_brighter_light_and_somebody_before_a_third_of_it() {
        let view = |x: usize, y: usize| (x * 2 + y) as u8 / 2;
        let brighter = picture(|x, y| view(x, y) + 40);
        let covered = picture(|x, y| if (30..60).contains(&x) { 250 } else { view(x, y) + 3 });
        assert!(brighter.continues(&picture(view)) && covered.continues(&picture(view)));
    }

    #[test]
    fn another_view_does_not_go_on() {
        let one = picture(|x, y| (x * 2 + y) as u8 / 2);
        let other = picture(|x, y| ((100 - x) * 2 + y) as u8 / 2);
        assert!(!one.continues(&other));
    }

    #[test]
    fn a_picture_smaller_than_the_grid_has_no_scene() {
        assert_eq!(Scene::of(7, 100, &[0; 2_100]), None);
        assert_eq!(Scene::of(100, 100, &[0; 5]), None);
    }
}
