//! The network's parameters, read out of the file that dlib writes, and nothing else accepted in their place.
//!
//! dlib nests layers: a file holds the versions of all layers from the last to the first, then their contents from the first
//! to the last. The network is fixed, so every name, size and shape in the file is known before it is read.

use crate::ModelFault;
use crate::archive::{Archive, Numbers};

/// Side of a chip, px.
pub const CHIP_SIDE_PX: usize = 150;
/// Numbers of an encoding.
pub const ENCODING_LEN: usize = 128;
/// Colours of a pixel.
pub(crate) const COLOURS: usize = 3;
/// Output channels, side of the filters and stride of the first convolution.
const STEM: (usize, usize, usize) = (32, 7, 2);
/// The residual blocks in their order: output channels, and whether the block halves its side.
const BLOCKS: [(usize, bool); 14] = [
    (32, false),
    (32, false),
    (32, false),
    (64, true),
    (64, false),
    (64, false),
    (64, false),
    (128, true),
    (128, false),
    (128, false),
    (256, true),
    (256, false),
    (256, false),
    (256, true),
];

/// A convolution with the affine layer behind it: `gamma · (filters * input + bias) + beta`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Layer<'a> {
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    /// Rows and columns of a filter.
    pub(crate) side: usize,
    pub(crate) stride: usize,
    /// By output, input, row and column; each is to be multiplied by its output's gamma.
    pub(crate) filters: Numbers<'a>,
    pub(crate) gamma: Vec<f32>,
    /// `gamma · bias + beta` of each output.
    pub(crate) bias: Vec<f32>,
}

/// Two convolutions whose result is added to their input.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Block<'a> {
    /// Halves the side if its stride is 2; then the input is averaged by 2 × 2 before it is added.
    pub(crate) first: Layer<'a>,
    pub(crate) second: Layer<'a>,
}

/// All parameters; those of the layers still lie in the file's bytes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Model<'a> {
    /// What is subtracted from red, green and blue.
    pub(crate) averages: [f32; COLOURS],
    pub(crate) stem: Layer<'a>,
    pub(crate) blocks: Vec<Block<'a>>,
    /// The last layer, by input and output.
    pub(crate) last: Numbers<'a>,
}

impl<'a> Model<'a> {
    /// Reads dlib's file from its first to its last byte.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, ModelFault> {
        let mut archive = Archive::new(bytes);
        let versions = head(&mut archive)?;
        let mut versions = versions.iter().copied();
        let mut reader = Reader { archive, versions: &mut versions };
        let averages = reader.input()?;
        let (outputs, side, stride) = STEM;
        let stem = reader.layer(COLOURS, outputs, side, stride)?;
        reader.plain("relu_")?;
        reader.pool("max_pool_2", [3, 3, 2, 2])?;
        let mut channels = outputs;
        let mut blocks = Vec::with_capacity(BLOCKS.len());
        for (outputs, halves) in BLOCKS {
            blocks.push(reader.block(channels, outputs, halves)?);
            channels = outputs;
        }
        reader.pool("avg_pool_2", [0, 0, 1, 1])?;
        let last = reader.last(channels)?;
        reader.archive.end()?;
        Ok(Self { averages, stem, blocks, last })
    }
}

/// How dlib wraps a layer, which tells what follows its contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrapper {
    /// The layer that takes the picture.
    First,
    Layer,
    /// A name for a layer's output, or the use of one.
    Tag,
}

/// The wrappers, first layer first.
fn wrappers() -> Vec<Wrapper> {
    use Wrapper::{First, Layer, Tag};
    let mut all = vec![First, Layer, Layer, Layer];
    for (_, halves) in BLOCKS {
        // The input's name, then two convolutions, each with its affine layer, and a ReLU between them.
        all.extend([Tag, Layer, Layer, Layer, Layer, Layer]);
        if halves {
            // The result's name, the input again, and its average.
            all.extend([Tag, Tag, Layer]);
        }
        // The sum and the last ReLU.
        all.extend([Layer, Layer]);
    }
    all.extend([Layer, Layer]);
    all
}

/// The loss, which is read over, and every wrapper's version, first layer first.
fn head(archive: &mut Archive<'_>) -> Result<Vec<i64>, ModelFault> {
    archive.constant(1, "a loss layer of version")?;
    archive.name(&["loss_metric_2"])?;
    let (_margin, _threshold) = (archive.number()?, archive.number()?);
    let mut versions = Vec::new();
    for wrapper in wrappers().iter().rev() {
        let allowed = match wrapper {
            Wrapper::First => 2..=3,
            Wrapper::Layer => 1..=2,
            Wrapper::Tag => 1..=1,
        };
        let fault = archive.fault(format!("a layer's version in {allowed:?}"));
        let version = archive.int()?;
        if !allowed.contains(&version) {
            return Err(fault);
        }
        if *wrapper != Wrapper::Tag {
            versions.push(version);
        }
    }
    versions.reverse();
    Ok(versions)
}

/// Reads the layers' contents; `versions` are those of the layers that are not tags.
struct Reader<'a, 'v> {
    archive: Archive<'a>,
    versions: &'v mut dyn Iterator<Item = i64>,
}

