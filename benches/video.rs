//! Whole videos with people who walk by: our pipeline beside Python's `face_recognition`, picture by picture in turn.

use std::process::ExitCode;
use std::time::Instant;

use camera_agent::luma::Cells;
use camera_agent::motion::{Gate, Verdict};
use camera_agent::picture::Picture;
use clap::Parser;
use face_worker::{Cache, Dlib, ENVIRONMENT, EngineChoice, FaceLambda, Frame, Progress};
use microlambda::{Lambda as _, Next};
use microlambda_benches::chart::Chart;
use microlambda_benches::pairs::Order;
use microlambda_benches::raw_table::{RawTable, value, value_if};
use microlambda_benches::reference::{Look, Theirs};
use microlambda_benches::report::{Aim, Finding, publish, table};
use microlambda_benches::stats::Stats;
use microlambda_benches::video::{Cast, Photos, Recall, STILL_INTERVAL_US, Script, Shares};
use microlambda_benches::{Common, Error, Machine, data_dir, exit, restart_with};
use microlambda_faces::proto::{CLASS_DETECT, CLASS_ENCODE};
use microlambda_faces::{Analysis, Area, Areas, FaceOutcome, FaceParams};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// Width and height of the videos, px.
const SIZE_PX: (u32, u32) = (1_280, 720);
/// Of the frames hold a moving face, %.
const SHARES_PERCENT: [usize; 4] = [0, 25, 50, 100];
/// Of Python's processor time that the whole video with half of its frames busy may take.
const VIDEO_RATIO_MAX: f64 = 0.1;
/// Of Python's time that one search may take.
const SEARCH_RATIO_MAX: f64 = 0.35;
/// Of Python's time that landmarks and encoding of one face may take.
const ENCODE_RATIO_MAX: f64 = 0.45;
/// The video that the first aim is about, %.
const AIM_SHARE_PERCENT: usize = 50;
/// Of the raw data: a frame, what it cost on our side, and on Python's.
const RAW_COLUMNS: [&str; 18] = [
    "busy_percent",
    "frame",
    "faces_shown",
    "went_first",
    "kept",
    "gate_ms",
    "decode_ms",
    "search_ms",
    "encode_ms",
    "encoded",
    "cpu_ms",
    "wall_ms",
    "theirs_decode_ms",
    "theirs_search_ms",
    "theirs_encode_ms",
    "theirs_faces",
    "theirs_cpu_ms",
    "theirs_wall_ms",
];

/// Whole videos, part of whose frames hold a moving face, through gate, decoder, search and encoder, beside Python's face_recognition.
#[derive(Debug, Parser)]
#[command(name = "video")]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Frames of each video
    #[arg(long, value_name = "N", default_value_t = 160)]
    frames: usize,
    /// Frames that a walk takes
    #[arg(long, value_name = "N", default_value_t = 20)]
    frames_per_walk: usize,
    /// Decides who walks where, the noise, and which side looks first
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Measure our side alone, and say so
    #[arg(long)]
    without_python: bool,
}

/// Our pipeline in one thread, as camera agent and worker run it.
struct Pipeline {
    gate: Gate,
    engine: Dlib,
    /// What is known to be there: boxes of the last picture that was kept, and of those before where nothing has moved since.
    boxes: Vec<[f64; 4]>,
}

/// What a picture cost on our side, ms; without a search if nothing moved.
#[derive(Debug, Default)]
struct OurLook {
    gate_ms: f64,
    searched: Option<Searched>,
    cpu_ms: f64,
    wall_ms: f64,
}

#[derive(Debug, Default)]
struct Searched {
    decode_ms: f64,
    search_ms: f64,
    encode_ms: f64,
    encoded: usize,
}

/// One side's cost of a whole video.
#[derive(Debug, Default, Serialize)]
struct Side {
    cpu_ms: f64,
    wall_ms: f64,
    recall: Recall,
}

/// What one video came to.
#[derive(Debug, Serialize)]
struct Outcome {
    share_percent: usize,
    background: usize,
    frames: usize,
    busy: usize,
    busy_kept: usize,
    quiet_kept: usize,
    ours: Side,
    theirs: Option<Side>,
}

