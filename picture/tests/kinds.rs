//! Every kind of JPEG that cameras, phones and programs write, from an encoder that is not the decoder's sibling.

use image::{DynamicImage, GrayImage, RgbImage};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use microlambda_picture::{decode_jpeg, jpeg_decode_bytes, jpeg_is_cut_short};

/// How a JPEG may be written.
#[derive(Debug, Clone, Copy)]
struct Kind {
    sampling: SamplingFactor,
    /// Scans, if progressive.
    scans: Option<u8>,
    /// Restart markers stand between so many units.
    restart_interval: u16,
}

/// All but 4:1:1, which no camera writes.
const SAMPLINGS: [SamplingFactor; 4] =
    [SamplingFactor::F_1_1, SamplingFactor::F_2_1, SamplingFactor::F_1_2, SamplingFactor::F_2_2];

fn kinds() -> impl Iterator<Item = Kind> {
    SAMPLINGS.into_iter().flat_map(|sampling| {
        [None, Some(4), Some(16)]
            .into_iter()
            .flat_map(move |scans| [0, 1, 5, 300].map(|restart_interval| Kind { sampling, scans, restart_interval }))
    })
}

fn encode(pixels: &[u8], (width, height): (u16, u16), color: ColorType, kind: Kind) -> Vec<u8> {
    let mut jpeg = Vec::new();
    let mut encoder = Encoder::new(&mut jpeg, 90);
    encoder.set_sampling_factor(kind.sampling);
    if let Some(scans) = kind.scans {
        encoder.set_progressive_scans(scans);
    }
    if kind.restart_interval > 0 {
        encoder.set_restart_interval(kind.restart_interval);
    }
    encoder.encode(pixels, width, height, color).expect("a JPEG");
    jpeg
}

/// Smooth enough that no sampling of its colours loses much, and nowhere the same.
fn photo((width, height): (u16, u16)) -> RgbImage {
    let wave = |at: f32| (128.0 + 100.0 * at.sin()) as u8;
    RgbImage::from_fn(width.into(), height.into(), |x, y| {
        let (x, y) = (x as f32, y as f32);
        image::Rgb([wave(x / 19.0 + y / 41.0), wave(x / 37.0 - y / 23.0), wave((x + y) / 53.0)])
    })
}

/// Mean difference of a channel.
fn difference(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / a.len() as f64
}

/// Whole blocks, and parts of them at the edges.
const SIZES: [(u16, u16); 4] = [(160, 120), (97, 61), (33, 17), (40, 33)];

#[test]
fn every_kind_of_jpeg_is_decoded_to_what_was_encoded() {
    for size in SIZES {
        let photo = photo(size);
        let gray: GrayImage = DynamicImage::from(photo.clone()).into_luma8();
        for kind in kinds() {
            let seen = decode_jpeg(&encode(&photo, size, ColorType::Rgb, kind))
                .unwrap_or_else(|why| panic!("{kind:?} of {size:?}: {why}"));
            let far = difference(&seen.into_rgb8(), &photo);
            assert!(far < 4.0, "{kind:?} of {size:?} is off by {far}");
            let seen = decode_jpeg(&encode(&gray, size, ColorType::Luma, kind))
                .unwrap_or_else(|why| panic!("gray {kind:?} of {size:?}: {why}"));
            assert!(matches!(seen, DynamicImage::ImageLuma8(_)), "{kind:?}");
            let far = difference(&seen.into_luma8(), &gray);
            assert!(far < 4.0, "gray {kind:?} of {size:?} is off by {far}");
        }
    }
}

#[test]
fn four_colours_of_a_printer_are_decoded_too() {
    let size = (64, 48);
    let photo = photo(size);
    let inks: Vec<u8> = photo.pixels().flat_map(|rgb| [255 - rgb[0], 255 - rgb[1], 255 - rgb[2], 0]).collect();
    for color in [ColorType::Cmyk, ColorType::CmykAsYcck] {
        for kind in kinds().filter(|kind| kind.sampling == SamplingFactor::F_1_1) {
            let seen = decode_jpeg(&encode(&inks, size, color, kind)).unwrap_or_else(|why| panic!("{kind:?}: {why}"));
            let far = difference(&seen.into_rgb8(), &photo);
            assert!(far < 4.0, "{color:?} {kind:?} is off by {far}");
        }
    }
}

