//! What follows from the trials: means, ratios inside blocks, and what one more invocation costs.

use std::collections::BTreeMap;

use serde::Serialize;

use super::line::{LINES, LONG, Line};
use super::raw::Row;
use super::trial::{PARTS, Trial};
use crate::inference::{Interval, slope_through_origin};

/// Confidence of every interval.
pub const CONFIDENCE: f64 = 0.97;

/// All trials of one line and one workload.
#[derive(Debug, Clone, Serialize)]
pub struct Point {
    /// The line's key.
    pub line: &'static str,
    /// Images of the workload.
    pub images: usize,
    /// Trials.
    pub trials: usize,
    /// Trials that were cut off.
    pub cut_off: usize,
    /// Time of a trial, ms; `None` if any was cut off.
    pub time_ms: Option<Interval>,
    /// Time by the mean of the long invocations in the same block; `None` if any was cut off.
    pub ratio: Option<Interval>,
    /// Mean number of invocations.
    pub invocations: f64,
}

/// The model `T = T_long + (k − 1) c` for all lines of one kind: `k` invocations, `T_long` the mean of the same block and workload.
#[derive(Debug, Clone, Serialize)]
pub struct Model {
    /// Which lines.
    pub kind: Kind,
    /// Trials it was fitted to.
    pub trials: usize,
    /// The cost of one more invocation, ms: least squares over all trials. The interval is that of the fits of single blocks.
    pub cost_ms: Interval,
    /// What of it falls on each of [`PARTS`], ms: the same least squares for each part, so that their sum is the cost.
    pub parts_ms: [f64; PARTS.len()],
    /// Standard deviation of what the model leaves, ms.
    pub residual_ms: f64,
    /// The largest of it by its amount, ms.
    pub residual_max_ms: f64,
    /// Its standard deviation in parts of the time.
    pub residual_share: f64,
}

/// Lines that pay the same for one more invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Kind {
    /// Their nodes.
    pub nodes: usize,
    /// Whether a peer has to ask for a state.
    pub fetched: bool,
}

impl Kind {
    /// All there are.
    pub const ALL: [Self; 3] =
        [Self { nodes: 1, fetched: false }, Self { nodes: 2, fetched: false }, Self { nodes: 2, fetched: true }];

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Self { nodes: 1, .. } => "one node",
            Self { fetched: false, .. } => "two nodes, states by value",
            Self { fetched: true, .. } => "two nodes, states asked for",
        }
    }
}

/// The mean of the long invocations of one block over one workload.
#[derive(Debug, Clone, Default)]
struct Long {
    trials: usize,
    total_ms: f64,
    invocations: f64,
    parts_ms: [f64; PARTS.len()],
}

impl Long {
    /// The same with one trial more.
    fn and(self, trial: &Trial) -> Self {
        let trials = self.trials + 1;
        let mean = |of: f64, one: f64| of + (one - of) / trials as f64;
        Self {
            trials,
            total_ms: mean(self.total_ms, trial.total_ms),
            invocations: mean(self.invocations, f64::from(trial.invocations)),
            parts_ms: std::array::from_fn(|part| mean(self.parts_ms[part], trial.parts_ms[part])),
        }
    }
}

/// A trial beside the long ones of its block.
struct Pair<'a> {
    row: &'a Row,
    long: Long,
}

/// The points of all lines, in their order.
pub fn points(rows: &[Row], images: &[usize]) -> Vec<Point> {
    let pairs = pairs(rows);
    let of = |line: &'static Line| images.iter().filter_map(|&images| point(line, images, &pairs)).collect::<Vec<_>>();
    LINES.iter().flat_map(of).collect()
}

fn pairs(rows: &[Row]) -> Vec<Pair<'_>> {
    let mut long: BTreeMap<(usize, usize), Long> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.line == LONG && row.trial.finished) {
        let mean = long.entry((row.block, row.images)).or_default();
        *mean = std::mem::take(mean).and(&row.trial);
    }
    let pair = |row| Some(Pair { row, long: long.get(&(row.block, row.images)).cloned()? });
    rows.iter().filter_map(pair).collect()
}

