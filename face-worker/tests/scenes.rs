//! Real photos as scenes: none continues another, and each continues itself in other light, with noise, and with somebody before it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::path::PathBuf;

use face_worker::{Pixels, decode};
use microlambda_faces::Scene;

fn photos(folder: &str) -> Vec<(PathBuf, Pixels)> {
    let data = std::env::var_os("MICROLAMBDA_DATA").map_or_else(|| PathBuf::from("../target/data"), PathBuf::from);
    let files = std::fs::read_dir(data.join("photos").join(folder)).unwrap();
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), decode(&std::fs::read(path).unwrap()).unwrap())).collect()
}

fn scene(pixels: &Pixels) -> Scene {
    Scene::of(pixels.width_px(), pixels.height_px(), pixels.rgb()).unwrap()
}

#[test]
fn no_photo_of_people_continues_another() {
    let photos = photos("people");
    assert!(photos.len() > 7);
    let scenes: Vec<Scene> = photos.iter().map(|(_, pixels)| scene(pixels)).collect();
    for (at, (name, _)) in photos.iter().enumerate() {
        for (other, (other_name, _)) in photos.iter().enumerate().take(at) {
            // One is the other in another format.
            let same = other_name.ends_with("obama2.jpg") || other_name.ends_with("32bit.png");
            let same = same && (name.ends_with("obama2.jpg") || name.ends_with("32bit.png"));
            let change = scenes[at].change_from(&scenes[other]);
            assert_eq!(change < 9, same, "{} and {}: {change}", name.display(), other_name.display());
        }
    }
}

#[test]
fn a_view_continues_in_other_light_with_noise_and_with_somebody_before_it() {
    let mut wrong = Vec::new();
    for (name, pixels) in [photos("people"), photos("faceless")].concat() {
        let (width, height) = (pixels.width_px() as usize, pixels.height_px() as usize);
        let changed: Vec<u8> = pixels
            .rgb()
            .iter()
            .enumerate()
            .map(|(at, value)| {
                let (x, y) = (at / 3 % width, at / 3 / width);
                let before = x > width / 5 && x < width / 2 && y > height / 4;
                // 4 % brighter, and a noise of ±8 that has no pattern.
                let lit = i32::from(*value) * 104 / 100
                    + (at as u32).wrapping_mul(2_654_435_761).wrapping_shr(24) as i32 % 17
                    - 8;
                if before { 120 } else { lit.clamp(0, 255) as u8 }
            })
            .collect();
        let changed = Pixels::new(pixels.width_px(), pixels.height_px(), changed).unwrap();
        if !scene(&changed).continues(&scene(&pixels)) {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}
