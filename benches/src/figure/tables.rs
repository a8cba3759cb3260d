//! The section of the report.

use super::analysis::{CONFIDENCE, Kind, Model, Point, model, points, ratio_over_all, same_result};
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
        let short = |holds: u32| holds < LONG_ENOUGH;
        let aims = [
            ratio_aim(&points, "from 5 images an invocation on", RATIO_AIM, &|holds| !short(holds)),
            ratio_aim(&points, "with 2 or 3 images an invocation", RATIO_AIM_SHORT, &short),
            control(&raw.rows),
            Some(digests),
        ];
        Self { points, models, aims: aims.into_iter().flatten().collect(), blocks: raw.blocks() }
    }
}

/// Whether the mean ratio of all lines on one node with so many images an invocation stays below.
fn ratio_aim(points: &[Point], which: &str, aim: f64, wanted: &dyn Fn(u32) -> bool) -> Option<Aim> {
    let is_wanted = |point: &&Point| {
        let line = Line::of(point.line).ok().filter(|line| line.is_limited() && line.nodes == 1);
        line.filter(|line| line.key != CONTROL).and_then(|line| line.holds).is_some_and(wanted)
    };
    let ratios = points.iter().filter(is_wanted).filter_map(|point| Some((point, point.ratio?)));
    let (point, worst) = ratios.max_by(|a, b| a.1.mean.total_cmp(&b.1.mean))?;
    let title = Line::of(point.line).map_or("", |line| line.title);
    Some(Aim {
        aim: format!("on one node {which}, a mean ratio of at most {aim:.2} for every number of images"),
        measured: format!(
            "at most {:.4}, interval {:.4} to {:.4}: {title}, {} images",
            worst.mean,
            worst.low(),
            worst.high(),
            point.images
        ),
        met: worst.mean <= aim,
    })
}

/// The section's text.
pub fn text(raw: &Raw, calibration: &Calibration, results: &Results, note: &str) -> String {
    let images = &raw.parameters.images;
    let (width_px, height_px) = raw.parameters.size_px;
    let Calibration { image_ms, idle_share, .. } = calibration;
    format!(
        "{note}![Mean time and ratio against the number of images](figure.svg)\n\n\
         A workload is a folder of so many pictures of {width_px}×{height_px} px, cut from the real photos of the data set (a picture with people, one\n\
         without, by turns), on the spool of a camera agent. Camera agent, edge agents, their workers and mosquitto are the real processes, on\n\
         loopback. Each line has a broker and agents of its own, with warm workers; they wait while another line is measured and then use\n\
         {:.1} % of one core all together. All of them are started anew in every block, so that one process's luck is no line's. A trial is a\n\
         new job of a new camera agent whose spool was filled before.\n\
         **Its time** is, for all lines, from the receipt of the camera's first head, which makes the job visible, to the receipt of the job's\n\
         output, which a node says once the final state is durable, by one observer on the same broker.\n\n\
         One image costs {image_ms:.1} ms on average (in the median of five long invocations before the first block); `r_limit` is that times the\n\
         images that an invocation is to hold, and three quarters of an image more, since a unit only begins where its predicted cost is\n\
         left; in parentheses is how many invocations there were on average. *One long invocation* is the same agent with an `r_limit` of an\n\
         hour: frames over MQTT, the same warm worker, one commit. The line that is *killed* has no limit of its own; at `r_limit` after each\n\
         claim the node and its worker get SIGKILL, lose their state, and start again, and after three times the long run it is cut off (\"–\"). The\n\
         line that *saves its state* is a program of the benchmark's (`benches/keeper`) in the edge agent's place, which commits every\n\
         `r_limit` what is new to an edge agent's database and goes on: the product has no such setting. A node alone goes on itself\n\
         (placement *stay*); two nodes draw lots for each step (*spread*). States are small and go along with the continuation; where they are\n\
         *asked for*, `chain.inline-kb` is 0. Lines are drawn a little beside each other.\n\n\
         {} blocks (seed {}): in each every line at every number of images once, the long invocation {} times, in random order. Intervals are at\n\
         {:.0} % (Student's t); a ratio is taken to the mean of the long invocations of the same block. Raw data: [figure.csv](figure.csv).\n\n{}\n{}\n{}\n{}",
        idle_share * 100.0,
        results.blocks,
        raw.parameters.seed,
        raw.parameters.long_trials,
        CONFIDENCE * 100.0,
        by_images("mean time, ms", calibration, results, images, &|point| cell(point, point.time_ms.as_ref(), 1)),
        by_images("by the long invocation", calibration, results, images, &|point| cell(
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
    let ratio = ratio_over_all(rows, CONTROL)?;
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
        "**What one more invocation costs.** T = T_long + (k − 1) c with k invocations, T_long the mean of the same block: least squares over all trials\n\
         under a limit, of the time and of each part of it, so that the parts add up to c. *Load*: from the worker's receipt of the state to its\n\
         first unit; *claim*: attempt and frames; *commit*: the result's transaction; *publish*: the worker's last word, folding, the bus, and\n\
         with two nodes the peer's folding and transaction; *idle*: between units; *units*: time in units beyond the long run's. The first\n\
         four lie between invocations, are measured as such and summed in *between*; the others are differences of long times and carry their noise.\n\n{}",
        table(&header, &rows)
    )
}

/// The mean ratio of the long line to itself is 1 by definition and is not drawn.
pub fn has_ratio(point: &Point) -> bool {
    point.line != LONG && point.ratio.is_some()
}
