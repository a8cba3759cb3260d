//! Whether something moved since the last picture that was kept.
//!
//! A camera looks at a still scene most of the time. Pictures that show nothing new are left out before they get a number: the camera is
//! the only sequencer of its chain, so what follows from the frames it did take is the same wherever and however they are worked off.
//!
//! Two pictures are compared cell by cell, after whatever happened to the light as a whole has been taken out of the difference. What is
//! left is held against the noise of each cell, learnt from one picture to the next. Pure: cells and time are arguments.

use crate::luma::Cells;

/// Below this a difference is no motion, steps of 255: rounding, compression and what is left of flicker stay below it.
const MOVED_MIN: f32 = 3.0;
/// … nor below so many standard deviations of the cell's noise: one cell in a million pictures.
const MOVED_SIGMAS: f32 = 5.0;
/// Of what a change of light did to a cell, this part may be left over: sensors and gamma curves are not straight lines.
const TONE_ERROR: f32 = 0.15;
/// Light that changed any cell by more than this, steps of 255, is no flicker: somebody switched the lamp.
const LIGHT_MAX: f32 = 40.0;
/// Cells with this difference from the median, in units of the median difference, take no part in estimating the light.
const OUTLIER: f32 = 3.0;
/// Rounds of leaving outliers out; each excludes what the former one showed.
const TONE_ROUNDS: usize = 4;
/// The noise of a cell is a mean over about so many pictures.
const NOISE_PICTURES: f32 = 32.0;
/// A cell's noise is at most so many times that of the median cell: who moves about in one place for long is no noise.
const NOISE_TIMES_MAX: f32 = 3.0;
/// Standard deviation of a normal distribution by its mean absolute deviation.
const SIGMA_BY_MEAN_DEVIATION: f32 = 1.2533;
/// Noise that is assumed before any was seen, and never gone below, steps of 255: rounding and compression.
const NOISE_MIN: f32 = 0.3;

/// A cell's noise is never taken for more than this, steps of 255: that of a pixel is sixteen times as much.
const NOISE_MAX: f32 = 2.0;
/// How bright the cells are, at least, whose gain tells that of a band.
const BAND_MEAN_MIN: f32 = 16.0;
/// A line is put through brightnesses only where they spread by this standard deviation: noise would bend it else.
const SPREAD_MIN: f32 = 4.0;

/// What is to be done with a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Something moved since the last one that was kept, or it cannot be told.
    Moved,
    /// Nothing moved, but the last one was kept long enough ago.
    Due,
    /// Nothing moved: it may be left out.
    Still,
}

/// Judges the pictures of one source, in their order.
#[derive(Debug, Clone)]
pub struct Gate {
    still_interval_us: u64,
    kept: Option<(Option<Cells>, u64)>,
    former: Option<Cells>,
    /// Mean absolute difference of each cell from one picture to the next.
    noise: Vec<f32>,
    /// Pictures that taught it.
    seen: f32,
}

impl Gate {
    /// A gate that lets a picture through every `still_interval_us` though nothing moves.
    pub fn new(still_interval_us: u64) -> Self {
        Self { still_interval_us, kept: None, former: None, noise: Vec::new(), seen: 0.0 }
    }

    /// Judges a picture; `None` stands for one that cannot be seen. To be called once for each picture.
    pub fn judge(&mut self, cells: Option<&Cells>, now_us: u64) -> Verdict {
        let Some(cells) = cells else {
            self.former = None;
            return Verdict::Moved;
        };
        self.learn(cells);
        match &self.kept {
            Some((Some(kept), at_us)) => match difference(kept, cells) {
                Some(difference) if !self.shows_motion(&difference, cells.columns()) => {
                    if now_us.saturating_sub(*at_us) >= self.still_interval_us { Verdict::Due } else { Verdict::Still }
                }
                _ => Verdict::Moved,
            },
            _ => Verdict::Moved,
        }
    }

    /// The picture just judged was kept: what follows is compared with it. To be called when it is durable; until then it may be
    /// lost, and the next one must show what it showed.
    pub fn kept(&mut self, cells: Option<Cells>, now_us: u64) {
        self.kept = Some((cells, now_us));
    }

    /// Two neighbours, so that a single lamp or a dead pixel is not enough.
    fn shows_motion(&self, difference: &[Change], columns: usize) -> bool {
        let typical = self.typical_noise();
        let moved: Vec<bool> = (difference.iter().zip(&self.noise))
            .map(|(change, noise)| {
                let sigma = SIGMA_BY_MEAN_DEVIATION * noise.clamp(NOISE_MIN, NOISE_TIMES_MAX * typical);
                change.by.abs() > MOVED_MIN.max(MOVED_SIGMAS * sigma) + change.tone_error
            })
            .collect();
        let is_moved = |row: usize, column: usize| moved.get(row * columns + column) == Some(&true);
        moved.iter().enumerate().filter(|(_, moved)| **moved).any(|(at, _)| {
            let (row, column) = (at / columns, at % columns);
            // Of eight neighbours these four are enough: the others find this cell.
            column + 1 < columns && (is_moved(row, column + 1) || is_moved(row + 1, column + 1))
                || is_moved(row + 1, column)
                || column > 0 && is_moved(row + 1, column - 1)
        })
    }

