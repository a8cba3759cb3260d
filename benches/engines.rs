//! Search and encoding by the built-in engine and by dlib's, side by side on the faces of the photos.

#![expect(unsafe_code, reason = "the processor's peak is measured with OpenBLAS itself")]

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use face_worker::{AlignedFace, Dlib, ENVIRONMENT, Engine, EngineChoice, Pixels, decode};
use microlambda_benches::chart::Chart;
use microlambda_benches::pairs::{Order, Pairs};
use microlambda_benches::raw_table::{RawTable, value};
use microlambda_benches::report::{Aim, Finding, publish, table};
use microlambda_benches::search_cost::SearchCost;
use microlambda_benches::stats::Stats;
use microlambda_benches::{Common, Error, Machine, data_dir, exit, restart_with};
use microlambda_faces::Encoding;
use microlambda_faces::plan::clipped;
use serde::Serialize;

/// Multiplications with an addition in one encoding; those that meet only padding are not counted.
const MULTIPLY_ADDS: f64 = 240_871_424.0;
/// Rows and columns of the matrices whose product is the processor's peak.
const MATRIX_SIDE: usize = 1_024;
/// The product is formed so often; the best counts.
const PRODUCTS: u32 = 12;
/// Bytes of the memory that is copied to see how fast memory is: more than the caches hold.
const COPY_BYTES: usize = 256 << 20;
/// It is copied so often; the best counts.
const COPIES: u32 = 6;
/// Larger pictures are halved, px: their faces are looked for only to be encoded.
const PICTURE_SIDE_PX_MAX: u32 = 1_280;
/// How far two encodings of one face may be from each other.
const DISTANCE_MAX: f64 = 1e-5;
/// Of dlib's time that the built-in engine may take for an encoding.
const RATIO_MAX: f64 = 0.45;
/// Pictures are searched once for so many encodings of each face: a search takes as long.
const ENCODINGS_PER_SEARCH: usize = 8;
/// Of the processor's peak that it must reach.
const PEAK_SHARE_MIN: f64 = 0.55;
/// Rounds of a quick look.
const ROUNDS_QUICK: usize = 16;
/// Of the raw data; *ours* is the built-in engine, *theirs* dlib's.
const RAW_COLUMNS: [&str; 7] = ["work", "round", "photo", "face", "went_first", "ours_ms", "theirs_ms"];

