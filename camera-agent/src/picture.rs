//! From what a source gives to the JPEG that is spooled: untouched where possible, re-encoded where it must be.

use std::panic::{AssertUnwindSafe, catch_unwind};

use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};
use microlambda_picture::{decode_jpeg, jpeg_is_cut_short, on_white};

use crate::config::FRAME_BYTES_LIMIT;
use crate::jpeg;

/// A side shorter than this shows no face, pixels.
pub const SIDE_PIXELS_MIN: u32 = 16;
/// A JPEG that is passed through has at most so many pixels; the worker scales large ones down.
pub const PASS_PIXELS_MAX: u64 = 100_000_000;
/// A picture that has to be decoded here has at most so many pixels: 72 MB as RGB.
pub const DECODE_PIXELS_MAX: u64 = 24_000_000;
/// Memory a decoder may take, bytes: the pixels above as 16-bit RGBA, and some room.
const DECODE_BYTES_MAX: u64 = 224 << 20;
/// Qualities tried in turn to fit a bound; then the picture is scaled by 3/4 and they are tried again. The encoder does not subsample colours.
const QUALITIES: [u8; 4] = [95, 85, 75, 60];
/// The longer side of the picture for dashboards, pixels.
const SMALL_SIDE_PIXELS: u32 = 640;
/// Quality of the picture for dashboards.
const SMALL_QUALITY: u8 = 75;

/// Pixels as a source gives them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Picture {
    /// A JPEG or PNG file, as it is.
    File(Vec<u8>),
    /// Packed RGB, 3 bytes a pixel, row by row.
    Rgb {
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
        /// `width × height × 3` bytes.
        pixels: Vec<u8>,
    },
}

/// A JPEG ready for the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The file.
    pub jpeg: Vec<u8>,
    /// True if these are not the source's own bytes.
    pub reencoded: bool,
    /// True if its pixels stand elsewhere than in the source's picture: it was scaled down, or turned upright.
    pub reshaped: bool,
}

/// Why a picture is passed over; each says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PictureError {
    /// No bytes.
    #[error("it is empty: copy it again from where it came")]
    Empty,
    /// Neither JPEG nor PNG.
    #[error("it is neither a JPEG nor a PNG: convert it to JPEG")]
    UnknownFormat,
    /// The header is cut or damaged.
    #[error("its header is cut off or damaged: copy it again from where it came")]
    BadHeader,
    /// The end is missing.
    #[error("it is cut short, its end is missing: copy it again from where it came, or check the camera's cable")]
    CutShort,
    /// Too few pixels.
    #[error("{width}×{height} pixels are too few to show anything: at least {SIDE_PIXELS_MIN} a side")]
    TooSmall {
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
    },
    /// Too many pixels.
    #[error("{width}×{height} pixels are too many: scale it down to at most {} megapixels{hint}", pixels_max / 1_000_000)]
    TooLarge {
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
        /// The bound that was exceeded.
        pixels_max: u64,
        /// Another way out.
        hint: &'static str,
    },
    /// The decoder gave up.
    #[error("it cannot be decoded ({0}): copy it again, or convert it to JPEG")]
    Undecodable(String),
    /// It cannot be made small enough.
    #[error("it does not fit into {bytes_max} bytes: raise bytes-max in [frame]")]
    CannotFit {
        /// The bound.
        bytes_max: usize,
    },
}

/// Makes a JPEG of at most `bytes_max` bytes. A JPEG that fits keeps its bytes; missing Huffman tables are added.
///
/// # Errors
/// [`PictureError`]: this can be no frame, whoever tries.
pub fn prepare(picture: Picture, bytes_max: usize) -> Result<Prepared, PictureError> {
    surviving(|| prepare_any(picture, bytes_max))
}

fn prepare_any(picture: Picture, bytes_max: usize) -> Result<Prepared, PictureError> {
    match picture {
        Picture::Rgb { width, height, pixels } => {
            check_size(width, height, DECODE_PIXELS_MAX, "")?;
            let image = RgbImage::from_raw(width, height, pixels).ok_or(PictureError::BadHeader)?;
            encode_to_fit(DynamicImage::ImageRgb8(image), Orientation::NoTransforms, bytes_max)
        }
        Picture::File(bytes) if bytes.is_empty() => Err(PictureError::Empty),
        Picture::File(bytes) if bytes.starts_with(&[0xff, 0xd8]) => prepare_jpeg(bytes, bytes_max),
        Picture::File(bytes) if bytes.starts_with(b"\x89PNG\r\n\x1a\n") => {
            let (image, orientation) = decode(&bytes, ImageFormat::Png, ", or convert it to JPEG")?;
            drop(bytes);
            encode_to_fit(image, orientation, bytes_max)
        }
        Picture::File(_) => Err(PictureError::UnknownFormat),
    }
}

