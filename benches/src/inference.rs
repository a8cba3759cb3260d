//! What a sample says of its population: Student's t, intervals of means, and least squares through the origin.
//!
//! The quantiles are computed here, as those of the crate `statrs` 0.19 lose their digits where there are many degrees of freedom (a test asks
//! for ten million).

use serde::Serialize;

/// The incomplete beta function's continued fraction ends after at most so many terms: a dozen are enough for what is asked here.
const TERMS_MAX: u32 = 300;
/// … or when a term changes the value by less than this part.
const TERM_MIN: f64 = 1e-15;
/// Halvings of the interval that holds a quantile.
const HALVINGS: u32 = 200;

/// A mean and its confidence interval, which is symmetric.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// Values.
    pub count: usize,
    /// Their arithmetic mean.
    pub mean: f64,
    /// Half of the interval's width; infinite for fewer than two values.
    pub half: f64,
}

impl Interval {
    /// Of the mean of independent `values` at a confidence such as 0.97, by Student's t; `None` if there are none.
    pub fn of_mean(values: &[f64], confidence: f64) -> Option<Self> {
        let count = values.len();
        if count == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / count as f64;
        if count == 1 {
            return Some(Self { count, mean, half: f64::INFINITY });
        }
        let freedom = (count - 1) as f64;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / freedom;
        let half = t_quantile(f64::midpoint(1.0, confidence), freedom) * (variance / count as f64).sqrt();
        Some(Self { count, mean, half })
    }

    /// Of the mean of `of / by`, pair by pair: what both of a pair share, such as a slow minute, is not in it.
    pub fn of_ratio(pairs: &[(f64, f64)], confidence: f64) -> Option<Self> {
        let ratios: Vec<f64> = pairs.iter().map(|(of, by)| of / by).collect();
        Self::of_mean(&ratios, confidence)
    }

    /// Its lower end.
    pub fn low(&self) -> f64 {
        self.mean - self.half
    }

    /// Its upper end.
    pub fn high(&self) -> f64 {
        self.mean + self.half
    }
}

/// The slope `c` of `y = c x` that leaves the least sum of squares; `None` if every `x` is 0.
pub fn slope_through_origin(points: &[(f64, f64)]) -> Option<f64> {
    let squares: f64 = points.iter().map(|(x, _)| x * x).sum();
    let products: f64 = points.iter().map(|(x, y)| x * y).sum();
    (squares > 0.0).then(|| products / squares)
}

/// The value that a variable of Student's t with so many degrees of freedom stays below with probability `p`, 0 < p < 1.
pub fn t_quantile(p: f64, freedom: f64) -> f64 {
    assert!(p > 0.0 && p < 1.0, "no probability of a quantile: {p}");
    assert!(freedom > 0.0, "no degrees of freedom: {freedom}");
    if p < 0.5 {
        return -t_quantile(1.0 - p, freedom);
    }
    let (mut low, mut high) = (0.0, 1.0);
    while t_distribution(high, freedom) < p {
        high *= 2.0;
    }
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        if t_distribution(middle, freedom) < p { low = middle } else { high = middle }
    }
    f64::midpoint(low, high)
}

/// The probability that a variable of Student's t stays below `t`, which is not negative.
fn t_distribution(t: f64, freedom: f64) -> f64 {
    1.0 - 0.5 * incomplete_beta(freedom / 2.0, 0.5, freedom / (freedom + t * t))
}

/// The regularised incomplete beta function (NIST DLMF 8.17).
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    // The continued fraction converges quickly on this side of the mean; the other side follows by symmetry.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(b, a, 1.0 - x);
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (1.0 - x).ln()).exp();
    front / a / beta_fraction(a, b, x)
}

/// DLMF 8.17.22: 1 + d1/(1 + d2/(1 + …)), by Lentz's method.
fn beta_fraction(a: f64, b: f64, x: f64) -> f64 {
    let (mut value, mut c, mut d) = (1.0, 1.0, 0.0);
    for term in 1..=TERMS_MAX {
        let m = f64::from(term / 2);
        let factor = if term % 2 == 0 {
            m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m))
        } else {
            -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0))
        };
        d = 1.0 / (1.0 + factor * d);
        c = 1.0 + factor / c;
        value *= c * d;
        if (c * d - 1.0).abs() < TERM_MIN {
            break;
        }
    }
    value
}

