//! Pictures for tests, made and not stored.

use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};

/// A picture with some structure; another `seed` gives another picture.
pub(crate) fn photo(width: u32, height: u32, seed: u8) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let wave = |scale: u32| u8::try_from((x * scale + y * (scale + 1) + u32::from(seed) * 37) % 256).unwrap_or(0);
        Rgb([wave(1), wave(2), wave(3) ^ seed])
    })
}

/// The same as a JPEG of quality 80.
pub(crate) fn photo_jpeg(width: u32, height: u32, seed: u8) -> Vec<u8> {
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, 80).encode_image(&photo(width, height, seed)).unwrap();
    jpeg
}

/// The same as a PNG.
pub(crate) fn photo_png(image: &image::DynamicImage) -> Vec<u8> {
    let mut png = std::io::Cursor::new(Vec::new());
    image.write_to(&mut png, image::ImageFormat::Png).unwrap();
    png.into_inner()
}

/// The picture with bytes that belong to no segment in front of each one up to its scan.
pub(crate) fn with_stray_bytes(jpeg: &[u8], stray: &[u8]) -> Vec<u8> {
    let mut spoilt = jpeg[..2].to_vec();
    let mut at = 2;
    loop {
        spoilt.extend_from_slice(stray);
        if jpeg[at + 1] == 0xda {
            spoilt.extend_from_slice(&jpeg[at..]);
            return spoilt;
        }
        let end = at + 2 + usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
        spoilt.extend_from_slice(&jpeg[at..end]);
        at = end;
    }
}

/// What many UVC cameras send: the picture without its Huffman tables.
pub(crate) fn without_huffman_tables(jpeg: &[u8]) -> Vec<u8> {
    let mut bare = jpeg[..2].to_vec();
    let mut at = 2;
    loop {
        let code = jpeg[at + 1];
        let end = at + 2 + usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
        if code == 0xda {
            bare.extend_from_slice(&jpeg[at..]);
            return bare;
        }
        if code != 0xc4 {
            bare.extend_from_slice(&jpeg[at..end]);
        }
        at = end;
    }
}
