//! Photo by photo and process by process beside Python's `face_recognition`, on the same pixels.

use std::fmt::Write as _;
use std::io::Cursor;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use face_worker::{
    Cache, Dlib, ENVIRONMENT, Engine as _, EngineChoice, FaceLambda, Frame, Pixels, Progress, analyse, decode,
};
use image::imageops::FilterType;
use image::{ImageFormat, RgbImage};
use microlambda::{Lambda as _, Next};
use microlambda_benches::chart::Chart;
use microlambda_benches::pairs::{Order, Pairs};
use microlambda_benches::photos::Photo;
use microlambda_benches::process::{Whole, WorkerProcess};
use microlambda_benches::random::mixed;
use microlambda_benches::raw_table::{RawTable, value};
use microlambda_benches::reference::Reference;
use microlambda_benches::report::{Aim, Finding, publish, table};
use microlambda_benches::stats::Stats;
use microlambda_benches::video::{FACE_PX_MIN, Recall};
use microlambda_benches::{Common, Error, Machine, check_programs, data_dir, exit, restart_with, since};
use microlambda_faces::plan::clipped;
use microlambda_faces::proto::CLASS_DETECT;
use microlambda_faces::{Analysis, FaceParams, Rect};
use serde::Serialize;

/// Of Python's time that a search may take: of the whole picture at once, and by the worker.
const SEARCH_RATIO_MAX: f64 = 0.35;
/// Of Python's time that landmarks and encoding of one face may take.
const ENCODE_RATIO_MAX: f64 = 0.45;
/// The photos are also shown so small that their smallest face has these sides, px.
const SMALLEST_FACES_PX: [f64; 4] = [96.0, 64.0, 48.0, FACE_PX_MIN];
/// Rounds, and pairs of processes, of a quick look.
const QUICK: u16 = 2;
/// Whose a series is.
const SIDES: [&str; 2] = ["ours", "Python's"];

/// Detection, encoding and whole processes beside Python's face_recognition on the reported photos. Takes some two minutes.
#[derive(Debug, Parser)]
#[command(name = "python")]
struct Args {
    #[command(flatten)]
    common: Common,
    /// How often both sides look at each photo
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Processes of each side that go through all photos
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..))]
    processes: u16,
    /// Decides which side goes first
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

/// A photo as both sides get it.
struct Scene {
    photo: Photo,
    pixels: Pixels,
    /// The same pixels as a file without loss.
    png: Vec<u8>,
}

/// What both sides took for one photo, ms.
struct Looked {
    order: Order,
    search: Pairs,
    /// The worker's search, tile by tile, and theirs of the same round.
    worker: Pairs,
    /// A face, of the rounds in which both encoded as many.
    encode: Pairs,
    faces: [usize; 2],
}

/// Faces found by whole-picture searches of both sides, and by the worker's tiles.
#[derive(Debug, Default, Serialize)]
struct Found {
    size: String,
    pictures: usize,
    /// Of these, pictures with the same boxes by both whole-picture searches.
    same_boxes: usize,
    theirs: Recall,
    ours: Recall,
    worker: Recall,
}

/// Whole processes, pair by pair.
#[derive(Default)]
struct Processes {
    first_ms: Pairs,
    wall_ms: Pairs,
    cpu_ms: Pairs,
    peak_mb: Pairs,
    faces: Pairs,
    /// Pair by pair: which went first, then both sides of each figure.
    raw: Vec<Vec<String>>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    // OpenBLAS counts its threads before `main`.
    exit(restart_with(&ENVIRONMENT).and_then(|()| run(&args)))
}

