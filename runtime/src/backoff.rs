//! How long a link waits before it tries to connect again.

use std::time::Duration;

/// The first pause after a failure; it doubles.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest pause where nobody listens: such a try costs nobody anything, and the chains stand still until the broker that
/// returns is found.
const BACKOFF_ABSENT_MAX: Duration = Duration::from_millis(200);
/// A connection that held so many times longer than the pause before the next attempt was sound: the pauses start again from
/// the shortest. Two clients with one id end each other's connections after one pause.
const SOUND_PAUSES: u32 = 4;

/// The pauses between attempts to connect.
pub(crate) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    pub(crate) fn new(max: Duration) -> Self {
        Self { next: BACKOFF_MIN.min(max), max }
    }

    /// How long to wait before the next attempt, after a connection that `held` so long, or none; `absent` if nobody listens.
    pub(crate) fn pause(&mut self, held: Option<Duration>, absent: bool) -> Duration {
        if held.is_some_and(|held| held >= self.next * SOUND_PAUSES) {
            self.next = BACKOFF_MIN.min(self.max);
        }
        let longest = if absent { BACKOFF_ABSENT_MAX.min(self.max) } else { self.max };
        let pause = self.next.min(longest);
        self.next = (pause * 2).min(longest);
        pause
    }
}

/// `pause`, shortened by up to a quarter, so that many clients of one broker do not come back in step.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let mut byte = [0_u8];
    // Without random numbers the pause is whole: nothing depends on it.
    let _ = getrandom::fill(&mut byte);
    pause - pause * u32::from(byte[0]) / 1_024
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(3);

    #[test]
    fn a_broker_that_refuses_is_tried_ever_more_rarely_and_an_absent_one_is_not() {
        let mut backoff = Backoff::new(MAX);
        let refusals_ms: Vec<u128> = (0..7).map(|_| backoff.pause(None, false).as_millis()).collect();
        assert_eq!(refusals_ms, [100, 200, 400, 800, 1_600, 3_000, 3_000]);
        for _ in 0..1_000 {
            assert_eq!(backoff.pause(None, true), BACKOFF_ABSENT_MAX, "it is found soon after it returns");
        }
    }

    #[test]
    fn a_broker_that_leaves_every_other_second_is_found_soon_each_time() {
        let mut backoff = Backoff::new(MAX);
        for _ in 0..100 {
            assert!(backoff.pause(Some(Duration::from_secs(1)), false) <= BACKOFF_ABSENT_MAX);
            assert!(backoff.pause(None, true) <= BACKOFF_ABSENT_MAX);
        }
    }

    #[test]
    fn two_clients_with_one_id_end_each_others_connections_ever_more_rarely() {
        let mut backoff = Backoff::new(MAX);
        let mut held = BACKOFF_MIN;
        for _ in 0..20 {
            // The other one returns after a pause like this one's.
            held = backoff.pause(Some(held), false);
        }
        assert_eq!(held, MAX);
    }
}
