//! A small picture of a face, for people; never part of a state.

use image::codecs::jpeg::JpegEncoder;
use image::imageops::{FilterType, resize};
use image::{ExtendedColorType, RgbImage};
use microlambda_faces::Rect;
use microlambda_faces::proto::{THUMBNAIL_BYTES_MAX, THUMBNAIL_PX_MAX};

use crate::picture::Pixels;

/// Margin around the box on each side, in parts of its side.
const MARGIN_PART: i64 = 4;
/// Qualities to try until the picture is small enough.
const QUALITIES: [u8; 4] = [85, 70, 50, 30];

/// A JPEG of the face with some margin, within the bounds of the protocol; `None` if the box is empty.
pub fn of_face(pixels: &Pixels, rect: Rect) -> Option<Vec<u8>> {
    let margin = rect.width().max(rect.height()) / MARGIN_PART;
    let inside = |px: i64, side: u32| u32::try_from(px.clamp(0, i64::from(side))).ok();
    let left = inside(i64::from(rect.left) - margin, pixels.width_px())?;
    let top = inside(i64::from(rect.top) - margin, pixels.height_px())?;
    let right = inside(i64::from(rect.right) + margin + 1, pixels.width_px())?;
    let bottom = inside(i64::from(rect.bottom) + margin + 1, pixels.height_px())?;
    let mut part = pixels.crop(left, top, right.checked_sub(left)?, bottom.checked_sub(top)?)?;
    while part.width_px().max(part.height_px()) > 2 * THUMBNAIL_PX_MAX {
        part = part.half();
    }
    let (width, height) = (part.width_px(), part.height_px());
    let longest = width.max(height).max(THUMBNAIL_PX_MAX);
    let (small_width, small_height) =
        ((width * THUMBNAIL_PX_MAX / longest).max(1), (height * THUMBNAIL_PX_MAX / longest).max(1));
    let picture = RgbImage::from_raw(width, height, part.rgb().to_vec())?;
    let small = if longest > THUMBNAIL_PX_MAX {
        resize(&picture, small_width, small_height, FilterType::Triangle)
    } else {
        picture
    };
    QUALITIES.iter().find_map(|&quality| {
        let mut jpeg = Vec::new();
        JpegEncoder::new_with_quality(&mut jpeg, quality)
            .encode(small.as_raw(), small.width(), small.height(), ExtendedColorType::Rgb8)
            .ok()?;
        (jpeg.len() <= THUMBNAIL_BYTES_MAX).then_some(jpeg)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(width: u32, height: u32) -> Pixels {
        let rgb = (0..width * height * 3).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        Pixels::new(width, height, rgb).expect("three bytes a pixel")
    }

    #[test]
    fn a_thumbnail_stays_within_its_bounds_whatever_the_face() {
        let pixels = noise(900, 700);
        for rect in [
            Rect { left: 0, top: 0, right: 900, bottom: 700 },
            Rect { left: 860, top: 660, right: 900, bottom: 700 },
            Rect { left: 10, top: 10, right: 45, bottom: 45 },
        ] {
            let jpeg = of_face(&pixels, rect).expect("a thumbnail");
            assert!(jpeg.len() <= THUMBNAIL_BYTES_MAX, "{} bytes", jpeg.len());
            let picture = image::load_from_memory(&jpeg).expect("a JPEG");
            assert!(picture.width().max(picture.height()) <= THUMBNAIL_PX_MAX, "{rect:?}");
        }
    }

    #[test]
    fn a_box_outside_the_picture_has_no_thumbnail() {
        assert_eq!(of_face(&noise(20, 20), Rect { left: 90, top: 90, right: 80, bottom: 80 }), None);
    }
}
