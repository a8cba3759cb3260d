//! Mean time of a workload split into short invocations and in one long one, against the number of images.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use microlambda::DigestBuilder;
use microlambda_benches::figure::line::{LINES, LONG, LimitEnd, Line, UNLIMITED_MS};
use microlambda_benches::figure::plot;
use microlambda_benches::figure::raw::{Calibration, Occasions, Parameters, Raw, Row};
use microlambda_benches::figure::stand::Stand;
use microlambda_benches::figure::tables::{Results, text};
use microlambda_benches::figure::trial::Trial;
use microlambda_benches::pictures::{self, Motif};
use microlambda_benches::random::Random;
use microlambda_benches::report::{Finding, page_folder, publish};
use microlambda_benches::{Common, Error, Machine, bench_dir, check_programs, exit, load_average, now};
use microlambda_demo::Programs;
use tempfile::TempDir;

/// Size of the pictures, px.
const SIZE_PX: (u32, u32) = (640, 480);
/// Images of the workloads.
const IMAGES: [usize; 5] = [2, 5, 10, 20, 40];
/// … of a quick run.
const IMAGES_QUICK: [usize; 3] = [2, 5, 10];
/// Trials of each line and workload.
const TRIALS: usize = 40;
/// … of a quick run.
const TRIALS_QUICK: usize = 6;
/// Sites with the long invocation, each of which runs every workload once in a block: every ratio of the block is taken to their mean, as its noise is in
/// all of them. No site runs more trials than another, so that none is older.
const LONG_TRIALS: usize = 3;
/// No block begins that would probably end later than this, minutes.
const MINUTES: f64 = 110.0;
/// … of a quick run.
const MINUTES_QUICK: f64 = 9.0;
/// Long runs of the largest workload from whose median the cost of an image is taken.
const CALIBRATION_RUNS: usize = 5;
/// A line that does not end is cut off after so many long runs.
const CUT_OFF: f64 = 3.0;
/// The program of the line that saves its state without being split.
const KEEPER: &str = env!("CARGO_BIN_EXE_keeper");
/// All agents are watched for so long while they wait.
const IDLE: Duration = Duration::from_secs(5);

/// Times workloads under µλ and in one long invocation, in randomised blocks; can be stopped and resumed.
#[derive(Debug, Parser)]
#[command(name = "figure")]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Drop the trials that were kept, and begin anew
    #[arg(long)]
    fresh: bool,
    /// Drop them if they were run with other programs or parameters; otherwise that is an error
    #[arg(long)]
    fresh_if_changed: bool,
    /// Blocks, in each of which every line has a trial of every workload; those of former runs count [default: 40; with --quick 6]
    #[arg(long, value_name = "N")]
    trials: Option<usize>,
    /// Stop at the end of a block when the next one would not end in time [default: 110; with --quick 9]
    #[arg(long, value_name = "N")]
    minutes: Option<f64>,
    /// Seed of the order of trials
    #[arg(long, value_name = "N", default_value_t = 20_260_101)]
    seed: u64,
}

fn main() -> ExitCode {
    exit(run(&Args::parse()))
}

fn run(args: &Args) -> Result<(), Error> {
    check_programs()?;
    let machine = Machine::here();
    let parameters = parameters(args, &machine)?;
    let name = if args.common.quick { "figure-quick.csv" } else { "figure.csv" };
    let path = Some(bench_dir().join(name)).filter(|_| !args.common.dry);
    let mut raw = match Raw::open(path.as_deref(), &parameters, args.fresh) {
        Err(why) if args.fresh_if_changed => {
            eprintln!("{why}: begun anew");
            Raw::open(path.as_deref(), &parameters, true)?
        }
        outcome => outcome?,
    };
    let trials = args.trials.unwrap_or(if args.common.quick { TRIALS_QUICK } else { TRIALS });
    if raw.blocks() > 0 {
        eprintln!("{} of {trials} blocks are there already", raw.blocks());
    }
    if raw.blocks() < trials {
        measure(args, &machine, &mut raw, trials)?;
    }
    report(args, &machine, &raw, trials)
}

