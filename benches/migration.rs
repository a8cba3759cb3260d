//! A chain moves to a peer behind a slow link: how long no unit runs, and what crosses the link for it.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use microlambda_benches::bus::Kind;
use microlambda_benches::cable::{COUNTED_BY_CARRIED, Cable};
use microlambda_benches::chart::{Chart, Curve};
use microlambda_benches::gap::{self, Gap};
use microlambda_benches::link::{Crossing, Line, Link};
use microlambda_benches::pictures::{self, Motif};
use microlambda_benches::raw_table::{RawTable, value};
use microlambda_benches::report::{Aim, Finding, publish, table};
use microlambda_benches::stats::Stats;
use microlambda_benches::{Common, Error, Machine, Site, check_programs, exit};
use microlambda_demo::relay::Endpoint;
use microlambda_demo::{Note, Programs, monotonic_us};
use microlambda_wire::Name;
use serde::Serialize;

/// The node beside camera and broker, and the peer that may be far away.
const NODES: [&str; 2] = ["near", "far"];
/// Longest wait for anything, whatever the link is like.
const PATIENCE: Duration = Duration::from_secs(120);
/// A node that came up has heard what others hold after this, and may bid, µs: longer than agents wait for that.
const SETTLED_US: u64 = 350_000;
/// Heads are repeated so often, ms.
const ANNOUNCE_MS: u64 = 500;
/// What a move may take beside the ways over the link and what it takes without one, ms.
const ALLOWANCE_MS: f64 = 10.0;
/// A node is stopped, the other goes on, and the first is back: the chain runs for about so long meanwhile, s.
const MOVE_S: usize = 1;
/// Fewer moves have no median that is judged.
const MOVES_MIN: usize = 10;

/// Times how a chain's steps move between a node beside the broker and a peer behind a link of some bandwidth and delay.
///
/// With --quick two minutes: one bandwidth, one round trip.
#[derive(Debug, Parser)]
#[command(name = "migration")]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Bandwidths of the link, Mbit/s; all of them with the middle round trip, and the smallest with the longest
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [5.0, 20.0, 100.0])]
    mbit: Vec<f64>,
    /// Round trips over the link, ms, half of it each way; all of them with the middle bandwidth
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1.0, 10.0, 50.0])]
    round_trip_ms: Vec<f64>,
    /// How long each job is watched whose nodes are drawn, s
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Moves of each job whose nodes are stopped, to the peer and back by turns: what has fewer than ten to the peer is not judged
    #[arg(long, value_name = "N", default_value_t = 22, value_parser = clap::value_parser!(u16).range(1..))]
    moves: u16,
}

/// How a chain comes to the other node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Way {
    /// A node is drawn for each step, and the other one bids a little later.
    Drawn,
    /// The node that has the chain is stopped in the middle of a step, in order.
    Stopped,
}

impl Way {
    fn title(self) -> &'static str {
        match self {
            Self::Drawn => "drawn",
            Self::Stopped => "stopped",
        }
    }
}

/// What a continuation has to carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    /// Frames without faces.
    Small,
    /// Frames of one face each, with its encoding.
    Large,
}

impl State {
    /// Pictures and their size, px.
    fn pictures(self) -> (Motif, (u32, u32)) {
        match self {
            Self::Small => (Motif::Faceless, (160, 120)),
            Self::Large => (Motif::Portraits, (128, 128)),
        }
    }

    /// More pictures than two nodes that take turns get through in a second.
    fn frames_per_s(self) -> usize {
        match self {
            Self::Small => 500,
            Self::Large => 250,
        }
    }

    /// Limit of a step, ms. A drawn node's large state is more than goes along with a continuation; one that is stopped must not have to
    /// be asked for what it no longer answers.
    fn r_limit_ms(self, way: Way) -> u64 {
        match (self, way) {
            (Self::Small, Way::Drawn) => 50,
            (Self::Small, Way::Stopped) => 150,
            (Self::Large, Way::Drawn) => 600,
            (Self::Large, Way::Stopped) => 300,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Large => "large",
        }
    }
}

