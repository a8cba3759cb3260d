//! Noise of a video: a function of its seed and of what it is asked for, never of the order of questions.

use crate::random::fraction;

/// Values of the pool that sensor noise is drawn from: large enough that no two rows of a video look alike.
const POOL_LEN: usize = 1 << 18;

/// Gaussian noise for pictures: each row of each frame takes a stretch of one pool from a random place on, as a draw for each of
/// three million values would take longer than everything else.
#[derive(Debug, Clone)]
pub struct SensorNoise {
    pool: Vec<i8>,
}

impl SensorNoise {
    /// Noise of standard deviation `sigma`, in steps of an 8-bit channel.
    pub fn new(seed: u64, sigma: f64) -> Self {
        let pair = |index: u64| {
            // Box and Muller; never the logarithm of 0.
            let radius = (-2.0 * (1.0 - fraction(seed, 2 * index)).ln()).sqrt() * sigma;
            let angle = std::f64::consts::TAU * fraction(seed, 2 * index + 1);
            [radius * angle.cos(), radius * angle.sin()]
        };
        let pool = (0..POOL_LEN as u64 / 2).flat_map(pair).map(|value| value.round() as i8).collect();
        Self { pool }
    }

    /// Adds noise to one row of channels; `draw` tells rows apart.
    pub fn add(&self, channels: &mut [u8], draw: u64) {
        let start = (draw % POOL_LEN as u64) as usize;
        let stretch = self.pool[start..].iter().chain(self.pool.iter().cycle());
        for (channel, noise) in channels.iter_mut().zip(stretch) {
            *channel = channel.saturating_add_signed(*noise);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_has_the_spread_that_was_asked_for_and_no_bias() {
        let mut grey = vec![128_u8; 200_000];
        SensorNoise::new(7, 5.0).add(&mut grey, 1_000);
        let off: Vec<f64> = grey.iter().map(|value| f64::from(*value) - 128.0).collect();
        let mean = off.iter().sum::<f64>() / off.len() as f64;
        let variance = off.iter().map(|off| (off - mean).powi(2)).sum::<f64>() / off.len() as f64;
        assert!(mean.abs() < 0.05 && (variance.sqrt() - 5.0).abs() < 0.05, "mean {mean}, sigma {}", variance.sqrt());
    }
}
