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

#[cfg(test)]
mod tests {
    use super::*;

    fn chip(value: impl Fn(usize, usize) -> u8) -> Vec<u8> {
        (0..CHIP_SIDE_PX * CHIP_SIDE_PX).flat_map(|at| [value(at % CHIP_SIDE_PX, at / CHIP_SIDE_PX); 3]).collect()
    }

    #[test]
    fn a_plain_area_and_an_even_slope_have_no_sharpness() {
        assert_eq!(sharpness(&chip(|_, _| 130)), 0.0);
        assert_eq!(sharpness(&chip(|x, _| x as u8)), 0.0);
    }

    #[test]
    fn a_chequerboard_is_as_sharp_as_arithmetic_says() {
        // Luma 0 and 100: the Laplacian is +400 and −400 in equal numbers, so its variance is 160,000.
        assert_eq!(sharpness(&chip(|x, y| if (x + y) % 2 == 0 { 100 } else { 0 })), 160_000.0);
    }

    #[test]
    fn a_softer_edge_is_less_sharp() {
        let edge = |width: usize| sharpness(&chip(|x, _| (x.saturating_sub(70) * 200 / width).min(200) as u8));
        assert!(edge(1) > edge(4) && edge(4) > edge(16), "{} {} {}", edge(1), edge(4), edge(16));
    }

    #[test]
    fn what_is_no_chip_has_no_sharpness() {
        assert_eq!(sharpness(&[1, 2, 3]), 0.0);
    }
}
