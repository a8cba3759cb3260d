//! What becomes of every kind of picture, and what is said of those that are refused.

use image::codecs::jpeg::JpegEncoder;
use image::{ImageBuffer, ImageEncoder, Luma, Rgba};
use microlambda_picture::halved;

use super::*;
use crate::testing::{photo, photo_jpeg, photo_png, with_stray_bytes, without_huffman_tables};

const ROOMY: usize = 4 << 20;

/// With the default bound of pixels.
fn file(bytes: Vec<u8>, bytes_max: usize) -> Result<Prepared, PictureError> {
    prepare(Picture::File(bytes), FrameBounds { bytes_max, pixels_max: 16_000_000 })
}

/// With a bound of pixels alone.
fn of_pixels(picture: Picture, pixels_max: u64) -> Result<Prepared, PictureError> {
    prepare(picture, FrameBounds { bytes_max: ROOMY, pixels_max })
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
fn a_picture_of_more_pixels_than_a_frame_may_have_is_halved_until_it_has_few_enough() {
    let picture = DynamicImage::from(photo(401, 300, 1));
    let jpeg = photo_jpeg(401, 300, 1);
    let png = photo_png(&picture);
    let raw = Picture::Rgb { width: 401, height: 300, pixels: picture.to_rgb8().into_raw() };
    for (pixels_max, times) in [(401 * 300 - 1, 1), (200 * 150, 1), (200 * 150 - 1, 2), (100 * 75, 2)] {
        let expected = (0..times).fold(picture.clone(), |picture, _| halved(picture)).into_rgb8();
        for given in [Picture::File(jpeg.clone()), Picture::File(png.clone()), raw.clone()] {
            let prepared = of_pixels(given, pixels_max).unwrap();
            assert!(prepared.reencoded && prepared.reshaped, "what moved in it stands elsewhere now");
            let seen = image::load_from_memory(&prepared.jpeg).unwrap().to_rgb8();
            assert_eq!(seen.dimensions(), expected.dimensions());
            assert!(distance(&seen, &expected) < 8.0, "{}", distance(&seen, &expected));
        }
    }
    let whole = Ok(Prepared { jpeg: jpeg.clone(), reencoded: false, reshaped: false });
    assert_eq!(of_pixels(Picture::File(jpeg), 401 * 300), whole);
    let turned = of_pixels(Picture::File(turned_jpeg(640, 320, 6)), 60_000).unwrap();
    let seen = image::load_from_memory(&turned.jpeg).unwrap().to_rgb8();
    assert_eq!(seen.dimensions(), (160, 320));
    assert!(seen.get_pixel(80, 10)[0] > 200 && seen.get_pixel(80, 310)[0] < 50, "its left side is on top");
}

#[test]
fn a_lower_quality_is_not_tried_where_it_would_be_bad() {
    // Faint noise is all gone at a low quality.
    let faint = |x: u32, y: u32| 122 + u8::try_from(((x * 2_654_435 + y * 40_503) >> 7) % 13).unwrap();
    let picture = RgbImage::from_fn(320, 240, |x, y| image::Rgb([faint(x, y); 3]));
    let [best, worst] = [95, 60].map(|quality| encode(&DynamicImage::from(picture.clone()), quality).unwrap().len());
    assert!(best > 5 * worst, "{best} and {worst} bytes");
    let bounds = |bytes_max| FrameBounds { bytes_max, pixels_max: 1_000_000 };
    let raw = Picture::Rgb { width: 320, height: 240, pixels: picture.into_raw() };
    assert!(prepare(raw.clone(), bounds(worst)).unwrap().reshaped, "it is scaled down first");
    assert!(!prepare(raw, bounds(best / 4 + 1)).unwrap().reshaped, "up to four times the bound it is tried");
}

/// A small picture whose header says that it has this size.
fn jpeg_of_size(width: u16, height: u16) -> Vec<u8> {
    let mut jpeg = photo_jpeg(64, 64, 1);
    let sof = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    jpeg[sof + 5..sof + 7].copy_from_slice(&height.to_be_bytes());
    jpeg[sof + 7..sof + 9].copy_from_slice(&width.to_be_bytes());
    jpeg
}

/// The same of a picture.
fn png_of_size(picture: &DynamicImage, width: u32, height: u32) -> Vec<u8> {
    let mut png = photo_png(picture);
    png[16..20].copy_from_slice(&width.to_be_bytes());
    png[20..24].copy_from_slice(&height.to_be_bytes());
    // The header's checksum covers the size.
    let sum = crc32(&png[12..29]).to_be_bytes();
    png[29..33].copy_from_slice(&sum);
    png
}

#[test]
fn what_takes_more_memory_than_there_may_be_is_refused_by_its_header_with_a_remedy() {
    let progressive = |mut jpeg: Vec<u8>| {
        let sof = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
        jpeg[sof + 1] = 0xc2;
        jpeg
    };
    let rgb = DynamicImage::from(photo(64, 64, 1));
    let rgba = DynamicImage::from(rgb.to_rgba8());
    for (file_bytes, remedy) in [
        (jpeg_of_size(10_000, 10_001), "to at most 100 megapixels"),
        (png_of_size(&rgb, 10_000, 10_001), "to at most 100 megapixels"),
        (
            progressive(jpeg_of_size(10_000, 4_000)),
            "to at most 33 megapixels, or save it as an ordinary JPEG, not a progressive one",
        ),
        (png_of_size(&rgba, 10_000, 8_000), "to at most 75 megapixels, or convert it to JPEG"),
    ] {
        let error = file(file_bytes, ROOMY).unwrap_err();
        assert!(matches!(error, PictureError::TooLarge { .. }) && error.to_string().ends_with(remedy), "{error}");
    }
    // A bound of pixels may be set so high that it passes, and is never decoded here.
    let jpeg = jpeg_of_size(10_000, 10_000);
    assert_eq!(of_pixels(Picture::File(jpeg.clone()), PIXELS_LIMIT).unwrap().jpeg, jpeg);
}

#[test]
fn the_memory_that_a_picture_will_take_is_known_before() {
    let bounds = FrameBounds { bytes_max: ROOMY, pixels_max: 16_000_000 };
    let bytes = |file: &[u8]| prepare_bytes(&Picture::File(file.to_vec()), bounds);
    let with_file = |file: &[u8], pixel_bytes: u64, pixels: u64| pixels * pixel_bytes + 2 * file.len() as u64;
    let (small, large) = (photo_jpeg(64, 64, 1), jpeg_of_size(6_000, 4_000));
    assert_eq!((bytes(&small), bytes(&large)), (0, with_file(&large, 3, 24_000_000)));
    assert!(bytes(&large) > ORDINARY_BYTES_MAX && bytes(&jpeg_of_size(5_000, 3_300)) < ORDINARY_BYTES_MAX);
    let rgb = DynamicImage::from(photo(64, 64, 1));
    for (picture, pixel_bytes) in [
        (rgb.clone(), 3),
        (rgb.to_luma8().into(), 1),
        (rgb.to_rgba8().into(), 4),
        (rgb.to_rgb16().into(), 6 + 3),
        (rgb.to_rgba16().into(), 8 + 4),
    ] {
        let png = photo_png(&picture);
        assert_eq!(bytes(&png), with_file(&png, pixel_bytes, 64 * 64), "{:?}", picture.color());
    }
    for refused in [Vec::new(), b"GIF89a".to_vec(), jpeg_of_size(10_000, 10_001), small[..80].to_vec()] {
        assert_eq!(bytes(&refused), 0);
    }
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
    let prepared = of_pixels(raw, 64 * 48).unwrap();
    assert!(!prepared.reshaped);
    assert!(distance(&image::load_from_memory(&prepared.jpeg).unwrap().to_rgb8(), &rgb) < 4.0);
    let short = Picture::Rgb { width: 64, height: 48, pixels: vec![0; 10] };
    assert_eq!(of_pixels(short, 64 * 48), Err(PictureError::BadHeader));
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