fn run(args: &Args) -> Result<(), Error> {
    check_programs()?;
    let machine = Machine::here();
    let (rounds, processes) = if args.common.quick { (QUICK, QUICK) } else { (args.rounds, args.processes) };
    let python = Reference::install()?;
    let mut engine = Dlib::load_for(&data_dir().join("models"), EngineChoice::BuiltIn)?;
    let mut reference = Reference::start(&python)?;
    let scenes = Photo::all()?.into_iter().map(Scene::of).collect::<Result<Vec<_>, Error>>()?;
    let (looked, raw) = look_at_all(&scenes, (&mut engine, &mut reference), rounds, args.seed)?;
    let found = find_all(&scenes, &mut engine, &mut reference)?;
    let name = reference.name.clone();
    // From here on each side has processes of its own.
    drop((reference, engine));
    let files: Vec<&[u8]> = scenes.iter().map(|scene| scene.photo.bytes.as_slice()).collect();
    let whole = Processes::measure(&python, &files, processes, args.seed)?;
    let all = |part: fn(&Looked) -> &Pairs| {
        let mut all = Pairs::default();
        for looked in &looked {
            all.extend(part(looked));
        }
        all
    };
    let (search, worker) = (all(|looked| &looked.search), all(|looked| &looked.worker));
    let encode = all(|looked| &looked.encode);
    let aims = aims([search.ratio(), worker.ratio(), encode.ratio()], &found).ok_or("nothing was measured")?;
    let text = [
        per_photo_text(&scenes, &looked, &name, rounds),
        found_text(&found),
        whole.text(files.len(), processes).ok_or("no process was measured")?,
        Aim::list(&aims),
    ]
    .join("\n");
    let rows = scenes.iter().zip(&looked).map(|(scene, looked)| looked.figures(scene)).collect::<Vec<_>>();
    let figures = serde_json::json!({
        "reference": name, "photos": rows, "search_ratio": search.ratio(), "search_by_worker_ratio": worker.ratio(),
        "encode_ratio": encode.ratio(), "found": found, "processes": whole.figures(), "aims": aims,
    });
    let charts = vec![chart(&search, &worker, &encode), whole.chart()];
    let raw = vec![raw, whole.raw()];
    publish(&args.common, &Finding { name: "python", text, figures: &figures, charts, raw, machine: &machine })
}

impl Scene {
    fn of(photo: Photo) -> Result<Self, Error> {
        let pixels = decode(&photo.bytes)?;
        let png = png(&as_image(&pixels)?)?;
        Ok(Self { photo, pixels, png })
    }

    fn size_px(&self) -> (u32, u32) {
        (self.pixels.width_px(), self.pixels.height_px())
    }
}

/// Both sides look at every photo in each round, so that a slow minute is in all photos. Also every look by itself, in the order of the run.
fn look_at_all(
    scenes: &[Scene],
    (engine, reference): (&mut Dlib, &mut Reference),
    rounds: u16,
    seed: u64,
) -> Result<(Vec<Looked>, RawTable), Error> {
    // What either loads at its first picture is no part of a picture's time.
    if let Some(scene) = scenes.first() {
        look(engine, &scene.pixels)?;
        reference.look(&scene.png)?;
    }
    let mut looked: Vec<Looked> = (0..scenes.len() as u64).map(|photo| Looked::new(mixed(seed, photo))).collect();
    let mut rows: Vec<Vec<String>> = Vec::new();
    for round in 0..rounds {
        for (scene, looked) in scenes.iter().zip(&mut looked) {
            let (ours, theirs) = looked.order.pair(
                || Ok::<_, Error>((look(engine, &scene.pixels)?, search_by_plan(engine, &scene.png)?)),
                || reference.look(&scene.png),
            )?;
            let ((boxes, search_ms, encode_ms), worker_ms) = ours;
            looked.search.add(search_ms, theirs.search_ms);
            looked.worker.add(worker_ms, theirs.search_ms);
            let first = [round.to_string(), scene.photo.name.clone(), looked.order.went_first().to_owned()];
            let faces = [boxes.len(), theirs.boxes.len()].map(|faces| faces.to_string());
            let times = [search_ms, worker_ms, theirs.search_ms, encode_ms, theirs.encode_ms].map(value);
            rows.push(first.into_iter().chain(faces).chain(times).collect());
            looked.faces = [boxes.len(), theirs.boxes.len()];
            if !boxes.is_empty() && boxes.len() == theirs.boxes.len() {
                let faces = boxes.len() as f64;
                looked.encode.add(encode_ms / faces, theirs.encode_ms / faces);
            }
        }
    }
    let columns = [
        "round",
        "photo",
        "went_first",
        "ours_faces",
        "theirs_faces",
        "ours_search_ms",
        "ours_search_by_worker_ms",
        "theirs_search_ms",
        "ours_encode_all_ms",
        "theirs_encode_all_ms",
    ];
    Ok((looked, RawTable::new("python", &columns, rows)))
}

