//! Writes a photo's pixels as the worker sees them, halved so many times, to a PNG file: what
//! `scripts/reference-encodings.py` hands to Python, so that both sides look at the same pixels.
//!
//! `cargo run --release -p face-worker --example pixels -- PHOTO HALVINGS OUT.png`

use std::error::Error;

use face_worker::{Pixels, decode};
use image::RgbImage;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [photo, halvings, out] = args.as_slice() else { return Err("usage: pixels PHOTO HALVINGS OUT.png".into()) };
    let pixels = (0..halvings.parse()?).fold(decode(&std::fs::read(photo)?)?, |pixels: Pixels, _: u32| pixels.half());
    RgbImage::from_raw(pixels.width_px(), pixels.height_px(), pixels.rgb().to_vec()).ok_or("no pixels")?.save(out)?;
    Ok(())
}
