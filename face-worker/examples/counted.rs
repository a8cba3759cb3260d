//! Searches a picture, or encodes its first face, between two calls of [`counting_mark`]: `image-build/count-instructions` counts what is between them.
//!
//! `counted MODELS built-in|dlib search|encode HALVINGS PHOTO`
#![expect(unsafe_code, reason = "the name of the mark is found in the program's symbols")]

use std::error::Error;
use std::path::Path;

use clap::ValueEnum as _;
use face_worker::{Dlib, Engine as _, EngineChoice, Pixels, decode};
use microlambda_faces::plan::clipped;

/// Where counting begins, and where it ends.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn counting_mark() {
    std::hint::black_box(());
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [models, engine, what, halvings, photo] = args.as_slice() else {
        return Err("usage: counted MODELS built-in|dlib search|encode HALVINGS PHOTO".into());
    };
    let mut engine = Dlib::load_for(Path::new(models), EngineChoice::from_str(engine, false)?)?;
    let halvings: u32 = halvings.parse()?;
    let pixels = (0..halvings).fold(decode(&std::fs::read(photo)?)?, |pixels: Pixels, _| pixels.half());
    if what == "search" {
        counting_mark();
        let found = engine.search(&pixels, None, 0.0)?;
        counting_mark();
        println!("{}x{} px, {} faces", pixels.width_px(), pixels.height_px(), found.len());
        return Ok(());
    }
    let picture = engine.open(&pixels);
    let (rect, _) = *engine.search(&pixels, None, 0.0)?.first().ok_or("no face")?;
    let rect = clipped(rect, pixels.width_px(), pixels.height_px());
    let (face, _) = engine.align(&pixels, &picture, rect)?;
    counting_mark();
    let encoding = engine.encode(&picture, &face)?;
    counting_mark();
    println!("a face of {} px, {} values", rect.right - rect.left, encoding.len());
    Ok(())
}
