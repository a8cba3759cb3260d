//! The mean brightness of each block of a JPEG, which it stores by itself: everything finer is passed by.
//!
//! ITU-T T.81, annexes B and F, for sequential pictures with Huffman coding and all components in one scan, as cameras send them. A decoder
//! that scales keeps rows of coefficients of all components, more than a camera agent's memory has room for.

use microlambda_picture::{JpegSegment, jpeg_segments};

use super::{DHT, SOS, header};

const DQT: u8 = 0xdb;
const DRI: u8 = 0xdd;
/// Codes up to this length are looked up at once, bits.
const LOOK_BITS: u32 = 9;

/// Means of 8×8 pixels, 0 to 255, row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocks {
    /// Width of the picture, blocks; the last one of a row may reach beyond it.
    pub width: u32,
    /// Height of the picture, blocks; the last row may reach beyond it.
    pub height: u32,
    /// The mean of each block, `width × height` of them.
    pub means: Vec<u8>,
}

/// Reads the first component's blocks; `None` if this is another kind of JPEG, or cut or damaged before its end.
pub fn luma_blocks(jpeg: &[u8]) -> Option<Blocks> {
    let tables = Tables::read(jpeg)?;
    let [luma, ..] = tables.components.as_slice() else { return None };
    let most = |side: fn(&Component) -> u32| tables.components.iter().map(side).max().unwrap_or(1);
    let (across, down) = (most(|component| component.across), most(|component| component.down));
    if (luma.across, luma.down) != (across, down) {
        return None;
    }
    // A component alone in its scan comes block by block.
    let (across, down) = if tables.components.len() == 1 { (1, 1) } else { (across, down) };
    let (width, height) = (tables.width_px.div_ceil(8), tables.height_px.div_ceil(8));
    let (columns, rows) = (width.div_ceil(across), height.div_ceil(down));
    let mut means = vec![0; (width * height) as usize];
    let mut bits = Bits { bytes: jpeg, at: tables.data_at, ..Bits::default() };
    let mut levels = [0_i32; 4];
    for unit in 0..columns * rows {
        if tables.restart_units > 0 && unit > 0 && unit % tables.restart_units == 0 {
            bits.restart()?;
            levels = [0; 4];
        }
        for (number, component) in tables.components.iter().enumerate() {
            let (across, down) = if tables.components.len() == 1 { (1, 1) } else { (component.across, component.down) };
            for block in 0..across * down {
                levels[number] = levels[number].wrapping_add(bits.block(component)?);
                let (x, y) = (unit % columns * across + block % across, unit / columns * down + block / across);
                if number == 0 && x < width && y < height {
                    let mean = levels[0].wrapping_mul(component.step).wrapping_add(4).div_euclid(8).saturating_add(128);
                    means[(y * width + x) as usize] = mean.clamp(0, 255) as u8;
                }
            }
        }
    }
    Some(Blocks { width, height, means })
}

/// One component of the scan, with its tables.
#[derive(Debug)]
struct Component {
    id: u8,
    across: u32,
    down: u32,
    quantiser: u8,
    step: i32,
    dc: Huffman,
    ac: Huffman,
}

/// What the segments before the scan say.
#[derive(Debug, Default)]
struct Tables {
    width_px: u32,
    height_px: u32,
    components: Vec<Component>,
    restart_units: u32,
    data_at: usize,
}

impl Tables {
    fn read(jpeg: &[u8]) -> Option<Self> {
        if !header(jpeg)?.sequential {
            return None;
        }
        let (mut tables, mut steps) = (Self::default(), [0_i32; 4]);
        let mut codes: [[Huffman; 4]; 2] = Default::default();
        for JpegSegment { at, code, body } in jpeg_segments(jpeg) {
            match code {
                DQT => read_steps(body, &mut steps)?,
                DHT => read_codes(body, &mut codes)?,
                DRI => tables.restart_units = u16::from_be_bytes([*body.first()?, *body.get(1)?]).into(),
                0xc0 | 0xc1 => tables.read_frame(body)?,
                SOS => {
                    tables.read_scan(body, &steps, &codes)?;
                    tables.data_at = at + 4 + body.len();
                    return Some(tables);
                }
                _ => {}
            }
        }
        None
    }

    fn read_frame(&mut self, segment: &[u8]) -> Option<()> {
        let [8, high, low, wide, narrow, count, components @ ..] = segment else { return None };
        self.height_px = u16::from_be_bytes([*high, *low]).into();
        self.width_px = u16::from_be_bytes([*wide, *narrow]).into();
        let components = components.get(..3 * usize::from(*count))?.chunks_exact(3);
        self.components = components
            .map(|one| Component {
                id: one[0],
                across: u32::from(one[1] >> 4),
                down: u32::from(one[1] & 15),
                quantiser: one[2],
                step: 0,
                dc: Huffman::default(),
                ac: Huffman::default(),
            })
            .collect();
        let sound = |one: &Component| (1..=4).contains(&one.across) && (1..=4).contains(&one.down);
        let is_sound = (1..=4).contains(&self.components.len()) && self.components.iter().all(sound);
        (is_sound && self.width_px > 0 && self.height_px > 0).then_some(())
    }

    fn read_scan(&mut self, segment: &[u8], steps: &[i32; 4], codes: &[[Huffman; 4]; 2]) -> Option<()> {
        let (count, selectors) = segment.split_first()?;
        if usize::from(*count) != self.components.len() || self.components.is_empty() {
            return None;
        }
        let selectors = selectors.get(..2 * self.components.len())?.chunks_exact(2);
        for (component, selector) in self.components.iter_mut().zip(selectors) {
            if component.id != selector[0] {
                return None;
            }
            component.step = *steps.get(usize::from(component.quantiser))?;
            component.dc = codes[0].get(usize::from(selector[1] >> 4))?.clone();
            component.ac = codes[1].get(usize::from(selector[1] & 15))?.clone();
        }
        Some(())
    }
}

