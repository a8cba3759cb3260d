//! Video with people who walk by, made of real photos, and the truth about every frame of it.
//!
//! No film of people may be shipped with the project, and none comes with boxes. So a [`Script`] says who walks where, and gives any of its
//! frames: a background, faces with their surroundings along their ways (scaled, turned, blurred by their motion, lit), mains
//! flicker, and a sensor's noise. The same script gives the same frames in each run and in any order.

mod cast;
mod draw;
mod noise;
mod recall;
mod scripts;

use std::io::Cursor;
use std::sync::Arc;

use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;

pub use cast::{Cast, Cutout, FaceAt, Photos};
pub(crate) use cast::{REPORTED_FACES, at};
pub use noise::SensorNoise;
pub use recall::{FACE_PX_MIN, Recall, VISIBLE_MIN, is_of};
pub use scripts::Shares;

use crate::Error;
use crate::random::mixed;

/// Quality of the frames, as cameras choose it.
const JPEG_QUALITY: u8 = 85;

/// How often all of a picture is searched, as by the camera agent's default, µs.
pub const STILL_INTERVAL_US: u64 = 5_000_000;

/// A whole video.
#[derive(Debug, Clone)]
pub struct Script {
    /// Frames a second.
    pub fps: f64,
    /// How many frames there are.
    pub frames: usize,
    /// What nobody stands before; its size is the video's.
    pub background: Arc<RgbImage>,
    /// Who walks by; later ones pass in front of earlier ones.
    pub walks: Vec<Walk>,
    /// What the lamps do, if anything.
    pub flicker: Option<Flicker>,
    /// What the sensor adds to every frame, if anything.
    pub noise: Option<SensorNoise>,
    /// Of the time between two frames, the part during which the shutter is open: motion blurs over it.
    pub shutter: f64,
    /// Decides the noise of each row.
    pub seed: u64,
}

/// The lamps' brightness goes up and down with the mains, and so does the entire picture's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Flicker {
    /// By which part of itself brightness rises and falls.
    pub amplitude: f64,
    /// How often a second it does as the frames show it: what is left of 100 or 120 Hz at the frame rate.
    pub hz: f64,
}

/// One person's way through the picture, from the first waypoint's frame up to the last one's.
#[derive(Debug, Clone)]
pub struct Walk {
    /// Who walks.
    pub person: Arc<Cutout>,
    /// At least two, in the order of their frames; between two of them the way is straight and the pace even.
    pub way: Vec<Waypoint>,
    /// How the head moves on the way.
    pub sway: Sway,
    /// How the light falls on this person.
    pub light: Light,
}

/// Where a face is in one frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Waypoint {
    /// Frame, in fractions.
    pub frame: f64,
    /// The face's middle, px from the left.
    pub x_px: f64,
    /// The face's middle, px from the top.
    pub y_px: f64,
    /// Side of the face's box, px.
    pub face_px: f64,
}

/// A head turns to and fro, about the line of sight and about its neck.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sway {
    /// Largest turn in the picture's plane, degrees.
    pub roll_deg: f64,
    /// Largest turn to a side, degrees; a flat photo turned away stands in for a head.
    pub yaw_deg: f64,
    /// Time of one turn to and fro, s.
    pub period_s: f64,
    /// Where in it the walk begins, 0 to 1.
    pub phase: f64,
}

/// How light falls on somebody.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Light {
    /// Factor of all values; 1 is as the photo was taken.
    pub gain: f64,
    /// Exponent of values from 0 to 1: above 1 is darker in the middle.
    pub gamma: f64,
    /// Brighter by this part on the right edge of the face and darker on the left; negative for light from the left.
    pub side: f64,
}

/// A face that a frame shows, as the script has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shown {
    /// Index into [`Script::walks`].
    pub walk: usize,
    /// Who it is.
    pub name: &'static str,
    /// The box's middle, px from the left.
    pub x_px: f64,
    /// The box's middle, px from the top.
    pub y_px: f64,
    /// Side of the box, px.
    pub face_px: f64,
    /// The part of the box that lies inside the picture and behind nobody's box, 0 to 1.
    pub visible: f64,
}

