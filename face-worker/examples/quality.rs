//! Looks at photos and prints one line of JSON per face: file, scale, box, score, sharpness and encoding. `docs/quality.md`
//! says how its tables are made from this.
//!
//! `OPENBLAS_NUM_THREADS=1 cargo run --release -p face-worker --example quality -- MODELS PHOTO… [--scales 1.0,0.5] [--blur 0,2]`

use std::error::Error;
use std::path::{Path, PathBuf};

use face_worker::{Dlib, analyse};
use image::imageops::{FilterType, resize};
use microlambda_faces::{Analysis, FaceOutcome, FaceParams};

fn main() -> Result<(), Box<dyn Error>> {
    let mut paths = Vec::new();
    let (mut scales, mut blurs) = (vec![1.0f64], vec![0.0f32]);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--scales" => scales = numbers(args.next())?.into_iter().map(f64::from).collect(),
            "--blur" => blurs = numbers(args.next())?,
            _ => paths.push(PathBuf::from(arg)),
        }
    }
    let (models, photos) = paths.split_first().ok_or("usage: quality MODELS PHOTO… [--scales a,b] [--blur a,b]")?;
    let mut engine = Dlib::load(models)?;
    let params = FaceParams { face_px_min: 1, sharpness_min: 0.0, score_min: -0.2, ..FaceParams::default() };
    for photo in photos {
        for &scale in &scales {
            for &blur in &blurs {
                let bytes = prepared(photo, scale, blur)?;
                print_faces(photo, scale, blur, &analyse(&mut engine, params, bytes)?);
            }
        }
    }
    Ok(())
}

fn numbers(list: Option<String>) -> Result<Vec<f32>, Box<dyn Error>> {
    list.ok_or("a list of numbers is missing")?.split(',').map(|n| Ok(n.parse()?)).collect()
}

/// The photo as it is, or scaled (Lanczos) and blurred (Gaussian, sigma in px of the scaled photo) and written losslessly.
fn prepared(photo: &Path, scale: f64, blur: f32) -> Result<Vec<u8>, Box<dyn Error>> {
    let bytes = std::fs::read(photo)?;
    if scale == 1.0 && blur == 0.0 {
        return Ok(bytes);
    }
    let mut rgb = image::load_from_memory(&bytes)?.into_rgb8();
    if scale != 1.0 {
        let side = |px: u32| ((f64::from(px) * scale).round() as u32).max(1);
        rgb = resize(&rgb, side(rgb.width()), side(rgb.height()), FilterType::Lanczos3);
    }
    if blur > 0.0 {
        rgb = image::imageops::blur(&rgb, blur);
    }
    let mut png = std::io::Cursor::new(Vec::new());
    rgb.write_to(&mut png, image::ImageFormat::Png)?;
    Ok(png.into_inner())
}

fn print_faces(photo: &Path, scale: f64, blur: f32, analysis: &Analysis) {
    let Analysis::Frame(frame) = analysis else {
        println!("{}", serde_json::json!({"photo": photo, "scale": scale, "blur": blur, "unreadable": true}));
        return;
    };
    for face in &frame.faces {
        let rect = face.seen.rect;
        let encoding = match &face.outcome {
            FaceOutcome::Encoded(values) => Some(values),
            FaceOutcome::Unusable(_) => None,
        };
        println!(
            "{}",
            serde_json::json!({
                "photo": photo, "scale": scale, "blur": blur,
                "box": [rect.left, rect.top, rect.right, rect.bottom],
                "score": face.seen.score, "sharpness": face.sharpness, "encoding": encoding,
            })
        );
    }
}
