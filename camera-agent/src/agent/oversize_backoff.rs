//! A frame at which the connection ends again and again: the broker refuses messages of its size, or the link is too slow.

use std::time::Duration;

use microlambda_runtime::LinkCounters;
use tokio::time::Instant;

/// So many connections in a row that end with the same frame under way are no accident.
const ENDS: u32 = 3;
/// Then no frame is served for so long: head, status and the small picture get through.
const PAUSE: Duration = Duration::from_secs(60);
/// Every broker and link takes a message of this size, bytes.
const SUSPECT_BYTES: usize = 16 << 10;

/// Holds frames back where one is too large for the broker or the link. Keeps the last such frame, known by its size.
#[derive(Debug, Default)]
pub(super) struct OversizeBackoff {
    payload_bytes: usize,
    /// Connections in a row that ended with it under way.
    ends: u32,
    resume_at: Option<Instant>,
    /// The largest frame that was handed over on this connection and is not through yet.
    handed: Option<Handed>,
}

/// A frame on its way to the broker.
#[derive(Debug, Clone, Copy)]
struct Handed {
    payload_bytes: usize,
    /// Its place among what the broker acknowledges.
    place: u64,
}

impl OversizeBackoff {
    /// The connection has ended with payloads of up to `lost_bytes_max` under way. If that was no frame, it says
    /// nothing: the picture for dashboards goes along with every connection.
    pub(super) fn on_disconnected(&mut self, lost_bytes_max: usize, now: Instant) {
        let is_frame = self.handed.take().is_some_and(|handed| handed.payload_bytes == lost_bytes_max);
        if !is_frame || lost_bytes_max < SUSPECT_BYTES {
            return;
        }
        self.ends = if lost_bytes_max == self.payload_bytes { self.ends + 1 } else { 1 };
        self.payload_bytes = lost_bytes_max;
        if self.ends >= ENDS {
            self.resume_at = Some(now + PAUSE);
        }
    }

    /// A frame is on its way, in this place.
    pub(super) fn on_handed(&mut self, payload_bytes: usize, place: u64) {
        if self.handed.is_none_or(|handed| handed.payload_bytes <= payload_bytes) {
            self.handed = Some(Handed { payload_bytes, place });
        }
    }

    /// While connected: what the link has counted.
    pub(super) fn look(&mut self, counters: LinkCounters, now: Instant) {
        let Some(passed) = self.handed.filter(|handed| counters.has_taken(handed.place)) else { return };
        self.handed = None;
        // Others pass, and it was not tried again: nobody asks for it any more.
        let is_over = self.resume_at.is_some_and(|at| at + PAUSE <= now);
        if passed.payload_bytes >= self.payload_bytes || is_over {
            *self = Self::default();
        }
    }

    /// Whether frames can be served.
    pub(super) fn lets_pass(&self, now: Instant) -> bool {
        self.resume_at.is_none_or(|at| at <= now)
    }

    /// What is wrong and what to do; empty if nothing is.
    pub(super) fn trouble(&self) -> String {
        if self.ends < ENDS {
            return String::new();
        }
        format!(
            "the broker or the link ends the connection at a frame of {} bytes: raise the broker's limit for packets; \
             or lower bytes-max in [frame], for new pictures, and give up those kept already (--new-job)",
            self.payload_bytes
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: usize = 200_000;

    /// So many messages were acknowledged.
    fn acknowledged(acknowledged: u64) -> LinkCounters {
        LinkCounters { acknowledged, ..LinkCounters::default() }
    }

    #[test]
    fn a_connection_that_ends_with_no_frame_under_way_says_nothing_of_frames() {
        let (mut backoff, now) = (OversizeBackoff::default(), Instant::now());
        for place in 1..=5 {
            backoff.on_disconnected(21_588, now);
            assert!(backoff.lets_pass(now) && backoff.trouble().is_empty());
            // One that has passed is not under way any more, and neither is one that is smaller than what was.
            backoff.on_handed(21_588, place);
            backoff.look(acknowledged(place), now);
            backoff.on_disconnected(21_588, now);
            backoff.on_handed(18_000, place + 1);
            backoff.on_disconnected(21_588, now);
        }
        assert!(backoff.lets_pass(now) && backoff.trouble().is_empty());
    }

    #[test]
    fn a_frame_that_nobody_asks_for_any_more_is_forgotten_once_others_pass() {
        let (mut backoff, now) = (OversizeBackoff::default(), Instant::now());
        for place in 1..=3 {
            backoff.on_handed(LARGE, place);
            backoff.on_disconnected(LARGE, now);
        }
        let passes = |backoff: &mut OversizeBackoff, now| {
            backoff.on_handed(20_000, 9);
            backoff.look(acknowledged(9), now);
        };
        passes(&mut backoff, now + PAUSE);
        assert!(!backoff.trouble().is_empty(), "it may come next");
        passes(&mut backoff, now + 2 * PAUSE);
        assert!(backoff.trouble().is_empty());
    }

    #[test]
    fn a_frame_that_ends_three_connections_in_a_row_is_told_of_and_served_again_after_a_pause() {
        let (mut backoff, now) = (OversizeBackoff::default(), Instant::now());
        for _ in 0..ENDS {
            assert!(backoff.lets_pass(now) && backoff.trouble().is_empty());
            backoff.on_handed(LARGE, 1);
            backoff.look(acknowledged(0), now);
            backoff.on_disconnected(LARGE, now);
        }
        assert!(!backoff.lets_pass(now) && backoff.trouble().contains("200000 bytes"), "{}", backoff.trouble());
        backoff.look(acknowledged(1), now);
        assert!(!backoff.trouble().is_empty(), "it waits");
        assert!(backoff.lets_pass(now + PAUSE));
        backoff.on_handed(LARGE, 2);
        backoff.on_disconnected(LARGE, now + PAUSE);
        assert!(!backoff.lets_pass(now + PAUSE), "once is enough from then on");
        backoff.on_handed(LARGE, 2);
        backoff.look(acknowledged(2), now);
        assert!(backoff.lets_pass(now) && backoff.trouble().is_empty(), "it has passed");
    }

    #[test]
    fn a_broker_that_leaves_now_and_then_is_not_backed_off_from() {
        let (mut backoff, now) = (OversizeBackoff::default(), Instant::now());
        for n in 0..10 {
            backoff.on_handed(LARGE + n % 2, 1);
            backoff.on_disconnected(LARGE + n % 2, now);
            backoff.on_handed(300, 1);
            backoff.on_disconnected(300, now);
            backoff.on_disconnected(0, now);
        }
        for place in 1..=10 {
            backoff.on_handed(LARGE, place);
            backoff.on_disconnected(LARGE, now);
            backoff.on_handed(LARGE, place);
            backoff.look(acknowledged(place), now);
        }
        assert!(backoff.lets_pass(now) && backoff.trouble().is_empty());
    }
}