impl Script {
    /// Width and height, px.
    pub fn size_px(&self) -> (u32, u32) {
        self.background.dimensions()
    }

    /// Frame `number`, as the sensor gives it.
    pub fn frame(&self, number: usize) -> RgbImage {
        let mut frame = RgbImage::clone(&self.background);
        for walk in &self.walks {
            draw::person(&mut frame, walk, number as f64, self.shutter, self.fps);
        }
        if let Some(Flicker { amplitude, hz }) = self.flicker {
            let turn = std::f64::consts::TAU * hz * number as f64 / self.fps;
            draw::gain(&mut frame, 1.0 + amplitude * turn.sin());
        }
        if let Some(noise) = &self.noise {
            let row_len = frame.width() as usize * 3;
            let first = number as u64 * u64::from(frame.height());
            for (row, draw) in frame.chunks_exact_mut(row_len).zip(first..) {
                noise.add(row, mixed(self.seed, draw));
            }
        }
        frame
    }

    /// Frame `number`, as a camera sends it.
    ///
    /// # Errors
    /// The encoder fails.
    pub fn jpeg(&self, number: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = Cursor::new(Vec::new());
        JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY).encode_image(&self.frame(number))?;
        Ok(bytes.into_inner())
    }

    /// The faces of frame `number`.
    pub fn shown(&self, number: usize) -> Vec<Shown> {
        let (width, height) = self.size_px();
        let mut shown: Vec<Shown> = Vec::new();
        for (index, walk) in self.walks.iter().enumerate() {
            let Some(at) = walk.at(number as f64) else { continue };
            let inside = overlap(at.x_px, at.face_px, width.into()) * overlap(at.y_px, at.face_px, height.into());
            let visible = inside / at.face_px.powi(2);
            for other in &mut shown {
                let covered = at.covers(other);
                other.visible = (other.visible - covered).max(0.0);
            }
            let Waypoint { x_px, y_px, face_px, .. } = at;
            shown.push(Shown { walk: index, name: walk.person.name, x_px, y_px, face_px, visible });
        }
        shown.retain(|face| face.visible > 0.0);
        shown
    }
}

impl Walk {
    /// Where the face is in a frame; `None` before and after the walk.
    pub fn at(&self, frame: f64) -> Option<Waypoint> {
        let next = self.way.iter().position(|point| point.frame > frame)?;
        let (from, to) = (self.way[next.checked_sub(1)?], self.way[next]);
        let part = (frame - from.frame) / (to.frame - from.frame);
        let between = |from: f64, to: f64| from + part * (to - from);
        Some(Waypoint {
            frame,
            x_px: between(from.x_px, to.x_px),
            y_px: between(from.y_px, to.y_px),
            // An even pace towards the camera scales evenly.
            face_px: from.face_px * (to.face_px / from.face_px).powf(part),
        })
    }
}

impl Waypoint {
    /// The part of another's box that lies behind somebody here.
    fn covers(&self, other: &Shown) -> f64 {
        let (half_width, half_height) = Cutout::half_size_faces();
        let shared = |a: f64, a_half: f64, b: f64, b_half: f64| {
            ((a + a_half).min(b + b_half) - (a - a_half).max(b - b_half)).max(0.0)
        };
        let half = other.face_px / 2.0;
        let across = shared(self.x_px, self.face_px * f64::from(half_width), other.x_px, half);
        let down = shared(self.y_px, self.face_px * f64::from(half_height), other.y_px, half);
        across * down / other.face_px.powi(2)
    }
}

/// How much of a side around `middle` lies between 0 and `end`, px.
fn overlap(middle: f64, side: f64, end: f64) -> f64 {
    ((middle + side / 2.0).min(end) - (middle - side / 2.0).max(0.0)).max(0.0)
}

#[cfg(test)]
mod tests;
