//! One encoding by the built-in encoder and by dlib's, side by side on the faces of the photos.

#![expect(unsafe_code, reason = "the processor's peak is measured with OpenBLAS itself")]

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Instant;

use clap::Parser;
use face_worker::{AlignedFace, Dlib, ENVIRONMENT, EncoderChoice, Engine, decode};
use microlambda_benches::report::{Aim, Finding, publish, table};
use microlambda_benches::stats::Stats;
use microlambda_benches::{Common, Error, Machine, data_dir, exit};
use microlambda_faces::plan::clipped;
use serde::Serialize;

/// Multiplications with an addition in one encoding; those that meet only padding are not counted.
const MULTIPLY_ADDS: f64 = 240_871_424.0;
/// Rows and columns of the matrices whose product is the processor's peak.
const MATRIX_SIDE: usize = 1_024;
/// The product is formed so often; the best counts.
const PRODUCTS: u32 = 12;
/// Larger pictures are halved, px: their faces are looked for only to be encoded.
const PICTURE_SIDE_PX_MAX: u32 = 1_280;
/// How far two encodings of one face may be from each other.
const DISTANCE_MAX: f64 = 1e-5;
/// Of dlib's time that the built-in encoder may take.
const RATIO_MAX: f64 = 0.45;
/// Of the processor's peak that it must reach.
const PEAK_SHARE_MIN: f64 = 0.55;

/// Times of one encoding by the built-in encoder and by dlib's, by turns on the same faces, and how far they are apart.
#[derive(Debug, Parser)]
#[command(name = "encoding")]
struct Args {
    #[command(flatten)]
    common: Common,
    /// How often each face is encoded by each encoder
    #[arg(long, value_name = "N", default_value_t = 40)]
    rounds: usize,
}

/// What one encoder took for one encoding, ms.
#[derive(Debug, Serialize)]
struct Row {
    engine: String,
    ms: Stats,
    gflops: f64,
}

/// A face, ready for both encoders.
struct Face {
    picture: usize,
    aligned: AlignedFace,
}

// Linked already, as dlib needs it.
unsafe extern "C" {
    #[allow(clippy::too_many_arguments)]
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
    if ENVIRONMENT.iter().any(|(name, value)| !std::env::var(name).is_ok_and(|set| set == *value)) {
        // OpenBLAS counts its threads before `main`.
        let program = std::env::current_exe().unwrap_or_default();
        let error = Command::new(program).args(std::env::args_os().skip(1)).envs(ENVIRONMENT).exec();
        return exit(Err(error.into()));
    }
    exit(run(&args))
}

