//! From a step's last unit to the next step's first unit: on the same node, on another, and what disk and bus take.

use std::fs::OpenOptions;
use std::io::{Seek as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use microlambda_benches::bus::{connect, wait};
use microlambda_benches::chart::Chart;
use microlambda_benches::gap::{self, Gap};
use microlambda_benches::pictures::{self, Motif};
use microlambda_benches::raw_table::{RawTable, value};
use microlambda_benches::report::{Aim, Finding, publish, table};
use microlambda_benches::stats::Stats;
use microlambda_benches::{Common, Error, Machine, Site, check_programs, exit};
use microlambda_demo::BrokerUrl;
use microlambda_wire::Name;
use rumqttc::{Event, Packet, QoS};

/// Size of the pictures, px: a search takes some 20 ms.
const SIZE_PX: (u32, u32) = (240, 180);
/// The nodes.
const NODES: [&str; 2] = ["a", "b"];
/// Syncs, transactions and round trips measured before the agents start, and again after the job.
const PROBES: usize = 75;
/// Pause before each: a step syncs now and then, and disks may answer syncs that follow each other closely much later.
const PAUSE: Duration = Duration::from_millis(20);
/// Written by one sync, and carried by one message, bytes: about what a step adds.
const BLOCK_BYTES: usize = 4_096;
/// Longer hand-overs are listed one by one on standard error, ms.
const OUTLIER_MS: f64 = 50.0;
/// What a hand-over may take beside syncs and round trips, ms.
const ALLOWANCE_MS: f64 = 1.0;

/// Times hand-overs between short steps of two edge agents over mosquitto, beside the disk's sync and the bus's round trip.
#[derive(Debug, Parser)]
#[command(name = "handover")]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Frames of the folder, for each of the two placements
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    frames: usize,
    /// Limit of a step, ms
    #[arg(long, value_name = "N", default_value_t = 150)]
    r_limit_ms: u64,
}

/// What disk and bus take by themselves, ms.
#[derive(Debug, Clone, Default)]
struct Probes {
    sync: Vec<f64>,
    overwrite: Vec<f64>,
    commit: Vec<f64>,
    round_trip: Vec<f64>,
}

fn main() -> ExitCode {
    exit(run(&Args::parse()))
}

fn run(args: &Args) -> Result<(), Error> {
    check_programs()?;
    let machine = Machine::here();
    let pictures = pictures::make(Motif::Scenes, args.frames, SIZE_PX.0, SIZE_PX.1)?;
    let mut probes = Probes::default();
    let stay = job(args, &pictures, "stay", &mut probes)?;
    let spread = job(args, &pictures, "spread", &mut probes)?;
    let none = || "too few hand-overs: give more --frames";
    let of = |gaps: &[Gap], moved: bool, part: fn(&Gap) -> f64| {
        Stats::of(gaps.iter().filter(|gap| gap.moved == moved).map(part))
    };
    let same = of(&stay, false, |gap| gap.total).ok_or_else(none)?;
    let moved = of(&spread, true, |gap| gap.total).ok_or_else(none)?;
    let chart = chart(&stay, &spread, &probes);
    let raw = vec![raw_gaps(&stay, &spread), raw_probes(&probes)];
    let probe = |values: Vec<f64>| Stats::of(values).ok_or_else(none);
    let (sync, overwrite) = (probe(probes.sync)?, probe(probes.overwrite)?);
    let (commit, round_trip) = (probe(probes.commit)?, probe(probes.round_trip)?);
    let bound_same = 2.0 * sync.p50 + ALLOWANCE_MS;
    let bound_moved = bound_same + 3.0 * round_trip.p50;
    let aim = |what: &str, stats: Stats, bound: f64| Aim {
        aim: format!("{what} at most {bound:.2} ms at the median"),
        measured: format!("{:.2} ms", stats.p50),
        met: stats.p50 <= bound,
    };
    let aims = [
        aim("same node: 2 syncs + 1 ms, here", same, bound_same),
        aim("other node: 2 syncs + 1 ms + 3 round trips, here", moved, bound_moved),
    ];
    let rows = [
        ("hand-over, same node (*stay*)", Some(same)),
        ("… of it the result's transaction", of(&stay, false, |gap| gap.commit)),
        ("… of it claim to first unit", of(&stay, false, |gap| gap.claim)),
        ("… of it the rest", of(&stay, false, |gap| gap.rest)),
        ("hand-over, other node (*spread*)", Some(moved)),
        ("… of it the result's transaction", of(&spread, true, |gap| gap.commit)),
        ("… of it claim to first unit, on the peer", of(&spread, true, |gap| gap.claim)),
        ("… of it the rest, with the peer's transaction", of(&spread, true, |gap| gap.rest)),
        ("hand-over, same node (*spread*)", of(&spread, false, |gap| gap.total)),
        ("sync: append 4 KB, `fdatasync`", Some(sync)),
        ("sync: write 4 KB over old ones, `fdatasync`", Some(overwrite)),
        ("SQLite transaction of 4 KB, WAL, `synchronous=FULL`", Some(commit)),
        ("MQTT round trip: 4 KB there and back, QoS 1", Some(round_trip)),
    ];
    let figures = serde_json::json!({
        "r_limit_ms": args.r_limit_ms, "stay": stay, "spread": spread, "sync_ms": sync, "sync_overwrite_ms": overwrite, "sqlite_commit_ms": commit,
        "round_trip_ms": round_trip, "same_node_ms": same, "other_node_ms": moved, "aims": aims,
    });
    let text = text(args, &rows, &aims);
    publish(
        &args.common,
        &Finding { name: "handover", text, figures: &figures, charts: vec![chart], raw, machine: &machine },
    )
}

