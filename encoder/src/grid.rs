//! Square pictures of many channels between two layers.

/// Values by row, column and channel, with a border of zeros one pixel wide, which is dlib's padding.
#[derive(Debug, Clone)]
pub(crate) struct Grid {
    side: usize,
    channels: usize,
    values: Vec<f32>,
}

/// Where the pixels of a picture lie in a slice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places {
    /// The first value of the first pixel.
    pub(crate) first: usize,
    /// From a row to the next.
    pub(crate) row: usize,
    /// From a pixel to the next in its row.
    pub(crate) pixel: usize,
}

impl Grid {
    /// All zeros.
    pub(crate) fn new(side: usize, channels: usize) -> Self {
        Self { side, channels, values: vec![0.0; (side + 2) * (side + 2) * channels] }
    }

    pub(crate) fn side(&self) -> usize {
        self.side
    }

    pub(crate) fn values(&self) -> &[f32] {
        &self.values
    }

    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// Where the pixels are, without the border.
    pub(crate) fn inside(&self) -> Places {
        let row = (self.side + 2) * self.channels;
        Places { first: row + self.channels, row, pixel: self.channels }
    }

    /// Where the pixels are, with the border.
    pub(crate) fn whole(&self) -> Places {
        Places { first: 0, ..self.inside() }
    }

    /// The channels of a pixel.
    pub(crate) fn pixel(&self, y: usize, x: usize) -> &[f32] {
        &self.values[self.inside().of(y, x)..][..self.channels]
    }

    /// The channels of a pixel.
    pub(crate) fn pixel_mut(&mut self, y: usize, x: usize) -> &mut [f32] {
        let first = self.inside().of(y, x);
        &mut self.values[first..][..self.channels]
    }

    /// Becomes the average of each 2 × 2 pixels of `finer`, channels and pixels that it does not have being 0.
    pub(crate) fn halve(&mut self, finer: &Self) {
        for y in 0..self.side {
            for x in 0..self.side {
                let to = self.pixel_mut(y, x);
                if 2 * y + 1 >= finer.side || 2 * x + 1 >= finer.side {
                    to.fill(0.0);
                    continue;
                }
                let (to, missing) = to.split_at_mut(finer.channels);
                missing.fill(0.0);
                let from = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(dy, dx)| finer.pixel(2 * y + dy, 2 * x + dx));
                for (i, value) in to.iter_mut().enumerate() {
                    *value = (from[0][i] + from[1][i] + from[2][i] + from[3][i]) * 0.25;
                }
            }
        }
    }
}

impl Places {
    /// The first value of a pixel.
    pub(crate) fn of(&self, y: usize, x: usize) -> usize {
        self.first + y * self.row + x * self.pixel
    }

    /// Every `stride`-th pixel of every `stride`-th row.
    pub(crate) fn every(self, stride: usize) -> Self {
        Self { row: stride * self.row, pixel: stride * self.pixel, ..self }
    }
}