/// Where the peer is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    /// Steps stay where they are.
    SameNode,
    /// On the same machine.
    Loopback,
    /// Behind a link.
    Behind(Line),
}

/// Bytes that crossed the link between a step's last unit and the next one's first, KB of 10^3 bytes.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Crossed {
    state: f64,
    frames: f64,
    rest: f64,
}

/// What was seen at one place with one state.
#[derive(Debug, Clone, Serialize)]
struct Row {
    way: Way,
    place: String,
    /// The link to the peer, if there is one.
    line: Option<Line>,
    state: State,
    steps: usize,
    /// Of the announced states, those that went along with the continuation; the others had to be asked for.
    by_value: usize,
    /// Frames a step got through, in the mean.
    frames_per_step: f64,
    /// On the same node, whichever it is; to the peer; and back.
    stayed: Option<Stats>,
    to_peer: Option<Stats>,
    back: Option<Stats>,
    /// In the mean over the hand-overs to the peer.
    crossed_to_peer: Crossed,
    /// Steps that both nodes ran, as far as they have told.
    run_twice: u64,
    gaps: Vec<Gap>,
}

fn main() -> ExitCode {
    exit(run(&Args::parse()))
}

fn run(args: &Args) -> Result<(), Error> {
    check_programs()?;
    let machine = Machine::here();
    let shaping = shaping()?;
    let mut rows = Vec::new();
    for state in [State::Small, State::Large] {
        let (motif, size_px) = state.pictures();
        let count = |way| match way {
            Way::Drawn => state.frames_per_s() * args.seconds as usize,
            Way::Stopped => state.frames_per_s() * MOVE_S * usize::from(args.moves),
        };
        let most = count(Way::Drawn).max(count(Way::Stopped));
        let pictures = pictures::make(motif, most, size_px.0, size_px.1)?;
        for way in [Way::Drawn, Way::Stopped] {
            for place in places(args, way) {
                let row = measure(args, (way, place, state), &pictures[..count(way)], shaping.is_ok())?;
                eprintln!("{}", serde_json::to_string(&Row { gaps: Vec::new(), ..row.clone() })?);
                rows.push(row);
            }
        }
    }
    let aim = in_time(&rows, shaping.is_ok());
    let text = format!("{}\n{}", text(args, &rows, &shaping), Aim::list(std::slice::from_ref(&aim)));
    let figures = serde_json::json!({ "seconds": args.seconds, "moves": args.moves, "rows": rows, "aims": [aim] });
    let (charts, raw) = (charts(args, &rows), vec![raw(&rows)]);
    publish(&args.common, &Finding { name: "migration", text, figures: &figures, charts, raw, machine: &machine })
}

/// Every hand-over with its parts, in the order of the steps.
fn raw(rows: &[Row]) -> RawTable {
    let rows = rows.iter().flat_map(|row| {
        row.gaps.iter().map(move |gap| {
            let of_job = [row.state.title(), row.way.title(), row.place.as_str()].map(str::to_owned);
            let of_gap = [gap.at.to_string(), gap.to.to_string(), gap.moved.to_string()];
            let parts = [gap.total, gap.commit, gap.claim, gap.rest].map(value);
            of_job.into_iter().chain(of_gap).chain(parts).collect::<Vec<String>>()
        })
    });
    let columns = ["state", "way", "place", "record", "to", "moved", "total_ms", "commit_ms", "claim_ms", "rest_ms"];
    RawTable::new("migration", &columns, rows.collect())
}

