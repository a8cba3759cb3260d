//! Photos, and every face that somebody who looks at them sees.

use crate::video::{FaceAt, REPORTED_FACES, Shown, at};
use crate::{Error, data_dir};

/// Folders of the reported photos, below `photos`.
const REPORTED: [&str; 2] = ["people", "faceless"];
/// The folder of those on which nothing was chosen.
const HELD_OUT: &str = "held-out";

/// Those faces that do not walk through the videos: copies, turned or cut ones. Marked by eye; a box is where dlib's detector would put it, also
/// beyond the photo's edge.
const MORE_FACES: &[FaceAt] = &[
    at("people/32bit.png", "obama", 304.5, 424.0, 267.0),
    at("people/obama_partial_face.jpg", "obama", 64.0, 275.5, 268.0),
    at("people/obama_partial_face2.jpg", "obama", 483.0, 275.5, 268.0),
    at("people/t1.jpg", "t1, left, behind", 319.5, 220.5, 89.0),
    at("people/t1.jpg", "t1, right, behind", 934.5, 131.5, 129.0),
];

/// The faces of the photos on which nothing was chosen, marked likewise.
const HELD_OUT_FACES: &[FaceAt] = &[
    at("held-out/five_men.jpg", "first of five", 267.5, 347.5, 175.0),
    at("held-out/five_men.jpg", "second of five", 571.5, 227.5, 155.0),
    at("held-out/five_men.jpg", "third of five", 864.5, 313.5, 155.0),
    at("held-out/five_men.jpg", "fourth of five", 1_231.5, 185.5, 151.0),
    at("held-out/five_men.jpg", "fifth of five", 1_657.0, 210.5, 154.0),
    at("held-out/one_of_them_again.jpg", "woman beside the third", 288.5, 145.5, 107.0),
    at("held-out/one_of_them_again.jpg", "third of five", 598.5, 174.5, 105.0),
];

/// A photo of the data set.
#[derive(Debug, Clone)]
pub struct Photo {
    /// Below `photos`, with the folder.
    pub name: String,
    /// The file.
    pub bytes: Vec<u8>,
}

impl Photo {
    /// All reported photos in the order of their names: people, then without.
    ///
    /// # Errors
    /// They are missing, or cannot be read.
    pub fn all() -> Result<Vec<Self>, Error> {
        let lists = REPORTED.iter().map(|folder| Self::in_folder(folder, "photos"));
        Ok(lists.collect::<Result<Vec<_>, Error>>()?.concat())
    }

    /// The photos on which no threshold and no rule was chosen, in the order of their names.
    ///
    /// # Errors
    /// As for [`Photo::all`].
    pub fn held_out() -> Result<Vec<Self>, Error> {
        Self::in_folder(HELD_OUT, HELD_OUT)
    }

    fn in_folder(folder: &str, group: &str) -> Result<Vec<Self>, Error> {
        let path = data_dir().join("photos").join(folder);
        let mut files = std::fs::read_dir(&path)
            .map_err(|error| format!("{}: {error}; run `scripts/fetch-data {group}`", path.display()))?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<_>, Error>>()?;
        files.sort();
        let read = |file: &std::path::PathBuf| {
            let name = format!("{folder}/{}", file.file_name().unwrap_or_default().to_string_lossy());
            Ok(Self { name, bytes: std::fs::read(file)? })
        };
        files.iter().map(read).collect()
    }

    /// Its faces if it is shown `scale` times as large, on a picture of this size, px.
    pub fn shown(&self, scale: f64, size_px: (u32, u32)) -> Vec<Shown> {
        faces(&self.name).map(|face| shown(face, scale, size_px)).collect()
    }

    /// Side of its smallest face, px; `None` if it has none.
    pub fn smallest_face_px(&self) -> Option<f64> {
        faces(&self.name).map(|face| f64::from(face.side_px)).min_by(f64::total_cmp)
    }
}

fn faces(photo: &str) -> impl Iterator<Item = &'static FaceAt> {
    REPORTED_FACES.iter().chain(MORE_FACES).chain(HELD_OUT_FACES).filter(move |face| face.photo == photo)
}

fn shown(face: &FaceAt, scale: f64, (width_px, height_px): (u32, u32)) -> Shown {
    let [x_px, y_px, face_px] = [face.x_px, face.y_px, face.side_px].map(|px| f64::from(px) * scale);
    let inside = |middle: f64, end: u32| {
        ((middle + face_px / 2.0).min(f64::from(end)) - (middle - face_px / 2.0).max(0.0)).max(0.0) / face_px
    };
    let visible = inside(x_px, width_px) * inside(y_px, height_px);
    Shown { walk: 0, name: face.name, x_px, y_px, face_px, visible }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn photo(name: &str) -> Photo {
        Photo { name: name.to_owned(), bytes: Vec::new() }
    }

    #[test]
    fn a_group_has_all_its_faces_and_they_shrink_with_it() {
        let group = photo("people/t1.jpg");
        let (whole, half) = (group.shown(1.0, (1_280, 886)), group.shown(0.5, (640, 443)));
        assert_eq!((whole.len(), half.len()), (6, 6));
        assert!(whole.iter().all(|face| face.visible == 1.0), "{whole:?}");
        assert!(whole.iter().zip(&half).all(|(a, b)| a.face_px == 2.0 * b.face_px && a.x_px == 2.0 * b.x_px));
        assert_eq!(group.smallest_face_px(), Some(89.0));
        assert_eq!(photo("faceless/moon.png").smallest_face_px(), None);
    }

    #[test]
    fn of_a_face_at_the_edge_only_a_part_is_visible() {
        let cut = photo("people/obama_partial_face.jpg").shown(1.0, (491, 1_137));
        assert!(matches!(cut[..], [Shown { visible, .. }] if (0.7..0.8).contains(&visible)), "{cut:?}");
    }
}
