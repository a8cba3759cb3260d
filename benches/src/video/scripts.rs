//! Videos by how many of their frames hold a moving face.

use std::sync::Arc;

use super::{Cast, Cutout, Flicker, Light, Script, SensorNoise, Sway, Walk, Waypoint};
use crate::random::{fraction, mixed};

/// Every so many-th busy stretch has a second person in it.
const TWO_EVERY: usize = 3;
/// Faces as they cross the picture, px: a few metres from a camera of 720 rows.
const CROSSING_FACE_PX: (f64, f64) = (48.0, 110.0);
/// Faces of people who come up to the camera, px, at first and at last.
const APPROACH_FACE_PX: (f64, f64) = (42.0, 170.0);

/// What all videos of a series have in common.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shares {
    /// Frames a second.
    pub fps: f64,
    /// A walk takes so many frames, and so does a pause without one.
    pub frames_per_walk: usize,
    /// The sensor's noise, standard deviation in steps of an 8-bit channel.
    pub noise_sigma: f64,
    /// What the lamps do, if anything.
    pub flicker: Option<Flicker>,
    /// Of the time between two frames, the part during which the shutter is open.
    pub shutter: f64,
}

impl Default for Shares {
    /// A cheap camera indoors: 10 frames a second, noise of 3 steps, brightness up and down by 4 %.
    fn default() -> Self {
        let flicker = Some(Flicker { amplitude: 0.04, hz: 2.3 });
        Self { fps: 10.0, frames_per_walk: 40, noise_sigma: 3.0, flicker, shutter: 0.25 }
    }
}

impl Shares {
    /// A video in which `share_percent` of the `frames` hold at least one moving face, spread evenly, before one of the cast's
    /// backgrounds (their number, counted round). `seed` decides who walks, and how.
    pub fn script(&self, cast: &Cast, background: usize, share_percent: usize, frames: usize, seed: u64) -> Script {
        let busy_before = |stretch: usize| stretch * share_percent / 100;
        let stretches = 0..frames.div_ceil(self.frames_per_walk);
        let busy = stretches.filter(|stretch| busy_before(stretch + 1) > busy_before(*stretch));
        let background = cast.backgrounds[background % cast.backgrounds.len()].clone();
        let size_px = background.dimensions();
        let walks = busy.enumerate().flat_map(|(number, stretch)| {
            let first_frame = (stretch * self.frames_per_walk) as f64;
            let two = number % TWO_EVERY == 1;
            let draws = [Draw { seed: mixed(seed, 1 + number as u64) }, Draw { seed: mixed(!seed, 1 + number as u64) }];
            // Everybody in turn, so that no video is one person's.
            let first = (seed as usize).wrapping_add(number) % cast.people.len();
            let second = somebody_else(&cast.people, first);
            let stage = Stage { first_frame, frames: self.frames_per_walk as f64, size_px };
            let walk = move |person: Arc<Cutout>, draw: Draw, lane: Lane| draw.walk(person, stage, lane);
            if two {
                let people = [(first, Lane::Left), (second, Lane::Right)];
                let walks = people.into_iter().zip(draws);
                walks.map(|((person, lane), draw)| walk(cast.people[person].clone(), draw, lane)).collect::<Vec<_>>()
            } else {
                vec![walk(cast.people[first].clone(), draws[0], Lane::Whole)]
            }
        });
        Script {
            fps: self.fps,
            frames,
            walks: walks.collect(),
            background,
            flicker: self.flicker,
            noise: (self.noise_sigma > 0.0).then(|| SensorNoise::new(seed, self.noise_sigma)),
            shutter: self.shutter,
            seed,
        }
    }
}

/// Somebody with another name than `first`, about half the cast away; `first` if there is nobody else.
fn somebody_else(people: &[Arc<Cutout>], first: usize) -> usize {
    let mut others = (0..people.len()).map(|offset| (first + people.len() / 2 + offset) % people.len());
    others.find(|other| people[*other].name != people[first].name).unwrap_or(first)
}