fn prepare_jpeg(bytes: Vec<u8>, bytes_max: usize) -> Result<Prepared, PictureError> {
    let header = jpeg::header(&bytes).ok_or(PictureError::BadHeader)?;
    check_size(header.width, header.height, PASS_PIXELS_MAX, "")?;
    if jpeg_is_cut_short(&bytes) {
        return Err(PictureError::CutShort);
    }
    let bytes = jpeg::with_huffman_tables(bytes);
    if bytes.len() <= bytes_max {
        return Ok(Prepared { jpeg: bytes, reencoded: false, reshaped: false });
    }
    // At the bound of that key it would be no way out.
    let may_be_raised = (bytes_max as u64) < FRAME_BYTES_LIMIT;
    let hint = if may_be_raised { ", or raise bytes-max in [frame] so that it passes as it is" } else { "" };
    let (image, orientation) = decode(&bytes, ImageFormat::Jpeg, hint)?;
    drop(bytes);
    encode_to_fit(image, orientation, bytes_max)
}

/// A small JPEG for dashboards, at most 640 pixels on its longer side; `None` if the frame cannot be decoded.
pub fn small(jpeg: &[u8]) -> Option<Vec<u8>> {
    let small = surviving(|| {
        let (mut image, orientation) = decode(jpeg, ImageFormat::Jpeg, "")?;
        if image.width().max(image.height()) > SMALL_SIDE_PIXELS {
            image = image.thumbnail(SMALL_SIDE_PIXELS, SMALL_SIDE_PIXELS);
        }
        image.apply_orientation(orientation);
        encode(&flat(image), SMALL_QUALITY)
    });
    small.ok()
}

/// A decoder that panics has met a picture that it cannot decode; it would meet the same one after a restart.
fn surviving<T>(work: impl FnOnce() -> Result<T, PictureError>) -> Result<T, PictureError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(PictureError::Undecodable("the decoder has panicked".into())))
}

fn check_size(width: u32, height: u32, pixels_max: u64, hint: &'static str) -> Result<(), PictureError> {
    if width.min(height) < SIDE_PIXELS_MIN {
        Err(PictureError::TooSmall { width, height })
    } else if u64::from(width) * u64::from(height) > pixels_max {
        Err(PictureError::TooLarge { width, height, pixels_max, hint })
    } else {
        Ok(())
    }
}

/// The pixels, and how they are to be turned: what is encoded again has no EXIF to say so.
fn decode(bytes: &[u8], format: ImageFormat, hint: &'static str) -> Result<(DynamicImage, Orientation), PictureError> {
    let mut reader = ImageReader::with_format(std::io::Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(DECODE_BYTES_MAX);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|_| PictureError::BadHeader)?;
    let (width, height) = decoder.dimensions();
    check_size(width, height, DECODE_PIXELS_MAX, hint)?;
    // A picture whose EXIF is damaged is shown as it is.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let image = if format == ImageFormat::Jpeg {
        drop(decoder);
        decode_jpeg(bytes).map_err(undecodable)?
    } else {
        DynamicImage::from_decoder(decoder).map_err(undecodable)?
    };
    Ok((image, orientation))
}

fn undecodable(error: impl std::fmt::Display) -> PictureError {
    PictureError::Undecodable(error.to_string())
}

/// Turns the picture upright; lowers quality, then size, until the bound holds.
fn encode_to_fit(image: DynamicImage, orientation: Orientation, bytes_max: usize) -> Result<Prepared, PictureError> {
    let mut image = flat(image);
    image.apply_orientation(orientation);
    let mut reshaped = orientation != Orientation::NoTransforms;
    loop {
        for quality in QUALITIES {
            let jpeg = encode(&image, quality)?;
            if jpeg.len() <= bytes_max {
                return Ok(Prepared { jpeg, reencoded: true, reshaped });
            }
        }
        let (width, height) = (image.width() * 3 / 4, image.height() * 3 / 4);
        if width.min(height) < SIDE_PIXELS_MIN {
            return Err(PictureError::CannotFit { bytes_max });
        }
        image = image.resize_exact(width, height, FilterType::Triangle);
        reshaped = true;
    }
}

