use image::Rgb;

use super::*;

const SIZE_PX: (u32, u32) = (640, 360);

/// Two people in plain colours before a plain wall: places in the picture can be told from colours.
fn plain_cast() -> Cast {
    let photo = |colour| RgbImage::from_pixel(400, 400, Rgb(colour));
    let face = |name| FaceAt { photo: "", name, x_px: 200.0, y_px: 200.0, side_px: 150.0 };
    let people = [("red", [220, 30, 30]), ("green", [30, 220, 30])];
    Cast {
        people: people.map(|(name, colour)| Arc::new(Cutout::cut(&photo(colour), &face(name)))).to_vec(),
        backgrounds: vec![Arc::new(RgbImage::from_pixel(SIZE_PX.0, SIZE_PX.1, Rgb([30, 30, 30])))],
    }
}

/// Nothing but people.
fn calm() -> Shares {
    Shares { frames_per_walk: 20, noise_sigma: 0.0, flicker: None, shutter: 0.0, ..Shares::default() }
}

#[test]
fn as_many_frames_hold_somebody_as_asked_for() {
    let cast = plain_cast();
    for share_percent in [0, 25, 50, 100] {
        let script = calm().script(&cast, 0, share_percent, 160, 5);
        let shown: Vec<usize> = (0..script.frames).map(|number| script.shown(number).len()).collect();
        assert_eq!(shown.iter().filter(|faces| **faces > 0).count(), 160 * share_percent / 100);
        assert_eq!(shown.contains(&2), share_percent > 0, "two at times: {shown:?}");
    }
}

#[test]
fn a_face_is_drawn_where_the_truth_has_it() {
    let script = calm().script(&plain_cast(), 0, 100, 200, 9);
    let mut checked = 0;
    for number in 0..script.frames {
        let shown = script.shown(number);
        let [face] = shown.as_slice() else { continue };
        // With hair and shoulders it reaches further than its box.
        let inside = |at: f64, end: u32| at > 1.3 * face.face_px && at < f64::from(end) - 1.3 * face.face_px;
        if !inside(face.x_px, SIZE_PX.0) || !inside(face.y_px, SIZE_PX.1) {
            continue;
        }
        checked += 1;
        let frame = script.frame(number);
        let coloured = frame.enumerate_pixels().filter(|(_, _, pixel)| pixel.0.iter().any(|value| *value > 90));
        let (mut count, mut x_sum, mut y_sum) = (0.0, 0.0, 0.0);
        for (x, y, _) in coloured {
            (count, x_sum, y_sum) = (count + 1.0, x_sum + f64::from(x) + 0.5, y_sum + f64::from(y) + 0.5);
        }
        let off = (x_sum / count - face.x_px).hypot(y_sum / count - face.y_px);
        assert!(off < 0.15 * face.face_px, "frame {number}: {off} px off {face:?}");
        assert!(count > face.face_px.powi(2), "frame {number}: {count} pixels of {face:?}");
    }
    assert!(checked > 20, "{checked} faces in full view");
}

#[test]
fn a_frame_is_the_same_whenever_it_is_asked_for() {
    let shares = Shares { frames_per_walk: 20, ..Shares::default() };
    let script = |seed| shares.script(&plain_cast(), 0, 50, 40, seed);
    let (first, again) = (script(3), script(3));
    let late = first.frame(30);
    assert_eq!(first.frame(2), again.frame(2));
    assert_eq!(late, again.frame(30));
    assert_ne!(first.frame(3), first.frame(2), "noise differs from frame to frame");
    assert_ne!(script(4).frame(2), first.frame(2));
}

#[test]
fn who_stands_behind_somebody_is_not_in_full_view() {
    let cast = plain_cast();
    let light = Light { gain: 1.0, gamma: 1.0, side: 0.0 };
    let sway = Sway { roll_deg: 0.0, yaw_deg: 0.0, period_s: 1.0, phase: 0.0 };
    let standing = |person: usize, x_px: f64, face_px: f64| {
        let at = |frame: f64| Waypoint { frame, x_px, y_px: 180.0, face_px };
        Walk { person: cast.people[person].clone(), way: vec![at(0.0), at(10.0)], sway, light }
    };
    let walks = vec![standing(0, 200.0, 50.0), standing(1, 250.0, 60.0)];
    let script = Script { walks, ..calm().script(&cast, 0, 0, 10, 1) };
    let shown = script.shown(5);
    assert!(shown[0].visible < 0.9 && shown[1].visible > 0.99, "{shown:?}");
    assert_eq!(script.shown(10), []);
}
