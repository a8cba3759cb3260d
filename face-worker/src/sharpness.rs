//! How sharp a face is, as one number that is the same on every machine.

use crate::ffi::CHIP_SIDE_PX;

/// Variance of the 4-neighbour Laplacian of an aligned chip's luma.
///
/// Integers up to the last division, so that order and processor do not matter. A chip that is not
/// [`CHIP_SIDE_PX`]² packed RGB has sharpness 0.
pub fn sharpness(chip: &[u8]) -> f32 {
    if chip.len() != CHIP_SIDE_PX * CHIP_SIDE_PX * 3 {
        return 0.0;
    }
    // ITU-R BT.601 weights in 1/256.
    let luma: Vec<i64> = chip
        .chunks_exact(3)
        .map(|p| (77 * i64::from(p[0]) + 150 * i64::from(p[1]) + 29 * i64::from(p[2]) + 128) >> 8)
        .collect();
    let (mut sum, mut squares, mut count) = (0i64, 0i64, 0i64);
    for y in 1..CHIP_SIDE_PX - 1 {
        for x in 1..CHIP_SIDE_PX - 1 {
            let at = y * CHIP_SIDE_PX + x;
            let laplacian =
                luma[at - 1] + luma[at + 1] + luma[at - CHIP_SIDE_PX] + luma[at + CHIP_SIDE_PX] - 4 * luma[at];
            sum += laplacian;
            squares += laplacian * laplacian;
            count += 1;
        }
    }
    ((squares * count - sum * sum) as f64 / (count * count) as f64) as f32
}
