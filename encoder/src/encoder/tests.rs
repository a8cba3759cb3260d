//! The network against a second one, written layer by layer as dlib's documentation defines them, without any cleverness.

use super::*;
use crate::testing::{Convolution, Network, Numbers};

/// A picture by channel, row and column, as dlib has it.
#[derive(Clone)]
struct Tensor {
    channels: usize,
    side: usize,
    values: Vec<f64>,
}

impl Tensor {
    fn new(channels: usize, side: usize, value: impl Fn(usize, usize, usize) -> f64) -> Self {
        let all = (0..channels * side * side).map(|i| value(i / (side * side), i / side % side, i % side));
        Self { channels, side, values: all.collect() }
    }

    /// 0 beyond the picture's edges and channels.
    fn at(&self, channel: usize, y: usize, x: usize) -> f64 {
        let inside = channel < self.channels && y < self.side && x < self.side;
        if inside { self.values[(channel * self.side + y) * self.side + x] } else { 0.0 }
    }

    fn convolved(&self, layer: &Convolution) -> Self {
        let padding = layer.padding();
        let side = (self.side + 2 * padding - layer.side) / layer.stride + 1;
        let padded = Self::new(self.channels, self.side + 2 * padding, |c, y, x| {
            self.at(c, y.wrapping_sub(padding), x.wrapping_sub(padding))
        });
        Self::new(layer.outputs, side, |output, y, x| {
            let mut sum = f64::from(layer.biases[output]);
            for input in 0..layer.inputs {
                for (row, column) in (0..layer.side * layer.side).map(|i| (i / layer.side, i % layer.side)) {
                    let weight =
                        layer.filters[((output * layer.inputs + input) * layer.side + row) * layer.side + column];
                    sum += f64::from(weight) * padded.at(input, y * layer.stride + row, x * layer.stride + column);
                }
            }
            f64::from(layer.gamma[output]) * sum + f64::from(layer.beta[output])
        })
    }

    fn relu(self) -> Self {
        Self { values: self.values.into_iter().map(|value| value.max(0.0)).collect(), ..self }
    }

    /// Pools of `window` × `window`, two apart, as many as fit.
    fn pooled(&self, window: usize, pool: impl Fn(&mut dyn Iterator<Item = f64>) -> f64) -> Self {
        Self::new(self.channels, (self.side - window) / 2 + 1, |c, y, x| {
            pool(&mut (0..window * window).map(|i| self.at(c, 2 * y + i / window, 2 * x + i % window)))
        })
    }

    fn plus(&self, other: &Self) -> Self {
        let (channels, side) = (self.channels.max(other.channels), self.side.max(other.side));
        Self::new(channels, side, |c, y, x| self.at(c, y, x) + other.at(c, y, x))
    }
}

fn reference(network: &Network, chip: &[u8; CHIP_BYTES]) -> Vec<f64> {
    let mut picture = Tensor::new(3, 150, |c, y, x| {
        (f64::from(chip[(y * 150 + x) * 3 + c]) - f64::from(network.averages[c])) / 256.0
    });
    picture = picture.convolved(&network.stem).relu().pooled(3, |values| values.fold(f64::MIN, f64::max));
    for [first, second] in &network.blocks {
        let added = picture.convolved(first).relu().convolved(second);
        let kept = if first.stride == 2 { picture.pooled(2, |values| values.sum::<f64>() / 4.0) } else { picture };
        picture = kept.plus(&added).relu();
    }
    assert_eq!((picture.channels, picture.side), (256, 2));
    let mean: Vec<f64> = picture.values.chunks(4).map(|values| values.iter().sum::<f64>() / 4.0).collect();
    let weight = |input: usize, output: usize| f64::from(network.last[input * 128 + output]);
    (0..128).map(|output| (0..256).map(|input| mean[input] * weight(input, output)).sum()).collect()
}

fn chip(seed: u64) -> [u8; CHIP_BYTES] {
    let mut numbers = Numbers::new(seed);
    std::array::from_fn(|_| (128.0 + 127.0 * numbers.next()) as u8)
}

#[test]
fn every_kernel_computes_the_network_that_dlib_defines() {
    let network = Network::new(5);
    let file = network.file();
    let chip = chip(6);
    let expected = reference(&network, &chip);
    let norm = expected.iter().map(|value| value * value).sum::<f64>().sqrt();
    for kernel in Kernel::all() {
        let encoding = Encoder::with_kernel(&file, kernel).expect("the network").encode(&chip);
        let difference = encoding.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum::<f64>().sqrt();
        assert!(difference < 1e-5 * norm, "{}: {difference} of {norm}", kernel.name());
    }
}

#[test]
fn the_same_chip_gives_the_same_bits_again_after_others_and_by_every_kernel_that_fuses() {
    let file = Network::new(7).file();
    let chips = [chip(8), [0; CHIP_BYTES], [255; CHIP_BYTES]];
    let mut seen: Vec<(bool, [u32; ENCODING_LEN])> = Vec::new();
    for kernel in Kernel::all() {
        let mut encoder = Encoder::with_kernel(&file, kernel).expect("the network");
        let bits = encoder.encode(&chips[0]).map(f32::to_bits);
        for chip in &chips {
            encoder.encode(chip);
        }
        assert_eq!(encoder.encode(&chips[0]).map(f32::to_bits), bits, "{}: something is left over", kernel.name());
        let alike = seen.iter().find(|(fused, _)| *fused == kernel.is_fused());
        assert!(alike.is_none_or(|(_, other)| *other == bits), "{} gives other bits", kernel.name());
        seen.push((kernel.is_fused(), bits));
    }
}
