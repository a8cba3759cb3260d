//! What the agent says of itself: head, status, the newest picture.

use std::time::Duration;

use microlambda_runtime::{Link, PublishError, counted, monotonic_us, notify, printable, shortened};
use microlambda_wire::{CameraHead, CameraStatus, ChainClass, SourceCounters, TEXT_BYTES_MAX, Topic, to_payload};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Agent, CLOSE_TIMEOUT, TICK, now_ms};
use crate::source::pump::{Phase, Report};

/// Characters of a text in the status, of at most four bytes each.
const TEXT_CHARS_MAX: usize = TEXT_BYTES_MAX / 4;

/// The head is repeated this often for those who missed it.
const HEAD_EVERY: Duration = Duration::from_secs(5);
/// A finite input's head is said at most this often; a live one's at once.
const HEAD_PAUSE: Duration = Duration::from_millis(100);
/// Counters in the status are brought up to date this often at most; trouble is said at once.
const STATUS_PAUSE: Duration = Duration::from_secs(5);
/// The status is repeated this often.
const STATUS_EVERY: Duration = Duration::from_secs(60);
/// Frames that wait while no node is heard for so long are told of, ms: nodes repeat their status twice as often.
const UNHEARD_MS: u64 = 10_000;

/// What was last published, and when.
pub(super) struct Said<T> {
    /// None is due at once.
    pub(super) last: Option<(T, Instant)>,
}

impl<T: PartialEq> Said<T> {
    /// When `value` is to be published: the earliest time, given the pause after the former and the repetition.
    fn due(&self, value: &T, pause: Duration, every: Duration) -> Option<Instant> {
        let (last, at) = self.last.as_ref()?;
        Some(*at + if last == value { every } else { pause })
    }
}

impl Agent {
    /// Publishes what is due and returns when to look again.
    pub(super) fn announce(&mut self, link: &Link, report: &Report) -> Instant {
        let now = Instant::now();
        let mut wake = now + self.watchdog.interval().unwrap_or(TICK).min(TICK);
        if !link.is_connected() {
            return wake;
        }
        self.look_for_withheld(link);
        let pause = match self.config.source.class() {
            // Nodes try anew with each head, and what they want is not sent.
            _ if !self.oversize_backoff.lets_pass(now) => HEAD_EVERY,
            ChainClass::Live => Duration::ZERO,
            ChainClass::Batch => HEAD_PAUSE,
        };
        match self.head.due(&self.head_now(), pause, HEAD_EVERY) {
            Some(due) if due > now => wake = wake.min(due),
            _ => self.publish_head(link),
        }
        let status = self.status_now(report);
        // Trouble is news, and so is what came of the whole input: it does not change any more.
        let is_news = self.status.last.as_ref().is_none_or(|(last, _)| {
            last.trouble != status.trouble
                || report.phase == Phase::Ended && of_source(last.counters) != of_source(status.counters)
        });
        match self.status.due(&status, STATUS_PAUSE, STATUS_EVERY) {
            Some(due) if due > now && !is_news => wake = wake.min(due),
            _ => self.publish_status(link, report),
        }
        wake
    }

    /// Tells the service manager how source and broker are, if that is news.
    pub(super) fn tell_manager(&mut self, is_connected: bool, report: &Report) {
        let line = self.service_line(is_connected, report);
        if line != self.told {
            notify::status(&line);
            self.told = line;
        }
    }

    /// For `systemctl status` and the login message: without counters, so that it changes seldom.
    fn service_line(&self, is_connected: bool, report: &Report) -> String {
        let status = self.status_now(report);
        let broker = if is_connected { "connected" } else { "no connection to the broker" };
        let doing = match report.phase {
            _ if !status.trouble.is_empty() => status.trouble.as_str(),
            Phase::Starting => "the source is being opened",
            Phase::Running if report.frames == 0 && report.still == 0 => "no picture yet",
            Phase::Running => "pictures come",
            Phase::Ended => "the input has ended",
            Phase::Trouble(_) | Phase::Failed(_) => "the source fails",
        };
        printable(format!("{}: {}, {broker}: {doing}", status.camera, status.source))
    }

    pub(super) fn head_now(&self) -> CameraHead {
        let spool_status = self.spool_status.borrow();
        let view = &spool_status.view;
        CameraHead {
            camera: self.config.camera.clone(),
            chain: view.chain.clone(),
            class: view.class,
            oldest: view.oldest,
            next: view.next,
            end: view.end,
        }
    }