/// The logarithm of the gamma function for positive `x`: the recurrence up to where Stirling's series is exact (DLMF 5.11.1).
fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut below) = (x, 0.0);
    while x < 15.0 {
        below += x.ln();
        x += 1.0;
    }
    let square = x * x;
    let series = (1.0 / 12.0 - (1.0 / 360.0 - (1.0 / 1260.0 - 1.0 / (1680.0 * square)) / square) / square) / x;
    (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series - below
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_t_are_those_of_the_tables() {
        // Two-sided 95 % and 99 % from any statistics book; one degree of freedom is Cauchy's: tan(π (p − 1/2)).
        let known = [(0.975, 1.0, 12.7062), (0.975, 10.0, 2.2281), (0.995, 5.0, 4.0321), (0.95, 30.0, 1.6973)];
        for (p, freedom, value) in known {
            let found = t_quantile(p, freedom);
            assert!((found - value).abs() < 5e-5, "{p} with {freedom}: {found}, not {value}");
        }
        let cauchy = (std::f64::consts::PI * 0.485).tan();
        assert!((t_quantile(0.985, 1.0) - cauchy).abs() < 1e-9 * cauchy);
        // Two degrees of freedom have a closed form: (2p − 1) / sqrt(2 p (1 − p)).
        assert!((t_quantile(0.985, 2.0) - 0.97 / (2.0_f64 * 0.985 * 0.015).sqrt()).abs() < 1e-9);
        assert!((t_quantile(0.985, 1e7) - 2.170_09).abs() < 1e-4, "with many it is the normal distribution's");
    }

    #[test]
    fn quantiles_of_t_are_symmetric_about_zero() {
        assert!(t_quantile(0.5, 7.0).abs() < 1e-12);
        assert!((t_quantile(0.1, 7.0) + t_quantile(0.9, 7.0)).abs() < 1e-12);
    }

    #[test]
    fn the_gamma_function_is_the_factorial_and_knows_one_half() {
        assert!((ln_gamma(6.0) - 120.0_f64.ln()).abs() < 1e-12);
        assert!((ln_gamma(0.5) - std::f64::consts::PI.sqrt().ln()).abs() < 1e-12);
        assert!(ln_gamma(1.0).abs() < 1e-12);
    }

    #[test]
    fn an_interval_of_a_mean_is_t_times_the_standard_error() {
        // Mean 5, sample variance 32/7, t(0.975, 7) = 2.364 624.
        let values = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0];
        let interval = Interval::of_mean(&values, 0.95).expect("values");
        assert_eq!((interval.count, interval.mean), (8, 5.0));
        assert!((interval.half - 2.364_624 * (32.0_f64 / 7.0 / 8.0).sqrt()).abs() < 1e-5, "{interval:?}");
    }

    #[test]
    fn one_value_bounds_nothing_and_none_has_no_mean() {
        assert_eq!(Interval::of_mean(&[3.0], 0.97).map(|one| (one.mean, one.half)), Some((3.0, f64::INFINITY)));
        assert_eq!(Interval::of_mean(&[], 0.97), None);
    }

    #[test]
    fn what_both_of_a_pair_share_is_not_in_their_ratio() {
        let pairs: Vec<(f64, f64)> = [100.0, 250.0, 40.0, 900.0].map(|slow| (slow * 1.02, slow)).into();
        let ratio = Interval::of_ratio(&pairs, 0.97).expect("pairs");
        assert!((ratio.mean - 1.02).abs() < 1e-12 && ratio.half < 1e-12, "{ratio:?}");
        let ratio = Interval::of_ratio(&[(1.0, 2.0), (3.0, 2.0)], 0.97).expect("pairs");
        assert!((ratio.mean - 1.0).abs() < 1e-12 && ratio.half > 1.0, "{ratio:?}");
    }

    #[test]
    fn least_squares_finds_the_slope_of_a_line_and_weighs_by_the_square_of_x() {
        assert_eq!(slope_through_origin(&[(1.0, 3.0), (2.0, 6.0), (5.0, 15.0)]), Some(3.0));
        // (1·1 + 3·5) / (1 + 9).
        assert_eq!(slope_through_origin(&[(1.0, 1.0), (3.0, 5.0)]), Some(1.6));
        assert_eq!(slope_through_origin(&[(0.0, 4.0)]), None);
    }
}
