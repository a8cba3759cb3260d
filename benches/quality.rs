//! Who is reported on videos and photos, beside the truth: people missed, and people reported as new who were known.

use std::collections::BTreeSet;
use std::process::ExitCode;

use camera_agent::luma::Cells;
use camera_agent::motion::{Gate, Verdict};
use camera_agent::picture::Picture;
use clap::Parser;
use face_worker::{Dlib, EngineChoice, Frame, analyse, analyse_frame};
use image::RgbImage;
use image::imageops::{FilterType, resize};
use microlambda::Digest;
use microlambda_benches::chart::Chart;
use microlambda_benches::distances::Distances;
use microlambda_benches::photos::Photo;
use microlambda_benches::report::{Aim, Finding, publish, table};
use microlambda_benches::video::{
    Cast, FACE_PX_MIN, Photos, STILL_INTERVAL_US, Script, Shares, Shown, VISIBLE_MIN, is_of,
};
use microlambda_benches::{Common, Error, Machine, data_dir, exit};
use microlambda_faces::content::Entry;
use microlambda_faces::fold::FoldState;
use microlambda_faces::{Analysis, Encoding, Face, FaceOutcome, FaceParams};
use microlambda_wire::{EventKind, Record};
use serde::Serialize;

/// Size of the videos, px.
const SIZE_PX: (u32, u32) = (640, 360);
/// Of the frames that hold somebody, %.
const SHARE_PERCENT: usize = 70;
/// Scales at which photos are shown.
const SCALES: [f64; 4] = [1.0, 0.8, 0.65, 0.5];
/// The name of the photos on which nothing was chosen.
const HELD_OUT: &str = "held out";
/// The seeds of both sets of videos lie apart.
const REPORTED_SEED: u64 = 1_000_000;
/// Videos of each set in a quick look.
const VIDEOS_QUICK: u64 = 2;

/// Counts who is reported on generated videos and on photos, by the fold and by the plainest rule.
#[derive(Debug, Parser)]
#[command(name = "quality")]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Videos of each set; with --quick 2 at most
    #[arg(long, value_name = "N", default_value_t = 10)]
    videos: u64,
    /// Frames of each video
    #[arg(long, value_name = "N", default_value_t = 240)]
    frames: usize,
    /// Only the set that thresholds are chosen on
    #[arg(long)]
    calibration: bool,
    /// Tell of each video who was taken for whom, and why
    #[arg(long)]
    tell: bool,
}

/// A usable face, and who it is; `None` where there is no face.
struct Seen {
    encoding: Encoding,
    who: Option<String>,
}

/// What a rule made of a set of videos.
#[derive(Debug, Clone, Default, Serialize)]
struct Count {
    /// People who were to be reported.
    people: usize,
    /// Reported for the first time.
    found: usize,
    /// Reported as new again.
    again: usize,
    /// Reported where there is no face.
    no_face: usize,
}

impl Count {
    fn add(&mut self, expected: &BTreeSet<String>, reported: &[Option<String>]) {
        let known: BTreeSet<&String> = reported.iter().flatten().collect();
        self.people += expected.len();
        self.found += expected.iter().filter(|who| known.contains(who)).count();
        self.again += reported.iter().flatten().count() - known.len();
        self.no_face += reported.iter().filter(|who| who.is_none()).count();
    }

    fn missed(&self) -> usize {
        self.people - self.found
    }

    fn errors(&self) -> usize {
        self.missed() + self.again + self.no_face
    }
}

/// A set of videos, counted by the fold and by the plain rule, and how far views of people are from each other.
#[derive(Debug, Default, Serialize)]
struct Set {
    videos: u64,
    frames: usize,
    faces: usize,
    fold: Count,
    plain: Count,
    /// Of pairs of views of one person within a video those beyond the threshold, in 1/1,000,000.
    same_beyond_ppm: u64,
    /// Of pairs of views of two people those within it, in 1/1,000,000.
    different_within_ppm: u64,
    #[serde(skip)]
    distances: Distances,
}

