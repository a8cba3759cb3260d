//! A node or a broker that is ten times slower than the camera: memory stays bounded, and what cannot be kept is dropped at the
//! camera alone, where it is counted and leaves a gap in the chain's records.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use edge_agent::store::{SqliteStore, Store};
use image::{ImageFormat, RgbImage};
use microlambda_demo::{Agent, Note};
use microlambda_tests::{Site, with_comment};
use microlambda_wire::{GapReason, Record, SourceCounters};
use rustix::process::{Pid, Signal, kill_process};

/// Pictures that the live camera takes, 50 ms apart at least.
const PICTURES: u64 = 240;
/// So many fit its spool.
const SPOOL_FRAMES: i64 = 20;
/// What the largest process may have had resident, KiB; all pictures together are far more.
const EDGE_KIB_MAX: u64 = 32 << 10;
const CAMERA_KIB_MAX: u64 = 24 << 10;
const R_LIMIT_MS: u64 = 2_000;

/// A picture of some 350 KB that no encoder can shorten.
fn picture(number: u32, deed: &str) -> Vec<u8> {
    let mut noise = 0x9e37_79b9_u32 ^ number;
    let pixels = RgbImage::from_fn(640, 480, |_, _| {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let [_, r, g, b] = noise.to_be_bytes();
        image::Rgb([r, g, b])
    });
    let mut jpeg = std::io::Cursor::new(Vec::new());
    pixels.write_to(&mut jpeg, ImageFormat::Jpeg).expect("a picture");
    with_comment(jpeg.get_ref(), format!("mad:{deed}").as_bytes())
}

fn table(entries: &[(&str, toml::Value)]) -> toml::Value {
    toml::Value::Table(entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect())
}

fn small_spool() -> (String, toml::Value) {
    ("spool".to_owned(), table(&[("frames-max", SPOOL_FRAMES.into())]))
}

/// All pictures of these cameras are the same, and each is work.
fn every_picture() -> (String, toml::Value) {
    ("motion".to_owned(), table(&[("still-interval-s", 0.into())]))
}

/// A live camera that takes a number of pictures and then sees nothing any more.
fn start_live_camera(site: &mut Site, deed: &str) {
    let folder = site.folder("live");
    let file = folder.join("picture.jpg");
    let jpeg = picture(1, deed);
    assert!(jpeg.len() as u64 * PICTURES > EDGE_KIB_MAX * 1_024, "all pictures would not fit the bound");
    fs::write(&file, jpeg).expect("a photo");
    let script = format!(
        "i=0; while [ $i -lt {PICTURES} ]; do cat '{}'; sleep 0.05; i=$((i+1)); done; exec sleep 600",
        file.display()
    );
    let command: Vec<toml::Value> = ["sh", "-c", &script].map(toml::Value::from).to_vec();
    let source = table(&[("kind", "command".into()), ("command", command.into()), ("silence-s", 0.into())]);
    site.start_camera_with(
        &folder,
        [("source".to_owned(), source), small_spool(), every_picture()].into_iter().collect(),
    );
}

/// Waits until the camera says that it has dropped so many pictures; how many it says.
fn wait_for_drops(site: &mut Site, least: u64) -> u64 {
    let mut dropped = 0;
    site.wait_for("pictures dropped by the camera", |_, seen| match seen.map(|seen| &seen.note) {
        Some(Note::CameraStatus(status)) => {
            dropped = status.counters.dropped;
            dropped >= least
        }
        _ => false,
    });
    dropped
}

/// Waits until the node has folded every picture, or a gap in its place, and checks that what the camera counts as dropped is what
/// stands in gaps; pictures looked at, and in gaps.
fn account_for_all(site: &mut Site) -> (u64, u64) {
    let mut dropped = 0;
    site.wait_for("an account of every picture", |_, seen| {
        match seen.map(|seen| &seen.note) {
            Some(Note::CameraStatus(status)) => dropped = status.counters.dropped,
            Some(Note::Continuation(note)) => return note.head.version.sequence == PICTURES,
            _ => {}
        }
        false
    });
    let (frames, gaps) = held(site, "a");
    println!("{frames} pictures looked at, {gaps} in gaps");
    assert_eq!(frames + gaps, PICTURES);
    // The camera's status comes some seconds after what it tells.
    let dropped = if dropped < gaps { wait_for_drops(site, gaps) } else { dropped };
    assert_eq!(dropped, gaps, "every picture that was dropped is in a gap");
    (frames, gaps)
}