/// Times of single steps over all videos, ms; searches and encodings of both sides are those of the same pictures.
#[derive(Debug, Default)]
struct Steps {
    gate: Vec<f64>,
    decode: [Vec<f64>; 2],
    search: [Vec<f64>; 2],
    encode: [Vec<f64>; 2],
    /// Frame by frame, as [`RAW_COLUMNS`].
    rows: Vec<Vec<String>>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    // OpenBLAS counts its threads before `main`.
    exit(restart_with(&ENVIRONMENT).and_then(|()| run(&args)))
}

fn run(args: &Args) -> Result<(), Error> {
    let machine = Machine::here();
    let cast = Cast::of(Photos::Reported, SIZE_PX)?;
    let mut theirs = Theirs::start(args.without_python, args.common.dry)?;
    if let Theirs::LeftOut(why) = &theirs {
        eprintln!("our side alone is measured, {why}");
    }
    let shares = Shares { frames_per_walk: args.frames_per_walk, ..Shares::default() };
    let (mut pipeline, mut order) = (Pipeline::new()?, Order::new(args.seed));
    let (mut steps, mut outcomes) = (Steps::default(), Vec::new());
    for (background, share_percent) in SHARES_PERCENT.into_iter().enumerate() {
        // Each video has a background of its own.
        let script = shares.script(&cast, background, share_percent, args.frames, args.seed);
        outcomes.push(watch(
            &script,
            (share_percent, background),
            &mut pipeline,
            (&mut theirs, &mut order),
            &mut steps,
        )?);
    }
    let aims = aims(&outcomes, &steps);
    let text = text(args, &outcomes, &steps, &aims, &theirs)?;
    let figures =
        serde_json::json!({ "reference": theirs.name(), "videos": outcomes, "steps": steps.figures(), "aims": aims });
    let (charts, raw) = (vec![steps.chart()], vec![RawTable::new("video", &RAW_COLUMNS, steps.rows)]);
    publish(&args.common, &Finding { name: "video", text, figures: &figures, charts, raw, machine: &machine })
}

/// Plays one video to both sides, each frame to one and then to the other, in the order drawn.
fn watch(
    script: &Script,
    (share_percent, background): (usize, usize),
    pipeline: &mut Pipeline,
    (theirs, order): (&mut Theirs, &mut Order),
    steps: &mut Steps,
) -> Result<Outcome, Error> {
    pipeline.begin();
    let mut reference = theirs.running();
    let theirs = reference.is_some().then(Side::default);
    let (frames, ours) = (script.frames, Side::default());
    let (busy, busy_kept, quiet_kept) = (0, 0, 0);
    let mut outcome = Outcome { share_percent, background, frames, busy, busy_kept, quiet_kept, ours, theirs };
    for number in 0..script.frames {
        let (jpeg, shown) = (script.jpeg(number)?, script.shown(number));
        let at_us = (number as f64 * 1e6 / script.fps) as u64;
        let (look, their_look) = order.pair(
            || pipeline.look(jpeg.clone(), at_us),
            || reference.as_mut().map(|reference| timed(|| reference.look(&jpeg))).transpose(),
        )?;
        outcome.busy += usize::from(!shown.is_empty());
        outcome.busy_kept += usize::from(!shown.is_empty() && look.searched.is_some());
        outcome.quiet_kept += usize::from(shown.is_empty() && look.searched.is_some());
        outcome.ours.add(look.cpu_ms, look.wall_ms);
        outcome.ours.recall.add(&shown, &pipeline.boxes);
        if let (Some(side), Some((look, wall_ms))) = (&mut outcome.theirs, &their_look) {
            side.add(look.cpu_ms, *wall_ms);
            side.recall.add(&shown, &look.boxes);
        }
        let their_wall_ms = their_look.as_ref().map(|(_, wall_ms)| *wall_ms);
        let their_look = their_look.as_ref().map(|(look, _)| look);
        steps.add(&look, their_look);
        let first = [share_percent, number, shown.len()].map(|count| count.to_string());
        let went_first = if their_look.is_some() { order.went_first() } else { "" };
        let costs = cells(&look, their_look).into_iter().chain([value_if(their_wall_ms)]);
        steps.rows.push(first.into_iter().chain([went_first.to_owned()]).chain(costs).collect());
    }
    Ok(outcome)
}

