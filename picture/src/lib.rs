//! Pixels of picture files, as the camera agent and the worker both read them: what was lost is not filled with grey, and what lets something
//! through is white.

mod halve;
mod jpeg;

use std::borrow::Cow;

use image::{DynamicImage, GrayImage, RgbImage, RgbaImage};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

pub use halve::halved;
pub use jpeg::{JpegScan, JpegScanner, JpegSegment, jpeg_decode_bytes, jpeg_is_cut_short, jpeg_segments};

/// A side as JPEG can say it, px.
const SIDE_PX_MAX: usize = 65_535;
/// Sixteen ones are no code of a JPEG (ITU-T T.81, C.2), wherever in them it begins: here are more than the longest value can take of them first.
/// Ones also fill up the last byte of a picture.
const NO_CODE: [u8; 16] = [0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0];
/// The marker behind a picture.
const END: [u8; 2] = [0xff, 0xd9];

/// A JPEG that cannot be decoded, or not as a whole: what the decoder says, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Damaged(String);

impl Damaged {
    /// Some of the decoder's messages end with a line break, or have one in them.
    fn new(why: impl ToString) -> Self {
        Self(why.to_string().split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

/// Decodes a JPEG to gray or RGB, as it is stored. Its size is what its header says: bound that first.
///
/// Other programs, and `image` with this very decoder, go on where the picture's data is damaged, and fill what is lost with grey: a face cut in half is
/// nobody's, and one that is not seen is nobody's fault. Headers are read as leniently as there: a slip in them costs no pixel.
///
/// # Errors
/// If a header cannot be read, data of the picture is damaged or missing, or it is of a kind that the decoder takes for another.
pub fn decode_jpeg(bytes: &[u8]) -> Result<DynamicImage, Damaged> {
    let lenient =
        DecoderOptions::default().set_strict_mode(false).set_max_width(SIDE_PX_MAX).set_max_height(SIDE_PX_MAX);
    if jpeg::is_in_separate_colours(bytes) {
        return Err(Damaged::new(
            "its colours are stored one after another, which this decoder cannot read: save it as an ordinary JPEG",
        ));
    }
    let bytes = with_an_end_that_cannot_be_read(bytes);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes.as_ref()), lenient);
    decoder.decode_headers().map_err(Damaged::new)?;
    let is_gray = decoder.input_colorspace() == Some(ColorSpace::Luma);
    let out = if is_gray { ColorSpace::Luma } else { ColorSpace::RGB };
    decoder.set_options(lenient.set_strict_mode(true).jpeg_set_out_colorspace(out));
    let lost = |why| Damaged::new(format!("some of its data is damaged or missing: {why}"));
    let pixels = decoder.decode().map_err(lost)?;
    let (width, height) = decoder.dimensions().unwrap_or_default();
    let side = |px: usize| u32::try_from(px).unwrap_or_default();
    let picture = if is_gray {
        GrayImage::from_raw(side(width), side(height), pixels).map(DynamicImage::from)
    } else {
        RgbImage::from_raw(side(width), side(height), pixels).map(DynamicImage::from)
    };
    picture.ok_or_else(|| Damaged::new("other components than gray, colour or CMYK"))
}

/// Where too little data comes before a picture's end, the decoder makes up zeros, and takes them for codes. It cannot do that with these ones; of a whole
/// picture it never comes to them.
fn with_an_end_that_cannot_be_read(jpeg: &[u8]) -> Cow<'_, [u8]> {
    match JpegScanner::of_file().advance(jpeg) {
        JpegScan::End(end) => Cow::Owned([&jpeg[..end - END.len()], &NO_CODE[..], &END[..]].concat()),
        JpegScan::More | JpegScan::Bad(_) => Cow::Borrowed(jpeg),
    }
}