/// What bandwidth does at the middle round trip, what the round trip does at the middle bandwidth, and all moves.
fn charts(args: &Args, rows: &[Row]) -> Vec<Chart> {
    let middle = |values: &[f64]| values.get(values.len() / 2).copied();
    let curves = |size: fn(&Line) -> f64, fixed: fn(&Line) -> f64, at: Option<f64>| {
        let curve = |state: State, name: &str, figure: fn(&Stats) -> f64| -> Curve {
            let of_state = rows.iter().filter(|row| row.way == Way::Stopped && row.state == state);
            let point = |row: &Row| {
                let line = row.line.filter(|line| Some(fixed(line)) == at)?;
                Some((size(&line), figure(&row.to_peer?)))
            };
            (format!("{} state, {name}", state.title()), of_state.filter_map(point).collect())
        };
        let both = [State::Small, State::Large]
            .map(|state| [curve(state, "p50", |moves| moves.p50), curve(state, "largest", |moves| moves.max)]);
        both.concat()
    };
    let moves = rows.iter().flat_map(|row| {
        [("to the peer", true), ("back", false)].map(|(name, to_peer)| {
            let moves = row.gaps.iter().filter(|gap| gap.moved && (gap.to.as_str() == NODES[1]) == to_peer);
            let name = format!("{}, {}, {}: {name}", row.way.title(), row.state.title(), row.place);
            (name, moves.zip(1..).map(|(gap, number)| (f64::from(number), gap.total)).collect())
        })
    });
    let (bandwidth, distance) = (middle(&args.mbit), middle(&args.round_trip_ms));
    let title =
        |what: &str, at: Option<f64>, unit| format!("To a peer by {what}, at {} {unit}", at.unwrap_or_default());
    vec![
        Chart::sizes(
            "migration-bandwidth",
            &title("bandwidth", distance, "ms there and back"),
            ["Mbit/s", "ms"],
            curves(|line| line.mbit_per_s, |line| line.round_trip_ms, distance),
        ),
        Chart::sizes(
            "migration-delay",
            &title("round trip", bandwidth, "Mbit/s"),
            ["round trip, ms", "ms"],
            curves(|line| line.round_trip_ms, |line| line.mbit_per_s, bandwidth),
        ),
        Chart::data("migration-moves", ["move", "ms"], moves.collect()),
    ]
}

/// That a link costs a chain that is handed on no more than its way: the state's one way, and there and back for a frame.
fn in_time(rows: &[Row], shaped: bool) -> Aim {
    let counted = if shaped { COUNTED_BY_CARRIED } else { 1.0 };
    let stopped = || rows.iter().filter(|row| row.way == Way::Stopped);
    let enough = |moves: &Stats| moves.count >= MOVES_MIN;
    let late_ms = |row: &Row| {
        let line = row.line?;
        let here = stopped().find(|here| here.state == row.state && here.line.is_none())?.to_peer?;
        let Crossed { state, frames, rest } = row.crossed_to_peer;
        let bound_ms = here.p50 + 1.5 * line.round_trip_ms + (state + frames + rest) * counted * 8.0 / line.mbit_per_s;
        let moves = row.to_peer.filter(enough)?;
        Some((moves.p50 - bound_ms, moves))
    };
    let judged: Vec<(f64, Stats)> = stopped().filter_map(late_ms).collect();
    let (links, latest) = (judged.len(), judged.iter().map(|(ms, _)| *ms).fold(f64::NEG_INFINITY, f64::max));
    let late = judged.iter().filter(|(ms, _)| *ms > ALLOWANCE_MS).count();
    let largest = judged.iter().map(|(_, moves)| moves.max).fold(0.0, f64::max);
    let not_judged = stopped().filter(|row| row.line.is_some()).count() - links;
    Aim {
        aim: format!(
            "*stopped*: to the peer within the time on loopback, 1.5 round trips, the time of all KB (and their headers) at the bandwidth, and {ALLOWANCE_MS} ms, at p50"
        ),
        measured: if links == 0 {
            format!("nothing moved to the peer {MOVES_MIN} times")
        } else {
            format!(
                "{late} of {links} links later; the worst {latest:.1} ms on top of the first three; the largest of all these moves {largest:.1} ms; \
                 {not_judged} links with fewer than {MOVES_MIN} moves"
            )
        },
        met: late == 0 && links > 0,
    }
}

