//! The lines of the figure: what a workload is run under.

use crate::Error;

/// The limit of what is never split, ms: longer than any workload.
pub const UNLIMITED_MS: u64 = 3_600_000;

/// Room beside the images that an invocation is to hold, in images.
const ROOM: f64 = 0.75;

/// One way to run a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// Its name in the raw data.
    pub key: &'static str,
    /// For people.
    pub title: &'static str,
    /// Edge agents that share the work.
    pub nodes: usize,
    /// Images that one invocation is to hold; `None` without a limit.
    pub holds: Option<u32>,
    /// What happens at the limit.
    pub end: LimitEnd,
    /// Whether a peer has to ask for a state, instead of getting it with the continuation.
    pub fetched: bool,
}

/// What happens to an invocation that comes to `r_limit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitEnd {
    /// It stops before, saves its state, and another one goes on.
    Continued,
    /// It is killed, and another one begins with nothing.
    Killed,
    /// It saves its state and goes on itself.
    Kept,
}

/// The line that all others are compared with.
pub const LONG: &str = "long";

/// The line that is limited, but never split: what it differs by is noise.
pub const CONTROL: &str = "r50";

/// All lines, in the order of the tables.
pub const LINES: [Line; 11] = [
    line(LONG, "one long invocation", 1, None),
    line("r2", "µλ, 2 images an invocation", 1, Some(2)),
    line("r3", "µλ, 3 images", 1, Some(3)),
    line("r5", "µλ, 5 images", 1, Some(5)),
    line("r10", "µλ, 10 images", 1, Some(10)),
    line(CONTROL, "µλ, 50 images (control: never split)", 1, Some(50)),
    line("r2-two", "µλ, 2 images, two nodes", 2, Some(2)),
    line("r5-two", "µλ, 5 images, two nodes", 2, Some(5)),
    Line { fetched: true, ..line("r5-fetched", "µλ, 5 images, two nodes, states asked for", 2, Some(5)) },
    Line {
        end: LimitEnd::Kept,
        ..line("kept5", "one long invocation that saves its state every 5 images", 1, Some(5))
    },
    Line { end: LimitEnd::Killed, ..line("killed5", "killed at the limit of 5 images, without state", 1, Some(5)) },
];

const fn line(key: &'static str, title: &'static str, nodes: usize, holds: Option<u32>) -> Line {
    Line { key, title, nodes, holds, end: LimitEnd::Continued, fetched: false }
}

impl Line {
    /// The line of this key.
    ///
    /// # Errors
    /// There is none.
    pub fn of(key: &str) -> Result<&'static Self, Error> {
        LINES.iter().find(|line| line.key == key).ok_or_else(|| format!("no line {key}").into())
    }

    /// The limit of one invocation, ms, where an image costs `image_ms` on average.
    ///
    /// Three quarters of an image more than it is to hold: a unit only begins where its predicted cost, which has a margin, is left.
    pub fn r_limit_ms(&self, image_ms: f64) -> u64 {
        self.holds.map_or(UNLIMITED_MS, |images| ((f64::from(images) + ROOM) * image_ms).round() as u64)
    }

    /// Whether its nodes work under a limit of the product's own.
    pub fn is_limited(&self) -> bool {
        self.holds.is_some() && self.end == LimitEnd::Continued
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_leaves_room_for_less_than_an_image_more_than_it_holds() {
        let of = |key: &str| Line::of(key).map(|line| line.r_limit_ms(100.0)).ok();
        assert_eq!((of("r2"), of("r5"), of(LONG)), (Some(275), Some(575), Some(UNLIMITED_MS)));
    }

    #[test]
    fn lines_have_names_of_their_own() {
        let mut keys: Vec<&str> = LINES.iter().map(|line| line.key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), LINES.len());
    }
}
