//! The network: its layers in their order, and the pictures between them.

use crate::ModelFault;
use crate::conv::{Filters, Finish, Pictures};
use crate::grid::{Grid, Places};
use crate::model::{Block, CHIP_SIDE_PX, COLOURS, ENCODING_LEN, Model};
use crate::simd::{Kernel, Simd, Task};

/// Bytes of a chip: packed RGB.
pub const CHIP_BYTES: usize = CHIP_SIDE_PX * CHIP_SIDE_PX * COLOURS;
/// From a chip's row to the next.
const CHIP_ROW: usize = CHIP_SIDE_PX * COLOURS;
/// Rows and columns that are pooled together.
const POOL: usize = 3;
/// From a pool to the next.
const POOL_STRIDE: usize = 2;
/// From the first convolution's pixel to the next, px of the chip.
const STEM_STRIDE: usize = 2;

/// The network with its parameters, ready to encode; about 22 MB.
#[derive(Debug, Clone)]
pub struct Encoder {
    kernel: Kernel,
    averages: [f32; COLOURS],
    chip: Vec<f32>,
    stem: Filters,
    /// Rows of the first convolution that are pooled next.
    rows: Vec<f32>,
    stages: Vec<Stage>,
    mean: Vec<f32>,
    last: Filters,
}

/// Blocks on pictures of one size.
#[derive(Debug, Clone)]
struct Stage {
    halving: Option<Halving>,
    blocks: Vec<[Filters; 2]>,
    /// The blocks' input, which becomes their output.
    picture: Grid,
    /// What a block's first convolution gives.
    between: Grid,
}

/// The block that halves the picture before a stage.
#[derive(Debug, Clone)]
struct Halving {
    filters: [Filters; 2],
    between: Grid,
}

impl Encoder {
    /// Reads dlib's model file, for the fastest kernel of this processor.
    ///
    /// # Errors
    /// If the bytes are not exactly that network. Its numbers are believed, so check the file's sum before.
    pub fn read(model: &[u8]) -> Result<Self, ModelFault> {
        Self::with_kernel(model, Kernel::best())
    }

    /// Reads dlib's model file, for a kernel of one's choice.
    ///
    /// # Errors
    /// As [`Encoder::read`].
    pub fn with_kernel(model: &[u8], kernel: Kernel) -> Result<Self, ModelFault> {
        let model = Model::read(model)?;
        let stem = Filters::new(&model.stem, kernel);
        let columns = (CHIP_SIDE_PX - model.stem.side) / model.stem.stride + 1;
        let channels = model.stem.outputs;
        let side = (columns - POOL) / POOL_STRIDE + 1;
        let mut stages = vec![Stage::new(None, side, channels)];
        let mut rest = model.blocks.as_slice();
        while let [block, blocks @ ..] = rest {
            rest = blocks;
            let stage = stages.last_mut().filter(|_| block.first.stride == 1);
            match stage {
                Some(stage) => stage.blocks.push([&block.first, &block.second].map(|l| Filters::new(l, kernel))),
                None => {
                    let finer = stages.last().map_or(side, |stage| stage.picture.side());
                    stages.push(Stage::halved(finer, block, kernel));
                }
            }
        }
        let channels = model.last.len() / ENCODING_LEN;
        let weight = |[input, output]: [usize; 2]| model.last.get(input * ENCODING_LEN + output);
        Ok(Self {
            kernel,
            averages: model.averages,
            chip: vec![0.0; CHIP_BYTES],
            rows: vec![0.0; POOL * columns * model.stem.outputs],
            stem,
            stages,
            mean: vec![0.0; channels],
            last: Filters::matrix([channels, ENCODING_LEN], kernel, weight),
        })
    }

    /// How it computes.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// The encoding of a chip of packed RGB. The same chip gives the same bits.
    pub fn encode(&mut self, chip: &[u8; CHIP_BYTES]) -> [f32; ENCODING_LEN] {
        for (to, from) in self.chip.chunks_exact_mut(COLOURS).zip(chip.chunks_exact(COLOURS)) {
            for i in 0..COLOURS {
                to[i] = (f32::from(from[i]) - self.averages[i]) * (1.0 / 256.0);
            }
        }
        self.begin();
        for next in 0..self.stages.len() {
            let (finer, stages) = self.stages.split_at_mut(next);
            stages[0].run(finer.last().map(|stage| &stage.picture));
        }
        self.end()
    }