/// Frames in a node's chain, and numbers in gaps because the spool was full.
fn held(site: &mut Site, node: &str) -> (u64, u64) {
    let state = site.node(node).config().with_file_name("state");
    let store = SqliteStore::open_read_only(&state).expect("its database");
    let chains = store.chains().expect("its chains");
    let (entries, _) = store.entries(&chains[0].name, 0, usize::MAX).expect("its records");
    let gaps = entries.iter().map(|entry| match &entry.record {
        Record::Gap { count, reason: GapReason::SpoolFull } => *count,
        Record::Gap { reason: GapReason::Unused, .. }
        | Record::Frame { .. }
        | Record::End { .. }
        | Record::Restart { .. } => 0,
    });
    let frames = entries.iter().filter(|entry| matches!(entry.record, Record::Frame { .. })).count();
    (frames as u64, gaps.sum())
}

/// What a program of this agent has had resident at most, KiB.
fn peak_kib(agent: &Agent, program: &str) -> u64 {
    let of = |pid: u32| {
        let text =
            |file: &str| fs::read_to_string(Path::new("/proc").join(pid.to_string()).join(file)).unwrap_or_default();
        if text("comm").trim() != program {
            return None;
        }
        let status = text("status");
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok())
    };
    agent.pids().into_iter().find_map(of).expect("a process of this name")
}

fn assert_memory_is_bounded(site: &mut Site, node: &str) {
    let edge_kib = peak_kib(site.node(node), "edge-agent");
    let camera_kib = peak_kib(site.camera.as_ref().expect("a camera"), "camera-agent");
    println!("at most resident: edge-agent {edge_kib} KiB, camera-agent {camera_kib} KiB");
    assert!(edge_kib <= EDGE_KIB_MAX, "edge-agent {edge_kib} KiB, bound {EDGE_KIB_MAX}");
    assert!(camera_kib <= CAMERA_KIB_MAX, "camera-agent {camera_kib} KiB, bound {CAMERA_KIB_MAX}");
}

#[test]
fn what_a_slow_node_cannot_take_is_dropped_at_the_camera_and_stands_in_gaps() {
    let mut site = Site::new();
    site.start_mad_node("a", R_LIMIT_MS, "stay");
    site.wait_for("the node", |tally, _| tally.nodes.len() == 1);
    start_live_camera(&mut site, "slow");
    let before = wait_for_drops(&mut site, 20);
    // And now it takes nothing at all.
    site.node("a").freeze_all();
    wait_for_drops(&mut site, before + 20);
    site.node("a").thaw_all();
    let (frames, gaps) = account_for_all(&mut site);
    assert!(frames >= SPOOL_FRAMES as u64 && gaps >= PICTURES / 2, "a node ten times slower than the camera");
    assert_eq!(site.counter("a", "bus-messages-dropped"), 0);
    assert_memory_is_bounded(&mut site, "a");
    site.stop_and_check();
}

/// Stops a process nine tenths of the time, until dropped.
struct Slowed {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Slowed {
    fn slow(pid: u32) -> Self {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
        let done = Arc::new(AtomicBool::new(false));
        let is_done = Arc::clone(&done);
        let thread = std::thread::spawn(move || {
            while !is_done.load(Ordering::Relaxed) {
                let _ = kill_process(pid, Signal::STOP);
                std::thread::sleep(Duration::from_millis(450));
                let _ = kill_process(pid, Signal::CONT);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        Self { done, thread: Some(thread) }
    }
}

impl Drop for Slowed {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[test]
fn behind_a_slow_broker_memory_is_bounded_and_every_picture_is_accounted_for() {
    let mut site = Site::new();
    site.start_mad_node("a", R_LIMIT_MS, "stay");
    site.wait_for("the node", |tally, _| tally.nodes.len() == 1);
    let broker = site.broker.process().and_then(|process| process.pid()).expect("a broker of our own");
    let slowed = Slowed::slow(broker);
    start_live_camera(&mut site, "work");
    account_for_all(&mut site);
    drop(slowed);
    assert_memory_is_bounded(&mut site, "a");
    site.stop_and_check();
}

#[test]
fn a_finite_job_drops_nothing_however_slow_its_node_is() {
    let mut site = Site::new();
    let photos = site.folder("photos");
    let count = 2 * SPOOL_FRAMES as u64;
    for number in 0..count as u32 {
        fs::write(photos.join(format!("{number:02}.jpg")), picture(number, "slow")).expect("a photo");
    }
    site.start_mad_node("a", R_LIMIT_MS, "stay");
    site.start_camera_with(&photos, [small_spool()].into_iter().collect());
    let mut counters = SourceCounters::default();
    site.wait_for("the end of the job", |tally, seen| {
        if let Some(Note::CameraStatus(status)) = seen.map(|seen| &seen.note) {
            counters = status.counters;
        }
        tally.done.is_some() && counters.frames == count
    });
    assert_eq!((counters.dropped, held(&mut site, "a")), (0, (count, 0)));
    assert_memory_is_bounded(&mut site, "a");
    site.stop_and_check();
}
