//! dlib's serialized values: integers of variable length, text, floats as mantissa and exponent, and tensors.

use crate::ModelFault;

/// Longer texts do not occur: they are names of layers.
const TEXT_BYTES_MAX: u64 = 64;
/// A tensor's dimensions: samples, channels, rows, columns.
pub(crate) type Shape = [u64; 4];

/// The values of a tensor, still as they are in the file; all of them finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Numbers<'a>(&'a [[u8; 4]]);

impl<'a> Numbers<'a> {
    pub(crate) fn len(self) -> usize {
        self.0.len()
    }

    pub(crate) fn get(self, at: usize) -> f32 {
        f32::from_le_bytes(self.0[at])
    }

    pub(crate) fn split_at(self, at: usize) -> (Self, Self) {
        let (first, second) = self.0.split_at(at);
        (Self(first), Self(second))
    }
}

/// Reads one value after the other out of a model's bytes; nothing is allocated for what is not there.
#[derive(Debug)]
pub(crate) struct Archive<'a> {
    rest: &'a [u8],
    length: usize,
}

impl<'a> Archive<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, length: bytes.len() }
    }

    /// What is wrong at the place reached.
    pub(crate) fn fault(&self, expected: impl Into<String>) -> ModelFault {
        ModelFault { at_byte: self.length - self.rest.len(), expected: expected.into() }
    }

    /// Nothing may be left.
    pub(crate) fn end(&self) -> Result<(), ModelFault> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.fault("the end of the file")) }
    }

    /// An integer: a byte with its length and sign, then its magnitude, lowest byte first.
    pub(crate) fn int(&mut self) -> Result<i64, ModelFault> {
        let fault = self.fault("an integer");
        let [head] = *self.take(1)? else { return Err(fault) };
        let (negative, length) = (head & 0x80 != 0, usize::from(head & 0x0F));
        if head & 0x70 != 0 || !(1..=8).contains(&length) {
            return Err(fault);
        }
        let mut magnitude = [0; 8];
        magnitude[..length].copy_from_slice(self.take(length)?);
        let magnitude = i64::try_from(u64::from_le_bytes(magnitude)).map_err(|_| fault)?;
        Ok(if negative { -magnitude } else { magnitude })
    }

    /// An integer that can only be this one.
    pub(crate) fn constant(&mut self, expected: i64, what: &str) -> Result<(), ModelFault> {
        let fault = self.fault(format!("{what} {expected}"));
        if self.int()? == expected { Ok(()) } else { Err(fault) }
    }

    /// A size.
    pub(crate) fn size(&mut self) -> Result<u64, ModelFault> {
        let fault = self.fault("a size");
        u64::try_from(self.int()?).map_err(|_| fault)
    }

    /// A character that stands for yes or no.
    pub(crate) fn flag(&mut self) -> Result<bool, ModelFault> {
        let fault = self.fault("a flag");
        match self.take(1)? {
            b"1" => Ok(true),
            b"0" => Ok(false),
            _ => Err(fault),
        }
    }

    /// A text with its length before it.
    pub(crate) fn text(&mut self) -> Result<&'a str, ModelFault> {
        let fault = self.fault("a text");
        let length = self.size()?;
        if length > TEXT_BYTES_MAX {
            return Err(fault);
        }
        // At most 64.
        std::str::from_utf8(self.take(length as usize)?).map_err(|_| fault)
    }

    /// A text that can only be one of these.
    pub(crate) fn name(&mut self, expected: &[&str]) -> Result<&'a str, ModelFault> {
        let fault = self.fault(format!("the name {}", expected.join(" or ")));
        let name = self.text()?;
        if expected.contains(&name) { Ok(name) } else { Err(fault) }
    }

    /// A finite number, as mantissa and exponent to base 2.
    pub(crate) fn number(&mut self) -> Result<f64, ModelFault> {
        let fault = self.fault("a finite number");
        let (mantissa, exponent) = (self.int()?, self.int()?);
        let exponent = i32::try_from(exponent).ok().filter(|exponent| exponent.abs() < 1_000).ok_or(fault)?;
        Ok(mantissa as f64 * 2f64.powi(exponent))
    }

    /// The shape of a tensor that is described and not stored.
    pub(crate) fn alias(&mut self) -> Result<Shape, ModelFault> {
        self.constant(1, "a view of version")?;
        self.shape()
    }

    /// A tensor of this shape, all of its values finite.
    pub(crate) fn tensor(&mut self, expected: Shape, what: &str) -> Result<Numbers<'a>, ModelFault> {
        let fault = self.fault(format!("{what} of the shape {expected:?}"));
        self.constant(2, "a tensor of version")?;
        if self.shape()? != expected {
            return Err(fault);
        }
        let (values, _) = self.values(expected)?.as_chunks();
        let finite = values.iter().all(|value| f32::from_le_bytes(*value).is_finite());
        if finite { Ok(Numbers(values)) } else { Err(fault) }
    }

    /// Passes over a tensor that only training needs.
    pub(crate) fn skip_tensor(&mut self) -> Result<(), ModelFault> {
        self.constant(2, "a tensor of version")?;
        let shape = self.shape()?;
        self.values(shape).map(drop)
    }

    fn shape(&mut self) -> Result<Shape, ModelFault> {
        Ok([self.size()?, self.size()?, self.size()?, self.size()?])
    }

    fn values(&mut self, shape: Shape) -> Result<&'a [u8], ModelFault> {
        let fault = self.fault("a tensor that fits the file");
        let bytes = shape.iter().try_fold(4u64, |product, side| product.checked_mul(*side));
        self.take(bytes.and_then(|bytes| usize::try_from(bytes).ok()).ok_or(fault)?)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], ModelFault> {
        let (taken, rest) =
            self.rest.split_at_checked(count).ok_or_else(|| self.fault(format!("{count} bytes more")))?;
        self.rest = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests;
