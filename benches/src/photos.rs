//! The reported photos, and every face that somebody who looks at them sees.

use std::path::Path;

use crate::video::{FaceAt, REPORTED_FACES, Shown, at};
use crate::{Error, data_dir};

/// Folders of the reported photos, below `photos`.
const FOLDERS: [&str; 2] = ["people", "faceless"];

/// Those faces that do not walk through the videos: copies, turned or cut ones. Marked by eye; a box is where dlib's detector would put it, also
/// beyond the photo's edge.
const MORE_FACES: &[FaceAt] = &[
    at("people/32bit.png", "obama", 304.5, 424.0, 267.0),
    at("people/obama_partial_face.jpg", "obama", 64.0, 275.5, 268.0),
    at("people/obama_partial_face2.jpg", "obama", 483.0, 275.5, 268.0),
    at("people/t1.jpg", "t1, left, behind", 319.5, 220.5, 89.0),
    at("people/t1.jpg", "t1, right, behind", 934.5, 131.5, 129.0),
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
        let photos = data_dir().join("photos");
        let lists = FOLDERS.iter().map(|folder| Self::in_folder(&photos, folder));
        Ok(lists.collect::<Result<Vec<_>, Error>>()?.concat())
    }

    fn in_folder(photos: &Path, folder: &str) -> Result<Vec<Self>, Error> {
        let path = photos.join(folder);
        let mut files = std::fs::read_dir(&path)
            .map_err(|error| format!("{}: {error}; run `make setup`", path.display()))?
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
    REPORTED_FACES.iter().chain(MORE_FACES).filter(move |face| face.photo == photo)
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
