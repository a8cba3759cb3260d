//! Whether something moved since the last picture that was kept, and where.
//!
//! A camera looks at a still scene most of the time. Pictures that show nothing new are left out before they get a number: the camera is
//! the only sequencer of its chain, so what follows from the frames it did take is the same wherever and however they are worked off.
//!
//! Two pictures are compared cell by cell, after whatever happened to the light as a whole has been taken out of the difference. What is
//! left is held against the noise of each cell, learnt from one picture to the next. Pure: cells and time are arguments.
//!
//! Of a picture that is kept only the parts in which something moved need be searched for faces. Each cell is compared with what it looked like
//! when it was last among these, so that whatever creeps or fades in is searched in the end, and all of the picture is searched once an interval.

mod areas;

use microlambda_wire::Areas;

use self::areas::Moved;
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

/// Where something moved, and does not move on, is searched in so many further pictures: somebody new who has stopped is seen as often as
/// it takes to be sure (`VIEWS_MIN` of the face lambda), and sharper than in motion.
const LINGER_PICTURES: u8 = 3;

/// What is to be done with a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Something moved since the last one that was kept, or a moment ago, or it cannot be told.
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
    reference: Option<Reference>,
    judged: Option<Judged>,
    former: Option<Cells>,
    /// Mean absolute difference of each cell from one picture to the next.
    noise: Vec<f32>,
    /// Pictures that taught it.
    seen: f32,
}

/// What pictures are compared with: each cell as it was when it was searched last, in the light of the picture that was kept last.
#[derive(Debug, Clone)]
struct Reference {
    /// `None` if a picture that could not be seen was kept.
    cells: Option<Cells>,
    kept_at_us: u64,
    /// When all of a picture was searched last.
    whole_at_us: u64,
    /// Pictures kept since something moved in each cell.
    quiet: Vec<u8>,
}

/// The picture judged last, as it is to be kept.
#[derive(Debug, Clone)]
struct Judged {
    reference: Reference,
    moved: Option<Areas>,
}

impl Gate {
    /// A gate that lets a picture through every `still_interval_us` though nothing moves.
    pub fn new(still_interval_us: u64) -> Self {
        Self { still_interval_us, reference: None, judged: None, former: None, noise: Vec::new(), seen: 0.0 }
    }

    /// Judges a picture; `None` stands for one that cannot be seen. To be called once for each picture.
    pub fn judge(&mut self, cells: Option<Cells>, now_us: u64) -> Verdict {
        if let Some(cells) = &cells {
            self.learn(cells);
        } else {
            self.former = None;
        }
        let compared = cells.as_ref().and_then(|cells| {
            let reference = self.reference.as_ref()?;
            Some((reference, difference(reference.cells.as_ref()?, cells)?))
        });
        let Some((reference, difference)) = compared else {
            self.judged = Some(Judged::whole(cells, now_us));
            return Verdict::Moved;
        };
        let columns = cells.as_ref().map_or(1, Cells::columns);
        let moved = self.moving(&difference, columns);
        let mut quiet: Vec<u8> = reference.quiet.iter().map(|pictures| pictures.saturating_add(1)).collect();
        for (quiet, _) in quiet.iter_mut().zip(&moved).filter(|(_, moved)| **moved) {
            *quiet = 0;
        }
        let moved: Vec<Moved> = (quiet.iter())
            .map(|pictures| match pictures {
                0 => Moved::Now,
                1..=LINGER_PICTURES => Moved::Lately,
                _ => Moved::Not,
            })
            .collect();
        let since = |at_us: u64| now_us.saturating_sub(at_us) >= self.still_interval_us;
        let verdict = if moved.iter().any(|moved| *moved != Moved::Not) {
            Verdict::Moved
        } else if since(reference.kept_at_us) {
            Verdict::Due
        } else {
            Verdict::Still
        };
        let moved = if since(reference.whole_at_us) { None } else { areas::around(&moved, columns) };
        self.judged = Some(match (cells, moved) {
            (Some(cells), Some((moved, searched))) => {
                let expected = difference.iter().zip(cells.means()).map(|(change, mean)| mean - change.by);
                let means = cells.means().iter().zip(expected).zip(searched);
                let means = means.map(|((mean, expected), searched)| if searched { *mean } else { expected }).collect();
                let (cells, whole_at_us) = (Cells::new(columns, means), reference.whole_at_us);
                Judged { reference: Reference { cells, kept_at_us: now_us, whole_at_us, quiet }, moved: Some(moved) }
            }
            (cells, _) => {
                let mut judged = Judged::whole(cells, now_us);
                judged.reference.quiet = quiet;
                judged
            }
        });
        verdict
    }

    /// Where something moved in the picture judged last; `None` if all of it is to be searched.
    pub fn moved(&self) -> Option<Areas> {
        self.judged.as_ref()?.moved.clone()
    }

    /// The picture judged last was kept: what follows is compared with it. To be called when it is durable; until then it may be
    /// lost, and the next one must show what it showed.
    pub fn kept(&mut self) {
        self.reference = self.judged.take().map(|judged| judged.reference).or(self.reference.take());
    }

    /// The cells in which something moved and that have such a neighbour: a single lamp or a dead pixel is not enough.
    fn moving(&self, difference: &[Change], columns: usize) -> Vec<bool> {
        let typical = self.typical_noise();
        let moved: Vec<bool> = (difference.iter().zip(&self.noise))
            .map(|(change, noise)| {
                let sigma = SIGMA_BY_MEAN_DEVIATION * noise.clamp(NOISE_MIN, NOISE_TIMES_MAX * typical);
                change.by.abs() > MOVED_MIN.max(MOVED_SIGMAS * sigma) + change.tone_error
            })
            .collect();
        let has_neighbour = |at: usize| areas::neighbours(at, columns, moved.len()).any(|other| moved[other]);
        moved.iter().enumerate().map(|(at, is_moved)| *is_moved && has_neighbour(at)).collect()
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

impl Judged {
    /// All of a picture is searched.
    fn whole(cells: Option<Cells>, now_us: u64) -> Self {
        let quiet = vec![u8::MAX; cells.as_ref().map_or(0, |cells| cells.means().len())];
        Self { reference: Reference { cells, kept_at_us: now_us, whole_at_us: now_us, quiet }, moved: None }
    }
}

/// What happened to a cell beyond what happened to the light.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Change {
    /// How much brighter or darker it became, steps of 255.
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
