//! Word to the service manager: ready, status, still making progress, stopping.
//!
//! Without systemd (no `NOTIFY_SOCKET`) every call does nothing.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// While a start takes long, the service manager is told that it goes on this often.
const STARTING_EVERY: Duration = Duration::from_secs(30);

/// The service is up.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// Does what the start has to wait for, however long it takes, while the service manager is told that the start goes on.
pub fn while_starting<T>(work: impl FnOnce() -> T) -> T {
    let (working, ended) = mpsc::channel::<()>();
    let tell = move || {
        while ended.recv_timeout(STARTING_EVERY) == Err(RecvTimeoutError::Timeout) {
            let wait_us = u32::try_from((4 * STARTING_EVERY).as_micros()).unwrap_or(u32::MAX);
            send(&[NotifyState::ExtendTimeoutUsec(wait_us)]);
        }
    };
    std::thread::scope(|scope| {
        if let Err(error) = std::thread::Builder::new().name("starting".into()).spawn_scoped(scope, tell) {
            log::warn!("the service manager is not told that the start goes on: {error}");
        }
        let outcome = work();
        drop(working);
        outcome
    })
}

/// One line for `systemctl status`.
pub fn status(line: &str) {
    send(&[NotifyState::Status(line)]);
}

/// The service has begun to stop.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        log::debug!(error:% = error; "the service manager did not take a notification");
    }
}

/// Tells systemd's watchdog that the main loop makes progress; without one it does nothing.
///
/// Call [`progress`](Watchdog::progress) where work is really done, never from a timer that fires whatever happens.
/// An idle loop makes progress by finding that there is nothing to do: let it wake at least every
/// [`interval`](Watchdog::interval).
#[derive(Debug)]
pub struct Watchdog {
    interval: Option<Duration>,
    last: Instant,
}

impl Watchdog {
    /// Reads what the service manager asked for (`WATCHDOG_USEC`).
    pub fn from_env() -> Self {
        Self::new(sd_notify::watchdog_enabled(), Instant::now())
    }

    fn new(timeout: Option<Duration>, now: Instant) -> Self {
        Self { interval: timeout.map(|timeout| timeout / 4), last: now }
    }

    /// The longest time the main loop should sleep: a quarter of the watchdog's timeout; `None` without a watchdog.
    /// A loop that wakes just before it is time and then sleeps so long still has half of the timeout left.
    pub fn interval(&self) -> Option<Duration> {
        self.interval
    }

    /// The main loop has done something. Pets the watchdog once [`interval`](Self::interval) has passed since the last
    /// time; returns whether it did.
    pub fn progress(&mut self) -> bool {
        self.progress_at(Instant::now())
    }

    fn progress_at(&mut self, now: Instant) -> bool {
        let due = self.interval.is_some_and(|interval| now.duration_since(self.last) >= interval);
        if due {
            self.last = now;
            send(&[NotifyState::Watchdog]);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    #[test]
    fn without_a_watchdog_progress_is_silent() {
        let mut watchdog = Watchdog::new(None, Instant::now());
        assert_eq!(watchdog.interval(), None);
        assert!(!watchdog.progress());
    }

    #[test]
    fn the_watchdog_is_petted_no_more_often_than_needed() {
        let start = Instant::now();
        let mut watchdog = Watchdog::new(Some(TIMEOUT), start);
        let pets = (0..=300).filter(|&s| watchdog.progress_at(start + Duration::from_secs(s))).count();
        assert!((300 / 15..=300 / 7).contains(&pets), "{pets} in 300 s");
    }

    #[test]
    fn a_loop_that_sleeps_as_long_as_it_may_pets_in_time_whenever_it_was_woken_between() {
        let start = Instant::now();
        for woken_ms in (0..30_000).step_by(100) {
            let mut watchdog = Watchdog::new(Some(TIMEOUT), start);
            let sleep = watchdog.interval().unwrap();
            let (mut now, mut last) = (start, start);
            while now < start + 3 * TIMEOUT {
                let woken = start + Duration::from_millis(woken_ms);
                now = if now < woken { (now + sleep).min(woken) } else { now + sleep };
                if watchdog.progress_at(now) {
                    last = now;
                }
                assert!(now - last <= TIMEOUT / 2, "woken after {woken_ms} ms it is silent for {:?}", now - last);
            }
        }
    }
}