/// The first step of each table: the one of the block's mean.
fn read_steps(mut segment: &[u8], steps: &mut [i32; 4]) -> Option<()> {
    while let Some((head, rest)) = segment.split_first() {
        let bytes = if head >> 4 == 0 { 1 } else { 2 };
        let table = rest.get(..64 * bytes)?;
        let first = if bytes == 1 { i32::from(table[0]) } else { i32::from(u16::from_be_bytes([table[0], table[1]])) };
        *steps.get_mut(usize::from(head & 15))? = first;
        segment = &rest[64 * bytes..];
    }
    Some(())
}

fn read_codes(mut segment: &[u8], codes: &mut [[Huffman; 4]; 2]) -> Option<()> {
    while let Some((head, rest)) = segment.split_first() {
        let counts = rest.get(..16)?;
        let len = counts.iter().map(|count| usize::from(*count)).sum::<usize>();
        let symbols = rest.get(16..16 + len)?;
        *codes.get_mut(usize::from(head >> 4))?.get_mut(usize::from(head & 15))? = Huffman::new(counts, symbols)?;
        segment = &rest[16 + len..];
    }
    Some(())
}

/// A code of annex C; one without symbols knows none.
#[derive(Debug, Clone, Default)]
struct Huffman {
    /// Length and symbol by the next [`LOOK_BITS`] bits; length 0 for longer codes.
    short: Vec<(u8, u8)>,
    /// For each length: the first code behind those of this length, as 16 bits, and what to add to a code to get its symbol's place.
    long: [(u32, i32); 16],
    symbols: Vec<u8>,
}

impl Huffman {
    fn new(counts: &[u8], symbols: &[u8]) -> Option<Self> {
        let mut short = vec![(0, 0); 1 << LOOK_BITS];
        let mut long = [(0, 0); 16];
        let (mut code, mut place) = (0_u32, 0_usize);
        for (length, count) in (1_u32..).zip(counts) {
            let first = code;
            long[length as usize - 1].1 = place as i32 - first as i32;
            for _ in 0..*count {
                if length <= LOOK_BITS {
                    let from = (code << (LOOK_BITS - length)) as usize;
                    let all = short.get_mut(from..from + (1 << (LOOK_BITS - length)))?;
                    all.fill((length as u8, symbols[place]));
                }
                (code, place) = (code + 1, place + 1);
            }
            if code > 1 << length {
                return None;
            }
            long[length as usize - 1].0 = code << (16 - length);
            code <<= 1;
        }
        Some(Self { short, long, symbols: symbols.to_vec() })
    }
}

/// Entropy-coded data, the highest bit first; zeros behind its end.
#[derive(Debug, Default)]
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    held: u64,
    count: u32,
    /// Of the bits held so many are no data.
    padding: u32,
}

impl Bits<'_> {
    fn fill(&mut self) {
        while self.count <= 56 {
            let byte = match (self.bytes.get(self.at), self.bytes.get(self.at + 1)) {
                (Some(0xff), Some(0)) => {
                    self.at += 2;
                    0xff
                }
                (None | Some(0xff), _) => {
                    self.padding += 8;
                    0
                }
                (Some(byte), _) => {
                    self.at += 1;
                    *byte
                }
            };
            self.held |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    fn next(&self, bits: u32) -> u32 {
        (self.held >> 32 >> (32 - bits)) as u32
    }

    fn pass(&mut self, bits: u32) {
        self.held <<= bits;
        self.count -= bits;
    }

    fn symbol(&mut self, code: &Huffman) -> Option<u8> {
        let (length, symbol) = *code.short.get(self.next(LOOK_BITS) as usize)?;
        if length > 0 {
            self.pass(length.into());
            return Some(symbol);
        }
        let next = self.next(16);
        let length = code.long.iter().position(|(end, _)| next < *end)? as u32 + 1;
        let place = (next >> (16 - length)) as i32 + code.long[length as usize - 1].1;
        self.pass(length);
        code.symbols.get(usize::try_from(place).ok()?).copied()
    }

    /// By how much a block's mean differs from the former one's, in quantiser steps; its details are passed by.
    fn block(&mut self, component: &Component) -> Option<i32> {
        self.fill();
        let bits = u32::from(self.symbol(&component.dc)?);
        if bits > 15 {
            return None;
        }
        let value = if bits == 0 { 0 } else { self.next(bits) as i32 };
        self.pass(bits);
        // Values of the lower half are negative.
        let difference = if bits > 0 && value < 1 << (bits - 1) { value - (1 << bits) + 1 } else { value };
        let mut place = 1;
        while place < 64 {
            self.fill();
            let symbol = self.symbol(&component.ac)?;
            let (zeros, bits) = (symbol >> 4, u32::from(symbol & 15));
            if bits == 0 && zeros < 15 {
                break;
            }
            self.pass(bits);
            place += zeros + 1;
        }
        (self.padding <= self.count).then_some(difference)
    }

    /// Goes on behind the restart marker that must be here.
    fn restart(&mut self) -> Option<()> {
        while *self.bytes.get(self.at + 1)? == 0xff {
            self.at += 1;
        }
        let is_restart = self.bytes[self.at] == 0xff && (0xd0..=0xd7).contains(&self.bytes[self.at + 1]);
        (self.held, self.count, self.padding, self.at) = (0, 0, 0, self.at + 2);
        is_restart.then_some(())
    }
}