fn places(args: &Args, way: Way) -> Vec<Place> {
    let mut lines = Line::cross(&args.mbit, &args.round_trip_ms);
    if args.common.quick {
        let middle = [args.mbit[args.mbit.len() / 2], args.round_trip_ms[args.round_trip_ms.len() / 2]];
        lines.retain(|line| [line.mbit_per_s, line.round_trip_ms] == middle);
    }
    let here = if way == Way::Drawn { vec![Place::SameNode, Place::Loopback] } else { vec![Place::Loopback] };
    here.into_iter().chain(lines.into_iter().map(Place::Behind)).collect()
}

/// Whether the kernel limits bandwidths for us, else why not.
fn shaping() -> Result<Result<(), String>, Error> {
    let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    let outcome = Cable::lay(&Programs::find()?, 1.0, nobody);
    Ok(outcome.map(drop).map_err(|why| why.to_string()))
}

/// Runs a job and looks at its hand-overs.
fn measure(
    args: &Args,
    (way, place, state): (Way, Place, State),
    pictures: &[Vec<u8>],
    shaped: bool,
) -> Result<Row, Error> {
    let r_limit_ms = state.r_limit_ms(way);
    let mut site = Site::new()?;
    // A step is to be handed over to a node that waits for it.
    site.fan_out = false;
    site.announce_ms = ANNOUNCE_MS;
    let folder = site.folder("pictures");
    pictures::write(&folder, pictures)?;
    site.fill("camera", &folder)?;
    let (_, port) = site.broker.url().address();
    let broker = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let (mut cable, mut link) = (None, None);
    if let Place::Behind(line) = place {
        let (mut end, mut own) = (Endpoint::Tcp(broker.to_string()), line);
        if shaped {
            let laid = Cable::lay(&Programs::find()?, line.mbit_per_s, broker)?;
            end = cable.insert(laid).far();
            own.mbit_per_s = f64::INFINITY;
        }
        link = Some(Link::start(end, own, site.prefix())?);
    }
    let placement = if place == Place::SameNode || way == Way::Stopped { "stay" } else { "spread" };
    site.start_node(NODES[0], r_limit_ms, placement)?;
    let far = link.as_ref().map_or(port, |link| link.address().port());
    let far = site.broker.url().at("127.0.0.1", far);
    site.start_node_on(&far, NODES[1], r_limit_ms, placement)?;
    for node in NODES {
        site.wait_ready(&Name::new(node)?, 1)?;
    }
    site.show("camera", &folder)?;
    match way {
        Way::Drawn => watch(&mut site, args.seconds)?,
        Way::Stopped => hand_about(&mut site, r_limit_ms, args.moves)?,
    }
    let crossings = link.as_ref().map(Link::crossings).unwrap_or_default();
    drop((link, cable));
    Ok(row(&site, (way, place, state), &crossings))
}

/// Watches a job for some time from its announcement on, or up to its end.
fn watch(site: &mut Site, seconds: u64) -> Result<(), Error> {
    let mut until_us = None;
    site.wait_for("time that a job is watched", PATIENCE, |site, seen| {
        if let Some(Note::CameraHead(_)) = seen.map(|seen| &seen.note) {
            until_us = until_us.or(Some(monotonic_us() + seconds * 1_000_000));
        }
        site.tally.done.is_some() || until_us.is_some_and(|until_us| monotonic_us() >= until_us)
    })
}