/// A frame's costs as the cells of [`RAW_COLUMNS`] from `kept` on, but for the last; empty for a step that was not done.
fn cells(ours: &OurLook, theirs: Option<&Look>) -> Vec<String> {
    let searched = |ms: fn(&Searched) -> f64| value_if(ours.searched.as_ref().map(ms));
    let their = |ms: fn(&Look) -> f64| value_if(theirs.map(ms));
    vec![
        ours.searched.is_some().to_string(),
        value(ours.gate_ms),
        searched(|searched| searched.decode_ms),
        searched(|searched| searched.search_ms),
        searched(|searched| searched.encode_ms),
        ours.searched.as_ref().map_or_else(String::new, |searched| searched.encoded.to_string()),
        value(ours.cpu_ms),
        value(ours.wall_ms),
        their(|look| look.decode_ms),
        their(|look| look.search_ms),
        their(|look| look.encode_ms),
        theirs.map_or_else(String::new, |look| look.boxes.len().to_string()),
        their(|look| look.cpu_ms),
    ]
}

impl Pipeline {
    fn new() -> Result<Self, Error> {
        let engine = Dlib::load_for(&data_dir().join("models"), EngineChoice::BuiltIn)?;
        Ok(Self { gate: Gate::new(STILL_INTERVAL_US), engine, boxes: Vec::new() })
    }

    /// Another video.
    fn begin(&mut self) {
        (self.gate, self.boxes) = (Gate::new(STILL_INTERVAL_US), Vec::new());
    }

    fn look(&mut self, jpeg: Vec<u8>, at_us: u64) -> Result<OurLook, Error> {
        let (begun, cpu_ms) = (Instant::now(), process_cpu_ms());
        let picture = Picture::File(jpeg);
        let cells = Cells::of(&picture);
        let verdict = self.gate.judge(cells, at_us);
        let mut look = OurLook { gate_ms: ms_since(begun), ..OurLook::default() };
        if let (Verdict::Moved | Verdict::Due, Picture::File(bytes)) = (verdict, picture) {
            let moved = self.gate.moved();
            self.gate.kept();
            look.searched = Some(self.analyse(bytes, moved)?);
        }
        (look.cpu_ms, look.wall_ms) = (process_cpu_ms() - cpu_ms, ms_since(begun));
        Ok(look)
    }

    /// The face lambda from the first unit to the last, each measured by its class.
    fn analyse(&mut self, bytes: Vec<u8>, moved: Option<Areas>) -> Result<Searched, Error> {
        let frame = Some(Frame { sequence: 0, bytes, moved: moved.clone() });
        let mut lambda = FaceLambda::new(&mut self.engine, FaceParams::default(), frame, Cache::default());
        let (mut state, mut searched) = (Progress::default(), Searched::default());
        while let Next::Unit(cost) = lambda.next(&state) {
            if cost.prepare.is_some() {
                searched.decode_ms += timed(|| lambda.prepare(&state))?.1;
            }
            let ((), unit_ms) = timed(|| lambda.advance(&mut state))?;
            match cost.run.0 {
                CLASS_DETECT => searched.search_ms += unit_ms,
                CLASS_ENCODE => searched.encode_ms += unit_ms,
                _ => {}
            }
        }
        let Some((_, Analysis::Frame(analysis))) = state.finished.pop() else { return Err("no analysis".into()) };
        let sides = |face: &microlambda_faces::Face| {
            let rect = face.seen.rect;
            [rect.left, rect.top, rect.right, rect.bottom].map(f64::from)
        };
        let found: Vec<[f64; 4]> = analysis.faces.iter().map(sides).collect();
        // What was found where nothing moved stands; the rest has been searched again.
        self.boxes.retain(|face| moved.as_ref().is_some_and(|moved| moved.iter().all(|area| !touches(face, area))));
        self.boxes.retain(|face| !found.iter().any(|other| holds_middle(other, face)));
        self.boxes.extend(found);
        let is_encoded = |face: &&microlambda_faces::Face| matches!(face.outcome, FaceOutcome::Encoded(_));
        searched.encoded = analysis.faces.iter().filter(is_encoded).count();
        Ok(searched)
    }
}

fn touches([left, top, right, bottom]: &[f64; 4], area: Area) -> bool {
    let [x, y, width, height] = <[u16; 4]>::from(area).map(f64::from);
    *left < x + width && *right >= x && *top < y + height && *bottom >= y
}

/// Whether the middle of the second box lies in the first.
fn holds_middle([left, top, right, bottom]: &[f64; 4], other: &[f64; 4]) -> bool {
    let (x, y) = (f64::midpoint(other[0], other[2]), f64::midpoint(other[1], other[3]));
    (*left..=*right).contains(&x) && (*top..=*bottom).contains(&y)
}

