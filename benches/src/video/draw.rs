//! Puts people into a frame, and light over all of it.

use image::{RgbImage, RgbaImage};

use super::{Cutout, Light, Sway, Walk, Waypoint};

/// How far away the camera is from a turned head, in sides of its face: what is nearer looks larger.
const DISTANCE_FACES: f32 = 6.0;
/// A blurred face is drawn once for so many px of its way, and at most so often.
const BLUR_STEP_PX: f64 = 1.5;
const BLUR_STEPS_MAX: usize = 12;

/// How a flat cut-out lies in the picture.
struct Pose {
    x_px: f32,
    y_px: f32,
    /// Pixels of the frame per side of the face.
    face_px: f32,
    roll: (f32, f32),
    yaw: (f32, f32),
}

/// A rectangle of the frame with what is drawn into it: colour times coverage, and coverage, from 0 to 1.
struct Layer {
    left: u32,
    top: u32,
    width: u32,
    sums: Vec<[f32; 4]>,
}

/// Draws a person as the open shutter sees it from `frame` on.
pub(super) fn person(picture: &mut RgbImage, walk: &Walk, frame: f64, shutter: f64, fps: f64) {
    let Some(from) = walk.at(frame) else { return };
    let to = walk.at(frame + shutter).unwrap_or(from);
    let steps = blur_steps(&from, &to);
    let Some(mut layer) = Layer::around(&from, &to, picture.dimensions()) else { return };
    for step in 0..steps {
        let now = frame + shutter * step as f64 / steps as f64;
        let at = walk.at(now).unwrap_or(from);
        layer.add(&walk.person, &Pose::of(&at, &walk.sway, (now - walk.way[0].frame) / fps), 1.0 / steps as f32);
    }
    layer.cover(picture, &from, &walk.light);
}

/// Multiplies every value.
pub(super) fn gain(picture: &mut RgbImage, gain: f64) {
    let table: [u8; 256] = std::array::from_fn(|value| (value as f64 * gain).round().clamp(0.0, 255.0) as u8);
    for value in picture.iter_mut() {
        *value = table[usize::from(*value)];
    }
}

fn blur_steps(from: &Waypoint, to: &Waypoint) -> usize {
    let moved = (to.x_px - from.x_px).hypot(to.y_px - from.y_px);
    let grown = (to.face_px - from.face_px).abs();
    ((moved.max(grown) / BLUR_STEP_PX).ceil() as usize).clamp(1, BLUR_STEPS_MAX)
}

impl Pose {
    fn of(at: &Waypoint, sway: &Sway, seconds: f64) -> Self {
        let turn = std::f64::consts::TAU * (seconds / sway.period_s + sway.phase);
        // A head nods to the side twice while it turns once.
        let roll = (sway.roll_deg * (2.0 * turn).sin()).to_radians().sin_cos();
        let yaw = (sway.yaw_deg * turn.sin()).to_radians().sin_cos();
        let single = |(sin, cos): (f64, f64)| (sin as f32, cos as f32);
        Self {
            x_px: at.x_px as f32,
            y_px: at.y_px as f32,
            face_px: at.face_px as f32,
            roll: single(roll),
            yaw: single(yaw),
        }
    }

    /// The place on the cut-out, from its middle and in sides of its face, that a pixel shows.
    fn on_cutout(&self, x: f32, y: f32) -> (f32, f32) {
        let (x, y) = ((x - self.x_px) / self.face_px, (y - self.y_px) / self.face_px);
        let ((roll_sin, roll_cos), (yaw_sin, yaw_cos)) = (self.roll, self.yaw);
        let (x, y) = (x * roll_cos + y * roll_sin, y * roll_cos - x * roll_sin);
        let across = x / (yaw_cos - x * yaw_sin / DISTANCE_FACES);
        (across, y * (1.0 + across * yaw_sin / DISTANCE_FACES))
    }
}

