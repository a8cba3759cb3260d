//! A frame at which the connection ends again and again: the broker refuses messages of its size, or the link is too slow.

use std::time::Duration;

use tokio::time::Instant;

/// So many connections in a row that end with the same frame under way are no accident.
const ENDS: u32 = 3;
/// Then no frame is served for so long: head, status and the small picture get through.
const PAUSE: Duration = Duration::from_secs(60);
/// Every broker and link takes a message of this size, bytes.
const SUSPECT_BYTES: usize = 16 << 10;

/// The last such frame, known by its size.
#[derive(Debug, Default)]
pub(super) struct Hurdle {
    payload_bytes: usize,
    /// Connections in a row that ended with it under way.
    ends: u32,
    resume_at: Option<Instant>,
    /// It was handed over on this connection.
    under_way: bool,
}

impl Hurdle {
    /// The connection has ended with payloads of up to `lost_bytes_max` under way.
    pub(super) fn on_disconnected(&mut self, lost_bytes_max: usize, now: Instant) {
        if lost_bytes_max < SUSPECT_BYTES {
            return;
        }
        self.ends = if lost_bytes_max == self.payload_bytes { self.ends + 1 } else { 1 };
        self.payload_bytes = lost_bytes_max;
        self.under_way = false;
        if self.ends >= ENDS {
            self.resume_at = Some(now + PAUSE);
        }
    }

    /// A frame is on its way.
    pub(super) fn on_handed(&mut self, payload_bytes: usize) {
        self.under_way |= self.ends > 0 && payload_bytes == self.payload_bytes;
    }

    /// While connected, `queued_bytes` wait for the broker: fewer than the frame has mean that it has passed.
    pub(super) fn on_queue(&mut self, queued_bytes: usize) {
        if self.under_way && queued_bytes < self.payload_bytes {
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
            "the broker or the link ends the connection at a frame of {} bytes: raise the broker's limit for packets, or lower \
             bytes-max in [frame] and run once with --new-job",
            self.payload_bytes
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: usize = 200_000;

    #[test]
    fn a_frame_that_ends_three_connections_in_a_row_is_told_of_and_served_again_after_a_pause() {
        let (mut hurdle, now) = (Hurdle::default(), Instant::now());
        for _ in 0..ENDS {
            assert!(hurdle.lets_pass(now) && hurdle.trouble().is_empty());
            hurdle.on_handed(LARGE);
            hurdle.on_queue(LARGE + 100);
            hurdle.on_disconnected(LARGE, now);
        }
        assert!(!hurdle.lets_pass(now) && hurdle.trouble().contains("200000 bytes"), "{}", hurdle.trouble());
        hurdle.on_queue(0);
        assert!(!hurdle.trouble().is_empty(), "it waits");
        assert!(hurdle.lets_pass(now + PAUSE));
        hurdle.on_handed(LARGE);
        hurdle.on_disconnected(LARGE, now + PAUSE);
        assert!(!hurdle.lets_pass(now + PAUSE), "once is enough from then on");
        hurdle.on_handed(LARGE);
        hurdle.on_queue(0);
        assert!(hurdle.lets_pass(now) && hurdle.trouble().is_empty(), "it has passed");
    }

    #[test]
    fn a_broker_that_leaves_now_and_then_is_no_hurdle() {
        let (mut hurdle, now) = (Hurdle::default(), Instant::now());
        for n in 0..10 {
            hurdle.on_disconnected(LARGE + n % 2, now);
            hurdle.on_disconnected(300, now);
            hurdle.on_disconnected(0, now);
        }
        for _ in 0..10 {
            hurdle.on_disconnected(LARGE, now);
            hurdle.on_handed(LARGE);
            hurdle.on_queue(0);
        }
        assert!(hurdle.lets_pass(now) && hurdle.trouble().is_empty());
    }
}