/// Stops the node that has the chain, in two thirds of a step, and starts it again when the other has gone on; again and again.
fn hand_about(site: &mut Site, r_limit_ms: u64, moves: u16) -> Result<(), Error> {
    let names = [Name::new(NODES[0])?, Name::new(NODES[1])?];
    let (mut starts, mut done) = ([1, 1], 0);
    while done < moves {
        let before = site.steps.len();
        site.wait_for("step", PATIENCE, |site, _| site.steps.len() > before || site.tally.done.is_some())?;
        let holder = site.steps.last().map(|step| step.node.clone());
        let Some((old, new)) = [(0, 1), (1, 0)].into_iter().find(|(old, _)| holder.as_ref() == Some(&names[*old]))
        else {
            return Err("a step of nobody".into());
        };
        site.wait_ready(&names[new], starts[new])?;
        site.wait_for("status", PATIENCE, |site, _| site.tally.nodes.get(&names[new]).is_some_and(|node| node.online))?;
        site.listen_until(monotonic_us() + SETTLED_US);
        let before = site.steps.len();
        site.wait_for("next step", PATIENCE, |site, _| site.steps.len() > before || site.tally.done.is_some())?;
        if site.tally.done.is_some() {
            eprintln!("the job has ended after {done} moves");
            return Ok(());
        }
        let Some(last) = site.steps.last().filter(|last| last.node == names[old]) else { continue };
        site.listen_until(last.timing.last_unit_at_us + r_limit_ms * 2_000 / 3);
        if site.tally.done.is_some() {
            continue;
        }
        let before = site.steps.len();
        site.node(&names[old])?.terminate(PATIENCE).ok_or("a node does not end")?;
        site.wait_for("step of the other node", PATIENCE, |site, _| {
            site.steps[before..].iter().any(|step| step.node == names[new])
        })?;
        site.node(&names[old])?.respawn()?;
        starts[old] += 1;
        done += 1;
    }
    Ok(())
}

fn row(site: &Site, (way, place, state): (Way, Place, State), crossings: &[Crossing]) -> Row {
    let to_peer = |gap: &Gap| gap.to.as_str() == NODES[1];
    let gaps = gap::all(site.steps.iter());
    let of = |wanted: &dyn Fn(&&Gap) -> bool| Stats::of(gaps.iter().filter(wanted).map(|gap| gap.total));
    let moved: Vec<&Gap> = gaps.iter().filter(|gap| gap.moved && to_peer(gap)).collect();
    let count = |name: &str| {
        let counters = site.tally.nodes.values().flat_map(|status| &status.counters);
        counters.filter(|(counter, _)| counter == name).map(|(_, count)| count).sum()
    };
    let frames: u64 =
        site.steps.iter().map(|step| step.head.version.sequence.saturating_sub(step.parent.version.sequence)).sum();
    Row {
        way,
        place: match place {
            Place::SameNode => "same node".into(),
            Place::Loopback => "peer on loopback".into(),
            Place::Behind(line) => format!("{} Mbit/s, {} ms", line.mbit_per_s, line.round_trip_ms),
        },
        line: match place {
            Place::SameNode | Place::Loopback => None,
            Place::Behind(line) => Some(line),
        },
        state,
        steps: site.steps.len(),
        by_value: site.steps.iter().filter(|step| step.by_value).count(),
        frames_per_step: frames as f64 / site.steps.len().max(1) as f64,
        stayed: of(&|gap| !gap.moved),
        to_peer: of(&|gap| gap.moved && to_peer(gap)),
        back: of(&|gap| gap.moved && !to_peer(gap)),
        crossed_to_peer: crossed(&moved, crossings),
        run_twice: count("steps-run-twice"),
        gaps,
    }
}