fn encode(image: &DynamicImage, quality: u8) -> Result<Vec<u8>, PictureError> {
    let mut jpeg = Vec::new();
    image.write_with_encoder(JpegEncoder::new_with_quality(&mut jpeg, quality)).map_err(undecodable)?;
    Ok(jpeg)
}

/// Gray or RGB with 8 bits a value, as a JPEG has them. Transparent pixels are shown on white, as people see such pictures.
fn flat(image: DynamicImage) -> DynamicImage {
    match image {
        DynamicImage::ImageLuma8(_) | DynamicImage::ImageRgb8(_) => image,
        image if image.color().has_alpha() => on_white(image.into_rgba8()).into(),
        image => image.into_rgb8().into(),
    }
}

#[cfg(test)]
mod tests {
    use image::{ImageBuffer, ImageEncoder, Luma, Rgba};

    use super::*;
    use crate::testing::{photo, photo_jpeg, photo_png, with_stray_bytes, without_huffman_tables};

    const ROOMY: usize = 4 << 20;

    fn file(bytes: Vec<u8>, bytes_max: usize) -> Result<Prepared, PictureError> {
        prepare(Picture::File(bytes), bytes_max)
    }

    fn distance(a: &image::RgbImage, b: &image::RgbImage) -> f64 {
        let sum: u64 = a.as_raw().iter().zip(b.as_raw()).map(|(&x, &y)| u64::from(x.abs_diff(y))).sum();
        sum as f64 / a.as_raw().len() as f64
    }

    #[test]
    fn a_jpeg_within_the_bound_keeps_its_bytes() {
        let jpeg = photo_jpeg(320, 240, 1);
        assert_eq!(file(jpeg.clone(), jpeg.len()), Ok(Prepared { jpeg, reencoded: false, reshaped: false }));
    }

    #[test]
    fn a_jpeg_over_the_bound_is_reencoded_to_fit_and_stays_the_same_picture() {
        let picture = photo(320, 240, 1);
        let jpeg = photo_jpeg(320, 240, 1);
        for part in [2, 8] {
            let prepared = file(jpeg.clone(), jpeg.len() / part).unwrap();
            assert!(prepared.reencoded && prepared.jpeg.len() <= jpeg.len() / part);
            let seen = image::load_from_memory(&prepared.jpeg).unwrap();
            assert!(seen.width() >= 60, "{}", seen.width());
            assert_eq!(seen.width() * 3 / 4, seen.height(), "the proportions stay");
        }
        let close = file(jpeg.clone(), jpeg.len() - 1).unwrap();
        assert!(distance(&image::load_from_memory(&close.jpeg).unwrap().to_rgb8(), &picture) < 16.0);
    }

    #[test]
    fn a_bound_that_no_picture_meets_is_an_error_with_the_key() {
        let error = file(photo_jpeg(320, 240, 1), 300).unwrap_err();
        assert!(error.to_string().contains("bytes-max in [frame]"), "{error}");
    }

    #[test]
    fn a_jpeg_that_is_cut_short_is_told_from_one_without_a_header() {
        let jpeg = photo_jpeg(320, 240, 1);
        for length in [jpeg.len() / 2, jpeg.len() - 1] {
            assert_eq!(file(jpeg[..length].to_vec(), ROOMY), Err(PictureError::CutShort));
        }
        assert_eq!(file(jpeg[..100].to_vec(), ROOMY), Err(PictureError::BadHeader));
    }

    #[test]
    fn a_jpeg_with_stray_bytes_between_its_segments_passes_if_it_is_whole() {
        let jpeg = with_stray_bytes(&photo_jpeg(320, 240, 1), b"stray");
        assert_eq!(file(jpeg[..jpeg.len() - 1].to_vec(), ROOMY), Err(PictureError::CutShort));
        assert_eq!(file(jpeg.clone(), ROOMY), Ok(Prepared { jpeg, reencoded: false, reshaped: false }));
    }