    pub(super) fn status_now(&self, report: &Report) -> CameraStatus {
        let spool_status = self.spool_status.borrow();
        let trouble = match &report.phase {
            Phase::Trouble(why) | Phase::Failed(why) => why.clone(),
            Phase::Running
                if self.config.source.silence_us_max().is_some_and(|most_us| silent_us(report) > most_us) =>
            {
                format!("no picture for {} s: check the camera", silent_us(report) / 10_000_000 * 10)
            }
            Phase::Starting | Phase::Running | Phase::Ended if !spool_status.trouble.is_empty() => {
                spool_status.trouble.clone()
            }
            Phase::Starting | Phase::Running | Phase::Ended => {
                let oversize = Some(self.oversize_backoff.trouble()).filter(|oversize| !oversize.is_empty());
                let unheard = || self.unheard.then(|| self.nobody_takes_frames());
                let trouble = oversize.or_else(|| self.withheld(spool_status.view.oldest)).or_else(unheard);
                trouble.unwrap_or_else(|| self.kept_aside.1.clone())
            }
        };
        CameraStatus {
            camera: self.config.camera.clone(),
            boot: self.boot.clone(),
            online: true,
            source: shortened(&self.config.source.describe(), TEXT_CHARS_MAX),
            trouble: shortened(&trouble, TEXT_CHARS_MAX),
            counters: SourceCounters {
                frames: report.frames,
                unreadable: report.unreadable,
                still: report.still,
                reencoded: report.reencoded,
                dropped: spool_status.dropped,
                freed_on_one: self.freed_on_one,
                reopened: report.reopened,
                refused_messages: self.refused_messages,
                bus_connections: self.bus_connections,
                spools_kept_aside: u64::from(self.kept_aside.0),
                begun_anew: self.begun_anew,
                lost: spool_status.lost,
            },
        }
    }

    /// What came of the finished job, in words; an error if nothing did. `report` is of its source, if this run has one.
    pub(crate) fn verdict(&self, report: Option<&Report>) -> Result<String, String> {
        let spool_status = self.spool_status.borrow();
        let frames = spool_status.view.end.map_or(0, |end| end.count);
        let passed_over = spool_status.view.passed_over + report.map_or(0, |report| report.garbage);
        let said = if report.is_some() { "above" } else { "the log of the run that read them says why" };
        let pictures = counted(passed_over, "picture");
        match (frames, passed_over) {
            (0, 0) => Err("the job is done: 0 frames; the input gave no picture".into()),
            (0, _) => Err(format!("the job is done: 0 frames; {pictures} could not be read ({said})")),
            (_, 0) => Ok("the job is done: every frame was committed and freed".into()),
            _ => Ok(format!("the job is done: {}; {pictures} could not be read ({said})", counted(frames, "frame"))),
        }
    }

    pub(super) fn say_done(&mut self, verdict: &Result<String, String>) {
        if std::mem::replace(&mut self.done_said, true) {
            return;
        }
        match verdict {
            Ok(text) => log::info!("{text}"),
            // It ends this program, and is told then.
            Err(_) if self.options.exit_when_done => {}
            Err(text) => log::warn!("{text}"),
        }
    }

    /// Frames that nobody takes would wait for ever without a word. While there is no broker, that is told.
    pub(super) fn listen_for_nodes(&mut self, link: &Link) {
        let waiting = {
            let spool_status = self.spool_status.borrow();
            spool_status.view.oldest < spool_status.view.next
        };
        let unheard_ms = self.audience.unheard_ms(now_ms());
        self.unheard = waiting && link.is_connected() && unheard_ms.is_some_and(|ms| ms >= UNHEARD_MS);
        if self.unheard && !std::mem::replace(&mut self.unheard_said, true) {
            log::warn!("{}", self.nobody_takes_frames());
        }
        if unheard_ms.is_none() && std::mem::take(&mut self.unheard_said) {
            log::info!("an edge node of the site is there");
        }
    }

    /// What the broker takes and does not pass on, in words; `oldest` is the oldest record held.
    fn withheld(&self, oldest: u64) -> Option<String> {
        let head = Topic::CameraHead { camera: self.config.camera.clone() }.build(&self.prefix);
        let echo = self.echo.trouble("camera", head, monotonic_us());
        echo.or_else(|| Some(self.undelivered.trouble(oldest, now_ms())).filter(|trouble| !trouble.is_empty()))
    }

    /// Looks for what the broker takes and does not pass on: without a word everything would stand still.
    fn look_for_withheld(&mut self, link: &Link) {
        self.echo.look(link.counters(), monotonic_us());
        let oldest = self.spool_status.borrow().view.oldest;
        if let Some(trouble) = self.withheld(oldest).filter(|_| self.withheld_told.is_due(monotonic_us())) {
            log::warn!("{trouble}");
        }
    }

    fn nobody_takes_frames(&self) -> String {
        format!(
            "no edge node of site `{}` takes the frames: start one (`edge-agent run`), or check `site` on both sides, or the broker's access \
             rules",
            self.config.site
        )
    }

    pub(super) fn publish_head(&mut self, link: &Link) {
        let head = self.head_now();
        let topic = Topic::CameraHead { camera: self.config.camera.clone() };
        if self.publish(link, &topic, to_payload(&head)) {
            self.echo.on_said(link.counters());
            self.head.last = Some((head, Instant::now()));
        }
    }