/// Every hand-over with its parts, in the order of the steps.
fn raw_gaps(stay: &[Gap], spread: &[Gap]) -> RawTable {
    let rows = [("stay", stay), ("spread", spread)].into_iter().flat_map(|(placement, gaps)| {
        gaps.iter().map(move |gap| {
            let first = [placement.to_owned(), gap.at.to_string(), gap.to.to_string(), gap.moved.to_string()];
            let parts = [gap.total, gap.commit, gap.claim, gap.rest].map(value);
            first.into_iter().chain(parts).collect::<Vec<String>>()
        })
    });
    let columns = ["placement", "record", "to", "moved", "total_ms", "commit_ms", "claim_ms", "rest_ms"];
    RawTable::new("handover", &columns, rows.collect())
}

/// Every sync, transaction and round trip, in the order of the run.
fn raw_probes(probes: &Probes) -> RawTable {
    let all = [
        ("sync, append", &probes.sync),
        ("sync, overwrite", &probes.overwrite),
        ("SQLite transaction", &probes.commit),
        ("MQTT round trip", &probes.round_trip),
    ];
    let rows = all.into_iter().flat_map(|(probe, times)| {
        let row = move |(number, ms): (usize, &f64)| vec![probe.to_owned(), number.to_string(), value(*ms)];
        times.iter().enumerate().map(row)
    });
    RawTable::new("handover-probes", &["probe", "number", "took_ms"], rows.collect())
}

fn chart(stay: &[Gap], spread: &[Gap], probes: &Probes) -> Chart {
    let gaps = |gaps: &[Gap], moved: bool| gaps.iter().filter(|gap| gap.moved == moved).map(|gap| gap.total).collect();
    let samples = vec![
        ("hand-over, same node (stay)".to_owned(), gaps(stay, false)),
        ("hand-over, same node (spread)".to_owned(), gaps(spread, false)),
        ("hand-over, other node (spread)".to_owned(), gaps(spread, true)),
        ("sync: append 4 KB".to_owned(), probes.sync.clone()),
        ("SQLite transaction of 4 KB".to_owned(), probes.commit.clone()),
        ("MQTT round trip".to_owned(), probes.round_trip.clone()),
    ];
    Chart::distribution("handover", "Hand-over, and what disk and bus take", "ms", samples)
}

fn text(args: &Args, rows: &[(&str, Option<Stats>)], aims: &[Aim]) -> String {
    let cells = |(what, stats): &(&str, Option<Stats>)| {
        let stats = (*stats)?;
        let figures = [format!("{:.2}", stats.p50), stats.p99_text(2), format!("{:.2}", stats.max)];
        Some([(*what).to_owned(), stats.count.to_string()].into_iter().chain(figures).collect())
    };
    let rows: Vec<Vec<String>> = rows.iter().filter_map(cells).collect();
    format!(
        "Two edge agents and a camera agent on loopback over mosquitto; `r_limit` {} ms, {} pictures of {}×{} px, once with placement *stay* and\n\
         once with *spread*. A hand-over is the time from the last unit of a step to the first unit of the next. Syncs,\n\
         transactions and round trips are measured in the same run, on the same file system and broker, before and after each job, each after a\n\
         pause of 20 ms.\n\n{}\n{}",
        args.r_limit_ms,
        args.frames,
        SIZE_PX.0,
        SIZE_PX.1,
        table(&["", "count", "p50, ms", "p99, ms", "largest, ms"], &rows),
        Aim::list(aims),
    )
}

