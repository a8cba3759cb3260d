//! A model file as dlib writes it, with numbers of our own, and the numbers themselves for a second opinion.

/// A source of numbers that repeats itself in each run.
#[derive(Debug, Clone)]
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(1))
    }

    /// Evenly between -1 and 1.
    pub(crate) fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub(crate) fn take(&mut self, count: usize, largest: f32) -> Vec<f32> {
        (0..count).map(|_| self.next() * largest).collect()
    }
}

/// A convolution and its affine layer, as they are in the file.
#[derive(Debug, Clone)]
pub(crate) struct Convolution {
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) side: usize,
    pub(crate) stride: usize,
    pub(crate) filters: Vec<f32>,
    pub(crate) biases: Vec<f32>,
    pub(crate) gamma: Vec<f32>,
    pub(crate) beta: Vec<f32>,
}

impl Convolution {
    pub(crate) fn new(numbers: &mut Numbers, [inputs, outputs, side, stride]: [usize; 4]) -> Self {
        let weights = inputs * side * side;
        Self {
            inputs,
            outputs,
            side,
            stride,
            // So large that signals neither vanish nor explode.
            filters: numbers.take(weights * outputs, (3.0 / weights as f32).sqrt()),
            biases: numbers.take(outputs, 0.1),
            gamma: numbers.take(outputs, 0.5).into_iter().map(|gamma| 1.0 + gamma).collect(),
            beta: numbers.take(outputs, 0.1),
        }
    }

    pub(crate) fn padding(&self) -> usize {
        if self.stride == 1 { self.side / 2 } else { 0 }
    }
}

/// The network's parameters.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    pub(crate) averages: [f32; 3],
    pub(crate) stem: Convolution,
    pub(crate) blocks: Vec<[Convolution; 2]>,
    pub(crate) last: Vec<f32>,
}

impl Network {
    pub(crate) fn new(seed: u64) -> Self {
        let mut numbers = Numbers::new(seed);
        let stem = Convolution::new(&mut numbers, [3, 32, 7, 2]);
        let mut inputs = 32;
        let stages = [(32, 1, 3), (64, 2, 4), (128, 2, 3), (256, 2, 3), (256, 2, 1)];
        let blocks = stages.into_iter().flat_map(|(outputs, stride, count)| {
            (0..count).map(move |number| (outputs, if number == 0 { stride } else { 1 })).collect::<Vec<_>>()
        });
        let blocks = blocks.map(|(outputs, stride)| {
            let first = Convolution::new(&mut numbers, [inputs, outputs, 3, stride]);
            inputs = outputs;
            [first, Convolution::new(&mut numbers, [outputs, outputs, 3, 1])]
        });
        let blocks: Vec<[Convolution; 2]> = blocks.collect();
        let last = numbers.take(256 * 128, (3.0f32 / 256.0).sqrt());
        Self { averages: [122.782, 117.001, 104.298], stem, blocks, last }
    }

    /// The bytes of its file.
    pub(crate) fn file(&self) -> Vec<u8> {
        let mut file = File::default();
        file.ints([1]).text("loss_metric_2").number(0.04f32).number(0.6f32);
        // Versions from the last layer to the first: 2 of a layer, 1 of a tag.
        file.ints([2, 2]);
        for [first, _] in self.blocks.iter().rev() {
            file.ints(
                if first.stride == 1 { &[2, 2, 2, 2, 2, 2, 2, 1][..] } else { &[2, 2, 2, 1, 1, 2, 2, 2, 2, 2, 1] }
                    .iter()
                    .copied(),
            );
        }
        file.ints([2, 2, 2, 3]).text("input_rgb_image_sized");
        for average in self.averages {
            file.number(average);
        }
        file.ints([150, 150]);
        file.convolution(&self.stem, 3).plain("relu_").pool("max_pool_2", [3, 3, 2, 2]);
        for [first, second] in &self.blocks {
            file.convolution(first, 2).plain("relu_").convolution(second, 2);
            if first.stride == 2 {
                file.pool("avg_pool_2", [2, 2, 2, 2]);
            }
            file.plain("add_prev_").plain("relu_");
        }
        file.pool("avg_pool_2", [0, 0, 1, 1]).text("fc_2").ints([128, 256]).tensor([256, 128, 1, 1], &self.last);
        file.ints([1, 256, 128, 1, 1, 1, 0, 0, 0, 0, 1]).rates().end(2);
        file.bytes
    }
}

/// Writes as `dlib::serialize` does.
#[derive(Debug, Default)]
pub(crate) struct File {
    pub(crate) bytes: Vec<u8>,
}

impl File {
    pub(crate) fn ints(&mut self, values: impl IntoIterator<Item = i64>) -> &mut Self {
        for value in values {
            let magnitude = value.unsigned_abs().to_le_bytes();
            let length = magnitude.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
            self.bytes.push(length as u8 | if value < 0 { 0x80 } else { 0 });
            self.bytes.extend(&magnitude[..length]);
        }
        self
    }

    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        self.ints([text.len() as i64]);
        self.bytes.extend(text.as_bytes());
        self
    }

    pub(crate) fn number(&mut self, value: impl Into<f64>) -> &mut Self {
        let (mut mantissa, mut exponent) = (value.into(), 0);
        while mantissa.fract() != 0.0 {
            (mantissa, exponent) = (mantissa * 2.0, exponent - 1);
        }
        self.ints([mantissa as i64, exponent])
    }

    pub(crate) fn tensor(&mut self, shape: [usize; 4], values: &[f32]) -> &mut Self {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        self.ints([2]).ints(shape.map(|side| side as i64));
        self.bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self
    }

    fn convolution(&mut self, layer: &Convolution, version: i64) -> &mut Self {
        let parameters = [layer.filters.as_slice(), &layer.biases].concat();
        let [inputs, outputs, side, stride, padding] =
            [layer.inputs, layer.outputs, layer.side, layer.stride, layer.padding()].map(|size| size as i64);
        self.text("con_4").tensor([parameters.len(), 1, 1, 1], &parameters);
        self.ints([outputs, side, side, stride, stride, padding, padding]);
        self.ints([1, outputs, inputs, side, side, 1, 1, outputs, 1, 1]).rates().end(version);
        let parameters = [layer.gamma.as_slice(), &layer.beta].concat();
        self.text("affine_").tensor([parameters.len(), 1, 1, 1], &parameters);
        self.ints([1, 1, outputs, 1, 1, 1, 1, outputs, 1, 1, 0]).end(2)
    }

    fn plain(&mut self, name: &str) -> &mut Self {
        self.text(name).end(2)
    }

    fn pool(&mut self, name: &str, window: [i64; 4]) -> &mut Self {
        self.text(name).ints(window).ints([0, 0]).end(2)
    }

    fn rates(&mut self) -> &mut Self {
        for rate in [1.0f32, 1.0, 1.0, 0.0] {
            self.number(rate);
        }
        self
    }

    fn end(&mut self, version: i64) -> &mut Self {
        self.bytes.extend(b"110");
        for _ in 0..3 {
            self.ints([2, 0, 0, 0, 0]);
        }
        if version == 3 { self.ints([1]) } else { self }
    }
}
