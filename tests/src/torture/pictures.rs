//! The pictures that both cameras show.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;
use image::{DynamicImage, GenericImageView as _};

use super::Error;
use crate::data_dir;

/// Photos of the data set, people and none by turns.
const PHOTOS: [&str; 12] = [
    "people/obama.jpg",
    "faceless/chelsea.png",
    "people/obama2.jpg",
    "people/biden.jpg",
    "faceless/coffee.png",
    "people/t1.jpg",
    "people/obama3.jpg",
    "faceless/coins.png",
    "people/astronaut.png",
    "people/32bit.png",
    "faceless/brick.png",
    "people/obama_partial_face.jpg",
];
/// Pictures of one photo are moved against each other by up to this, px, so that no two are equal.
const MOVES_PX: u32 = 24;
const JPEG_QUALITY: u8 = 85;

/// Writes `count` different JPEG pictures of at most `side_px`; names and times are the same in each run.
///
/// # Errors
/// A photo is missing.
pub fn write(folder: &Path, count: usize, side_px: u32) -> Result<(), Error> {
    fs::create_dir_all(folder)?;
    let mut photos: Vec<DynamicImage> = Vec::new();
    for path in PHOTOS.iter().take(count) {
        let path = data_dir().join("photos").join(path);
        let photo = image::open(&path).map_err(|error| format!("{}: {error}: run `make setup`", path.display()))?;
        photos.push(photo.resize(side_px + MOVES_PX, side_px + MOVES_PX, FilterType::Triangle));
    }
    for number in 0..count {
        let (photo, turn) = (&photos[number % photos.len()], (number / photos.len()) as u32);
        let (left, top) = (turn % (MOVES_PX + 1), turn / (MOVES_PX + 1) % (MOVES_PX + 1));
        let (width, height) = photo.dimensions();
        let picture = photo.crop_imm(left, top, width - MOVES_PX, height - MOVES_PX).to_rgb8();
        let mut jpeg = Vec::new();
        JpegEncoder::new_with_quality(&mut jpeg, JPEG_QUALITY).encode_image(&picture)?;
        let path = folder.join(format!("{number:05}.jpg"));
        fs::write(&path, jpeg)?;
        let time = UNIX_EPOCH + Duration::from_secs(1_700_000_000 + number as u64);
        File::options().write(true).open(&path)?.set_modified(time)?;
    }
    Ok(())
}
