//! The section of the report.

use super::analysis::{CONFIDENCE, Kind, Model, Point, model, points, ratio_over, same_result};
use super::line::{CONTROL, LINES, LONG, Line};
use super::raw::{Calibration, Raw, Row};
use super::trial::PARTS;
use crate::inference::Interval;
use crate::report::{Aim, table};

/// The largest ratio wanted from 5 images an invocation on.
pub(super) const RATIO_AIM: f64 = 1.01;
/// The same below.
pub(super) const RATIO_AIM_SHORT: f64 = 1.03;
/// Images an invocation from which on the first of them holds.
const LONG_ENOUGH: u32 = 5;

/// A workload counts as split from so many invocations on, in the mean.
const SPLIT_MIN: f64 = 1.5;

/// The lines that an aim is about.
#[derive(Clone, Copy)]
struct JudgedLines {
    title: &'static str,
    nodes: usize,
    /// Whether they hold less than [`LONG_ENOUGH`].
    short: bool,
    aim: f64,
}

/// What follows from the trials.
#[derive(Debug, serde::Serialize)]
pub struct Results {
    /// Every line at every workload.
    pub points: Vec<Point>,
    /// What one more invocation costs.
    pub models: Vec<Model>,
    /// What was to be reached.
    pub aims: Vec<Aim>,
    /// Complete blocks.
    pub blocks: usize,
}

impl Results {
    /// Of all complete blocks.
    pub fn of(raw: &Raw) -> Self {
        let points = points(&raw.rows, &raw.parameters.images);
        let models = Kind::ALL.iter().filter_map(|&kind| model(&raw.rows, kind)).collect();
        let (same, finished) = same_result(&raw.rows);
        let digests = Aim {
            aim: "every trial that ended came to the digest of the long invocation over the same images".into(),
            measured: format!("{same} of {finished}"),
            met: same == finished,
        };
        let ratio = |title, nodes, short| {
            let aim = if short { RATIO_AIM_SHORT } else { RATIO_AIM };
            ratio_aim(&raw.rows, &points, JudgedLines { title, nodes, short, aim })
        };
        let aims = [
            ratio("on one node from 5 images an invocation on", 1, false),
            ratio("on one node with 2 or 3 images an invocation", 1, true),
            ratio("on two nodes from 5 images an invocation on", 2, false),
            ratio("on two nodes with 2 images an invocation", 2, true),
            control(&raw.rows),
            Some(digests),
        ];
        Self { points, models, aims: aims.into_iter().flatten().collect(), blocks: raw.blocks() }
    }
}

/// Whether the ratio of every such line stays below over the workloads that it splits, together, and no single one is surely above. The largest of
/// many means is told and not judged, as it grows with their noise and number; and workloads that are not split cannot make up for those that are.
fn ratio_aim(rows: &[Row], points: &[Point], wanted: JudgedLines) -> Option<Aim> {
    let JudgedLines { title, nodes, short, aim } = wanted;
    let is_wanted = |line: &&Line| {
        let holds = line.holds.filter(|_| line.is_limited() && line.nodes == nodes && line.key != CONTROL);
        holds.is_some_and(|holds| (holds < LONG_ENOUGH) == short)
    };
    let split = |line: &Line| {
        let of_line = points.iter().filter(|point| point.line == line.key && point.invocations >= SPLIT_MIN);
        of_line.filter_map(|point| Some((point.images, point.ratio?))).collect::<Vec<_>>()
    };
    let (mut worst, mut single): (Option<(&str, Interval)>, Vec<Interval>) = (None, Vec::new());
    for line in LINES.iter().filter(is_wanted) {
        let of_line = split(line);
        let is_split = |images: usize| of_line.iter().any(|(split, _)| *split == images);
        let Some(ratio) = ratio_over(rows, line.key, &is_split) else { continue };
        single.extend(of_line.iter().map(|(_, ratio)| *ratio));
        if worst.is_none_or(|(_, worst)| worst.mean < ratio.mean) {
            worst = Some((line.title, ratio));
        }
    }
    let (line, worst) = worst?;
    let above = single.iter().filter(|ratio| ratio.low() > aim).count();
    let most = single.iter().map(|ratio| ratio.mean).fold(0.0, f64::max);
    Some(Aim {
        aim: format!(
            "{title}, a ratio of at most {aim:.2} over the workloads that are split, and none of them significantly above"
        ),
        measured: format!(
            "at most {:.4}, interval {:.4} to {:.4}: {line}; of single workloads at most {most:.4}, and {above} of {} with the whole interval above",
            worst.mean,
            worst.low(),
            worst.high(),
            single.len()
        ),
        met: worst.mean <= aim && above == 0,
    })
}