impl Side {
    fn add(&mut self, cpu_ms: f64, wall_ms: f64) {
        self.cpu_ms += cpu_ms;
        self.wall_ms += wall_ms;
    }
}

impl Steps {
    fn add(&mut self, ours: &OurLook, theirs: Option<&Look>) {
        self.gate.push(ours.gate_ms);
        let Some(searched) = &ours.searched else { return };
        self.decode[0].push(searched.decode_ms);
        self.search[0].push(searched.search_ms);
        if let Some(look) = theirs {
            self.decode[1].push(look.decode_ms);
            self.search[1].push(look.search_ms);
        }
        // Only pictures of which both encode as much tell what a face costs.
        let theirs = theirs.map(|look| (look.encode_ms, look.boxes.len()));
        if searched.encoded > 0 && theirs.is_none_or(|(_, faces)| faces == searched.encoded) {
            self.encode[0].push(searched.encode_ms / searched.encoded as f64);
            self.encode[1].extend(theirs.map(|(ms, faces)| ms / faces as f64));
        }
    }

    /// Our time by theirs, picture by picture.
    fn ratio([ours, theirs]: &[Vec<f64>; 2]) -> Option<Stats> {
        Stats::of(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs))
    }

    fn chart(&self) -> Chart {
        let parts = [("decoding", &self.decode), ("search", &self.search), ("landmarks and encoding", &self.encode)];
        let both = parts.into_iter().flat_map(|(part, [ours, theirs])| {
            [(format!("{part}, ours"), ours.clone()), (format!("{part}, Python's"), theirs.clone())]
        });
        // Without the other side there is nothing of it to draw.
        let samples = both.chain([("gate".to_owned(), self.gate.clone())]).filter(|(_, values)| !values.is_empty());
        Chart::distribution("video", "Steps of the pipeline, a picture or a face", "ms", samples.collect())
    }

    fn figures(&self) -> serde_json::Value {
        let stats = |values: &Vec<f64>| Stats::of(values.iter().copied());
        let both = |values: &[Vec<f64>; 2]| serde_json::json!({ "ours_ms": stats(&values[0]), "theirs_ms": stats(&values[1]), "ratio": Self::ratio(values) });
        serde_json::json!({
            "gate_ms": stats(&self.gate), "decode": both(&self.decode), "search": both(&self.search), "encode_a_face": both(&self.encode),
        })
    }
}

impl Outcome {
    /// Our processor time by theirs.
    fn ratio(&self) -> Option<f64> {
        Some(self.ours.cpu_ms / self.theirs.as_ref()?.cpu_ms)
    }
}

