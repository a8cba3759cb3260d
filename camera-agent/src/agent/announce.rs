//! What the agent says of itself: head, status, the newest picture.

use std::time::Duration;

use microlambda_runtime::{Link, PublishError, counted, monotonic_us};
use microlambda_wire::{CameraHead, CameraStatus, ChainClass, SourceCounters, Topic, to_payload};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Agent, CLOSE_TIMEOUT, TICK, now_ms};
use crate::source::pump::{Phase, Report};

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
        let pause = match self.config.source.class() {
            // Nodes try anew with each head, and what they want is not sent.
            _ if !self.hurdle.lets_pass(now) => HEAD_EVERY,
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

    pub(super) fn head_now(&self) -> CameraHead {
        let desk = self.desk.borrow();
        let view = &desk.view;
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
        let desk = self.desk.borrow();
        let trouble = match &report.phase {
            Phase::Trouble(why) | Phase::Failed(why) => why.clone(),
            Phase::Running
                if self.config.source.silence_us_max().is_some_and(|most_us| silent_us(report) > most_us) =>
            {
                format!("no picture for {} s: check the camera", silent_us(report) / 10_000_000 * 10)
            }
            Phase::Starting | Phase::Running | Phase::Ended if !desk.trouble.is_empty() => desk.trouble.clone(),
            Phase::Starting | Phase::Running | Phase::Ended => match self.hurdle.trouble() {
                hurdle if hurdle.is_empty() && self.unheard => self.nobody_takes_frames(),
                hurdle if hurdle.is_empty() => self.kept_aside.1.clone(),
                hurdle => hurdle,
            },
        };
        CameraStatus {
            camera: self.config.camera.clone(),
            boot: self.boot.clone(),
            online: true,
            source: clipped(self.config.source.describe()),
            trouble: clipped(trouble),
            counters: SourceCounters {
                frames: report.frames,
                unreadable: report.unreadable,
                still: report.still,
                reencoded: report.reencoded,
                dropped: desk.dropped,
                freed_on_one: self.freed_on_one,
                reopened: report.reopened,
                refused_messages: self.refused_messages,
                bus_connections: self.bus_connections,
                spools_kept_aside: u64::from(self.kept_aside.0),
                begun_anew: self.begun_anew,
                lost: desk.lost,
            },
        }
    }

    /// What came of the finished job, in words; an error if nothing did. `report` is of its source, if this run has one.
    pub(crate) fn verdict(&self, report: Option<&Report>) -> Result<String, String> {
        let desk = self.desk.borrow();
        let frames = desk.view.end.map_or(0, |end| end.count);
        let passed_over = desk.view.passed_over + report.map_or(0, |report| report.garbage);
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
            let desk = self.desk.borrow();
            desk.view.oldest < desk.view.next
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

/// Text for a payload field, within its bound.
fn clipped(text: String) -> String {
    match text.char_indices().nth(250) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, SILENT_US};
    use crate::run::Options;
    use crate::spool::clerk::Clerk;
    use crate::spool::{Identity, Spool};

    /// What an agent with this source says is wrong when it has been silent for `silent_us`.
    fn trouble(source: &str, silent_us: u64) -> String {
        let folder = tempfile::tempdir().unwrap();
        let config =
            Config::parse(&format!("camera = \"door\"\n[source]\n{source}"), Path::new("camera.toml")).unwrap();
        let identity =
            Identity { camera: config.camera.clone(), class: config.source.class(), source: config.source.describe() };
        let clerk = Clerk::start(Spool::open(folder.path(), &identity, config.spool, 0).unwrap()).unwrap();
        let agent = Agent::new(config, Options::default(), clerk, (0, String::new())).unwrap();
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
}