fn parameters(args: &Args, machine: &Machine) -> Result<Parameters, Error> {
    let programs = Programs::find()?;
    programs.check()?;
    let mut digest = DigestBuilder::new("figure");
    for path in [&programs.camera, &programs.edge, &programs.worker, Path::new(KEEPER)] {
        digest = digest.field(&fs::read(path)?);
    }
    Ok(Parameters {
        machine: machine.identity(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        programs: digest.finish().short(16),
        seed: args.seed,
        size_px: SIZE_PX,
        images: if args.common.quick { IMAGES_QUICK.to_vec() } else { IMAGES.to_vec() },
        lines: LINES.iter().map(|line| line.key.to_owned()).collect(),
        long_trials: LONG_TRIALS,
    })
}

/// Runs blocks until there are enough, or the time is over.
fn measure(args: &Args, machine: &Machine, raw: &mut Raw, trials: usize) -> Result<(), Error> {
    let minutes = args.minutes.unwrap_or(if args.common.quick { MINUTES_QUICK } else { MINUTES });
    let (start, limit) = (Instant::now(), Duration::from_secs_f64(minutes * 60.0));
    let folders = Folders::new(&raw.parameters.images)?;
    let mut bench = Bench::new(folders, raw.calibration.as_ref())?;
    raw.calibration = Some(bench.calibration.clone());
    let (mut longest, first) = (Duration::ZERO, raw.blocks());
    while raw.blocks() < trials && (raw.blocks() == first || start.elapsed() + longest < limit) {
        let begun = Instant::now();
        let block = bench.block(&raw.parameters, raw.blocks(), &machine.commit)?;
        raw.add(block)?;
        longest = longest.max(begun.elapsed());
        eprintln!("block {} of {trials} took {:.0} s", raw.blocks(), begun.elapsed().as_secs_f64());
    }
    Ok(())
}

fn report(args: &Args, machine: &Machine, raw: &Raw, trials: usize) -> Result<(), Error> {
    let calibration = raw.calibration.as_ref().ok_or("nothing was measured")?;
    let results = Results::of(raw);
    let mut note = String::new();
    if args.common.quick {
        note += "**A quick run with few trials and small workloads, for a first impression only.**\n\n";
    }
    if results.blocks < trials {
        note += &format!("**Stopped after {} of {trials} blocks; the same command continues.**\n\n", results.blocks);
    }
    let text = text(raw, calibration, &results, &note);
    let figures = serde_json::json!({ "parameters": raw.parameters, "calibration": calibration, "results": results });
    let machine = &on_occasions(machine, raw);
    // Its picture and its trials have places of their own.
    let (charts, raw_tables) = (Vec::new(), Vec::new());
    publish(&args.common, &Finding { name: "figure", text, figures: &figures, charts, raw: raw_tables, machine })?;
    if let Some(folder) = page_folder(&args.common) {
        plot::draw(&folder.join("figure.svg"), &results.points)?;
        fs::write(folder.join("figure.csv"), raw.text()?)?;
    }
    Ok(())
}

/// The machine with all occasions on which blocks were run, and not only the last.
fn on_occasions(machine: &Machine, raw: &Raw) -> Machine {
    let Some(Occasions { commits, first_began, last_began }) = raw.occasions() else { return machine.clone() };
    let of_commit = |(commit, blocks): &(&str, usize)| match *commit {
        "" => format!("unknown ({blocks} blocks)"),
        commit => format!("{commit} ({blocks} blocks)"),
    };
    let commit = commits.iter().map(of_commit).collect::<Vec<_>>().join(" and ");
    Machine { commit, began: format!("{first_began}, the last block {last_began}"), ..machine.clone() }
}

/// The workloads: a folder for each number of images, of the same pictures from the first on.
struct Folders {
    dir: TempDir,
    images: Vec<usize>,
}

impl Folders {
    fn new(images: &[usize]) -> Result<Self, Error> {
        let folders =
            Self { dir: tempfile::Builder::new().prefix("microlambda-figure").tempdir()?, images: images.to_vec() };
        let pictures = pictures::make(Motif::Scenes, folders.most(), SIZE_PX.0, SIZE_PX.1)?;
        for &images in images {
            pictures::write(&folders.of(images), &pictures[..images])?;
        }
        Ok(folders)
    }

    fn most(&self) -> usize {
        self.images.iter().copied().max().unwrap_or(0)
    }

    fn least(&self) -> usize {
        self.images.iter().copied().min().unwrap_or(0)
    }

    fn of(&self, images: usize) -> PathBuf {
        self.dir.path().join(images.to_string())
    }
}

/// All lines, warm.
struct Bench {
    stands: Vec<(&'static Line, Stand)>,
    calibration: Calibration,
    folders: Folders,
}

impl Bench {
    /// Starts the lines' sites; measures what an image costs unless that is known.
    fn new(folders: Folders, known: Option<&Calibration>) -> Result<Self, Error> {
        let most = folders.most();
        let warm_up = folders.of(most);
        let mut long = Stand::new(Line::of(LONG)?, UNLIMITED_MS, &warm_up, Path::new(KEEPER))?;
        let mut calibration = match known {
            Some(known) => known.clone(),
            None => calibrate(&mut long, &folders.of(most), most)?,
        };
        eprintln!("an image costs {:.1} ms", calibration.image_ms);
        let mut stands = vec![(Line::of(LONG)?, long)];
        for _ in 1..LONG_TRIALS {
            stands.push((Line::of(LONG)?, Stand::new(Line::of(LONG)?, UNLIMITED_MS, &warm_up, Path::new(KEEPER))?));
        }
        for line in LINES.iter().filter(|line| line.key != LONG) {
            let r_limit_ms = calibration.r_limit_ms.get(line.key).copied().ok_or("no limit for a line")?;
            let warm_up = if line.end == LimitEnd::Killed { folders.least() } else { most };
            stands.push((line, Stand::new(line, r_limit_ms, &folders.of(warm_up), Path::new(KEEPER))?));
        }
        let before_us: u64 = stands.iter().map(|(_, stand)| stand.cpu_us()).sum();
        std::thread::sleep(IDLE);
        let used_us = stands.iter().map(|(_, stand)| stand.cpu_us()).sum::<u64>() - before_us;
        if known.is_none() {
            calibration.idle_share = used_us as f64 / IDLE.as_micros() as f64;
        }
        Ok(Self { stands, calibration, folders })
    }

    fn trial(&mut self, stand: usize, images: usize) -> Result<Trial, Error> {
        let Calibration { image_ms, beside_ms, .. } = &self.calibration;
        let cut_off_ms = CUT_OFF * (image_ms * images as f64 + beside_ms);
        let (line, stand) = &mut self.stands[stand];
        let trial = stand.trial(&self.folders.of(images), cut_off_ms);
        trial.map_err(|why| format!("line {}, {images} images: {why}", line.key).into())
    }

    /// Every line at every workload, in an order of the block's own.
    fn block(&mut self, parameters: &Parameters, block: usize, commit: &str) -> Result<Vec<Row>, Error> {
        let began = now();
        let mut random = Random::new(parameters.seed.wrapping_add(block as u64));
        let stands = 0..self.stands.len();
        let mut order: Vec<(usize, usize)> =
            stands.flat_map(|stand| parameters.images.iter().map(move |&images| (stand, images))).collect();
        random.shuffle(&mut order);
        // A line that is killed starts anew in every trial.
        for (_, stand) in self.stands.iter_mut().filter(|(line, _)| line.end != LimitEnd::Killed) {
            stand.renew()?;
        }
        let mut rows = Vec::new();
        for (turn, (stand, images)) in order.into_iter().enumerate() {
            let load = load_average();
            let trial = self.trial(stand, images)?;
            let line = self.stands[stand].0.key.to_owned();
            let (began, commit) = (began.clone(), commit.to_owned());
            rows.push(Row { block, turn, began, commit, line, images, trial, load });
        }
        Ok(rows)
    }
}

/// What an image costs in a long invocation, and what comes beside the images.
fn calibrate(long: &mut Stand, folder: &Path, images: usize) -> Result<Calibration, Error> {
    let mut runs = Vec::new();
    for _ in 0..CALIBRATION_RUNS {
        let trial = long.trial(folder, f64::INFINITY)?;
        let [_, units, idle, ..] = trial.parts_ms;
        runs.push((units + idle, trial.total_ms));
    }
    // The median: a disturbance of one run would set the limits of all trials wrong.
    runs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (images_ms, total_ms) = runs[CALIBRATION_RUNS / 2];
    let (image_ms, beside_ms) = (images_ms / images as f64, total_ms - images_ms);
    let r_limit_ms = LINES.iter().map(|line| (line.key.to_owned(), line.r_limit_ms(image_ms))).collect();
    Ok(Calibration { image_ms, beside_ms, r_limit_ms, idle_share: 0.0 })
}