fn aims(outcomes: &[Outcome], steps: &Steps) -> Vec<Aim> {
    let at_most = |aim: String, measured: Option<f64>, most: f64| {
        let measured = measured?;
        Some(Aim { aim, measured: format!("{measured:.3}"), met: measured <= most })
    };
    let half = outcomes.iter().find(|outcome| outcome.share_percent == AIM_SHARE_PERCENT);
    let ours: Recall = outcomes.iter().map(|outcome| outcome.ours.recall).sum();
    let theirs: Option<Recall> = outcomes.iter().map(|outcome| Some(outcome.theirs.as_ref()?.recall)).sum();
    let recall = theirs.filter(|theirs| theirs.faces > 0).map(|theirs| Aim {
        aim: "at least as many of the faces found as by Python".into(),
        measured: format!("{ours} and {theirs}"),
        met: ours.found >= theirs.found,
    });
    let whole = format!(
        "the whole video with {AIM_SHARE_PERCENT} % of its frames busy in at most {VIDEO_RATIO_MAX} of Python's processor time"
    );
    let search = format!("a search in at most {SEARCH_RATIO_MAX} of Python's time");
    let encode = format!("landmarks and encoding of a face in at most {ENCODE_RATIO_MAX} of Python's time");
    let p50 = |values| Steps::ratio(values).map(|stats| stats.p50);
    [
        at_most(whole, half.and_then(Outcome::ratio), VIDEO_RATIO_MAX),
        at_most(search, p50(&steps.search), SEARCH_RATIO_MAX),
        at_most(encode, p50(&steps.encode), ENCODE_RATIO_MAX),
        recall,
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn text(args: &Args, outcomes: &[Outcome], steps: &Steps, aims: &[Aim], theirs: &Theirs) -> Result<String, Error> {
    let cells = |outcome: &Outcome| {
        let a_frame = |side: &Side, ms: fn(&Side) -> f64| format!("{:.1}", ms(side) / outcome.frames as f64);
        let theirs = outcome.theirs.as_ref();
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "–".into());
        let recall = |side: &Side| side.recall.to_string();
        let quiet = outcome.frames - outcome.busy;
        vec![
            format!("{} %", outcome.share_percent),
            format!("{} of {}", outcome.busy_kept, outcome.busy),
            format!("{} of {quiet}", outcome.quiet_kept),
            format!("{} ({})", a_frame(&outcome.ours, |side| side.cpu_ms), a_frame(&outcome.ours, |side| side.wall_ms)),
            or_none(
                theirs.map(|side| {
                    format!("{} ({})", a_frame(side, |side| side.cpu_ms), a_frame(side, |side| side.wall_ms))
                }),
            ),
            or_none(outcome.ratio().map(|ratio| format!("{ratio:.3}"))),
            recall(&outcome.ours),
            or_none(theirs.map(recall)),
            format!(
                "{} and {}",
                outcome.ours.recall.false_boxes,
                or_none(theirs.map(|side| side.recall.false_boxes.to_string()))
            ),
        ]
    };
    let header = [
        "busy",
        "kept of busy",
        "kept of quiet",
        "ours: processor (wall), ms a frame",
        "Python's",
        "ratio",
        "faces found",
        "by Python",
        "false boxes",
    ];
    let step = |name: &str, both: &[Vec<f64>; 2]| {
        let p50 = |values: &Vec<f64>| {
            Stats::of(values.iter().copied()).map_or_else(|| "–".into(), |stats| format!("{:.2}", stats.p50))
        };
        let ratio =
            Steps::ratio(both).map_or_else(|| "–".into(), |ratio| format!("{:.3} ({})", ratio.p50, ratio.p99_text(3)));
        vec![name.to_owned(), p50(&both[0]), p50(&both[1]), ratio]
    };
    let gate = Stats::of(steps.gate.iter().copied()).ok_or("no frame: --frames is at least 1")?;
    let rows = [
        step("decoding", &steps.decode),
        step("search", &steps.search),
        step("landmarks and encoding, a face", &steps.encode),
    ];
    Ok(format!(
        "Videos of {} JPEG frames of {}×{} px at 10 a second, made from the reported photos: a share of the frames shows one or two people who walk by,\n\
         approach or stand for a moment, with faces of 42 to 170 px, turning, with motion blur and varying light; every frame has noise (3 steps of 255) and flicker\n\
         (4 %). *Ours* is the camera agent's motion filter and the worker's lambda in one thread. {} Processor time is that of the process. The ground truth is faces of\n\
         40 px and more in full view; what was found also counts for the following frames in which the filter sees no movement. *False boxes* contain no\n\
         face.\n\n{}\n\
         The motion filter takes {:.2} ms at p50 and {} ms at p99. The other steps at p50, ms, for pictures that both sides examined, and their ratio at p50 (p99):\n\n{}\n{}",
        args.frames,
        SIZE_PX.0,
        SIZE_PX.1,
        their_text(theirs),
        table(&header, &outcomes.iter().map(cells).collect::<Vec<_>>()),
        gate.p50,
        gate.p99_text(2),
        table(&["step", "ours", "Python's", "ratio"], &rows),
        Aim::list(aims),
    ))
}

fn their_text(theirs: &Theirs) -> String {
    match theirs {
        Theirs::Runs(reference) => format!(
            "Python's side is {}, with the\ndefaults (HOG, one upsampling, 5-point landmarks), one thread, the same JPEG right before or after ours, as a seed draws.",
            reference.name
        ),
        Theirs::LeftOut(why) => format!(
            "**Python's side was left out**, {why}: nothing is\ncompared here, and the aims, all of them beside Python, are not judged."
        ),
    }
}

/// What `work` gives, and what it took, ms.
fn timed<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<(T, f64), E> {
    let begun = Instant::now();
    let result = work()?;
    Ok((result, ms_since(begun)))
}

fn ms_since(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e3
}

/// Of all threads of this process, ms.
fn process_cpu_ms() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}