/// A picture that lets something through, on white, as people see such pictures. In the memory of `picture`: a second large one would not find room on a
/// small computer.
pub fn on_white(picture: RgbaImage) -> RgbImage {
    let (width, height) = picture.dimensions();
    let mut pixels = picture.into_raw();
    let rgb_bytes = pixels.len() / 4 * 3;
    for (from, to) in (0..pixels.len()).step_by(4).zip((0..).step_by(3)) {
        let alpha = u32::from(pixels[from + 3]);
        for channel in 0..3 {
            let mixed = u32::from(pixels[from + channel]) * alpha + 255 * (255 - alpha);
            pixels[to + channel] = u8::try_from((mixed + 127) / 255).unwrap_or(u8::MAX);
        }
    }
    pixels.truncate(rgb_bytes);
    RgbImage::from_raw(width, height, pixels).unwrap_or_else(|| unreachable!("three bytes a pixel"))
}

#[cfg(test)]
mod tests {
    use image::Rgba;
    use image::codecs::jpeg::JpegEncoder;

    use super::*;

    /// Noise, so that each part of the picture has bytes of its own.
    fn photo(width: u32, height: u32) -> RgbImage {
        let noise = |x: u32, y: u32, channel: u32| ((x * 2_654_435 + y * 40_503 + channel * 97) >> 7) as u8;
        RgbImage::from_fn(width, height, |x, y| image::Rgb([0, 1, 2].map(|channel| noise(x, y, channel))))
    }

    fn jpeg(picture: &DynamicImage) -> Vec<u8> {
        let mut jpeg = Vec::new();
        picture.write_with_encoder(JpegEncoder::new_with_quality(&mut jpeg, 90)).expect("a JPEG");
        jpeg
    }

    #[test]
    fn a_whole_jpeg_has_the_pixels_that_image_finds() {
        for picture in [photo(70, 50).into(), DynamicImage::from(photo(33, 7)).into_luma8().into()] {
            let jpeg = jpeg(&picture);
            let seen = decode_jpeg(&jpeg).expect("whole");
            assert_eq!(seen, image::load_from_memory(&jpeg).expect("whole"));
            assert_eq!(seen.color(), picture.color());
        }
    }

    #[test]
    fn data_that_was_lost_is_an_error_and_not_grey() {
        let whole = jpeg(&photo(160, 120).into());
        for part in 3..8 {
            let lost = [&whole[..whole.len() * part / 8], &[0xff, 0xd9]].concat();
            assert!(image::load_from_memory(&lost).is_ok(), "what this is here for");
            let why = decode_jpeg(&lost).expect_err("some of it is missing").to_string();
            assert!(!why.is_empty() && !why.contains('\n'), "{why}");
        }
    }

    #[test]
    fn what_follows_a_picture_or_its_headers_costs_no_pixel() {
        let whole = jpeg(&photo(64, 48).into());
        let seen = decode_jpeg(&whole).expect("whole");
        let more = [whole.as_slice(), b"a second picture, as some phones append one"].concat();
        assert_eq!(decode_jpeg(&more).as_ref(), Ok(&seen));
        // Fill bytes before the end, as some cameras write them.
        let filled = [&whole[..whole.len() - 2], &[0xff, 0xff, 0xff, 0xd9]].concat();
        assert_eq!(decode_jpeg(&filled).as_ref(), Ok(&seen));
        let extra = [&whole[..whole.len() - 2], &[0, 0, 0xff, 0xd9]].concat();
        assert_eq!(decode_jpeg(&extra).as_ref(), Ok(&seen));
    }

    #[test]
    fn what_is_no_jpeg_is_an_error() {
        for bytes in [b"".as_slice(), b"\xff\xd8", b"hello", b"\xff\xd8\xff\xd9"] {
            assert!(decode_jpeg(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn half_transparent_pixels_are_mixed_with_white_each_in_its_place() {
        let rgba = RgbaImage::from_fn(64, 48, |x, _| Rgba([0, 100, 200, if x < 32 { 51 } else { 255 }]));
        let rgb = on_white(rgba);
        assert_eq!(rgb.get_pixel(31, 47).0, [204, 224, 244]);
        assert_eq!(rgb.get_pixel(32, 0).0, [0, 100, 200]);
    }
}