/// The section's text.
pub fn text(raw: &Raw, calibration: &Calibration, results: &Results, note: &str) -> String {
    let images = &raw.parameters.images;
    let (width_px, height_px) = raw.parameters.size_px;
    let Calibration { image_ms, idle_share, .. } = calibration;
    format!(
        "{note}![Mean time and ratio against the number of images](figure.svg)\n\n\
         A workload is a folder with the given number of pictures of {width_px}×{height_px} px, cut from the real photos of the data set (alternately with\n\
         and without people), in the spool of a camera agent. Camera agent, edge agents, their workers and mosquitto are real processes, on\n\
         loopback. Each line has its own broker and agents, the long invocation {} sets of them, with warm workers; they are idle while another\n\
         line is measured, and then use {:.1} % of one core in total. All of them are restarted in every block, so that no line benefits from\n\
         one lucky process. A trial is a new job of a new camera agent whose spool was filled beforehand.\n\
         **Its time** runs, for all lines, from the camera's first head, which makes the job visible, to the job's output,\n\
         which a node publishes once the final state is durable. One observer on the same broker receives both.\n\n\
         One image costs {image_ms:.1} ms on average (median of five long invocations before the first block). `r_limit` is that times the\n\
         images that an invocation should hold, plus three quarters of an image, since a unit only starts if its predicted cost still\n\
         fits. The average number of invocations is in parentheses. *One long invocation* is the same agent with an `r_limit` of an\n\
         hour: frames over MQTT, the same warm worker, one commit. The *killed* line has no limit of its own: at `r_limit` after each\n\
         claim, the node and its worker get SIGKILL, lose their state, and restart; after three times the long run the trial is cut off (\"–\"). The\n\
         line that *saves its state* is a benchmark program (`benches/keeper`) in place of the edge agent, which commits\n\
         what is new to an edge agent's database every `r_limit`, and continues: the product has no such setting. A single node continues itself\n\
         (placement *stay*); with two nodes each step is drawn at random (*spread*). States are small and sent with the continuation; where they are\n\
         *asked for*, `chain.inline-kb` is 0. Lines are drawn slightly apart.\n\n\
         {} blocks (seed {}): in each, every site runs every number of images once, in random order. Intervals are at\n\
         {:.0} % (Student's t); a ratio is relative to the mean of the long invocations of the same block. Raw data: [figure.csv](figure.csv).\n\n{}\n{}\n{}\n{}",
        raw.parameters.long_trials,
        idle_share * 100.0,
        results.blocks,
        raw.parameters.seed,
        CONFIDENCE * 100.0,
        by_images("mean time, ms", calibration, results, images, &|point| cell(point, point.time_ms.as_ref(), 1)),
        by_images("ratio to the long invocation", calibration, results, images, &|point| cell(
            point,
            point.ratio.as_ref(),
            4
        )),
        models_text(results),
        Aim::list(&results.aims),
    )
}

fn cell(point: &Point, interval: Option<&Interval>, digits: usize) -> String {
    let Some(interval) = interval else {
        let ended = point.trials - point.cut_off;
        return if ended == 0 { "–".into() } else { format!("– ({ended} of {} ended)", point.trials) };
    };
    let half = if interval.half.is_finite() { format!(" ± {:.digits$}", interval.half) } else { String::new() };
    format!("{:.digits$}{half}", interval.mean)
}

/// Whether the line that is limited and yet never split differs from the long invocation: if it does, so does noise.
fn control(rows: &[Row]) -> Option<Aim> {
    let ratio = ratio_over(rows, CONTROL, &|_| true)?;
    Some(Aim {
        aim: "the control, which is never split, does not differ from the long invocation over all workloads".into(),
        measured: format!("ratio {:.4}, interval {:.4} to {:.4}", ratio.mean, ratio.low(), ratio.high()),
        met: ratio.low() <= 1.0 && ratio.high() >= 1.0,
    })
}

/// One row a line, one column for each number of images; in parentheses the mean number of invocations.
fn by_images(
    what: &str,
    calibration: &Calibration,
    results: &Results,
    images: &[usize],
    cell: &dyn Fn(&Point) -> String,
) -> String {
    let header: Vec<String> = [what.to_owned(), "`r_limit`, ms".to_owned()]
        .into_iter()
        .chain(images.iter().map(|images| format!("{images} images (invocations)")))
        .collect();
    let row = |line: &Line| {
        let limit_ms = calibration.r_limit_ms.get(line.key).filter(|_| line.holds.is_some());
        let limit = limit_ms.map_or_else(|| "–".to_owned(), u64::to_string);
        let of = |&images: &usize| {
            let point = results.points.iter().find(|point| point.line == line.key && point.images == images);
            point.map_or_else(String::new, |point| format!("{} ({:.1})", cell(point), point.invocations))
        };
        [line.title.to_owned(), limit].into_iter().chain(images.iter().map(of)).collect::<Vec<_>>()
    };
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    table(&header, &LINES.iter().map(row).collect::<Vec<_>>())
}

