use proptest::prelude::*;

use super::*;
use crate::grid::Grid;
use crate::model::Model;
use crate::testing::{Network, Numbers};

/// The sums one after the other, as every kernel forms them: row, column, channel.
fn naive(fused: bool, filters: &[f32], [y, x, output]: [usize; 3], case: &Case, input: &Grid, bias: f32) -> f32 {
    let mut sum = bias;
    let first = case.border;
    for row in 0..case.side {
        for column in 0..case.side {
            for channel in 0..case.inputs {
                let whole = input.whole();
                let at = whole.of(case.stride * y + row + first, case.stride * x + column + first) + channel;
                let weight = filters[((row * case.side + column) * case.inputs + channel) * case.outputs + output];
                let value = input.values()[at];
                sum = if fused { value.mul_add(weight, sum) } else { value * weight + sum };
            }
        }
    }
    sum
}

#[derive(Debug, Clone)]
struct Case {
    inputs: usize,
    outputs: usize,
    side: usize,
    stride: usize,
    /// Where the filters begin: 0 with padding, 1 without.
    border: usize,
    size: usize,
    seed: u64,
    finish: Finish,
}

fn cases() -> impl Strategy<Value = Case> {
    let finish = prop_oneof![Just(Finish::Store), Just(Finish::Relu), Just(Finish::AddRelu)];
    let sizes = (1usize..40, prop_oneof![Just(32usize), Just(64)], 1usize..4, 1usize..3, 0usize..2, 1usize..8);
    (sizes, any::<u64>(), finish).prop_map(|((inputs, outputs, side, stride, border, size), seed, finish)| Case {
        inputs,
        outputs,
        side,
        stride,
        border,
        size,
        seed,
        finish,
    })
}

/// All kernels of this machine on one case, each against the naive sums.
fn check(case: &Case) {
    let mut numbers = Numbers::new(case.seed);
    let bias = numbers.take(case.outputs, 1.0);
    let weights = numbers.take(case.side * case.side * case.inputs * case.outputs, 1.0);
    let mut input = Grid::new(case.stride * case.size + case.side + case.border, case.inputs);
    let side = input.side();
    for (y, x) in (0..side * side).map(|i| (i / side, i % side)) {
        input.pixel_mut(y, x).copy_from_slice(&numbers.take(case.inputs, 1.0));
    }
    let before = numbers.take(case.outputs, 1.0);
    for kernel in Kernel::all() {
        let run = case.side * case.inputs;
        let mut filters = Filters::zeros([case.side, run], &bias, kernel);
        for (i, weight) in weights.iter().enumerate() {
            filters.set(i % case.outputs, i / case.outputs, *weight);
        }
        let mut output = Grid::new(case.size, case.outputs);
        for (y, x) in (0..case.size * case.size).map(|i| (i / case.size, i % case.size)) {
            output.pixel_mut(y, x).copy_from_slice(&before);
        }
        let from = if case.border == 0 { input.whole() } else { input.inside() };
        let to = output.inside();
        let pictures = Pictures {
            input: input.values(),
            from: from.every(case.stride),
            input_row: from.row,
            output: output.values_mut(),
            to,
            size: [case.size; 2],
        };
        filters.apply(pictures, case.finish);
        for (y, x) in (0..case.size * case.size).map(|i| (i / case.size, i % case.size)) {
            for (i, value) in output.pixel(y, x).iter().enumerate() {
                let sum = naive(kernel.is_fused(), &weights, [y, x, i], case, &input, bias[i]);
                let expected = match case.finish {
                    Finish::Store => sum,
                    Finish::Relu => sum.max(0.0),
                    Finish::AddRelu => (before[i] + sum).max(0.0),
                };
                assert_eq!(value.to_bits(), expected.to_bits(), "{} {case:?}, pixel {y} {x} {i}", kernel.name());
            }
        }
        let border: f32 = (0..output.side() + 2).map(|x| output.values()[x * case.outputs]).sum();
        assert_eq!(border, 0.0, "the padding stays zero");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_kernel_gives_the_bits_of_the_naive_sums(case in cases()) {
        check(&case);
    }
}

#[test]
fn filters_are_those_of_the_layer_times_its_gamma_and_a_middle_is_their_middle() {
    let file = Network::new(4).file();
    let model = Model::read(&file).expect("the network");
    let layer = &model.blocks[0].first;
    for kernel in Kernel::all() {
        let whole = Filters::new(layer, kernel);
        let middle = Filters::middle(layer, kernel);
        let of = |filters: &Filters, output: usize, place: usize| {
            let group = kernel.channels();
            let of_group = filters.rows * filters.run * group;
            filters.weights[output / group * of_group + place * group + output % group]
        };
        for (output, input) in [(0, 0), (31, 0), (3, 31), (17, 5)] {
            for (y, x) in (0..9).map(|i| (i / 3, i % 3)) {
                let weight = layer.filters.get(((output * layer.inputs + input) * 3 + y) * 3 + x);
                let place = (y * 3 + x) * layer.inputs + input;
                assert_eq!(of(&whole, output, place), layer.gamma[output] * weight);
            }
            let weight = layer.filters.get((output * layer.inputs + input) * 9 + 4);
            assert_eq!(of(&middle, output, input), layer.gamma[output] * weight);
        }
    }
}