/// Where and when a walk takes place.
#[derive(Debug, Clone, Copy)]
struct Stage {
    first_frame: f64,
    frames: f64,
    size_px: (u32, u32),
}

/// Which part of the picture's width a person keeps to, so that two do not hide each other.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Lane {
    Whole,
    Left,
    Right,
}

/// The choices for one walk.
#[derive(Debug, Clone, Copy)]
struct Draw {
    seed: u64,
}

impl Draw {
    fn number(&self, which: u64) -> u64 {
        mixed(self.seed, which)
    }

    fn within(&self, which: u64, (low, high): (f64, f64)) -> f64 {
        low + (high - low) * fraction(self.seed, which)
    }

    fn walk(&self, person: Arc<Cutout>, stage: Stage, lane: Lane) -> Walk {
        let way = match self.number(1) % 3 {
            0 => self.crossing(stage, lane, false),
            1 => self.crossing(stage, lane, true),
            _ => self.approach(stage, lane),
        };
        let sway = Sway {
            roll_deg: self.within(2, (2.0, 8.0)),
            yaw_deg: self.within(3, (5.0, 22.0)),
            period_s: self.within(4, (1.2, 2.5)),
            phase: self.within(5, (0.0, 1.0)),
        };
        let light = Light {
            gain: self.within(6, (0.8, 1.15)),
            gamma: self.within(7, (0.85, 1.25)),
            side: self.within(8, (-0.25, 0.25)),
        };
        Walk { person, way, sway, light }
    }

    /// From one side to the other, or back; some stand still for a quarter of the time.
    fn crossing(&self, stage: Stage, lane: Lane, stands: bool) -> Vec<Waypoint> {
        let face_px = self.within(9, CROSSING_FACE_PX);
        let (width, height) = (f64::from(stage.size_px.0), f64::from(stage.size_px.1));
        let (near, far) = match lane {
            Lane::Whole => (0.3 * face_px, width - 0.3 * face_px),
            Lane::Left => (0.3 * face_px, width / 2.0 - 1.2 * face_px),
            Lane::Right => (width - 0.3 * face_px, width / 2.0 + 1.2 * face_px),
        };
        let (from, to) = if self.number(10).is_multiple_of(2) { (near, far) } else { (far, near) };
        let y_px = self.within(11, (0.25, 0.6)) * height;
        let at = |part: f64, way: f64, dy: f64| Waypoint {
            frame: stage.first_frame + part * stage.frames,
            x_px: from + way * (to - from),
            y_px: y_px + dy * face_px,
            face_px,
        };
        if stands {
            vec![at(0.0, 0.0, 0.0), at(0.4, 0.5, 0.1), at(0.65, 0.5, 0.1), at(1.0, 1.0, 0.0)]
        } else {
            // Steps make a head go up and down.
            (0..=8).map(|step| at(f64::from(step) / 8.0, f64::from(step) / 8.0, 0.08 * f64::from(step % 2))).collect()
        }
    }

    /// From afar up to the camera.
    fn approach(&self, stage: Stage, lane: Lane) -> Vec<Waypoint> {
        let (width, height) = (f64::from(stage.size_px.0), f64::from(stage.size_px.1));
        let x = match lane {
            Lane::Whole => self.within(9, (0.3, 0.7)),
            Lane::Left => self.within(9, (0.18, 0.3)),
            Lane::Right => self.within(9, (0.7, 0.82)),
        };
        let drift = self.within(10, (-0.05, 0.05));
        let (from_px, to_px) = APPROACH_FACE_PX;
        let at = |frame: f64, x: f64, y: f64, face_px: f64| Waypoint {
            frame: stage.first_frame + frame,
            x_px: x * width,
            y_px: y * height,
            face_px,
        };
        vec![at(0.0, x, 0.35, from_px), at(stage.frames, x + drift, 0.45, to_px)]
    }
}