/// The plainest rule: nearest of all encodings within the threshold, else new.
#[derive(Default)]
struct Plain(Vec<Encoding>);

impl Plain {
    /// Whether it is somebody new.
    fn is_new(&mut self, params: &FaceParams, encoding: &Encoding) -> bool {
        let known = self.0.iter().any(|other| other.distance(encoding) <= params.distance_max);
        if !known {
            self.0.push(encoding.clone());
        }
        !known
    }
}

fn main() -> ExitCode {
    let mut args = Args::parse();
    if args.common.quick {
        args.videos = args.videos.min(VIDEOS_QUICK);
    }
    exit(run(&args))
}

fn run(args: &Args) -> Result<(), Error> {
    let machine = Machine::here();
    let mut engine = Dlib::load_for(&data_dir().join("models"), EngineChoice::BuiltIn)?;
    let calibration = set(args, &mut engine, Photos::Calibration, 0)?;
    if args.calibration {
        print!("{}", sets_table(&[("calibration", &calibration)]));
        return Ok(());
    }
    let reported = set(args, &mut engine, Photos::Reported, REPORTED_SEED)?;
    let mut stills_of = |set, photos: Vec<Photo>| stills(&mut engine, set, &photos);
    let stills = [stills_of("reported", Photo::all()?)?, stills_of(HELD_OUT, Photo::held_out()?)?].concat();
    let aims = aims(&reported, &stills);
    let text = format!(
        "Videos of {}×{} px made from photos (`benches/src/video/`): people walk by, approach the camera and stand still, turn their heads, in changing light, with\n\
         motion blur, sensor noise and flicker; {} frames each, {SHARE_PERCENT} % of them with somebody in view. The camera agent's motion filter drops still frames and says where something\n\
         moved in the others; they are searched only there. Each video is its own chain. No threshold was chosen on the people and seeds of the\n\
         *reported* set. It has seven people, six of them with a single photo, who appear in every video, so that most views of a person are warps\n\
         of one photo. *Fold* is what edge agents do; *plain* takes the nearest of all encodings within {}, otherwise a new person, on the same\n\
         analyses. Everybody with a face of {FACE_PX_MIN} px in full view at least once should be reported.{}\n\n{}\n\
         Photos, each set in name order, every face marked by eye (`benches/src/photos.rs`). Two rules were added because of *reported* photos (`docs/quality.md`); nothing was chosen on\n\
         the *held out* ones. In all streams together everybody reappears at every scale:\n\n{}\n{}",
        SIZE_PX.0,
        SIZE_PX.1,
        args.frames,
        FaceParams::default().distance_max,
        bound(&reported.fold),
        sets_table(&[("calibration", &calibration), ("reported", &reported)]),
        stills_table(&stills),
        Aim::list(&aims),
    );
    let figures =
        serde_json::json!({ "calibration": calibration, "reported": reported, "stills": stills, "aims": aims });
    let charts = vec![chart(&[("calibration", &calibration), ("reported", &reported)])];
    publish(
        &args.common,
        &Finding { name: "quality", text, figures: &figures, charts, raw: Vec::new(), machine: &machine },
    )
}

fn chart(sets: &[(&str, &Set)]) -> Chart {
    let curves = sets.iter().flat_map(|(name, set)| set.distances.errors(name)).collect();
    Chart::course(
        "quality",
        "Pairs of views that a threshold takes for the wrong thing",
        ["threshold", "% of pairs"],
        curves,
    )
}

/// What none of so many says: with 95 % confidence, no more than three of them (the rule of three).
fn bound(count: &Count) -> String {
    match count.missed() {
        0 => format!(
            " Missing none of {} means that at most {:.0} % are missed.",
            count.people,
            300.0 / count.people as f64
        ),
        _ => String::new(),
    }
}