/// Times of searches and encodings by the built-in engine and by dlib's, by turns on the same pictures, and how far they are apart.
#[derive(Debug, Parser)]
#[command(name = "engines")]
struct Args {
    #[command(flatten)]
    common: Common,
    /// How often each face is encoded by each engine; with --quick 16 times at most
    #[arg(long, value_name = "N", default_value_t = 40)]
    rounds: usize,
    /// Decides which engine goes first
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

/// What one engine took for one search and for one encoding, ms.
#[derive(Debug, Serialize)]
struct Row {
    engine: String,
    search_ms: Stats,
    encode_ms: Stats,
    gflops: f64,
}

/// What was measured by turns, ms: the built-in engine's, and dlib's.
struct Turns {
    work: &'static str,
    order: Order,
    ms: Pairs,
    /// The same pair by pair, as [`RAW_COLUMNS`].
    rows: Vec<Vec<String>>,
}

/// How far a search is from what the machine allows.
#[derive(Debug, Serialize)]
struct Limits {
    /// Of all pictures together.
    cost: SearchCost,
    pictures: usize,
    /// What the processor does of operations that are not fused, 10⁹ a second.
    gops: f64,
    /// What memory moves, 10⁹ bytes a second.
    memory_gb_s: f64,
    /// What a search takes, in the mean.
    search_ms: f64,
}

/// A picture with its faces, ready for both engines.
struct Scene {
    photo: String,
    pixels: Pixels,
    picture: <Dlib as Engine>::Picture,
    faces: Vec<AlignedFace>,
}

// Linked already, as dlib needs it.
unsafe extern "C" {
    fn cblas_sgemm(
        order: i32,
        transpose_a: i32,
        transpose_b: i32,
        m: i32,
        n: i32,
        k: i32,
        alpha: f32,
        a: *const f32,
        lda: i32,
        b: *const f32,
        ldb: i32,
        beta: f32,
        c: *mut f32,
        ldc: i32,
    );
}

fn main() -> ExitCode {
    let args = Args::parse();
    // OpenBLAS counts its threads before `main`.
    exit(restart_with(&ENVIRONMENT).and_then(|()| run(&args)))
}

fn run(args: &Args) -> Result<(), Error> {
    let machine = Machine::here();
    let models = data_dir().join("models");
    let mut ours = Dlib::load_for(&models, EngineChoice::BuiltIn)?;
    let mut theirs = Dlib::load_for(&models, EngineChoice::Dlib)?;
    let (scenes, align_ms) = scenes(&mut ours)?;
    let rounds = if args.common.quick { args.rounds.min(ROUNDS_QUICK) } else { args.rounds };
    let (mut searches, mut encodings) = (Turns::new("search", args.seed), Turns::new("encoding", args.seed));
    let mut farthest = 0f64;
    for round in 0..rounds {
        for Scene { photo, pixels, picture, faces } in &scenes {
            if round % ENCODINGS_PER_SEARCH == 0 {
                let found = searches.next(|| ours.search(pixels, None, 0.0), || theirs.search(pixels, None, 0.0))?;
                searches.keep(round, photo, String::new());
                if found.0 != found.1 {
                    return Err("the engines found different faces".into());
                }
            }
            for (number, face) in faces.iter().enumerate() {
                let (a, b) = encodings.next(|| ours.encode(picture, face), || theirs.encode(picture, face))?;
                encodings.keep(round, photo, number.to_string());
                farthest = farthest.max(Encoding::try_from(a)?.distance(&Encoding::try_from(b)?));
            }
        }
    }
    let peak_gflops = peak_gflops();
    let rows = [(&ours, Pairs::ours as fn(&Pairs) -> _), (&theirs, Pairs::theirs)]
        .map(|(engine, side)| row(engine, side(&searches.ms), side(&encodings.ms)));
    let rows = rows.into_iter().collect::<Option<Vec<_>>>();
    let ratios = searches.ms.ratio().zip(encodings.ms.ratio());
    let (rows, (search, encode)) = rows.zip(ratios).ok_or("nothing was measured: --rounds is at least 1")?;
    let align = Stats::of(align_ms).ok_or("no face was found")?;
    let limits = Limits::of(&scenes, peak_gflops, memory_gb_s(), &rows[0]);
    let aims = aims(&rows, encode, peak_gflops, farthest);
    let cells = |row: &Row| {
        let times = [row.search_ms.p50, row.search_ms.mean, row.encode_ms.p10, row.encode_ms.p50];
        let share = format!("{:.0} %", 100.0 * row.gflops / peak_gflops);
        let times = times.map(|ms| format!("{ms:.2}"));
        let rest = [row.encode_ms.p99_text(2), format!("{:.0}", row.gflops), share];
        [row.engine.clone()].into_iter().chain(times).chain(rest).collect()
    };
    let header = ["engine", "search p50, ms", "mean", "encoding p10, ms", "p50", "p99", "GFLOPS at p50", "of the peak"];
    let text = format!(
        "The {} reported photos, none longer than {PICTURE_SIDE_PX_MAX} px, searched at twice their size, and their {} faces encoded {} times, by both engines\n\
         alternately (a seed draws which goes first), in one process with one thread. An encoding is {:.0} million multiply-adds, not counting those on padding. The peak is the best of\n\
         {PRODUCTS} products of {MATRIX_SIDE}×{MATRIX_SIDE} matrices with OpenBLAS on one thread: {peak_gflops:.0} GFLOPS with the kernel that it picks here. Landmarks\n\
         and chip take another {:.2} ms at p50 per encoding, with either engine.\n\n{}\n\
         Time of the built-in engine relative to dlib's, per pair: searches {:.3} at p50, encodings {:.3} at p50 and {} at p99. Boxes and scores are the same;\n\
         encodings are at most {farthest:.1e} apart.\n\n{}\n{}",
        scenes.len(),
        scenes.iter().map(|scene| scene.faces.len()).sum::<usize>(),
        rounds,
        MULTIPLY_ADDS / 1e6,
        align.p50,
        table(&header, &rows.iter().map(cells).collect::<Vec<_>>()),
        search.p50,
        encode.p50,
        encode.p99_text(3),
        limits.text(),
        Aim::list(&aims),
    );
    let figures = serde_json::json!({
        "rows": rows, "search_ratio": search, "encode_ratio": encode, "align_ms": align, "peak_gflops": peak_gflops,
        "farthest": farthest, "limits": limits, "aims": aims,
    });
    let charts = vec![chart(&searches, &encodings)];
    let raw = vec![RawTable::new("engines", &RAW_COLUMNS, [searches.rows, encodings.rows].concat())];
    publish(&args.common, &Finding { name: "engines", text, figures: &figures, charts, raw, machine: &machine })
}

fn chart(searches: &Turns, encodings: &Turns) -> Chart {
    let samples =
        [searches, encodings].into_iter().flat_map(|turns| turns.ms.samples(turns.work, ["built-in", "dlib"]));
    Chart::distribution("engines", "Searches and encodings by both engines", "ms", samples.collect())
}

impl Limits {
    fn of(scenes: &[Scene], peak_gflops: f64, memory_gb_s: f64, ours: &Row) -> Self {
        let costs = scenes.iter().map(|scene| SearchCost::of(scene.pixels.width_px(), scene.pixels.height_px()));
        Self {
            cost: costs.fold(SearchCost::default(), |all, one| all + one),
            pictures: scenes.len(),
            // The products count a fused multiplication and addition as two operations of one instruction.
            gops: peak_gflops / 2.0,
            memory_gb_s,
            search_ms: ours.search_ms.mean,
        }
    }

