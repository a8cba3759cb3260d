//! Convolutions, computed directly: sums for a few pixels and a group of output channels stay in registers while all inputs
//! pass by. No matrix is made of the picture.

use std::array::from_fn;
use std::ops::Range;

use crate::grid::Places;
use crate::model::Layer;
use crate::simd::{Kernel, Simd, Task};

/// A layer's filters, in the order in which they are read.
#[derive(Debug, Clone)]
pub(crate) struct Filters {
    kernel: Kernel,
    /// Rows of a filter.
    rows: usize,
    /// Values of one filter's row: its columns times the input channels, which lie side by side in the input as well.
    run: usize,
    /// Output channels that are computed together.
    group: usize,
    /// By group of output channels, row, column, input channel, and output channel in the group.
    weights: Vec<f32>,
    bias: Vec<f32>,
}

/// What becomes of the sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finish {
    /// They are the output.
    Store,
    /// Negative ones become 0.
    Relu,
    /// They are added to the output, then negative values become 0.
    AddRelu,
}

/// Pictures that a convolution goes between.
pub(crate) struct Pictures<'a> {
    pub(crate) input: &'a [f32],
    /// Where the first input of each output pixel is.
    pub(crate) from: Places,
    /// From a row of the input to the next.
    pub(crate) input_row: usize,
    pub(crate) output: &'a mut [f32],
    pub(crate) to: Places,
    /// Rows and columns of the output.
    pub(crate) size: [usize; 2],
}

impl Filters {
    /// A layer as it is in the model.
    pub(crate) fn new(layer: &Layer<'_>, kernel: Kernel) -> Self {
        Self::of(layer, 0..layer.side, kernel)
    }

    /// Only the middle of each filter: all that counts where the picture is one pixel and the rest meets padding.
    pub(crate) fn middle(layer: &Layer<'_>, kernel: Kernel) -> Self {
        let middle = layer.side / 2;
        Self::of(layer, middle..middle + 1, kernel)
    }

    fn of(layer: &Layer<'_>, taps: Range<usize>, kernel: Kernel) -> Self {
        let Layer { inputs, outputs, side, .. } = *layer;
        let mut filters = Self::zeros([taps.len(), taps.len() * inputs], &layer.bias, kernel);
        for output in 0..outputs {
            let gamma = layer.gamma[output];
            for input in 0..inputs {
                for (y, tap_y) in taps.clone().enumerate() {
                    for (x, tap_x) in taps.clone().enumerate() {
                        let weight = layer.filters.get(((output * inputs + input) * side + tap_y) * side + tap_x);
                        filters.set(output, (y * taps.len() + x) * inputs + input, gamma * weight);
                    }
                }
            }
        }
        filters
    }

    /// A matrix: a filter of one pixel for each output, without biases.
    pub(crate) fn matrix([inputs, outputs]: [usize; 2], kernel: Kernel, weight: impl Fn([usize; 2]) -> f32) -> Self {
        let mut filters = Self::zeros([1, inputs], &vec![0.0; outputs], kernel);
        for input in 0..inputs {
            for output in 0..outputs {
                filters.set(output, input, weight([input, output]));
            }
        }
        filters
    }

    fn zeros([rows, run]: [usize; 2], bias: &[f32], kernel: Kernel) -> Self {
        let group = kernel.channels();
        assert!(bias.len().is_multiple_of(group), "{} channels are no groups of {group}", bias.len());
        Self { kernel, rows, run, group, weights: vec![0.0; rows * run * bias.len()], bias: bias.to_vec() }
    }

    /// Sets the weight of the input at `place` of a filter.
    fn set(&mut self, output: usize, place: usize, weight: f32) {
        let of_group = self.rows * self.run * self.group;
        self.weights[output / self.group * of_group + place * self.group + output % self.group] = weight;
    }

    /// Convolves; the output's pixels have as many channels as there are filters.
    pub(crate) fn apply(&self, pictures: Pictures<'_>, finish: Finish) {
        self.kernel.run(Convolve { filters: self, pictures, finish });
    }
}