fn aims(reported: &Set, stills: &[Still]) -> Vec<Aim> {
    let Count { again, no_face, .. } = reported.fold;
    let worse = stills.iter().filter(|still| still.fold.errors() > still.plain.errors()).count();
    let held_out: usize = stills.iter().filter(|still| still.set == HELD_OUT).map(|still| still.fold.errors()).sum();
    vec![
        Aim {
            aim: "in the reported videos, nobody is reported as new twice, and nothing that is not a face".into(),
            measured: format!(
                "{again} twice, {no_face} none; plain: {} and {}",
                reported.plain.again, reported.plain.no_face
            ),
            met: again + no_face == 0,
        },
        Aim {
            aim: "in the reported videos, nobody is missed".into(),
            measured: format!(
                "{} of {}; plain: {}",
                reported.fold.missed(),
                reported.fold.people,
                reported.plain.missed()
            ),
            met: reported.fold.missed() == 0,
        },
        Aim {
            aim: "on photos, no more people missed, new again, or not a face than with the plain rule".into(),
            measured: format!("more in {worse} of {} streams", stills.len()),
            met: worse == 0,
        },
        Aim {
            aim: "on photos on which nothing was chosen, nobody missed, new again, or not a face".into(),
            measured: format!("{held_out} at all scales"),
            met: held_out == 0,
        },
    ]
}

/// Plays the videos of one set.
fn set(args: &Args, engine: &mut Dlib, photos: Photos, seed: u64) -> Result<Set, Error> {
    let cast = Cast::of(photos, SIZE_PX)?;
    let params = FaceParams::default();
    let mut set = Set { videos: args.videos, frames: args.frames, ..Set::default() };
    let (mut same, mut different) = ((0_u64, 0_u64), (0_u64, 0_u64));
    for video in 0..args.videos {
        let script = Shares::default().script(&cast, video as usize, SHARE_PERCENT, args.frames, seed + video);
        let (mut stream, mut gate, mut seen) = (Stream::new(params), Gate::new(STILL_INTERVAL_US), Vec::new());
        for number in 0..script.frames {
            let shown = script.shown(number);
            stream.expect(&shown);
            let bytes = script.jpeg(number)?;
            let at_us = 1_000 * at_ms(&script, number);
            if gate.judge(Cells::of(&Picture::File(bytes.clone())), at_us) == Verdict::Still {
                continue;
            }
            let moved = gate.moved();
            gate.kept();
            let analysis = analyse_frame(engine, params, Frame { sequence: stream.number, bytes, moved })?;
            if args.tell {
                tell(&stream.fold, at_ms(&script, number), &analysis, &usable(&analysis, &shown));
            }
            let faces = stream.add(&params, &shown, at_ms(&script, number), analysis)?;
            seen.extend(faces.into_iter().map(|(_, face)| face));
        }
        set.faces += seen.len();
        set.fold.add(&stream.expected, &stream.by_fold);
        set.plain.add(&stream.expected, &stream.by_plain);
        compare(&params, &seen, (&mut same, &mut different), &mut set.distances);
        if args.tell {
            let Stream { expected, by_fold, by_plain, .. } = &stream;
            eprintln!("video {video}: expected {expected:?}, fold {by_fold:?}, plain {by_plain:?}");
        }
    }
    let ppm = |(wrong, all): (u64, u64)| (wrong * 1_000_000).checked_div(all).unwrap_or(0);
    (set.same_beyond_ppm, set.different_within_ppm) = (ppm(same), ppm(different));
    Ok(set)
}

/// Prints each judgement of a frame beside who it is.
fn tell(fold: &FoldState, captured_at_ms: u64, analysis: &Analysis, faces: &[(u32, Seen)]) {
    let Analysis::Frame(frame) = analysis else { return };
    for judged in fold.explain(captured_at_ms, frame) {
        let who = faces.iter().find(|(at, _)| *at == judged.face_index).and_then(|(_, face)| face.who.as_deref());
        let Face { seen, sharpness, .. } = &frame.faces[judged.face_index as usize];
        let (px, score) = (seen.rect.width(), seen.score);
        eprintln!(
            "{captured_at_ms} {} {px} px score {score:.2} sharp {sharpness:.0} {judged:?}",
            who.unwrap_or("nobody")
        );
    }
}

fn in_full_view(face: &Shown) -> bool {
    face.face_px >= FACE_PX_MIN && face.visible >= VISIBLE_MIN
}