    /// Takes what changed since the former picture for noise, as far as it can be.
    fn learn(&mut self, cells: &Cells) {
        if self.noise.len() != cells.means().len() {
            self.noise = vec![NOISE_MIN; cells.means().len()];
            self.seen = 0.0;
        }
        let difference = self.former.as_ref().and_then(|former| difference(former, cells));
        if let Some(difference) = difference {
            self.seen = (self.seen + 1.0).min(NOISE_PICTURES);
            // A moment in which everything moves must not blind the gate to what follows, so it teaches little.
            let most = (NOISE_TIMES_MAX * self.typical_noise()).min(NOISE_MAX);
            for (noise, change) in self.noise.iter_mut().zip(&difference) {
                *noise += (change.by.abs().min(most) - *noise) / self.seen;
            }
        }
        self.former = Some(cells.clone());
    }

    fn typical_noise(&self) -> f32 {
        median(self.noise.clone()).unwrap_or(0.0).max(NOISE_MIN)
    }
}

/// What happened to a cell beyond what happened to the light.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Change {
    /// Steps of 255.
    by: f32,
    /// How much of it may still be the light's, steps of 255.
    tone_error: f32,
}

/// How each cell differs beside a change of light; `None` if the two cannot be compared.
fn difference(from: &Cells, to: &Cells) -> Option<Vec<Change>> {
    if (from.columns(), from.means().len()) != (to.columns(), to.means().len()) {
        return None;
    }
    let rows = from.means().chunks(from.columns()).zip(to.means().chunks(from.columns()));
    // A shutter that rolls over mains flicker makes bands across the picture.
    let banded: Vec<f32> = rows
        .flat_map(|(from, to)| {
            let band = band(from, to);
            from.iter().map(move |mean| mean * band)
        })
        .collect();
    let tone = Tone::between(&banded, to.means());
    let changes = from.means().iter().zip(&banded).zip(to.means()).map(|((from, banded), to)| {
        let expected = tone.of(*banded);
        let by_light = (expected - from).abs();
        (by_light <= LIGHT_MAX).then_some(Change { by: to - expected, tone_error: TONE_ERROR * by_light })
    });
    changes.collect()
}

/// By which factor most of a row became brighter.
fn band(from: &[f32], to: &[f32]) -> f32 {
    let bright = from.iter().zip(to).filter(|(from, _)| **from >= BAND_MEAN_MIN);
    median(bright.map(|(from, to)| to / from).collect()).unwrap_or(1.0)
}

/// What light and exposure did to the whole picture.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Tone {
    gain: f32,
    offset: f32,
}

impl Tone {
    /// The line through most of the cells: least squares over those that the former round did not find far off.
    fn between(from: &[f32], to: &[f32]) -> Self {
        let offset = median(from.iter().zip(to).map(|(from, to)| to - from).collect()).unwrap_or(0.0);
        let mut tone = Self { gain: 1.0, offset };
        for _ in 0..TONE_ROUNDS {
            let off: Vec<f32> = from.iter().zip(to).map(|(from, to)| (to - tone.of(*from)).abs()).collect();
            let most = OUTLIER * median(off.clone()).unwrap_or(0.0).max(NOISE_MIN);
            let agreeing = || from.iter().zip(to).zip(&off).filter(|(_, off)| **off <= most).map(|(pair, _)| pair);
            let count = agreeing().count() as f32;
            let mean_from = agreeing().map(|(from, _)| from).sum::<f32>() / count;
            let mean_to = agreeing().map(|(_, to)| to).sum::<f32>() / count;
            let products = agreeing().map(|(from, to)| (from - mean_from) * (to - mean_to)).sum::<f32>();
            let squares = agreeing().map(|(from, _)| (from - mean_from).powi(2)).sum::<f32>();
            // A picture of one brightness shows no gain.
            let gain = if squares > SPREAD_MIN.powi(2) * count { products / squares } else { 1.0 };
            tone = Self { gain, offset: mean_to - gain * mean_from };
        }
        tone
    }

    fn of(self, mean: f32) -> f32 {
        (self.gain * mean + self.offset).clamp(0.0, 255.0)
    }
}

/// Of the values the one in the middle.
fn median(mut values: Vec<f32>) -> Option<f32> {
    let middle = values.len() / 2;
    (!values.is_empty()).then(|| *values.select_nth_unstable_by(middle, f32::total_cmp).1)
}

#[cfg(test)]
mod tests;