    #[test]
    fn what_can_be_no_picture_is_refused_with_a_remedy() {
        assert_eq!(file(Vec::new(), ROOMY), Err(PictureError::Empty));
        assert_eq!(file(b"GIF89a".to_vec(), ROOMY), Err(PictureError::UnknownFormat));
        assert!(matches!(file(photo_jpeg(1, 1, 1), ROOMY), Err(PictureError::TooSmall { width: 1, height: 1 })));
        let png = photo_png(&DynamicImage::ImageRgb8(photo(1, 1, 1)));
        assert!(matches!(file(png, ROOMY), Err(PictureError::TooSmall { .. })));
        let png = photo_png(&DynamicImage::ImageRgb8(photo(64, 64, 1)));
        assert!(matches!(file(png[..png.len() / 2].to_vec(), ROOMY), Err(PictureError::Undecodable(_))));
        // Data lost on the way, in a picture that has to be decoded here.
        let jpeg = photo_jpeg(320, 240, 1);
        let lost = [&jpeg[..jpeg.len() / 2], &[0xff, 0xd9]].concat();
        assert!(matches!(file(lost, jpeg.len() / 4), Err(PictureError::Undecodable(_))));
        assert_eq!(file(png[..20].to_vec(), ROOMY), Err(PictureError::BadHeader));
    }

    #[test]
    fn fifty_megapixels_pass_as_a_jpeg_and_are_never_decoded_here() {
        // Only the header is looked at: the size is written into a small picture's.
        let mut jpeg = photo_jpeg(64, 64, 1);
        let sof = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
        jpeg[sof + 5..sof + 9].copy_from_slice(&[0x17, 0x00, 0x21, 0xff]);
        let (width, height) = (0x21ff, 0x1700);
        assert!(width * height > 50_000_000);
        assert_eq!(file(jpeg.clone(), ROOMY), Ok(Prepared { jpeg: jpeg.clone(), reencoded: false, reshaped: false }));
        let error = file(jpeg.clone(), jpeg.len() - 1).unwrap_err();
        assert!(error.to_string().contains("24 megapixels") && error.to_string().contains("bytes-max"), "{error}");
        jpeg[sof + 5..sof + 9].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
        assert!(matches!(file(jpeg, ROOMY), Err(PictureError::TooLarge { .. })));
    }

    #[test]
    fn nobody_is_told_to_raise_a_bound_that_cannot_be_raised() {
        let limit = usize::try_from(FRAME_BYTES_LIMIT).unwrap();
        let mut jpeg = photo_jpeg(64, 64, 1);
        let sof = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
        jpeg[sof + 5..sof + 9].copy_from_slice(&[0x17, 0x00, 0x21, 0xff]);
        // Comments make it as long as it has to be.
        let mut comment = vec![0xff, 0xfe, 0xff, 0xff];
        comment.resize(65_537, b' ');
        let comments = comment.repeat(limit / comment.len() + 1);
        let long = [&jpeg[..2], &comments[..], &jpeg[2..]].concat();
        let error = file(long.clone(), limit - 1).unwrap_err().to_string();
        assert!(error.contains("24 megapixels, or raise bytes-max in [frame]"), "{error}");
        let error = file(long, limit).unwrap_err().to_string();
        assert!(error.ends_with("scale it down to at most 24 megapixels"), "{error}");
    }

