//! Word to the service manager: ready, status, still making progress, stopping.
//!
//! Without systemd (no `NOTIFY_SOCKET`) every call does nothing.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// The service is up.
pub fn ready() {
    send(&[NotifyState::Ready]);
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
    half: Option<Duration>,
    last: Instant,
}

impl Watchdog {
    /// Reads what the service manager asked for (`WATCHDOG_USEC`).
    pub fn from_env() -> Self {
        Self::new(sd_notify::watchdog_enabled())
    }

    fn new(timeout: Option<Duration>) -> Self {
        Self { half: timeout.map(|timeout| timeout / 2), last: Instant::now() }
    }

    /// The longest time the main loop should sleep: half of the watchdog's timeout; `None` without a watchdog.
    pub fn interval(&self) -> Option<Duration> {
        self.half
    }

    /// The main loop has done something. Pets the watchdog once half of its timeout has passed since the last time;
    /// returns whether it did.
    pub fn progress(&mut self) -> bool {
        let due = self.half.is_some_and(|half| self.last.elapsed() >= half);
        if due {
            self.last = Instant::now();
            send(&[NotifyState::Watchdog]);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_watchdog_progress_is_silent() {
        let mut watchdog = Watchdog::new(None);
        assert_eq!(watchdog.interval(), None);
        assert!(!watchdog.progress());
    }

    #[test]
    fn the_watchdog_is_petted_at_half_its_timeout() {
        let mut watchdog = Watchdog::new(Some(Duration::from_secs(3_600)));
        assert_eq!(watchdog.interval(), Some(Duration::from_secs(1_800)));
        assert!(!watchdog.progress(), "half an hour has not passed");
        let mut due = Watchdog::new(Some(Duration::ZERO));
        assert!(due.progress());
    }
}