struct Convolve<'a> {
    filters: &'a Filters,
    pictures: Pictures<'a>,
    finish: Finish,
}

impl Task for Convolve<'_> {
    #[inline(always)]
    fn run<S: Simd, const V: usize, const WIDE: usize, const MIDDLE: usize, const NARROW: usize>(self, simd: S) {
        let pixels = self.pictures.size[0] * self.pictures.size[1];
        // Steps through the weights, each of which costs one for them and one for each pixel.
        let cost = |wide: usize| if wide > pixels { usize::MAX } else { pixels.div_ceil(wide) * (wide + 1) };
        let best = [WIDE, MIDDLE, NARROW].into_iter().min_by_key(|wide| cost(*wide)).filter(|wide| *wide <= pixels);
        match best {
            Some(wide) if wide == WIDE => self.groups::<S, V, WIDE>(simd),
            Some(wide) if wide == MIDDLE => self.groups::<S, V, MIDDLE>(simd),
            Some(_) => self.groups::<S, V, NARROW>(simd),
            None => self.groups::<S, V, 1>(simd),
        }
    }
}

impl Convolve<'_> {
    /// All pixels, `P` at a time, for one group of output channels after the other.
    #[inline(always)]
    fn groups<S: Simd, const V: usize, const P: usize>(self, simd: S) {
        let Self { filters, pictures, finish } = self;
        let Pictures { input, from, input_row, output, to, size: [rows, columns] } = pictures;
        let (group, pixels) = (V * S::LANES, rows * columns);
        let of_group = filters.rows * filters.run * group;
        for (number, bias) in filters.bias.chunks_exact(group).enumerate() {
            let weights = &filters.weights[number * of_group..][..of_group];
            let bias: [S::Vector; V] = from_fn(|v| simd.load(&bias[v * S::LANES..]));
            for done in (0..pixels).step_by(P) {
                // The last pixels are computed together with some that are stored already.
                let first = done.min(pixels - P);
                let places: [[usize; 2]; P] = from_fn(|p| [(first + p) / columns, (first + p) % columns]);
                let starts = places.map(|[y, x]| from.of(y, x));
                let mut sums = [bias; P];
                for row in 0..filters.rows {
                    let inputs: [&[f32]; P] = from_fn(|p| &input[starts[p] + row * input_row..][..filters.run]);
                    let weights = &weights[row * filters.run * group..][..filters.run * group];
                    accumulate::<S, V, P>(simd, filters.run, inputs, weights, &mut sums);
                }
                for p in done - first..P {
                    let [y, x] = places[p];
                    let output = &mut output[to.of(y, x) + number * group..][..group];
                    store::<S, V>(simd, sums[p], output, finish);
                }
            }
        }
    }
}

/// Adds one row of the filters: `run` inputs of each pixel, each with its weights for all channels of the group.
#[inline(always)]
fn accumulate<S: Simd, const V: usize, const P: usize>(
    simd: S,
    run: usize,
    inputs: [&[f32]; P],
    weights: &[f32],
    sums: &mut [[S::Vector; V]; P],
) {
    let mut kept = *sums;
    for i in 0..run {
        let weights = &weights[i * V * S::LANES..][..V * S::LANES];
        let weights: [S::Vector; V] = from_fn(|v| simd.load(&weights[v * S::LANES..]));
        for p in 0..P {
            let value = simd.splat(inputs[p][i]);
            for v in 0..V {
                kept[p][v] = simd.mul_add(value, weights[v], kept[p][v]);
            }
        }
    }
    *sums = kept;
}

#[inline(always)]
fn store<S: Simd, const V: usize>(simd: S, sums: [S::Vector; V], output: &mut [f32], finish: Finish) {
    let zero = simd.splat(0.0);
    for (v, output) in (0..V).zip(output.chunks_exact_mut(S::LANES)) {
        let value = match finish {
            Finish::Store => sums[v],
            Finish::Relu => simd.max(sums[v], zero),
            Finish::AddRelu => simd.max(simd.add(simd.load(output), sums[v]), zero),
        };
        simd.store(value, output);
    }
}

#[cfg(test)]
mod tests;