    fn text(&self) -> String {
        let mean = |total: u64| total as f64 / self.pictures as f64 / 1e6;
        let [pixels, operations, bytes] = [self.cost.pixels, self.cost.operations, self.cost.bytes].map(mean);
        let (arithmetic_ms, memory_ms) = (operations / self.gops, bytes / self.memory_gb_s);
        let share = |ms: f64| format!("{:.0} %", 100.0 * ms / self.search_ms);
        let rows = [
            [
                "arithmetic".to_owned(),
                format!("{operations:.0} million operations"),
                format!("{:.0} · 10⁹/s", self.gops),
                format!("{arithmetic_ms:.1}"),
                share(arithmetic_ms),
            ],
            [
                "memory".to_owned(),
                format!("{bytes:.0} MB"),
                format!("{:.1} · 10⁹/s", self.memory_gb_s),
                format!("{memory_ms:.1}"),
                share(memory_ms),
            ],
        ];
        format!(
            "**How far a search is from the limit.** The work that dlib's definition requires (`benches/src/search_cost.rs`), averaged over the pictures, whose pyramids have\n\
             {pixels:.1} million pixels. *Arithmetic* assumes half of the peak above: multiplications and additions are not fused, so that boxes and scores stay\n\
             bit-identical to dlib's. *Memory* is the data passed between stages if none of it stayed in a cache, at the rate of the best of {COPIES} copies of {} MB. Conversions, selections and\n\
             scattered additions to histograms, which have no vector instructions, are in neither.\n\n{}",
            COPY_BYTES >> 20,
            table(
                &["limit", "a search needs", "the machine's rate", "ms", "of the built-in engine's time"],
                &rows.map(Vec::from)
            ),
        )
    }
}

impl Turns {
    fn new(work: &'static str, seed: u64) -> Self {
        Self { work, order: Order::new(seed), ms: Pairs::default(), rows: Vec::new() }
    }

    /// One piece of work by the built-in engine and by dlib's, each measured.
    fn next<T, E>(
        &mut self,
        ours: impl FnOnce() -> Result<T, E>,
        theirs: impl FnOnce() -> Result<T, E>,
    ) -> Result<(T, T), E> {
        let ((a, ours_ms), (b, theirs_ms)) = self.order.pair(|| timed(ours), || timed(theirs))?;
        self.ms.add(ours_ms, theirs_ms);
        Ok((a, b))
    }