/// One search of the whole picture, and landmarks and encodings of what it finds: the boxes, and what either took, ms.
fn look(engine: &mut Dlib, pixels: &Pixels) -> Result<(Vec<Rect>, f64, f64), Error> {
    let began = Instant::now();
    let boxes = search(engine, pixels)?;
    let search_ms = since(began);
    let began = Instant::now();
    let picture = engine.open(pixels);
    for rect in &boxes {
        let (face, _) = engine.align(pixels, &picture, *rect)?;
        engine.encode(&picture, &face)?;
    }
    Ok((boxes, search_ms, since(began)))
}

/// As the worker searches: tile by tile and level by level, each a unit of its lambda. What these units take together, ms.
fn search_by_plan(engine: &mut Dlib, png: &[u8]) -> Result<f64, Error> {
    let frame = Some(Frame { sequence: 0, bytes: png.to_vec(), moved: None });
    let mut lambda = FaceLambda::new(engine, FaceParams::default(), frame, Cache::default());
    let (mut state, mut search_ms) = (Progress::default(), 0.0);
    while let Next::Unit(cost) = lambda.next(&state) {
        if cost.prepare.is_some() {
            lambda.prepare(&state)?;
        }
        let began = Instant::now();
        lambda.advance(&mut state)?;
        if cost.run.0 == CLASS_DETECT {
            search_ms += since(began);
        }
    }
    if state.finished.is_empty() { Err("no analysis".into()) } else { Ok(search_ms) }
}

/// As Python searches: the whole picture at once, at twice its size, and with the detector's own bound.
fn search(engine: &mut Dlib, pixels: &Pixels) -> Result<Vec<Rect>, Error> {
    let found = engine.search(pixels, None, 0.0)?;
    Ok(found.into_iter().map(|(rect, _)| clipped(rect, pixels.width_px(), pixels.height_px())).collect())
}

impl Looked {
    fn new(seed: u64) -> Self {
        let (search, worker, encode) = (Pairs::default(), Pairs::default(), Pairs::default());
        Self { order: Order::new(seed), search, worker, encode, faces: [0, 0] }
    }

    fn figures(&self, scene: &Scene) -> serde_json::Value {
        let both = |pairs: &Pairs| serde_json::json!({ "ours_ms": pairs.ours(), "theirs_ms": pairs.theirs(), "ratio": pairs.ratio() });
        let size_px = scene.size_px();
        serde_json::json!({
            "photo": scene.photo.name, "size_px": size_px, "faces": self.faces, "search": both(&self.search),
            "search_by_worker": both(&self.worker), "encode_a_face": both(&self.encode),
        })
    }
}

/// The photos as they are, and the ones with faces at smaller sizes.
fn find_all(scenes: &[Scene], engine: &mut Dlib, reference: &mut Reference) -> Result<Vec<Found>, Error> {
    let mut whole = Found { size: "as they are".into(), ..Found::default() };
    for scene in scenes {
        whole.add(&scene.photo, (1.0, &scene.pixels, &scene.png), engine, reference)?;
    }
    let mut all = vec![whole];
    for face_px in SMALLEST_FACES_PX {
        let mut found = Found { size: format!("smallest face {face_px:.0} px"), ..Found::default() };
        for scene in scenes {
            let scale = scene.photo.smallest_face_px().map(|smallest_px| face_px / smallest_px);
            // Enlarged, it would show nothing more.
            if let Some(scale) = scale.filter(|scale| *scale < 1.0) {
                let small = scaled(&scene.pixels, scale)?;
                let png = png(&small)?;
                let pixels = Pixels::new(small.width(), small.height(), small.into_raw()).ok_or("no pixels")?;
                found.add(&scene.photo, (scale, &pixels, &png), engine, reference)?;
            }
        }
        all.push(found);
    }
    Ok(all)
}