fn at_ms(script: &Script, number: usize) -> u64 {
    (1_000.0 * number as f64 / script.fps) as u64
}

fn entry(sequence: u64, captured_at_ms: u64, analysis: Analysis) -> Entry {
    let record = Record::Frame {
        captured_at_ms,
        digest: Digest::of(&sequence.to_le_bytes()),
        label: String::new(),
        moved: None,
    };
    Entry { sequence, record, analysis: Some(analysis), engine: String::new() }
}

/// The usable faces of a frame by their index, with who they are.
fn usable(analysis: &Analysis, shown: &[Shown]) -> Vec<(u32, Seen)> {
    let Analysis::Frame(frame) = analysis else { return Vec::new() };
    let faces = frame.faces.iter().zip(0..).filter_map(|(face, index)| {
        let FaceOutcome::Encoded(encoding) = &face.outcome else { return None };
        let who = shown.iter().find(|there| is_of(&sides(face), there)).map(|there| there.name.to_owned());
        Some((index, Seen { encoding: encoding.clone(), who }))
    });
    faces.collect()
}

fn sides(face: &Face) -> [f64; 4] {
    let rect = face.seen.rect;
    [rect.left, rect.top, rect.right, rect.bottom].map(f64::from)
}

/// Counts the pairs of views that the threshold takes for the wrong thing, and all; and how far they are.
fn compare(
    params: &FaceParams,
    seen: &[Seen],
    (same, different): (&mut (u64, u64), &mut (u64, u64)),
    distances: &mut Distances,
) {
    for (at, a) in seen.iter().enumerate() {
        for b in &seen[..at] {
            let (Some(who), Some(other)) = (&a.who, &b.who) else { continue };
            let distance = a.encoding.distance(&b.encoding);
            distances.add(who == other, distance);
            let within = distance <= params.distance_max;
            let (pairs, wrong) = if who == other { (&mut *same, !within) } else { (&mut *different, within) };
            pairs.0 += u64::from(wrong);
            pairs.1 += 1;
        }
    }
}

/// Photos at one scale, or at all of them one after the other, counted by the fold and by the plain rule, and how far views of people are from
/// each other.
#[derive(Debug, Clone, Default, Serialize)]
struct Still {
    set: &'static str,
    scale: String,
    fold: Count,
    plain: Count,
    /// Pairs of views of one person: those beyond the threshold, and all.
    same: (u64, u64),
    /// Pairs of views of two people: those within it, and all.
    different: (u64, u64),
}

/// Both rules on one stream of photos, and whom they have reported.
struct Stream {
    fold: FoldState,
    plain: Plain,
    expected: BTreeSet<String>,
    by_fold: Vec<Option<String>>,
    by_plain: Vec<Option<String>>,
    number: u64,
}

impl Stream {
    fn new(params: FaceParams) -> Self {
        Self {
            fold: FoldState::genesis(params),
            plain: Plain::default(),
            expected: BTreeSet::new(),
            by_fold: Vec::new(),
            by_plain: Vec::new(),
            number: 0,
        }
    }

    /// Folds the next picture, taken at this time, and gives its usable faces.
    fn add(
        &mut self,
        params: &FaceParams,
        shown: &[Shown],
        captured_at_ms: u64,
        analysis: Analysis,
    ) -> Result<Vec<(u32, Seen)>, Error> {
        self.expect(shown);
        let faces = usable(&analysis, shown);
        for (_, face) in &faces {
            if self.plain.is_new(params, &face.encoding) {
                self.by_plain.push(face.who.clone());
            }
        }
        let folded = self.fold.fold(&entry(self.number, captured_at_ms, analysis))?;
        self.number += 1;
        let new = folded.sightings.iter().filter(|seen| seen.event == Some(EventKind::NewFace));
        self.by_fold.extend(new.map(|seen| {
            let of = |(at, _): &&(u32, Seen)| *at == seen.face_index;
            faces.iter().find(of).and_then(|(_, face)| face.who.clone())
        }));
        Ok(faces)
    }

