//! The means that a JPEG stores beside those of its pixels once decoded, on real photos.

use std::path::PathBuf;

use camera_agent::jpeg::{Blocks, luma_blocks};
use image::RgbImage;

/// A mean read and one counted may differ by this, steps of 255: rounding, and what a block clips at black and white.
const OFF_MAX: f64 = 2.0;

/// Photos of both kinds that the data set has: with colour at full size, and (`t1.jpg`) at half.
fn photos() -> Vec<(PathBuf, Vec<u8>)> {
    let data = std::env::var_os("MICROLAMBDA_DATA").map_or_else(|| PathBuf::from("../target/data"), PathBuf::from);
    let files = std::fs::read_dir(data.join("photos/people")).expect("the photos of `make setup`");
    let paths = files.map(|file| file.expect("a file").path());
    let jpegs = paths.filter(|path| path.extension().is_some_and(|extension| extension == "jpg"));
    jpegs.map(|path| (path.clone(), std::fs::read(path).expect("a photo"))).collect()
}

/// Mean luma of a block, counted.
fn counted(picture: &RgbImage, x: u32, y: u32) -> f64 {
    let luma = |[r, g, b]: [u8; 3]| 0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b);
    let pixels = (8 * y..8 * y + 8).flat_map(|y| (8 * x..8 * x + 8).map(move |x| (x, y)));
    pixels.map(|(x, y)| luma(picture.get_pixel(x, y).0)).sum::<f64>() / 64.0
}

#[test]
fn the_means_read_are_those_of_the_pixels() {
    let photos = photos();
    assert!(photos.iter().any(|(path, _)| path.ends_with("t1.jpg")), "colour at half size");
    for (path, jpeg) in photos {
        let picture = image::load_from_memory(&jpeg).expect("a photo").into_rgb8();
        let Blocks { width, height, means } = luma_blocks(&jpeg).expect("a sequential JPEG");
        assert_eq!((width, height), (picture.width().div_ceil(8), picture.height().div_ceil(8)));
        let whole = |x: u32, y: u32| 8 * x + 8 <= picture.width() && 8 * y + 8 <= picture.height();
        let (mut off, mut blocks) = (0, 0);
        for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))).filter(|(y, x)| whole(*x, *y)) {
            let read = f64::from(means[(y * width + x) as usize]);
            off += u32::from((read - counted(&picture, x, y)).abs() > OFF_MAX);
            blocks += 1;
        }
        // Colours outside of RGB are clipped when pixels are made of them.
        assert!(off * 100 <= blocks, "{}: {off} of {blocks} blocks", path.display());
    }
}

#[test]
fn a_photo_that_is_cut_or_damaged_is_read_or_refused() {
    for (_, jpeg) in photos() {
        assert_eq!(luma_blocks(&jpeg[..jpeg.len() / 2]), None, "a cut one shows nothing below");
        for damage in 0..200_usize {
            let mut bytes = jpeg.clone();
            // Every other damage hits the head, where the tables are.
            let end = if damage % 2 == 0 { 1_000.min(bytes.len()) } else { bytes.len() };
            let at = damage * 7_919 % end;
            bytes[at] ^= (damage % 255) as u8 + 1;
            if let Some(Blocks { width, height, means }) = luma_blocks(&bytes) {
                assert_eq!(means.len(), (width * height) as usize);
            }
        }
    }
}