impl Found {
    fn add(
        &mut self,
        photo: &Photo,
        (scale, pixels, png): (f64, &Pixels, &[u8]),
        engine: &mut Dlib,
        reference: &mut Reference,
    ) -> Result<(), Error> {
        let shown = photo.shown(scale, (pixels.width_px(), pixels.height_px()));
        let ours: Vec<_> = search(engine, pixels)?.into_iter().map(sides).collect();
        let theirs = reference.look(png)?.boxes;
        let Analysis::Frame(analysis) = analyse(engine, FaceParams::default(), png.to_vec())? else {
            return Err(format!("{}: the worker's lambda cannot read it", photo.name).into());
        };
        let worker: Vec<_> = analysis.faces.iter().map(|face| sides(face.seen.rect)).collect();
        self.pictures += 1;
        self.same_boxes += usize::from(are_same(&ours, &theirs));
        self.ours.add(&shown, &ours);
        self.theirs.add(&shown, &theirs);
        self.worker.add(&shown, &worker);
        Ok(())
    }
}

fn sides(rect: Rect) -> [f64; 4] {
    [rect.left, rect.top, rect.right, rect.bottom].map(f64::from)
}

/// Whether both lists hold the same boxes, to the pixel; at a picture's edge the one side names the last column, the other the one after it.
fn are_same(ours: &[[f64; 4]], theirs: &[[f64; 4]]) -> bool {
    let is_near = |a: &[f64; 4], b: &[f64; 4]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1.0);
    ours.len() == theirs.len() && ours.iter().all(|a| theirs.iter().any(|b| is_near(a, b)))
}

fn as_image(pixels: &Pixels) -> Result<RgbImage, Error> {
    let rgb = pixels.rgb().to_vec();
    RgbImage::from_raw(pixels.width_px(), pixels.height_px(), rgb).ok_or_else(|| "no pixels".into())
}

fn scaled(pixels: &Pixels, scale: f64) -> Result<RgbImage, Error> {
    let side = |px: u32| (f64::from(px) * scale).round().max(1.0) as u32;
    let (width, height) = (side(pixels.width_px()), side(pixels.height_px()));
    Ok(image::imageops::resize(&as_image(pixels)?, width, height, FilterType::Triangle))
}

fn png(picture: &RgbImage) -> Result<Vec<u8>, Error> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png)?;
    Ok(bytes.into_inner())
}

impl Processes {
    fn measure(python: &Path, files: &[&[u8]], processes: u16, seed: u64) -> Result<Self, Error> {
        let (mut all, mut order) = (Self::default(), Order::new(seed));
        for pair in 0..processes {
            let (ours, theirs) = order.pair(
                || Whole::of(|| WorkerProcess::start(&ENVIRONMENT), files.iter().copied()),
                || Whole::of(|| Reference::start(python), files.iter().copied()),
            )?;
            all.first_ms.add(ours.first_ms, theirs.first_ms);
            all.wall_ms.add(ours.wall_ms, theirs.wall_ms);
            all.cpu_ms.add(ours.cpu_ms, theirs.cpu_ms);
            all.peak_mb.add(ours.peak_mb, theirs.peak_mb);
            all.faces.add(ours.faces as f64, theirs.faces as f64);
            let sides = all.rows().into_iter().filter_map(|(_, pairs)| pairs.last());
            let figures: Vec<String> = sides.flat_map(|(ours, theirs)| [value(ours), value(theirs)]).collect();
            let first = [pair.to_string(), order.went_first().to_owned()];
            all.raw.push(first.into_iter().chain(figures).collect());
        }
        Ok(all)
    }