#[test]
fn a_picture_that_ends_early_is_refused_whatever_its_kind() {
    let size = (160, 120);
    let photo = photo(size);
    for kind in kinds() {
        let whole = encode(&photo, size, ColorType::Rgb, kind);
        let scans: Vec<usize> = (0..whole.len()).filter(|&at| whole[at..].starts_with(&[0xff, 0xda])).collect();
        let headers_bytes = scans[0] + 14;
        for part in 1..8 {
            let cut = headers_bytes + (whole.len() - headers_bytes) * part / 8;
            // Between two scans of a progressive one it is whole, if less fine.
            if scans.iter().any(|scan| scan.abs_diff(cut) <= 2) {
                continue;
            }
            // As camera agent and worker ask, the one after the other.
            let passes = |jpeg: &[u8]| !jpeg_is_cut_short(jpeg) && decode_jpeg(jpeg).is_ok();
            let (bare, ended) = (passes(&whole[..cut]), passes(&[&whole[..cut], &[0xff, 0xd9]].concat()));
            assert!(!bare && !ended, "{kind:?} cut to {cut} of {} bytes: bare {bare}, ended {ended}", whole.len());
        }
    }
}

#[test]
fn stray_bytes_between_segments_hide_neither_a_missing_end_nor_separate_colours() {
    let size = (160, 120);
    let photo = photo(size);
    let strays = |jpeg: &[u8]| [&jpeg[..2], &[0, 7, 0xff, 0, 0xff], &jpeg[2..]].concat();
    let kind = Kind { sampling: SamplingFactor::F_2_2, scans: None, restart_interval: 0 };
    let whole = strays(&encode(&photo, size, ColorType::Rgb, kind));
    assert!(difference(&decode_jpeg(&whole).expect("whole").into_rgb8(), &photo) < 4.0);
    for part in 4..8 {
        let cut = &whole[..whole.len() * part / 8];
        assert!(jpeg_is_cut_short(cut) && decode_jpeg(&[cut, &[0xff, 0xd9]].concat()).is_err(), "{part} of 8");
    }
    assert!(decode_jpeg(&strays(&in_separate_colours(&photo, SamplingFactor::F_2_2))).is_err());
}

/// One scan for each colour: what this encoder writes with tables of its own.
fn in_separate_colours(photo: &RgbImage, sampling: SamplingFactor) -> Vec<u8> {
    let mut jpeg = Vec::new();
    let mut encoder = Encoder::new(&mut jpeg, 90);
    encoder.set_sampling_factor(sampling);
    encoder.set_optimized_huffman_tables(true);
    let side = |px: u32| u16::try_from(px).expect("a small picture");
    encoder.encode(photo, side(photo.width()), side(photo.height()), ColorType::Rgb).expect("a JPEG");
    jpeg
}

#[test]
fn a_picture_whose_colours_come_one_after_another_is_whole_or_refused() {
    for size in SIZES {
        let photo = photo(size);
        let whole = decode_jpeg(&in_separate_colours(&photo, SamplingFactor::F_1_1)).expect("all of one resolution");
        assert!(difference(&whole.into_rgb8(), &photo) < 4.0, "{size:?}");
        for sampling in [SamplingFactor::F_2_1, SamplingFactor::F_1_2, SamplingFactor::F_2_2, SamplingFactor::F_4_1] {
            let why = decode_jpeg(&in_separate_colours(&photo, sampling)).expect_err("which gives wrong pixels");
            assert!(why.to_string().contains("save it as an ordinary JPEG"), "{why}");
        }
    }
}

#[test]
fn the_memory_that_decoding_takes_is_known_from_the_header() {
    // Whole units of two by two blocks, so that nothing is filled up.
    let size = (160, 96);
    let (photo, pixels) = (photo(size), 160 * 96);
    let gray: GrayImage = DynamicImage::from(photo.clone()).into_luma8();
    for kind in kinds() {
        let coefficients = match (kind.scans, kind.sampling) {
            (None, _) => 0,
            (_, SamplingFactor::F_1_1) => pixels * 3,
            (_, SamplingFactor::F_2_2) => pixels * 3 / 2,
            _ => pixels * 2,
        };
        let jpeg = encode(&photo, size, ColorType::Rgb, kind);
        assert_eq!(jpeg_decode_bytes(&jpeg), Some(pixels * 3 + coefficients * 2), "{kind:?}");
        let jpeg = encode(&gray, size, ColorType::Luma, kind);
        let coefficients = if kind.scans.is_some() { pixels } else { 0 };
        assert_eq!(jpeg_decode_bytes(&jpeg), Some(pixels + coefficients * 2), "gray {kind:?}");
    }
    let separate = in_separate_colours(&photo, SamplingFactor::F_1_1);
    assert_eq!(jpeg_decode_bytes(&separate), Some(pixels * 3 + pixels * 3 * 2));
    assert_eq!(jpeg_decode_bytes(b"no picture"), None);
    assert_eq!(jpeg_decode_bytes(&separate[..40]), None);
}