    /// Keeps the last pair with what it was about.
    fn keep(&mut self, round: usize, photo: &str, face: String) {
        let Some((ours_ms, theirs_ms)) = self.ms.last() else { return };
        let first =
            [self.work.to_owned(), round.to_string(), photo.to_owned(), face, self.order.went_first().to_owned()];
        self.rows.push(first.into_iter().chain([value(ours_ms), value(theirs_ms)]).collect());
    }
}

fn aims(rows: &[Row], ratio: Stats, peak_gflops: f64, farthest: f64) -> Vec<Aim> {
    let share = rows.first().map_or(0.0, |row| row.gflops / peak_gflops);
    vec![
        Aim {
            aim: format!("an encoding in at most {RATIO_MAX} of dlib's time"),
            measured: format!("{:.3}", ratio.p50),
            met: ratio.p50 <= RATIO_MAX,
        },
        Aim {
            aim: format!("an encoding at {:.0} % of the processor's peak or more", 100.0 * PEAK_SHARE_MIN),
            measured: format!("{:.0} %", 100.0 * share),
            met: share >= PEAK_SHARE_MIN,
        },
        Aim {
            aim: format!("encodings at most {DISTANCE_MAX:e} apart"),
            measured: format!("{farthest:.1e}"),
            met: farthest <= DISTANCE_MAX,
        },
    ]
}

fn row(engine: &Dlib, search_ms: Option<Stats>, encode_ms: Option<Stats>) -> Option<Row> {
    let (search_ms, encode_ms) = search_ms.zip(encode_ms)?;
    let gflops = 2.0 * MULTIPLY_ADDS / (encode_ms.p50 * 1e6);
    Some(Row { engine: engine.describe(), search_ms, encode_ms, gflops })
}

/// The photos of people with their faces, and what landmarks and chips took, ms.
fn scenes(engine: &mut Dlib) -> Result<(Vec<Scene>, Vec<f64>), Error> {
    let folder = data_dir().join("photos/people");
    let mut paths = std::fs::read_dir(&folder)
        .map_err(|error| format!("{}: {error}; run `make setup`", folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>, Error>>()?;
    paths.sort();
    let (mut scenes, mut align_ms) = (Vec::new(), Vec::new());
    for path in paths {
        let photo = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut pixels = decode(&std::fs::read(path)?)?;
        while pixels.width_px().max(pixels.height_px()) > PICTURE_SIDE_PX_MAX {
            pixels = pixels.half();
        }
        let (picture, mut faces) = (engine.open(&pixels), Vec::new());
        for (rect, _) in engine.search(&pixels, None, 0.0)? {
            let rect = clipped(rect, pixels.width_px(), pixels.height_px());
            let ((aligned, _), took_ms) = timed(|| engine.align(&pixels, &picture, rect))?;
            align_ms.push(took_ms);
            faces.push(aligned);
        }
        scenes.push(Scene { photo, pixels, picture, faces });
    }
    Ok((scenes, align_ms))
}

/// What `work` gives, and what it took, ms.
fn timed<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<(T, f64), E> {
    let begun = Instant::now();
    let result = work()?;
    Ok((result, begun.elapsed().as_secs_f64() * 1e3))
}

/// 10⁹ operations in a second, in a product of large matrices.
fn peak_gflops() -> f64 {
    const ROW_MAJOR: i32 = 101;
    const AS_IS: i32 = 111;
    let n = MATRIX_SIDE as i32;
    let a: Vec<f32> = (0..MATRIX_SIDE * MATRIX_SIDE).map(|i| (i % 7) as f32).collect();
    let mut c = vec![0.0; MATRIX_SIDE * MATRIX_SIDE];
    let product_s = (0..PRODUCTS).map(|_| {
        let begun = Instant::now();
        // SAFETY: all three matrices have `n` rows and `n` columns.
        unsafe {
            let (a, c) = (a.as_ptr(), c.as_mut_ptr());
            cblas_sgemm(ROW_MAJOR, AS_IS, AS_IS, n, n, n, 1.0, a, n, a, n, 0.0, c, n);
        }
        begun.elapsed().as_secs_f64()
    });
    2.0 * (MATRIX_SIDE as f64).powi(3) / product_s.fold(f64::MAX, f64::min) / 1e9
}

/// 10⁹ bytes that memory reads and writes in a second while it is copied.
fn memory_gb_s() -> f64 {
    let from = vec![1_u8; COPY_BYTES];
    let mut to = vec![2_u8; COPY_BYTES];
    let copy_s = (0..COPIES).map(|_| {
        let begun = Instant::now();
        std::hint::black_box(&mut to).copy_from_slice(std::hint::black_box(&from));
        begun.elapsed().as_secs_f64()
    });
    2.0 * COPY_BYTES as f64 / copy_s.fold(f64::MAX, f64::min) / 1e9
}