fn point(line: &'static Line, images: usize, pairs: &[Pair<'_>]) -> Option<Point> {
    let mut own: Vec<&Pair<'_>> =
        pairs.iter().filter(|pair| pair.row.line == line.key && pair.row.images == images).collect();
    if line.key == LONG {
        // Those of a block are not independent: their mean counts as one trial.
        own.dedup_by_key(|pair| pair.row.block);
    }
    let total_ms = |pair: &Pair<'_>| if line.key == LONG { pair.long.total_ms } else { pair.row.trial.total_ms };
    let cut_off = own.iter().filter(|pair| !pair.row.trial.finished).count();
    let finished = |interval: Option<Interval>| interval.filter(|_| cut_off == 0);
    let times: Vec<f64> = own.iter().map(|pair| total_ms(pair)).collect();
    let by_long: Vec<(f64, f64)> = own.iter().map(|pair| (total_ms(pair), pair.long.total_ms)).collect();
    let invocations: u32 = own.iter().map(|pair| pair.row.trial.invocations).sum();
    (!own.is_empty()).then(|| Point {
        line: line.key,
        images,
        trials: own.len(),
        cut_off,
        time_ms: finished(Interval::of_mean(&times, CONFIDENCE)),
        ratio: finished(Interval::of_ratio(&by_long, CONFIDENCE)),
        invocations: f64::from(invocations) / own.len() as f64,
    })
}

/// A line's time by that of the long invocation, as the mean over the workloads of so many images in each block; `None` if there is no trial.
pub fn ratio_over(rows: &[Row], line: &str, wanted: &dyn Fn(usize) -> bool) -> Option<Interval> {
    let mut of_blocks: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for Pair { row, long } in pairs(rows).iter().filter(|pair| pair.row.line == line && wanted(pair.row.images)) {
        of_blocks.entry(row.block).or_default().push(row.trial.total_ms / long.total_ms);
    }
    let mean = |ratios: &Vec<f64>| ratios.iter().sum::<f64>() / ratios.len() as f64;
    Interval::of_mean(&of_blocks.values().map(mean).collect::<Vec<_>>(), CONFIDENCE)
}

