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