impl Layer {
    /// Room for a person on the way between two places; `None` if none of it lies inside the picture.
    fn around(from: &Waypoint, to: &Waypoint, size_px: (u32, u32)) -> Option<Self> {
        let (half_width, half_height) = Cutout::half_size_faces();
        // Its diagonal, so that it may be turned.
        let reach = f64::from(half_width.hypot(half_height)) * from.face_px.max(to.face_px);
        let span = |a: f64, b: f64, end: u32| {
            let low = (a.min(b) - reach).floor().clamp(0.0, f64::from(end)) as u32;
            (low, (a.max(b) + reach).ceil().clamp(0.0, f64::from(end)) as u32 - low)
        };
        let (left, width) = span(from.x_px, to.x_px, size_px.0);
        let (top, height) = span(from.y_px, to.y_px, size_px.1);
        let sums = vec![[0.0; 4]; (width * height) as usize];
        (width > 0 && height > 0).then_some(Self { left, top, width, sums })
    }

    fn add(&mut self, person: &Cutout, pose: &Pose, weight: f32) {
        let (cutout, scale) = person.for_face(pose.face_px);
        let (middle_x, middle_y) = (cutout.width() as f32 / 2.0, cutout.height() as f32 / 2.0);
        for (sum, place) in self.sums.iter_mut().zip(0_u32..) {
            let (x, y) = (self.left + place % self.width, self.top + place / self.width);
            let (across, down) = pose.on_cutout(x as f32 + 0.5, y as f32 + 0.5);
            let Some([r, g, b, alpha]) = sample(cutout, across * scale + middle_x, down * scale + middle_y) else {
                continue;
            };
            for (sum, value) in sum.iter_mut().zip([r, g, b, alpha]) {
                *sum += weight * value;
            }
        }
    }

    /// Lights the person and puts it over the picture.
    fn cover(&self, picture: &mut RgbImage, at: &Waypoint, light: &Light) {
        for (sum, place) in self.sums.iter().zip(0_u32..) {
            let [.., alpha] = *sum;
            if alpha <= 0.0 {
                continue;
            }
            let (x, y) = (self.left + place % self.width, self.top + place / self.width);
            let across = ((f64::from(x) - at.x_px) / at.face_px).clamp(-0.5, 0.5);
            let gain = light.gain * (1.0 + 2.0 * light.side * across);
            for (below, value) in picture.get_pixel_mut(x, y).0.iter_mut().zip(sum) {
                let lit = (f64::from(value / alpha / 255.0).powf(light.gamma) * gain).min(1.0) * 255.0;
                let mixed = lit * f64::from(alpha) + f64::from(*below) * f64::from(1.0 - alpha);
                *below = mixed.round() as u8;
            }
        }
    }
}

/// Colour times coverage, and coverage, between four pixels; `None` outside.
fn sample(cutout: &RgbaImage, x: f32, y: f32) -> Option<[f32; 4]> {
    let (x, y) = (x - 0.5, y - 0.5);
    let (width, height) = cutout.dimensions();
    if x < 0.0 || y < 0.0 || x >= (width - 1) as f32 || y >= (height - 1) as f32 {
        return None;
    }
    let (left, top) = (x as u32, y as u32);
    let (right_part, lower_part) = (x.fract(), y.fract());
    let mut mixed = [0.0; 4];
    for (dx, dy, part) in [
        (0, 0, (1.0 - right_part) * (1.0 - lower_part)),
        (1, 0, right_part * (1.0 - lower_part)),
        (0, 1, (1.0 - right_part) * lower_part),
        (1, 1, right_part * lower_part),
    ] {
        let [r, g, b, alpha] = cutout.get_pixel(left + dx, top + dy).0.map(f32::from);
        let alpha = alpha / 255.0 * part;
        for (sum, value) in mixed.iter_mut().zip([r * alpha, g * alpha, b * alpha, alpha]) {
            *sum += value;
        }
    }
    Some(mixed)
}
