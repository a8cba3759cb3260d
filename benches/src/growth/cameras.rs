//! One to many cameras, each a chain of its own, on one broker with two nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use microlambda_demo::Note;
use microlambda_wire::Name;
use serde::Serialize;

use crate::bus::Counter;
use crate::pictures::{self, Motif};
use crate::stats::Stats;
use crate::{Error, Resident, Site, ms};

/// Size of the pictures, px: a search takes some 10 ms.
const SIZE_PX: (u32, u32) = (160, 120);
/// The nodes.
const NODES: [&str; 2] = ["a", "b"];
/// Limit of a step, ms.
pub const R_LIMIT_MS: u64 = 150;
/// All jobs together may take so long.
const PATIENCE: Duration = Duration::from_secs(300);

/// So many cameras, and what they cost.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Cameras, each with a folder of its own.
    pub cameras: usize,
    /// Frames of all of them together.
    pub frames: usize,
    /// Announced steps.
    pub steps: usize,
    /// From the first camera's announcement to the last chain's output, s.
    pub took_s: f64,
    /// Of that for each frame, ms.
    pub frame_ms: f64,
    /// Of that for each step, ms.
    pub step_ms: f64,
    /// Transactions of steps.
    pub commit_ms: Stats,
    /// Resident memory of the larger of the two edge agents at the end, MB, and its highest.
    pub agent: Resident,
    /// Messages that the broker took for each frame.
    pub messages: f64,
    /// Their payloads for each frame, KB; pictures are most of it.
    pub message_kb: f64,
}

/// Plays `frames` pictures by `cameras` cameras.
///
/// # Errors
/// An agent does not start or ends, or a chain does not come to its end.
pub fn measure(cameras: usize, frames: usize) -> Result<Row, Error> {
    let mut site = Site::new()?;
    site.many_cameras = true;
    let frames_each = (frames / cameras.max(1)).max(1);
    let frames = frames_each * cameras;
    let names: Vec<String> = (0..cameras).map(|camera| format!("camera-{camera}")).collect();
    let all = pictures::make(Motif::Faceless, frames, SIZE_PX.0, SIZE_PX.1)?;
    for (name, own) in names.iter().zip(all.chunks(frames_each)) {
        let folder = site.folder(&format!("pictures-{name}"));
        pictures::write(&folder, own)?;
        site.fill(name, &folder)?;
    }
    for node in NODES {
        site.start_node(node, R_LIMIT_MS, "stay")?;
    }
    for node in NODES {
        site.wait_ready(&Name::new(node)?, 1)?;
    }
    let counter = Counter::start(site.broker.url(), "microlambda/#")?;
    for name in &names {
        site.show(name, &site.folder(&format!("pictures-{name}")))?;
    }
    let (mut began_us, mut done) = (None, BTreeMap::new());
    site.wait_for("end of all jobs", PATIENCE, |_, seen| {
        match seen.map(|seen| (&seen.note, seen.at_us)) {
            Some((Note::CameraHead(head), at_us)) if head.end.is_some() => began_us = began_us.or(Some(at_us)),
            Some((Note::Done(note), at_us)) => {
                done.entry(note.chain.clone()).or_insert((at_us, note.frames));
            }
            _ => {}
        }
        done.len() == cameras
    })?;
    let (messages, bytes) = counter.so_far()?;
    let found: u64 = done.values().map(|(_, frames)| frames).sum();
    if found != frames as u64 {
        return Err(format!("{found} frames in the outputs of {frames}").into());
    }
    let began_us = began_us.ok_or("jobs without a beginning")?;
    let took_ms = ms(done.values().map(|(at_us, _)| at_us.saturating_sub(began_us)).max().unwrap_or(0));
    let agents = NODES.map(|node| site.node(&Name::new(node)?).map(|agent| agent.pid().and_then(Resident::of)));
    let agents = agents.into_iter().collect::<Result<Option<Vec<Resident>>, Error>>()?.ok_or("a node is gone")?;
    let larger = agents.into_iter().max_by(|a, b| a.peak.total_cmp(&b.peak)).ok_or("no nodes")?;
    let steps = site.steps.len();
    Ok(Row {
        cameras,
        frames,
        steps,
        took_s: took_ms / 1_000.0,
        frame_ms: took_ms / frames as f64,
        step_ms: took_ms / steps.max(1) as f64,
        commit_ms: Stats::of_us(site.steps.iter().map(|step| step.timing.commit_us)).ok_or("no steps")?,
        agent: larger,
        messages: messages as f64 / frames as f64,
        message_kb: bytes as f64 / 1e3 / frames as f64,
    })
}