fn job(args: &Args, pictures: &[Vec<u8>], placement: &str, probes: &mut Probes) -> Result<Vec<Gap>, Error> {
    eprintln!("placement {placement}");
    let mut site = Site::new()?;
    // A step is to be handed over to a node that waits for it.
    site.fan_out = false;
    let folder = site.folder("pictures");
    pictures::write(&folder, pictures)?;
    probe(&site, probes)?;
    for node in NODES {
        site.start_node(node, args.r_limit_ms, placement)?;
    }
    for node in NODES {
        site.wait_ready(&Name::new(node)?, 1)?;
    }
    site.play(&folder)?;
    // Steps that ran while the camera still filled its spool compete with it for the disk.
    let complete_at_us = microlambda_demo::monotonic_us();
    site.outcome(Duration::from_secs(900))?;
    probe(&site, probes)?;
    for (node, status) in &site.tally.nodes {
        let counted = status.counters.iter().filter(|(_, count)| *count > 0);
        let counted: Vec<String> = counted.map(|(name, count)| format!("{name} {count}")).collect();
        eprintln!("{node}: {}", counted.join(", "));
    }
    let gaps = gap::all(site.steps.iter().filter(|step| step.timing.last_unit_at_us > complete_at_us));
    for gap in gaps.iter().filter(|gap| gap.total > OUTLIER_MS) {
        eprintln!("{placement}, outlier: {gap:?}");
    }
    Ok(gaps)
}

fn probe(site: &Site, probes: &mut Probes) -> Result<(), Error> {
    let folder = site.folder("probes");
    std::fs::create_dir_all(&folder)?;
    probes.sync.extend(syncs(&folder.join("append"), PROBES)?);
    // A write-ahead log that was checkpointed is written over: no block is new, and the file system's own journal stays out.
    probes.overwrite.extend(syncs(&folder.join("overwrite"), 1)?);
    probes.commit.extend(commits(&folder.join("probe.sqlite"))?);
    probes.round_trip.extend(round_trips(site.broker.url())?);
    Ok(())
}

/// Does something after a pause, and says how long it took, ms.
fn timed<E>(work: impl FnOnce() -> Result<(), E>) -> Result<f64, E> {
    std::thread::sleep(PAUSE);
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64() * 1_000.0)
}

/// Writes blocks one behind the other and syncs each; after every `blocks` of them it begins again at the file's start.
fn syncs(path: &Path, blocks: usize) -> Result<Vec<f64>, Error> {
    let mut file = OpenOptions::new().create(true).write(true).truncate(false).open(path)?;
    let block = vec![0x5a; BLOCK_BYTES];
    let mut sync = |number: usize| {
        if number.is_multiple_of(blocks) {
            file.rewind()?;
        }
        file.write_all(&block)?;
        file.sync_data()
    };
    Ok((0..PROBES).map(|number| timed(|| sync(number))).collect::<Result<_, std::io::Error>>()?)
}

/// Transactions as the edge agent's store makes them.
fn commits(path: &Path) -> Result<Vec<f64>, Error> {
    let mut connection = rusqlite::Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", 256)?;
    connection.execute_batch("CREATE TABLE IF NOT EXISTS probe (id INTEGER PRIMARY KEY, body BLOB NOT NULL)")?;
    let block = vec![0x5a_u8; BLOCK_BYTES];
    let mut commit = || {
        let transaction = connection.transaction()?;
        transaction.execute("INSERT INTO probe (body) VALUES (?1)", [&block])?;
        transaction.commit()
    };
    // The log of a running agent has been through its first checkpoint.
    for _ in 0..PROBES {
        commit()?;
    }
    Ok((0..PROBES).map(|_| timed(&mut commit)).collect::<Result<_, rusqlite::Error>>()?)
}

/// A message to a second client and its answer, one after the other.
fn round_trips(broker: &BrokerUrl) -> Result<Vec<f64>, Error> {
    let (ping, pong) = ("microlambda-bench/ping", "microlambda-bench/pong");
    let (answering, mut answerer) = connect(broker, "bench-pong", ping)?;
    let (asking, mut asker) = connect(broker, "bench-ping", pong)?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if let Ok(Ok(Event::Incoming(Packet::Publish(message)))) =
                    answerer.recv_timeout(Duration::from_millis(100))
                {
                    // An answer that cannot be sent shows as a missing one.
                    let _ = answering.try_publish(pong, QoS::AtLeastOnce, false, message.payload.to_vec());
                }
            }
        });
        let block = vec![0x5a_u8; BLOCK_BYTES];
        let mut trip = || {
            asking.publish(ping, QoS::AtLeastOnce, false, block.clone())?;
            wait(&mut asker, |packet| matches!(packet, Packet::Publish(_)))
        };
        let trips = (0..PROBES).map(|_| timed(&mut trip)).collect();
        stop.store(true, Ordering::Relaxed);
        trips
    })
}