    /// Every pair of processes.
    fn raw(self) -> RawTable {
        let columns = [
            "pair",
            "went_first",
            "ours_first_ms",
            "theirs_first_ms",
            "ours_wall_ms",
            "theirs_wall_ms",
            "ours_cpu_ms",
            "theirs_cpu_ms",
            "ours_peak_mb",
            "theirs_peak_mb",
            "ours_faces",
            "theirs_faces",
        ];
        RawTable::new("processes", &columns, self.raw)
    }

    fn rows(&self) -> [(&'static str, &Pairs); 5] {
        [
            ("from the start until the first picture is done, ms", &self.first_ms),
            ("from the start to the end, ms", &self.wall_ms),
            ("processor time, ms", &self.cpu_ms),
            ("most memory resident, MB", &self.peak_mb),
            ("faces found", &self.faces),
        ]
    }

    fn text(&self, pictures: usize, processes: u16) -> Option<String> {
        let row = |(what, pairs): (&str, &Pairs)| {
            let cell = |stats: Stats| format!("{:.0}", stats.p50);
            Some(vec![
                what.to_owned(),
                cell(pairs.ours()?),
                cell(pairs.theirs()?),
                format!("{:.3}", pairs.ratio()?.p50),
            ])
        };
        let rows = self.rows().into_iter().map(row).collect::<Option<Vec<_>>>()?;
        Some(format!(
            "**Whole processes.** A process of each side is started {processes} times, in pairs, and gets the {pictures} unmodified files one after the other; all figures include\n\
             decoding, and loading models and everything else. *Ours* is the worker as an edge agent starts it: it checks its models'\n\
             checksums, searches tile by tile with a second look at weak faces, and makes a thumbnail of each; the agent's own process is not included. Times at p50, ratios\n\
             per pair:\n\n{}",
            table(&["", "ours", "Python's", "ratio"], &rows)
        ))
    }

    fn figures(&self) -> serde_json::Value {
        let row = |(what, pairs): (&str, &Pairs)| serde_json::json!({ "what": what, "ours": pairs.ours(), "theirs": pairs.theirs(), "ratio": pairs.ratio() });
        self.rows().into_iter().map(row).collect()
    }

    fn chart(&self) -> Chart {
        let times = [("first picture", &self.first_ms), ("whole", &self.wall_ms), ("whole, processor", &self.cpu_ms)];
        let samples = times.into_iter().flat_map(|(what, pairs)| pairs.samples(what, SIDES)).collect();
        Chart::distribution("processes", "Whole processes over all photos, from their start", "ms", samples)
    }
}

fn chart(search: &Pairs, worker: &Pairs, encode: &Pairs) -> Chart {
    let parts = [("detection, a photo", search), ("landmarks and encoding, a face", encode)];
    let [by_worker, _] = worker.samples("detection tile by tile, a photo", SIDES);
    let samples = parts.into_iter().flat_map(|(part, pairs)| pairs.samples(part, SIDES)).chain([by_worker]).collect();
    Chart::distribution("python", "Whole photos and their faces, beside Python's face_recognition", "ms", samples)
}

fn aims([search, worker, encode]: [Option<Stats>; 3], found: &[Found]) -> Option<Vec<Aim>> {
    let at_most = |what: &str, ratio: Stats, most: f64| Aim {
        aim: format!("{what} in at most {most} of Python's time, the median of all pairs' ratios"),
        measured: format!("{:.3}", ratio.p50),
        met: ratio.p50 <= most,
    };
    let all = |side: fn(&Found) -> Recall| found.iter().map(side).sum::<Recall>();
    let theirs = all(|found| found.theirs);
    let as_many = |how: &str, ours: Recall| Aim {
        aim: format!("at least as many faces of {FACE_PX_MIN:.0} px and more found {how} as by Python"),
        measured: format!("{ours} and {theirs}"),
        met: ours.found >= theirs.found,
    };
    Some(vec![
        at_most("detection in a whole picture", search?, SEARCH_RATIO_MAX),
        at_most("detection by the worker, tile by tile,", worker?, SEARCH_RATIO_MAX),
        at_most("landmarks and encoding of a face", encode?, ENCODE_RATIO_MAX),
        as_many("in whole pictures", all(|found| found.ours)),
        as_many("by the worker", all(|found| found.worker)),
    ])
}

fn per_photo_text(scenes: &[Scene], looked: &[Looked], name: &str, rounds: u16) -> String {
    let cells = |(scene, looked): (&Scene, &Looked)| {
        let [ours, theirs] = looked.faces;
        let (width_px, height_px) = scene.size_px();
        let faces = if ours == theirs { ours.to_string() } else { format!("{ours}, Python {theirs}") };
        let mut cells = vec![scene.photo.name.clone(), format!("{width_px}×{height_px}"), faces];
        let cell = |stats: Option<Stats>, digits: usize| {
            stats.map_or_else(|| "–".to_owned(), |stats| format!("{:.digits$}", stats.p50))
        };
        let both = |pairs: &Pairs| [cell(pairs.ours(), 1), cell(pairs.theirs(), 1), cell(pairs.ratio(), 3)];
        cells.extend(both(&looked.search));
        cells.extend([cell(looked.worker.ours(), 1), cell(looked.worker.ratio(), 3)]);
        cells.extend(both(&looked.encode));
        cells
    };
    let header = [
        "photo",
        "pixels",
        "faces",
        "detection: ours, ms",
        "Python's",
        "ratio",
        "ours, by the worker",
        "ratio",
        "landmarks and encoding, a face: ours, ms",
        "Python's",
        "ratio",
    ];
    let rows: Vec<_> = scenes.iter().zip(looked).map(cells).collect();
    format!(
        "**Picture by picture.** Each reported photo is decoded once, and both sides get the same pixels, {rounds} times; of every two times each side begins\n\
         once, as drawn by a seed. *Ours* is the built-in engine: one search of the whole picture at twice its size, like Python's, then landmarks and encodings of everything it\n\
         finds. *By the worker* is the same search as edge agents run it, tile by tile and level by level: the sum of its units, relative to Python's time in the same\n\
         round. Python's side is {name}, with the defaults (HOG, one upsampling, 5-point landmarks). One thread each. Times at\n\
         p50, ratios per pair, at p50:\n\n{}",
        table(&header, &rows)
    )
}

fn found_text(found: &[Found]) -> String {
    let cells = |found: &Found| {
        let recalls = [found.theirs, found.ours, found.worker];
        let mut false_boxes = String::new();
        for (number, recall) in recalls.iter().enumerate() {
            let _ = write!(false_boxes, "{}{}", if number == 0 { "" } else { ", " }, recall.false_boxes);
        }
        let counts = [found.size.clone(), format!("{} of {}", found.same_boxes, found.pictures)];
        counts.into_iter().chain(recalls.map(|recall| recall.to_string())).chain([false_boxes]).collect()
    };
    let header = [
        "photos",
        "same boxes",
        "found by Python",
        "ours, whole picture",
        "ours, by the worker",
        "false boxes of the three",
    ];
    format!(
        "**What is found.** The same photos, and those with faces scaled down so that the smallest face of each has a given side. The ground truth is all faces of at least\n\
         {FACE_PX_MIN:.0} px in full view that a person sees in the photos (`benches/src/photos.rs`). *By the worker* is as edge agents run it, tile by tile.\n\
         *False boxes* contain no face; *same boxes* counts pictures in which both whole-picture searches give the same boxes.\n\n{}",
        table(&header, &found.iter().map(cells).collect::<Vec<_>>())
    )
}