    #[test]
    fn a_png_of_fifty_megapixels_is_refused_by_its_header() {
        let mut png = photo_png(&DynamicImage::ImageRgb8(photo(64, 64, 1)));
        png[16..24].copy_from_slice(&[0, 0, 0x22, 0, 0, 0, 0x18, 0]);
        // The header's checksum covers the size.
        let sum = crc32(&png[12..29]).to_be_bytes();
        png[29..33].copy_from_slice(&sum);
        let error = file(png, ROOMY).unwrap_err();
        assert!(error.to_string().contains("24 megapixels, or convert it to JPEG"), "{error}");
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
        })
    }

    #[test]
    fn every_colour_type_of_png_becomes_a_jpeg_of_the_same_picture() {
        let rgb = photo(64, 48, 9);
        let rgba = ImageBuffer::from_fn(64, 48, |x, y| {
            let [r, g, b] = rgb.get_pixel(x, y).0;
            Rgba([r, g, b, 255])
        });
        let wide = DynamicImage::ImageRgb8(rgb.clone()).to_rgb16();
        for image in [
            DynamicImage::ImageRgb8(rgb.clone()),
            DynamicImage::ImageRgba8(rgba.clone()),
            DynamicImage::ImageRgb16(wide),
            DynamicImage::ImageRgba16(DynamicImage::ImageRgba8(rgba).to_rgba16()),
        ] {
            let prepared = file(photo_png(&image), ROOMY).unwrap();
            assert!(prepared.reencoded);
            let seen = image::load_from_memory_with_format(&prepared.jpeg, ImageFormat::Jpeg).unwrap().to_rgb8();
            assert!(distance(&seen, &rgb) < 4.0, "{:?}: {}", image.color(), distance(&seen, &rgb));
        }
        let gray: ImageBuffer<Luma<u8>, Vec<u8>> = DynamicImage::ImageRgb8(rgb).to_luma8();
        let prepared = file(photo_png(&DynamicImage::ImageLuma8(gray)), ROOMY).unwrap();
        assert!(jpeg::header(&prepared.jpeg).is_some());
    }

    #[test]
    fn transparent_pixels_turn_white() {
        let clear = DynamicImage::ImageRgba8(ImageBuffer::from_pixel(32, 32, Rgba([10, 20, 30, 0])));
        let prepared = file(photo_png(&clear), ROOMY).unwrap();
        let seen = image::load_from_memory(&prepared.jpeg).unwrap().to_rgb8();
        assert!(seen.pixels().all(|pixel| pixel.0.iter().all(|&value| value >= 253)));
    }

    /// The picture, bright on its left half, with an EXIF orientation.
    fn turned_jpeg(width: u32, height: u32, orientation: u8) -> Vec<u8> {
        let picture = RgbImage::from_fn(width, height, |x, _| image::Rgb([if x < width / 2 { 250 } else { 5 }; 3]));
        let mut exif = b"II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
        exif.extend_from_slice(&[orientation, 0, 0, 0, 0, 0, 0, 0]);
        let mut jpeg = Vec::new();
        let mut encoder = JpegEncoder::new_with_quality(&mut jpeg, 100);
        encoder.set_exif_metadata(exif).unwrap();
        encoder.encode_image(&picture).unwrap();
        jpeg
    }

    #[test]
    fn what_is_encoded_again_is_turned_upright_as_its_exif_says() {
        let jpeg = turned_jpeg(640, 320, 6);
        let prepared = file(jpeg.clone(), jpeg.len() - 1).unwrap();
        assert!(prepared.reencoded && prepared.reshaped, "what moved in it stands elsewhere now");
        let shown = small(&turned_jpeg(1280, 640, 6)).unwrap();
        for upright in [prepared.jpeg, shown] {
            let seen = image::load_from_memory(&upright).unwrap().to_rgb8();
            assert_eq!(seen.dimensions(), (320, 640));
            // 6: the camera was turned clockwise, so that the left side belongs on top.
            assert!(seen.get_pixel(160, 10)[0] > 200 && seen.get_pixel(160, 630)[0] < 50);
        }
        let plain = turned_jpeg(640, 320, 1);
        assert!(!file(plain.clone(), plain.len() - 1).unwrap().reshaped);
    }

    #[test]
    fn a_picture_whose_decoder_panics_is_passed_over_with_a_reason() {
        let error = surviving::<()>(|| panic!("a decoder is wrong")).unwrap_err();
        assert!(error.to_string().contains("the decoder has panicked"), "{error}");
    }

    #[test]
    fn raw_pixels_are_encoded() {
        let rgb = photo(64, 48, 2);
        let raw = Picture::Rgb { width: 64, height: 48, pixels: rgb.as_raw().clone() };
        let prepared = prepare(raw, ROOMY).unwrap();
        assert!(distance(&image::load_from_memory(&prepared.jpeg).unwrap().to_rgb8(), &rgb) < 4.0);
        let short = Picture::Rgb { width: 64, height: 48, pixels: vec![0; 10] };
        assert_eq!(prepare(short, ROOMY), Err(PictureError::BadHeader));
    }

    #[test]
    fn the_picture_for_dashboards_is_small_and_keeps_its_proportions() {
        let seen = image::load_from_memory(&small(&photo_jpeg(1280, 720, 1)).unwrap()).unwrap();
        assert_eq!((seen.width(), seen.height()), (640, 360));
        let seen = image::load_from_memory(&small(&photo_jpeg(100, 80, 1)).unwrap()).unwrap();
        assert_eq!((seen.width(), seen.height()), (100, 80));
        assert_eq!(small(b"no picture"), None);
        assert!(small(&without_huffman_tables(&photo_jpeg(64, 64, 1))).is_none());
    }
}