    pub(super) fn publish_status(&mut self, link: &Link, report: &Report) {
        let status = self.status_now(report);
        let topic = Topic::CameraStatus { camera: self.config.camera.clone() };
        if self.publish(link, &topic, to_payload(&status)) {
            self.status.last = Some((status, Instant::now()));
        }
    }

    pub(super) fn publish_image(&self, link: &Link, image: &watch::Receiver<Option<Vec<u8>>>) {
        if let Some(jpeg) = image.borrow().clone() {
            let topic = Topic::CameraImage { camera: self.config.camera.clone() };
            // The next one comes soon.
            let _ = link.publish(self.topic(&topic), jpeg, true);
        }
    }

    pub(super) fn publish(
        &self,
        link: &Link,
        topic: &Topic,
        payload: Result<Vec<u8>, microlambda_wire::PayloadError>,
    ) -> bool {
        let sent = payload.map_err(|error| error.to_string()).and_then(|payload| {
            link.publish(self.topic(topic), payload, true).map_err(|e: PublishError| e.to_string())
        });
        if let Err(why) = &sent {
            log::debug!(topic:? = topic, why = why.as_str(); "not published");
        }
        sent.is_ok()
    }

    /// Says good-bye, with the last word on the counters, and closes the connection.
    pub(crate) async fn leave(&mut self, link: &Link, report: Report) {
        let phase = if let Phase::Failed(_) = report.phase { report.phase } else { Phase::Ended };
        let report = Report { phase, ..report };
        let status = CameraStatus { online: false, ..self.status_now(&report) };
        let topic = Topic::CameraStatus { camera: self.config.camera.clone() };
        self.publish(link, &topic, to_payload(&status));
        link.close(CLOSE_TIMEOUT).await;
    }
}

/// For how long an opened source has given no picture, µs.
fn silent_us(report: &Report) -> u64 {
    monotonic_us().saturating_sub(report.quiet_since_us)
}

/// The counters that stand still once the input has ended.
fn of_source(counters: SourceCounters) -> [u64; 4] {
    [counters.frames, counters.unreadable, counters.reencoded, counters.reopened]
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, SILENT_US};
    use crate::run::Options;
    use crate::spool::thread::SpoolHandle;
    use crate::spool::{Identity, Spool};

    /// An agent with this source, and the folder of its spool.
    fn agent(source: &str) -> (Agent, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let config =
            Config::parse(&format!("camera = \"door\"\n[source]\n{source}"), Path::new("camera.toml")).unwrap();
        let identity =
            Identity { camera: config.camera.clone(), class: config.source.class(), source: config.source.describe() };
        let spool = SpoolHandle::start(Spool::open(folder.path(), &identity, config.spool, 0).unwrap()).unwrap();
        (Agent::new(config, Options::default(), spool, (0, String::new())).unwrap(), folder)
    }

    /// What an agent with this source says is wrong when it has been silent for `silent_us`.
    fn trouble(source: &str, silent_us: u64) -> String {
        let (agent, _folder) = agent(source);
        let quiet_since_us = monotonic_us() - silent_us;
        agent.status_now(&Report { phase: Phase::Running, quiet_since_us, ..Report::default() }).trouble
    }

    #[test]
    fn a_live_source_that_gives_nothing_is_in_trouble_unless_it_may_be_silent() {
        const LIVE: &str = "kind = \"command\"\ncommand = [\"x\"]\n";
        assert_eq!(trouble(LIVE, SILENT_US + 5_000_000), "no picture for 20 s: check the camera");
        assert_eq!(trouble(LIVE, SILENT_US / 2), "");
        assert_eq!(
            trouble("kind = \"v4l2\"\ndevice = \"/dev/video0\"\n", SILENT_US * 2),
            "no picture for 30 s: check the camera"
        );
        let patient = format!("{LIVE}silence-s = 300\n");
        assert_eq!(trouble(&patient, 250_000_000), "");
        assert_eq!(trouble(&patient, 310_000_000), "no picture for 310 s: check the camera");
        for silent in ["silence-s = 0\n", "finite = true\n"] {
            assert_eq!(trouble(&format!("{LIVE}{silent}"), SILENT_US * 2), "");
        }
    }

    #[test]
    fn the_service_manager_is_told_how_source_and_broker_are() {
        let (agent, _folder) = agent("kind = \"v4l2\"\ndevice = \"/dev/video0\"\n");
        let running = Report { phase: Phase::Running, quiet_since_us: monotonic_us(), ..Report::default() };
        for (is_connected, report, line) in [
            (
                false,
                Report::default(),
                "door: camera /dev/video0, no connection to the broker: the source is being opened",
            ),
            (true, running.clone(), "door: camera /dev/video0, connected: no picture yet"),
            (true, Report { still: 1, ..running.clone() }, "door: camera /dev/video0, connected: pictures come"),
            (
                true,
                Report { phase: Phase::Trouble("unplugged\n".into()), ..running },
                "door: camera /dev/video0, connected: unplugged\\n",
            ),
        ] {
            assert_eq!(agent.service_line(is_connected, &report), line);
        }
    }
}
