//! The camera's motion gate on video made of real photos, with noise and flicker in every frame.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use camera_agent::luma::Cells;
use camera_agent::motion::{Gate, Verdict};
use camera_agent::picture::Picture;
use microlambda_benches::video::{Cast, FACE_PX_MIN, Photos, Script, Shares, Shown};

const SIZE_PX: (u32, u32) = (1_280, 720);
/// A face that moved by less than this since the last picture kept is found as well in that one, in sides of its box.
const MOVED_FACES_MAX: f64 = 0.3;
/// The same for a face that grew or shrank.
const GREW_MAX: f64 = 1.25;

/// Which frames a gate without an interval lets through.
fn kept(script: &Script) -> Vec<bool> {
    let mut gate = Gate::new(u64::MAX);
    let judge = |number: usize| {
        let cells = Cells::of(&Picture::File(script.jpeg(number).unwrap()));
        assert!(cells.is_some(), "a camera's JPEG can be judged");
        let is_kept = gate.judge(cells, number as u64) == Verdict::Moved;
        if is_kept {
            gate.kept();
        }
        is_kept
    };
    (0..script.frames).map(judge).collect()
}

/// Whether a frame shows somebody whom the last kept one does not show there.
fn shows_news(now: &[Shown], last: &[Shown]) -> bool {
    let is_known = |face: &Shown| {
        last.iter().filter(|former| former.walk == face.walk).any(|former| {
            let moved = (face.x_px - former.x_px).hypot(face.y_px - former.y_px) / face.face_px;
            let grew = face.face_px / former.face_px;
            moved <= MOVED_FACES_MAX && (1.0 / GREW_MAX..=GREW_MAX).contains(&grew)
        })
    };
    now.iter().filter(|face| face.face_px >= FACE_PX_MIN && face.visible > 0.5).any(|face| !is_known(face))
}

#[test]
fn nobody_walks_by_between_two_pictures_that_are_kept() {
    let cast = Cast::of(Photos::Reported, SIZE_PX).unwrap();
    let shares = Shares { frames_per_walk: 16, ..Shares::default() };
    for background in 0..cast.backgrounds.len() {
        let script = shares.script(&cast, background, 50, 64, background as u64);
        let mut last = 0;
        for (number, is_kept) in kept(&script).into_iter().enumerate() {
            if is_kept {
                last = number;
            } else {
                let (now, before) = (script.shown(number), script.shown(last));
                assert!(
                    !shows_news(&now, &before),
                    "background {background}, frame {number} after {last}: {now:?}, {before:?}"
                );
            }
        }
    }
}

#[test]
fn of_a_still_scene_with_noise_and_flicker_next_to_nothing_is_kept() {
    let cast = Cast::of(Photos::Reported, SIZE_PX).unwrap();
    for background in 0..cast.backgrounds.len() {
        let script = Shares::default().script(&cast, background, 0, 60, background as u64);
        let kept: Vec<usize> =
            kept(&script).iter().zip(0..).filter(|(kept, _)| **kept).map(|(_, number)| number).collect();
        assert!(kept.len() <= 2 && kept.starts_with(&[0]), "background {background}: kept {kept:?}");
    }
}