/// What crossed during these hand-overs, in the mean.
fn crossed(gaps: &[&Gap], crossings: &[Crossing]) -> Crossed {
    let kb = |kind: Kind| {
        let during = |gap: &&&Gap| {
            let (from_us, to_us) = gap.between_us;
            let bytes = crossings.iter().filter(|one| one.kind == kind && (from_us..=to_us).contains(&one.at_us));
            bytes.map(|one| one.bytes).sum::<usize>()
        };
        gaps.iter().map(|gap| during(&gap)).sum::<usize>() as f64 / 1e3 / gaps.len().max(1) as f64
    };
    Crossed { state: kb(Kind::State), frames: kb(Kind::Frames), rest: kb(Kind::Rest) }
}

fn text(args: &Args, rows: &[Row], shaping: &Result<(), String>) -> String {
    let bandwidth = match shaping {
        Ok(()) => "the kernel limits its bandwidth (`tc tbf` at both ends\nof a virtual cable between two network namespaces), and a proxy adds the delay".to_owned(),
        Err(why) => format!("a proxy delays bytes to model bandwidth\nand round trip (`tc tbf` was not available: {why})"),
    };
    let stats = |stats: &Option<Stats>| match stats {
        Some(stats) => [stats.count.to_string(), format!("{:.1}", stats.p50), format!("{:.1}", stats.max)],
        None => ["0".into(), "–".into(), "–".into()],
    };
    let cells = |row: &Row| {
        let Crossed { state, frames, rest } = row.crossed_to_peer;
        let measured = row.line.is_some() && row.to_peer.is_some();
        let kb = [state, frames, rest].map(|kb| if measured { format!("{kb:.1}") } else { "–".into() });
        let stayed = row.stayed.map_or_else(|| "–".into(), |stats| format!("{:.1}", stats.p50));
        let first = [row.state.title().to_owned(), row.place.clone(), format!("{:.0}", row.frames_per_step)];
        let carried = [format!("{} of {}", row.by_value, row.steps), stayed];
        let times = stats(&row.to_peer).into_iter().chain(stats(&row.back));
        first.into_iter().chain(carried).chain(times).chain(kb).chain([row.run_twice.to_string()]).collect()
    };
    let header = [
        "state",
        "peer",
        "frames per step",
        "by value",
        "stays, p50, ms",
        "moves to the peer",
        "p50, ms",
        "largest, ms",
        "moves back",
        "p50, ms",
        "largest, ms",
        "state, KB",
        "frames, KB",
        "rest, KB",
        "run twice",
    ];
    let of = |way: Way| table(&header, &rows.iter().filter(|row| row.way == way).map(cells).collect::<Vec<_>>());
    let limits = |state: State| [Way::Drawn, Way::Stopped].map(|way| state.r_limit_ms(way));
    let ([small, small_stopped], [large, large_stopped]) = (limits(State::Small), limits(State::Large));
    format!(
        "A camera, mosquitto and one edge agent run on one computer; a second edge agent reaches the broker over a link: {bandwidth},\n\
         the same in both directions. The *ms* of a link are a round trip, so each direction is delayed by half of that.\n\
         *Small*: pictures without faces. *Large*: pictures of one face, each with its encoding.\n\
         *By value*: states sent with their continuation, as they are up to 48 KB; the others were requested. A move lasts from the\n\
         last unit on one node to the first on the other; *KB* is the mean amount sent over the link, in both directions, during a move to the peer.\n\
         *Run twice*: steps that both nodes ran, as far as they reported it.\n\n\
         **Drawn.** Placement *spread* draws the node of each step, *stay* for *same node*; `r_limit` {small} and {large} ms; {} s each. A node that is not drawn\n\
         bids after 40 ms if it has heard no claim, so a peer with a longer delay than that is passed over.\n\n{}\n\
         **Stopped.** Placement *stay*; the node that has the chain gets SIGTERM after two thirds of a step, `r_limit` {small_stopped} and {large_stopped} ms; it commits,\n\
         hands over the chain and exits. {} times, alternately; links with fewer than {MOVES_MIN} moves to the peer are not judged.\n\n{}",
        args.seconds,
        of(Way::Drawn),
        args.moves,
        of(Way::Stopped),
    )
}