/// The model of all lines of this kind under a limit; `None` if no trial of them had a second invocation.
pub fn model(rows: &[Row], kind: Kind) -> Option<Model> {
    let is_of = |line: &Line| line.nodes == kind.nodes && line.fetched == kind.fetched && line.is_limited();
    let pairs: Vec<Pair<'_>> =
        pairs(rows).into_iter().filter(|pair| Line::of(&pair.row.line).is_ok_and(is_of)).collect();
    let more = |pair: &Pair<'_>| f64::from(pair.row.trial.invocations) - pair.long.invocations;
    let time = |pair: &Pair<'_>| pair.row.trial.total_ms - pair.long.total_ms;
    let fit = |of: &dyn Fn(&Pair<'_>) -> f64, pairs: &mut dyn Iterator<Item = &Pair<'_>>| {
        slope_through_origin(&pairs.map(|pair| (more(pair), of(pair))).collect::<Vec<_>>())
    };
    let cost_ms = fit(&time, &mut pairs.iter())?;
    let blocks = pairs.iter().map(|pair| pair.row.block).max()? + 1;
    let of_block = |block| fit(&time, &mut pairs.iter().filter(|pair| pair.row.block == block));
    let of_blocks = Interval::of_mean(&(0..blocks).filter_map(of_block).collect::<Vec<_>>(), CONFIDENCE)?;
    let part = |part: usize| {
        fit(&|pair| pair.row.trial.parts_ms[part] - pair.long.parts_ms[part], &mut pairs.iter()).unwrap_or(0.0)
    };
    let residuals: Vec<f64> = pairs.iter().map(|pair| time(pair) - cost_ms * more(pair)).collect();
    let shares: Vec<f64> = pairs.iter().zip(&residuals).map(|(pair, rest)| rest / pair.row.trial.total_ms).collect();
    Some(Model {
        kind,
        trials: pairs.len(),
        cost_ms: Interval { mean: cost_ms, ..of_blocks },
        parts_ms: std::array::from_fn(part),
        residual_ms: root_mean_square(&residuals),
        residual_max_ms: residuals.iter().fold(0.0, |max, rest| rest.abs().max(max)),
        residual_share: root_mean_square(&shares),
    })
}

fn root_mean_square(values: &[f64]) -> f64 {
    (values.iter().map(|value| value * value).sum::<f64>() / values.len().max(1) as f64).sqrt()
}

/// How many trials there are whose workload ended in one digest and no other, and how many ended at all.
pub fn same_result(rows: &[Row]) -> (usize, usize) {
    let finished = || rows.iter().filter(|row| row.trial.finished);
    let long = finished().filter(|row| row.line == LONG);
    let digests: BTreeMap<usize, &str> = long.map(|row| (row.images, row.trial.digest.as_str())).collect();
    let same = finished().filter(|row| digests.get(&row.images) == Some(&row.trial.digest.as_str())).count();
    (same, finished().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(block: usize, line: &str, total_ms: f64, invocations: u32) -> Row {
        let mut parts_ms = [0.0; PARTS.len()];
        (parts_ms[1], parts_ms[5]) = (total_ms - f64::from(invocations), f64::from(invocations));
        let trial = Trial { finished: true, total_ms, invocations, units: 9, parts_ms, digest: "d".into() };
        let (began, commit) = (String::new(), String::new());
        Row { block, turn: 0, began, commit, line: line.into(), images: 10, trial, load: 0.0 }
    }

    #[test]
    fn a_ratio_is_taken_inside_its_block() {
        let rows = [row(0, LONG, 100.0, 1), row(0, "r2", 110.0, 5), row(1, "r2", 220.0, 5), row(1, LONG, 200.0, 1)];
        let points = points(&rows, &[10]);
        let r2 = points.iter().find(|point| point.line == "r2").expect("a point");
        let (ratio, time) = (r2.ratio.expect("a ratio"), r2.time_ms.expect("a time"));
        assert!((ratio.mean - 1.1).abs() < 1e-12 && ratio.half < 1e-12, "{ratio:?}");
        assert!((time.mean - 165.0).abs() < 1e-12 && time.half > 55.0, "{time:?}");
    }

    #[test]
    fn a_ratio_is_taken_to_the_mean_of_the_long_trials_of_its_block() {
        let long = |turn| Row { turn, ..row(0, LONG, 90.0 + 10.0 * turn as f64, 1) };
        let rows = [long(0), row(0, "r2", 110.0, 5), long(1), long(2)];
        let points = points(&rows, &[10]);
        let of = |key: &str| points.iter().find(|point| point.line == key).expect("a point");
        assert!((of("r2").ratio.expect("a ratio").mean - 1.1).abs() < 1e-12);
        assert_eq!((of("r2").trials, of(LONG).trials), (1, 1));
        assert!((of(LONG).time_ms.expect("a time").mean - 100.0).abs() < 1e-12);
        assert!((of(LONG).ratio.expect("a ratio").mean - 1.0).abs() < 1e-12);
    }

    #[test]
    fn the_ratio_over_workloads_is_a_mean_for_each_block() {
        let mut small = [row(0, LONG, 10.0, 1), row(0, "r50", 12.0, 1)];
        small.iter_mut().for_each(|row| row.images = 2);
        let [long, control] = small;
        let rows = [row(0, LONG, 100.0, 1), row(0, "r50", 100.0, 1), long, control];
        let ratio = ratio_over(&rows, "r50", &|_| true).expect("a ratio");
        assert!(ratio.count == 1 && (ratio.mean - 1.1).abs() < 1e-12, "{ratio:?}");
        let small = ratio_over(&rows, "r50", &|images| images == 2).expect("a ratio");
        assert!((small.mean - 1.2).abs() < 1e-12, "{small:?}");
    }

    #[test]
    fn a_line_that_was_cut_off_has_no_mean_time() {
        let mut killed = row(0, "killed5", 300.0, 3);
        killed.trial.finished = false;
        let points = points(&[row(0, LONG, 100.0, 1), killed], &[10]);
        let killed = points.iter().find(|point| point.line == "killed5").expect("a point");
        assert_eq!((killed.cut_off, killed.time_ms, killed.ratio), (1, None, None));
    }

    #[test]
    fn the_model_finds_what_an_invocation_costs_and_where() {
        let of_block = |block: usize, slow: f64| {
            [row(block, LONG, slow, 1), row(block, "r2", slow + 8.0, 5), row(block, "r5", slow + 2.0, 2)]
        };
        let rows: Vec<Row> = [of_block(0, 100.0), of_block(1, 300.0)].concat();
        let model = model(&rows, Kind::ALL[0]).expect("a model");
        assert!((model.cost_ms.mean - 2.0).abs() < 1e-12 && model.cost_ms.half < 1e-12, "{model:?}");
        assert!((model.parts_ms[5] - 1.0).abs() < 1e-12 && (model.parts_ms[1] - 1.0).abs() < 1e-12, "{model:?}");
        assert!((model.parts_ms.iter().sum::<f64>() - model.cost_ms.mean).abs() < 1e-12);
        assert!(model.residual_max_ms < 1e-9 && model.trials == 4, "{model:?}");
    }

    #[test]
    fn another_digest_is_another_result() {
        let mut other = row(0, "r2", 110.0, 5);
        other.trial.digest = "e".into();
        assert_eq!(same_result(&[row(0, LONG, 100.0, 1), other, row(0, "r5", 104.0, 2)]), (2, 3));
    }
}