fn models_text(results: &Results) -> String {
    let header = [
        "lines",
        "trials",
        "c, ms",
        "load",
        "claim",
        "commit",
        "publish",
        "idle",
        "units",
        "start and finish",
        "between, sum",
        "residual, ms",
        "largest",
        "residual by time",
    ];
    let part = |model: &Model, name: &str| {
        PARTS.iter().zip(&model.parts_ms).find(|(part, _)| **part == name).map_or(0.0, |(_, part_ms)| *part_ms)
    };
    let row = |model: &Model| {
        let parts =
            ["load", "claim", "commit", "publish", "idle", "units"].map(|name| format!("{:.2}", part(model, name)));
        let ends = part(model, "start") + part(model, "finish");
        let half =
            if model.cost_ms.half.is_finite() { format!(" ± {:.2}", model.cost_ms.half) } else { String::new() };
        let first = [model.kind.title().to_owned(), model.trials.to_string()];
        let between: f64 = ["load", "claim", "commit", "publish"].iter().map(|name| part(model, name)).sum();
        let rest = [
            format!("{ends:.2}"),
            format!("{between:.2}"),
            format!("{:.1}", model.residual_ms),
            format!("{:.1}", model.residual_max_ms),
        ];
        let cost = [format!("{:.2}{half}", model.cost_ms.mean)];
        let share = [format!("{:.2} %", model.residual_share * 100.0)];
        first.into_iter().chain(cost).chain(parts).chain(rest).chain(share).collect::<Vec<_>>()
    };
    let rows: Vec<Vec<String>> = results.models.iter().map(row).collect();
    format!(
        "**The cost of one more invocation.** T = T_long + (k − 1) c with k invocations, T_long the mean of the same block: least squares over all trials\n\
         with a limit, for the time and for each part of it, so that the parts add up to c. *Load*: from the worker's receipt of the state to its\n\
         first unit; *claim*: attempt and frames; *commit*: the result's transaction; *publish*: the worker's last message, folding, the bus, and,\n\
         with two nodes, the peer's folding and transaction; *idle*: between units; *units*: time in units beyond the long run's. The first\n\
         four lie between invocations, are measured directly and summed in *between*; the others are differences of long times and include their noise.\n\n{}",
        table(&header, &rows)
    )
}

/// The mean ratio of the long line to itself is 1 by definition and is not drawn.
pub fn has_ratio(point: &Point) -> bool {
    point.line != LONG && point.ratio.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::trial::Trial;

    /// Blocks in which a line takes `ratio` times the long invocation's time over a workload of so many images, in so many invocations.
    fn rows(ratios: &[(usize, u32, [f64; 2])]) -> Vec<Row> {
        let row = |block, line: &str, images, invocations, total_ms| {
            let parts_ms = [0.0; PARTS.len()];
            let trial = Trial { finished: true, total_ms, invocations, units: 1, parts_ms, digest: "d".into() };
            let (began, commit) = (String::new(), String::new());
            Row { block, turn: 0, began, commit, line: line.into(), images, trial, load: 0.0 }
        };
        let of = |&(images, invocations, of_blocks): &(usize, u32, [f64; 2])| {
            let pair = move |(block, ratio)| {
                [row(block, LONG, images, 1, 100.0), row(block, "r5", images, invocations, 100.0 * ratio)]
            };
            of_blocks.into_iter().enumerate().flat_map(pair)
        };
        ratios.iter().flat_map(of).collect()
    }

    fn aim(ratios: &[(usize, u32, [f64; 2])]) -> Option<Aim> {
        let (rows, images): (_, Vec<usize>) = (rows(ratios), ratios.iter().map(|(images, ..)| *images).collect());
        let which = JudgedLines { title: "in a test", nodes: 1, short: false, aim: 1.01 };
        ratio_aim(&rows, &points(&rows, &images), which)
    }

    #[test]
    fn one_noisy_workload_does_not_miss_the_aim_and_is_told() {
        let noisy = aim(&[(10, 2, [0.99, 1.05]), (40, 8, [1.0, 0.99])]).expect("an aim");
        assert!(noisy.met && noisy.measured.contains("of single workloads at most 1.0200, and 0 of 2"), "{noisy:?}");
    }

    #[test]
    fn one_workload_that_is_surely_above_misses_it() {
        let above = aim(&[(10, 2, [0.98, 0.98]), (40, 8, [1.03, 1.03])]).expect("an aim");
        assert!(!above.met && above.measured.contains("1 of 2 with the whole interval above"), "{above:?}");
    }

    #[test]
    fn a_line_that_is_above_over_its_workloads_misses_it() {
        assert!(!aim(&[(10, 2, [0.9, 1.2]), (40, 8, [0.9, 1.2])]).expect("an aim").met);
    }

    #[test]
    fn a_workload_that_is_not_split_makes_up_for_nothing() {
        assert!(!aim(&[(2, 1, [0.8, 0.8]), (40, 8, [0.95, 1.15])]).expect("an aim").met);
        assert!(aim(&[(2, 1, [1.2, 1.2])]).is_none());
    }
}