    /// The first convolution, pooled row by row into the first stage's picture.
    fn begin(&mut self) {
        let picture = &mut self.stages[0].picture;
        let channels = picture.inside().pixel;
        let row = self.rows.len() / POOL;
        let chip = Places { first: 0, row: CHIP_ROW, pixel: COLOURS }.every(STEM_STRIDE);
        for y in 0..picture.side() {
            // The last row of the pools above is the first one of these.
            self.rows.copy_within((POOL - 1) * row.., 0);
            let known = usize::from(y > 0);
            let pictures = Pictures {
                input: &self.chip,
                from: Places { first: (POOL_STRIDE * y + known) * chip.row, ..chip },
                input_row: CHIP_ROW,
                output: &mut self.rows,
                to: Places { first: known * row, row, pixel: channels },
                size: [POOL - known, row / channels],
            };
            self.stem.apply(pictures, Finish::Relu);
            self.kernel.run(Pooled { rows: &self.rows, picture, y });
        }
    }

    fn end(&mut self) -> [f32; ENCODING_LEN] {
        let mut encoding = [0.0; ENCODING_LEN];
        let Some(Stage { picture, .. }) = self.stages.last() else { return encoding };
        let side = picture.side();
        self.mean.fill(0.0);
        for pixel in (0..side * side).map(|i| picture.pixel(i / side, i % side)) {
            self.mean.iter_mut().zip(pixel).for_each(|(mean, value)| *mean += value);
        }
        self.mean.iter_mut().for_each(|mean| *mean /= (side * side) as f32);
        let one = Places { first: 0, row: 0, pixel: 0 };
        let pictures =
            Pictures { input: &self.mean, from: one, input_row: 0, output: &mut encoding, to: one, size: [1, 1] };
        self.last.apply(pictures, Finish::Store);
        encoding
    }
}

impl Stage {
    fn new(halving: Option<Halving>, side: usize, channels: usize) -> Self {
        let grid = Grid::new(side, channels);
        Self { halving, blocks: Vec::new(), picture: grid.clone(), between: grid }
    }

    /// The stage that begins with `block` behind a picture of this side.
    fn halved(finer_side: usize, block: &Block<'_>, kernel: Kernel) -> Self {
        // The convolution needs three rows, the average only two: the shorter result counts as 0 where it has nothing.
        let (side, average_side) = ((finer_side - 3) / 2 + 1, finer_side / 2);
        let second = if side == 1 { Filters::middle } else { Filters::new };
        let filters = [Filters::new(&block.first, kernel), second(&block.second, kernel)];
        let channels = block.second.outputs;
        let halving = Halving { filters, between: Grid::new(side, channels) };
        Self::new(Some(halving), side.max(average_side), channels)
    }

    fn run(&mut self, finer: Option<&Grid>) {
        let Self { halving, blocks, picture, between } = self;
        if let Some((Halving { filters: [first, second], between }, finer)) = halving.as_mut().zip(finer) {
            let side = between.side();
            convolve(first, (finer, finer.inside().every(2)), between, side, Finish::Relu);
            picture.halve(finer);
            let from = if side == 1 { between.inside() } else { between.whole() };
            convolve(second, (between, from), picture, side, Finish::AddRelu);
        }
        let side = picture.side();
        for [first, second] in blocks {
            convolve(first, (picture, picture.whole()), between, side, Finish::Relu);
            convolve(second, (between, between.whole()), picture, side, Finish::AddRelu);
        }
    }
}

/// Convolves the pixels of `input` that begin at `from` into the first `side` rows and columns of `output`.
fn convolve(filters: &Filters, (input, from): (&Grid, Places), output: &mut Grid, side: usize, finish: Finish) {
    let to = output.inside();
    let pictures = Pictures {
        input: input.values(),
        from,
        input_row: input.inside().row,
        output: output.values_mut(),
        to,
        size: [side, side],
    };
    filters.apply(pictures, finish);
}

/// The largest of each 3 × 3 values of three rows, as row `y` of a picture.
struct Pooled<'a> {
    rows: &'a [f32],
    picture: &'a mut Grid,
    y: usize,
}

impl Task for Pooled<'_> {
    #[inline(always)]
    fn run<S: Simd, const V: usize, const WIDE: usize, const MIDDLE: usize, const NARROW: usize>(self, simd: S) {
        let row = self.rows.len() / POOL;
        for x in 0..self.picture.side() {
            let pixel = self.picture.pixel_mut(self.y, x);
            let channels = pixel.len();
            for (i, largest) in pixel.chunks_exact_mut(S::LANES).enumerate() {
                let first = POOL_STRIDE * x * channels + i * S::LANES;
                let value = |at: usize| {
                    let (y, x) = (at / POOL, at % POOL);
                    simd.load(&self.rows[first + y * row + x * channels..])
                };
                let values = (1..POOL * POOL).fold(value(0), |largest, at| simd.max(largest, value(at)));
                simd.store(values, largest);
            }
        }
    }
}

#[cfg(test)]
mod tests;
