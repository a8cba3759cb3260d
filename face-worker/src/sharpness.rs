//! How sharp a face is, as one number that is the same on every machine.

use microlambda_encoder::CHIP_SIDE_PX;

use crate::ffi::Chip;

/// Left out on each side of the chip, px: hair and background, whose sharpness says nothing about the face.
const MARGIN_PX: usize = 25;

/// Variance of the 4-neighbour Laplacian of a chip's luma, over the pixels of the face that show the picture: the black beyond
/// a picture's edge would be the sharpest edge of all. 0 if there are none.
///
/// Integers up to the last division, so that order and processor do not matter.
pub fn sharpness(chip: &Chip) -> f32 {
    if chip.visible.len() != CHIP_SIDE_PX * CHIP_SIDE_PX {
        return 0.0;
    }
    // ITU-R BT.601 weights in 1/256.
    let weighted = |p: &[u8]| (77 * i64::from(p[0]) + 150 * i64::from(p[1]) + 29 * i64::from(p[2]) + 128) >> 8;
    let luma: Vec<i64> = chip.rgb.chunks_exact(3).map(weighted).collect();
    let (mut sum, mut squares, mut count) = (0i64, 0i64, 0i64);
    for y in MARGIN_PX..CHIP_SIDE_PX - MARGIN_PX {
        for x in MARGIN_PX..CHIP_SIDE_PX - MARGIN_PX {
            let at = y * CHIP_SIDE_PX + x;
            if chip.visible[at] == 0 {
                continue;
            }
            let around = luma[at - 1] + luma[at + 1] + luma[at - CHIP_SIDE_PX] + luma[at + CHIP_SIDE_PX];
            let laplacian = around - 4 * luma[at];
            sum += laplacian;
            squares += laplacian * laplacian;
            count += 1;
        }
    }
    if count == 0 { 0.0 } else { ((squares * count - sum * sum) as f64 / (count * count) as f64) as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chip(value: impl Fn(usize, usize) -> u8) -> Chip {
        let at = |i: usize| [value(i % CHIP_SIDE_PX, i / CHIP_SIDE_PX); 3];
        let pixels = CHIP_SIDE_PX * CHIP_SIDE_PX;
        let rgb: Vec<u8> = (0..pixels).flat_map(at).collect();
        Chip { rgb: rgb.try_into().unwrap(), visible: vec![1; pixels] }
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
    fn neither_the_background_nor_the_black_beyond_the_picture_counts() {
        let background = chip(|x, y| if (30..120).contains(&x) && (20..130).contains(&y) { 90 } else { (x * y) as u8 });
        let face_only = Chip {
            visible: (0..CHIP_SIDE_PX * CHIP_SIDE_PX)
                .map(|i| u8::from((31..119).contains(&(i % CHIP_SIDE_PX))))
                .collect(),
            ..background.clone()
        };
        assert!(sharpness(&background) > 0.0);
        assert_eq!(sharpness(&face_only), 0.0);
        assert_eq!(sharpness(&Chip { visible: vec![0; CHIP_SIDE_PX * CHIP_SIDE_PX], ..background }), 0.0);
    }

    #[test]
    fn what_is_no_chip_has_no_sharpness() {
        assert_eq!(sharpness(&Chip { visible: vec![1], ..chip(|x, _| (x * x) as u8) }), 0.0);
    }
}
