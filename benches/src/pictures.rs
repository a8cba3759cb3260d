//! Pictures of a wanted size, cut from the real photos of the data set.

use std::fs::{self, File};
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;
use image::{DynamicImage, GenericImageView as _};

use crate::{Error, data_dir};

/// Quality of the pictures, as cameras choose it.
const JPEG_QUALITY: u8 = 85;
/// Pictures from one photo are moved against each other by up to this, px, so that no two are equal.
const MOVES_PX: u32 = 16;
/// No two files of a folder are younger than each other by less than this: their times are part of their records.
const FRAME_MS: u64 = 1_000;

/// Photos with people, and photos without, of the data set.
const PEOPLE: [&str; 6] = ["obama.jpg", "obama2.jpg", "biden.jpg", "obama3.jpg", "t1.jpg", "astronaut.png"];
const FACELESS: [&str; 6] = ["chelsea.png", "coffee.png", "coins.png", "brick.png", "grass.png", "moon.png"];

/// What the pictures show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Motif {
    /// Photos with people and without, by turns, each whole with bars beside it.
    Scenes,
    /// No face, so that a frame is one search.
    Faceless,
    /// One face close up, so that a frame is one search and one encoding.
    Portraits,
}

/// `count` different pictures of `width_px` × `height_px` as JPEG; the same in each run.
///
/// # Errors
/// A photo is missing or cannot be read.
pub fn make(motif: Motif, count: usize, width_px: u32, height_px: u32) -> Result<Vec<Vec<u8>>, Error> {
    let mut sources = Vec::new();
    for path in paths(motif) {
        let photo = image::open(&path).map_err(|error| format!("{}: {error}; run `make setup`", path.display()))?;
        let photo = if motif == Motif::Portraits { close_up(&photo) } else { photo };
        let (width, height) = (width_px + MOVES_PX, height_px + MOVES_PX);
        sources.push(match motif {
            Motif::Scenes => letterboxed(&photo, width, height),
            Motif::Faceless | Motif::Portraits => photo.resize_to_fill(width, height, FilterType::Triangle),
        });
    }
    let picture = |number: usize| {
        let (source, turn) = (&sources[number % sources.len()], (number / sources.len()) as u32);
        let (left, top) = (turn % (MOVES_PX + 1), turn / (MOVES_PX + 1) % (MOVES_PX + 1));
        jpeg(&source.crop_imm(left, top, width_px, height_px))
    };
    (0..count).map(picture).collect()
}

/// Writes pictures as a folder that a camera agent can play; the files' names and times are the same in each run.
///
/// # Errors
/// A file cannot be written.
pub fn write(folder: &Path, pictures: &[Vec<u8>]) -> Result<(), Error> {
    fs::create_dir_all(folder)?;
    for (number, picture) in (0..).zip(pictures) {
        let path = folder.join(format!("{number:05}.jpg"));
        fs::write(&path, picture)?;
        let time = UNIX_EPOCH + Duration::from_secs(1_700_000_000) + Duration::from_millis(number * FRAME_MS);
        File::options().write(true).open(&path)?.set_modified(time)?;
    }
    Ok(())
}

fn paths(motif: Motif) -> Vec<PathBuf> {
    let photos = data_dir().join("photos");
    let people = PEOPLE.iter().map(|name| photos.join("people").join(name));
    let faceless = FACELESS.iter().map(|name| photos.join("faceless").join(name));
    match motif {
        Motif::Scenes => people.zip(faceless).flat_map(|(with, without)| [with, without]).collect(),
        // A head on a coin is looked at a second time, which is a unit of its own.
        Motif::Faceless => faceless.filter(|path| !path.ends_with("coins.png")).collect(),
        Motif::Portraits => vec![photos.join("people/astronaut.png")],
    }
}

/// The astronaut's face with some margin; places in the photo as the detector reports them.
fn close_up(photo: &DynamicImage) -> DynamicImage {
    let (width, height) = photo.dimensions();
    photo.crop_imm(width * 28 / 100, 0, width * 36 / 100, height * 36 / 100)
}

/// The whole photo on a black picture of this size.
fn letterboxed(photo: &DynamicImage, width_px: u32, height_px: u32) -> DynamicImage {
    let photo = photo.resize(width_px, height_px, FilterType::Triangle).to_rgb8();
    let mut picture = image::RgbImage::new(width_px, height_px);
    let (left, top) = ((width_px - photo.width()) / 2, (height_px - photo.height()) / 2);
    image::imageops::replace(&mut picture, &photo, left.into(), top.into());
    picture.into()
}

fn jpeg(picture: &DynamicImage) -> Result<Vec<u8>, Error> {
    let mut bytes = Cursor::new(Vec::new());
    JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY).encode_image(&picture.to_rgb8())?;
    Ok(bytes.into_inner())
}
