//! A live camera beside a batch on one node: from a picture to its event on the bus.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

use microlambda_demo::{Note, Seen, monotonic_us};
use microlambda_wire::Name;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde::Serialize;

use super::{JOB_PATIENCE, PATIENCE, claim_of};
use crate::random::Random;
use crate::site::LIVE_CAMERA;
use crate::{Error, Site, ms};

/// Between two live pictures, at random, ms: at least and at most.
pub const PAUSE_MS: (u64, u64) = (250, 750);
/// The same person in every live picture is to be an event each time: nobody is known for longer, ms.
const ABSENCE_MS: u64 = 1;
/// Live pictures before the first that counts: the node has met the camera then, and knows what units cost.
const WARM_UP: usize = 4;

/// What live pictures are shown beside.
#[derive(Debug, Clone, Copy)]
pub enum Beside<'a> {
    /// Nothing, for so many pictures.
    Nothing(usize),
    /// A folder of these pictures, until it is done.
    Batch(&'a [Vec<u8>]),
}

/// The live pictures of one run.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// From the picture's way into the camera agent to its event on the bus, ms, in the order shown.
    pub latency_ms: Vec<f64>,
    /// From the batch's first claim to its output, ms.
    pub batch_ms: Option<f64>,
}

/// Shows live pictures to a node of its own, at random instants that do not wait for former events.
///
/// # Errors
/// What a site can give, or a picture without an event.
pub fn run(beside: Beside<'_>, r_limit_ms: u64, faces: &[Vec<u8>], random: &mut Random) -> Result<Run, Error> {
    let mut site = Site::new()?;
    site.absence_ms = ABSENCE_MS;
    let folder = match beside {
        Beside::Nothing(_) => {
            site.start_node("a", r_limit_ms, "stay")?;
            site.wait_ready(&Name::new("a")?, 1)?;
            None
        }
        Beside::Batch(pictures) => Some(site.prepare(pictures, &["a"], r_limit_ms, "stay")?),
    };
    let mut camera = Camera::start(&mut site)?;
    let mut watch = Watch::default();
    for picture in faces.iter().cycle().take(WARM_UP) {
        camera.show(picture)?;
        watch.wait_for_all(&mut site, &camera)?;
    }
    if let Some(folder) = folder {
        site.show("camera", &folder)?;
        site.wait_for("claim of the batch", PATIENCE, |_, seen| {
            watch.take(seen);
            watch.batch_from_us.is_some()
        })?;
    }
    for picture in faces.iter().cycle().skip(WARM_UP) {
        let pause_ms = PAUSE_MS.0 + random.below(PAUSE_MS.1 - PAUSE_MS.0);
        site.listen(monotonic_us() + pause_ms * 1_000, |seen| {
            watch.take(Some(seen));
            watch.batch_until_us.is_some()
        });
        let enough = match beside {
            Beside::Nothing(count) => camera.shown_at_us.len() >= WARM_UP + count,
            Beside::Batch(_) => watch.batch_until_us.is_some(),
        };
        if enough {
            break;
        }
        site.check_running()?;
        camera.show(picture)?;
    }
    watch.wait_for_all(&mut site, &camera)?;
    let latency = |(shown_us, (_, event_us)): (&u64, (&u64, &u64))| ms(event_us.saturating_sub(*shown_us));
    let latency_ms = camera.shown_at_us.iter().zip(&watch.events_at_us).skip(WARM_UP).map(latency).collect();
    let batch_ms = watch.batch_until_us.zip(watch.batch_from_us).map(|(until_us, from_us)| ms(until_us - from_us));
    Ok(Run { latency_ms, batch_ms })
}

/// A live camera that shows what it is given.
struct Camera {
    pipe: File,
    /// When each picture began its way into the camera agent, µs; they are numbered from 0, as the records of its chain.
    shown_at_us: Vec<u64>,
}

impl Camera {
    fn start(site: &mut Site) -> Result<Self, Error> {
        let path: PathBuf = site.folder("live.mjpeg");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        site.start_live(&path)?;
        // Opened for both, so that it waits for nobody, and the stream has no end.
        let pipe = File::options().read(true).write(true).open(&path)?;
        Ok(Self { pipe, shown_at_us: Vec::new() })
    }

    fn show(&mut self, picture: &[u8]) -> Result<(), Error> {
        self.shown_at_us.push(monotonic_us());
        Ok(self.pipe.write_all(picture)?)
    }
}

/// What the bus says of live pictures and of the batch.
#[derive(Default)]
struct Watch {
    /// When the first event of each record of the live chain came, µs.
    events_at_us: BTreeMap<u64, u64>,
    batch_from_us: Option<u64>,
    batch_until_us: Option<u64>,
}

impl Watch {
    fn take(&mut self, seen: Option<&Seen>) {
        let is_live = |chain: &Name| chain.as_str().starts_with(LIVE_CAMERA);
        match seen.map(|seen| (&seen.note, seen.at_us)) {
            Some((Note::Event(event), at_us)) if event.camera.as_str() == LIVE_CAMERA => {
                self.events_at_us.entry(event.sequence).or_insert(at_us);
            }
            Some((Note::Claim(note), _)) if !is_live(&note.chain) => {
                self.batch_from_us = self.batch_from_us.or(claim_of(seen).map(|(_, at_us)| at_us));
            }
            Some((Note::Done(_), at_us)) => self.batch_until_us = Some(at_us),
            _ => {}
        }
    }

    fn wait_for_all(&mut self, site: &mut Site, camera: &Camera) -> Result<(), Error> {
        site.wait_for("event of each live picture", JOB_PATIENCE, |_, seen| {
            self.take(seen);
            self.events_at_us.len() == camera.shown_at_us.len()
        })
    }
}