impl<'a> Reader<'a, '_> {
    fn input(&mut self) -> Result<[f32; COLOURS], ModelFault> {
        let archive = &mut self.archive;
        archive.name(&["input_rgb_image_sized"])?;
        let averages = [archive.number()? as f32, archive.number()? as f32, archive.number()? as f32];
        archive.constant(CHIP_SIDE_PX as i64, "a chip's rows")?;
        archive.constant(CHIP_SIDE_PX as i64, "a chip's columns")?;
        Ok(averages)
    }

    fn block(&mut self, inputs: usize, outputs: usize, halves: bool) -> Result<Block<'a>, ModelFault> {
        let first = self.layer(inputs, outputs, 3, if halves { 2 } else { 1 })?;
        self.plain("relu_")?;
        let second = self.layer(outputs, outputs, 3, 1)?;
        if halves {
            self.pool("avg_pool_2", [2, 2, 2, 2])?;
        }
        self.plain("add_prev_")?;
        self.plain("relu_")?;
        Ok(Block { first, second })
    }

    /// A convolution and the affine layer behind it, as one.
    fn layer(&mut self, inputs: usize, outputs: usize, side: usize, stride: usize) -> Result<Layer<'a>, ModelFault> {
        let (filters, biases) = self.convolution([outputs, inputs, side], stride)?;
        let (gamma, beta) = self.affine(outputs)?;
        let bias = (0..outputs).map(|i| gamma.get(i) * biases.get(i) + beta.get(i)).collect();
        let gamma = (0..outputs).map(|i| gamma.get(i)).collect();
        Ok(Layer { inputs, outputs, side, stride, filters, gamma, bias })
    }

    fn convolution(
        &mut self,
        [outputs, inputs, side]: [usize; 3],
        stride: usize,
    ) -> Result<(Numbers<'a>, Numbers<'a>), ModelFault> {
        let archive = &mut self.archive;
        let weights = outputs * inputs * side * side;
        let name = archive.name(&["con_4", "con_5"])?;
        let numbers = archive.tensor([(weights + outputs) as u64, 1, 1, 1], "filters and biases")?;
        // Without a stride dlib pads, so that the output is as large as the input.
        let padding = if stride == 1 { side / 2 } else { 0 };
        let geometry = [outputs, side, side, stride, stride, padding, padding];
        for size in geometry {
            archive.constant(size as i64, "a convolution's size")?;
        }
        for expected in [[outputs, inputs, side, side], [1, outputs, 1, 1]] {
            let fault = archive.fault(format!("a view of the shape {expected:?}"));
            if archive.alias()? != expected.map(|size| size as u64) {
                return Err(fault);
            }
        }
        self.rates()?;
        if name == "con_5" && !self.archive.flag()? {
            return Err(self.archive.fault("a convolution with biases"));
        }
        self.layer_end()?;
        Ok(numbers.split_at(weights))
    }

    fn affine(&mut self, outputs: usize) -> Result<(Numbers<'a>, Numbers<'a>), ModelFault> {
        let archive = &mut self.archive;
        let name = archive.name(&["affine_", "affine_2"])?;
        let numbers = archive.tensor([2 * outputs as u64, 1, 1, 1], "an affine layer's parameters")?;
        for _ in 0..2 {
            let fault = archive.fault(format!("{outputs} channels"));
            if archive.alias()? != [1, outputs as u64, 1, 1] {
                return Err(fault);
            }
        }
        archive.constant(0, "an affine layer's mode")?;
        if name == "affine_2" && archive.flag()? {
            return Err(archive.fault("an affine layer in use"));
        }
        self.layer_end()?;
        Ok(numbers.split_at(outputs))
    }

    fn plain(&mut self, name: &str) -> Result<(), ModelFault> {
        self.archive.name(&[name])?;
        self.layer_end()
    }

    fn pool(&mut self, name: &str, window: [i64; 4]) -> Result<(), ModelFault> {
        self.archive.name(&[name])?;
        for size in window {
            self.archive.constant(size, "a pool's size")?;
        }
        for _ in 0..2 {
            self.archive.constant(0, "a pool's padding")?;
        }
        self.layer_end()
    }

    fn last(&mut self, inputs: usize) -> Result<Numbers<'a>, ModelFault> {
        let archive = &mut self.archive;
        let name = archive.name(&["fc_2", "fc_3"])?;
        archive.constant(ENCODING_LEN as i64, "outputs")?;
        archive.constant(inputs as i64, "inputs")?;
        let shape = [inputs as u64, ENCODING_LEN as u64, 1, 1];
        let weights = archive.tensor(shape, "the last layer's weights")?;
        archive.alias()?;
        archive.alias()?;
        archive.constant(1, "a last layer without a bias, mode")?;
        self.rates()?;
        if name == "fc_3" {
            self.archive.flag()?;
        }
        self.layer_end()?;
        Ok(weights)
    }

    /// Learning rates and decays, which only training needs.
    fn rates(&mut self) -> Result<(), ModelFault> {
        for _ in 0..4 {
            self.archive.number()?;
        }
        Ok(())
    }

    /// What dlib keeps of a layer beside its contents.
    fn layer_end(&mut self) -> Result<(), ModelFault> {
        let version = self.versions.next().ok_or_else(|| self.archive.fault("no layer more"))?;
        for _ in 0..3 {
            self.archive.flag()?;
        }
        // Gradients and the last output.
        self.archive.skip_tensor()?;
        self.archive.skip_tensor()?;
        if version >= 2 {
            self.archive.skip_tensor()?;
        }
        // Only the first layer has that version: how many samples a picture becomes.
        if version >= 3 {
            self.archive.constant(1, "samples of a picture")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