fn run(args: &Args) -> Result<(), Error> {
    let machine = Machine::here();
    let models = data_dir().join("models");
    let mut ours = Dlib::load_for(&models, EncoderChoice::BuiltIn)?;
    let mut theirs = Dlib::load_for(&models, EncoderChoice::Dlib)?;
    let (pictures, faces, align_ms) = faces(&mut ours)?;
    let (mut ours_ms, mut theirs_ms, mut ratios, mut farthest) = (Vec::new(), Vec::new(), Vec::new(), 0f64);
    for _ in 0..args.rounds {
        for face in &faces {
            let (a, theirs_took_ms) = timed(|| theirs.encode(&pictures[face.picture], &face.aligned))?;
            let (b, ours_took_ms) = timed(|| ours.encode(&pictures[face.picture], &face.aligned))?;
            let squares = a.iter().zip(&b).map(|(a, b)| f64::from(a - b).powi(2));
            farthest = farthest.max(squares.sum::<f64>().sqrt());
            ratios.push(ours_took_ms / theirs_took_ms);
            ours_ms.push(ours_took_ms);
            theirs_ms.push(theirs_took_ms);
        }
    }
    let peak_gflops = peak_gflops();
    let rows = [row(&ours, ours_ms), row(&theirs, theirs_ms)].into_iter().collect::<Option<Vec<_>>>();
    let (rows, ratio) = rows.zip(Stats::of(ratios)).ok_or("no face was encoded: --rounds is at least 1")?;
    let align = Stats::of(align_ms).ok_or("no face was found")?;
    let aims = aims(&rows, ratio, peak_gflops, farthest);
    let cells = |row: &Row| {
        let times = [row.ms.p10, row.ms.p50, row.ms.p99, row.ms.mean].map(|ms| format!("{ms:.2}"));
        let share = format!("{:.0} %", 100.0 * row.gflops / peak_gflops);
        [row.engine.clone()].into_iter().chain(times).chain([format!("{:.0}", row.gflops), share]).collect()
    };
    let header = ["engine", "p10, ms", "p50, ms", "p99, ms", "mean, ms", "GFLOPS at p50", "of the peak"];
    let text = format!(
        "{} faces of the reported photos, each encoded {} times by both encoders in turn, in one process with one thread. An encoding is\n\
         {:.0} million multiply-adds, not counting those on padding. The peak is the best of {PRODUCTS} products of matrices of {MATRIX_SIDE}×{MATRIX_SIDE}\n\
         with OpenBLAS on one thread: {peak_gflops:.0} GFLOPS with the kernel that it picks here. Landmarks and chip come on top for both: {:.2} ms at p50.\n\n\
         {}\nBuilt-in by dlib's time, pair by pair: {:.3} at p50, {:.3} at p99; encodings at most {farthest:.1e} apart.\n\n{}",
        faces.len(),
        args.rounds,
        MULTIPLY_ADDS / 1e6,
        align.p50,
        table(&header, &rows.iter().map(cells).collect::<Vec<_>>()),
        ratio.p50,
        ratio.p99,
        Aim::list(&aims),
    );
    let figures = serde_json::json!({
        "rows": rows, "ratio": ratio, "align_ms": align, "peak_gflops": peak_gflops, "farthest": farthest, "aims": aims,
        "faces": faces.len(),
    });
    publish(&args.common, &Finding { name: "encoding", text, figures: &figures, machine: &machine })
}

fn aims(rows: &[Row], ratio: Stats, peak_gflops: f64, farthest: f64) -> Vec<Aim> {
    let share = rows.first().map_or(0.0, |row| row.gflops / peak_gflops);
    vec![
        Aim {
            aim: format!("at most {RATIO_MAX} of dlib's time"),
            measured: format!("{:.3}", ratio.p50),
            met: ratio.p50 <= RATIO_MAX,
        },
        Aim {
            aim: format!("at least {:.0} % of the processor's peak", 100.0 * PEAK_SHARE_MIN),
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

fn row(engine: &Dlib, took_ms: Vec<f64>) -> Option<Row> {
    let ms = Stats::of(took_ms)?;
    Some(Row { engine: engine.describe(), ms, gflops: 2.0 * MULTIPLY_ADDS / (ms.p50 * 1e6) })
}

/// Every face of the photos of people, with its picture's number, and what landmarks and chips took, ms.
#[expect(clippy::type_complexity, reason = "three lists that belong together for three lines")]
fn faces(engine: &mut Dlib) -> Result<(Vec<<Dlib as Engine>::Picture>, Vec<Face>, Vec<f64>), Error> {
    let folder = data_dir().join("photos/people");
    let mut paths = std::fs::read_dir(&folder)
        .map_err(|error| format!("{}: {error}; run `make setup`", folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>, Error>>()?;
    paths.sort();
    let (mut pictures, mut faces, mut align_ms) = (Vec::new(), Vec::new(), Vec::new());
    for path in paths {
        let mut pixels = decode(&std::fs::read(path)?)?;
        while pixels.width_px().max(pixels.height_px()) > PICTURE_SIDE_PX_MAX {
            pixels = pixels.half();
        }
        let picture = engine.open(&pixels);
        for (rect, _) in engine.search(&pixels, 0.0)? {
            let rect = clipped(rect, pixels.width_px(), pixels.height_px());
            let ((aligned, _), took_ms) = timed(|| engine.align(&pixels, &picture, rect))?;
            align_ms.push(took_ms);
            faces.push(Face { picture: pictures.len(), aligned });
        }
        pictures.push(picture);
    }
    Ok((pictures, faces, align_ms))
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