    /// Whoever is shown in full view is to be reported.
    fn expect(&mut self, shown: &[Shown]) {
        self.expected.extend(shown.iter().filter(|face| in_full_view(face)).map(|face| face.name.to_owned()));
    }

    fn still(&self, params: &FaceParams, set: &'static str, scale: String, seen: &[Seen]) -> Still {
        let mut still = Still { set, scale, ..Still::default() };
        still.fold.add(&self.expected, &self.by_fold);
        still.plain.add(&self.expected, &self.by_plain);
        compare(params, seen, (&mut still.same, &mut still.different), &mut Distances::default());
        still
    }
}

fn stills(engine: &mut Dlib, set: &'static str, photos: &[Photo]) -> Result<Vec<Still>, Error> {
    let decode = |photo: &Photo| Ok(image::load_from_memory(&photo.bytes)?.into_rgb8());
    let pictures = photos.iter().map(decode).collect::<Result<Vec<_>, Error>>()?;
    let params = FaceParams::default();
    let mut all = Stream::new(params);
    let (mut stills, mut all_seen) = (Vec::new(), Vec::new());
    for scale in SCALES {
        let (mut stream, mut seen) = (Stream::new(params), Vec::new());
        for (photo, picture) in photos.iter().zip(&pictures) {
            let shown = photo.shown(scale, picture.dimensions());
            let analysis = analyse(engine, params, scaled(picture, scale)?)?;
            all.add(&params, &shown, 1_000 * all.number, analysis.clone())?;
            let faces = stream.add(&params, &shown, 1_000 * stream.number, analysis)?;
            seen.extend(faces.into_iter().map(|(_, face)| face));
        }
        stills.push(stream.still(&params, set, format!("{scale:.2}"), &seen));
        all_seen.extend(seen);
    }
    stills.push(all.still(&params, set, "all, one after the other".into(), &all_seen));
    Ok(stills)
}

fn scaled(photo: &RgbImage, scale: f64) -> Result<Vec<u8>, Error> {
    let side = |px: u32| ((f64::from(px) * scale).round() as u32).max(1);
    let picture = resize(photo, side(photo.width()), side(photo.height()), FilterType::Lanczos3);
    let mut png = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut png, image::ImageFormat::Png)?;
    Ok(png.into_inner())
}

/// What both tables say of a set: errors by pairs, and who was reported.
const JUDGED: [&str; 9] = [
    "one person's views beyond the threshold",
    "two people's within",
    "people",
    "missed: fold",
    "plain",
    "new again: fold",
    "plain",
    "no face: fold",
    "plain",
];

fn sets_table(sets: &[(&str, &Set)]) -> String {
    let header = [&["set", "videos", "usable faces"][..], &JUDGED].concat();
    let percent = |ppm: u64| format!("{:.2} %", ppm as f64 / 10_000.0);
    let row = |(name, set): &(&str, &Set)| {
        let Set { fold, plain, .. } = set;
        let mut row = vec![(*name).to_owned(), set.videos.to_string(), set.faces.to_string()];
        row.extend([percent(set.same_beyond_ppm), percent(set.different_within_ppm)]);
        let counts = [fold.people, fold.missed(), plain.missed(), fold.again, plain.again, fold.no_face, plain.no_face];
        row.extend(counts.map(|count| count.to_string()));
        row
    };
    table(&header, &sets.iter().map(row).collect::<Vec<_>>())
}

fn stills_table(stills: &[Still]) -> String {
    let row = |still: &Still| {
        let Still { set, scale, fold, plain, same, different } = still;
        let pairs = [same, different].map(|(wrong, all)| format!("{wrong} of {all}"));
        let counts = [fold.people, fold.missed(), plain.missed(), fold.again, plain.again, fold.no_face, plain.no_face];
        let counts = counts.map(|count| count.to_string());
        [(*set).to_owned(), scale.clone()].into_iter().chain(pairs).chain(counts).collect::<Vec<_>>()
    };
    let header = [&["set", "scale"][..], &JUDGED].concat();
    table(&header, &stills.iter().map(row).collect::<Vec<_>>())
}
