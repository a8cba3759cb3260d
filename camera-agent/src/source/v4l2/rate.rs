//! How many frames a second, as drivers count them.

use std::cmp::Ordering;
use std::fmt;

use serde::{Serialize, Serializer};

/// So many frames in so many seconds, for example 30 in 1, 15 in 2 or 30000 in 1001; neither is 0.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    frames: u32,
    seconds: u32,
}

impl Rate {
    /// `frames` in `seconds`; nothing if either is 0.
    pub fn new(frames: u32, seconds: u32) -> Option<Self> {
        (frames > 0 && seconds > 0).then_some(Self { frames, seconds })
    }

    /// How many frames come in [`seconds`](Self::seconds).
    pub fn frames(self) -> u32 {
        self.frames
    }

    /// In how many seconds [`frames`](Self::frames) come.
    pub fn seconds(self) -> u32 {
        self.seconds
    }

    /// From one frame to the next, µs.
    pub fn interval_us(self) -> u64 {
        u64::from(self.seconds) * 1_000_000 / u64::from(self.frames)
    }

    /// Frames in 1000 s.
    pub fn milli(self) -> u64 {
        u64::from(self.frames) * 1_000 / u64::from(self.seconds)
    }
}

impl PartialEq for Rate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Rate {}

impl PartialOrd for Rate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Rate {
    fn cmp(&self, other: &Self) -> Ordering {
        let cross = |a: u32, b: u32| u64::from(a) * u64::from(b);
        cross(self.frames, other.seconds).cmp(&cross(other.frames, self.seconds))
    }
}

/// `30`, `7.5`, `29.97`.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:.2}", f64::from(self.frames) / f64::from(self.seconds));
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// A number of frames a second: an integer where it is one.
impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.frames.is_multiple_of(self.seconds) {
            serializer.serialize_u32(self.frames / self.seconds)
        } else {
            serializer.serialize_f64(f64::from(self.frames) / f64::from(self.seconds))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(frames: u32, seconds: u32) -> Rate {
        Rate::new(frames, seconds).unwrap()
    }

    #[test]
    fn rates_compare_by_value() {
        assert_eq!(rate(30, 2), rate(15, 1));
        assert!(rate(15, 2) < rate(10, 1) && rate(30_000, 1_001) < rate(30, 1));
        assert_eq!(Rate::new(0, 1).or(Rate::new(1, 0)), None);
    }

    #[test]
    fn rates_read_as_people_write_them() {
        assert_eq!([rate(30, 1), rate(15, 2), rate(30_000, 1_001)].map(|r| r.to_string()), ["30", "7.5", "29.97"]);
        let json = |rate| serde_json::to_string(&rate).unwrap();
        assert_eq!((json(rate(20, 2)), json(rate(15, 2))), ("10".into(), "7.5".into()));
        assert_eq!((rate(15, 2).interval_us(), rate(15, 2).milli()), (133_333, 7_500));
    }
}
