//! Where in a picture something moved.

use serde::{Deserialize, Serialize};

/// A frame names at most so many areas; a camera that sees more joins them.
pub const AREAS_MAX: usize = 8;

/// A rectangle of a picture as it is stored, px; one that is read is not empty. As JSON: `[left, top, width, height]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "[u16; 4]", try_from = "[u16; 4]")]
pub struct Area {
    /// Leftmost column.
    pub left_px: u16,
    /// Topmost row.
    pub top_px: u16,
    /// Columns, at least 1.
    pub width_px: u16,
    /// Rows, at least 1.
    pub height_px: u16,
}

impl From<Area> for [u16; 4] {
    fn from(area: Area) -> Self {
        [area.left_px, area.top_px, area.width_px, area.height_px]
    }
}

impl TryFrom<[u16; 4]> for Area {
    type Error = &'static str;

    fn try_from([left_px, top_px, width_px, height_px]: [u16; 4]) -> Result<Self, &'static str> {
        if width_px == 0 || height_px == 0 {
            return Err("an area without pixels");
        }
        Ok(Self { left_px, top_px, width_px, height_px })
    }
}

/// All that changed in a picture since it was searched last lies inside these: at least one, at most [`AREAS_MAX`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "Vec<Area>", try_from = "Vec<Area>")]
pub struct Areas(Box<[Area]>);

impl Areas {
    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = Area> {
        self.0.iter().copied()
    }

    /// Eight bytes for each, for digests and databases.
    pub fn canonical_bytes(&self) -> Vec<u8> {
        self.iter().flat_map(<[u16; 4]>::from).flat_map(u16::to_le_bytes).collect()
    }

    /// Reads what [`Areas::canonical_bytes`] wrote.
    ///
    /// # Errors
    /// What is wrong.
    pub fn from_canonical_bytes(bytes: &[u8]) -> Result<Self, &'static str> {
        let (areas, []) = bytes.as_chunks::<8>() else { return Err("an area cut short") };
        let area = |[a, b, c, d, e, f, g, h]: [u8; 8]| {
            let sides = [[a, b], [c, d], [e, f], [g, h]].map(u16::from_le_bytes);
            Area::try_from(sides)
        };
        // No more is read than can be right.
        let areas = areas.iter().take(AREAS_MAX + 1).map(|bytes| area(*bytes)).collect::<Result<Vec<_>, _>>()?;
        Self::try_from(areas)
    }
}

impl From<Areas> for Vec<Area> {
    fn from(areas: Areas) -> Self {
        areas.0.into_vec()
    }
}

impl TryFrom<Vec<Area>> for Areas {
    type Error = &'static str;

    fn try_from(areas: Vec<Area>) -> Result<Self, &'static str> {
        match areas.len() {
            1..=AREAS_MAX => Ok(Self(areas.into_boxed_slice())),
            0 => Err("no area: leave them out to have all of the picture searched"),
            _ => Err("too many areas: join those that lie near each other"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn areas_survive_their_canonical_form_and_json(sides in prop::collection::vec((0_u16.., 0_u16.., 1_u16.., 1_u16..), 1..=AREAS_MAX)) {
            let areas: Vec<Area> = sides.into_iter().map(|(a, b, c, d)| Area::try_from([a, b, c, d]).unwrap()).collect();
            let areas = Areas::try_from(areas).unwrap();
            prop_assert_eq!(Areas::from_canonical_bytes(&areas.canonical_bytes()), Ok(areas.clone()));
            let json = serde_json::to_string(&areas).unwrap();
            prop_assert_eq!(serde_json::from_str::<Areas>(&json).unwrap(), areas);
        }

        #[test]
        fn bytes_are_areas_in_one_form_or_none(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(areas) = Areas::from_canonical_bytes(&bytes) {
                prop_assert_eq!(areas.canonical_bytes(), bytes);
            }
        }
    }

    #[test]
    fn none_too_many_and_empty_ones_are_refused() {
        let json = |text: &str| serde_json::from_str::<Areas>(text).is_ok();
        assert!(json("[[0,0,1,1]]") && json("[[65535,65535,65535,65535]]"));
        assert!(!json("[]") && !json("[[0,0,0,1]]") && !json("[[0,0,1,0]]") && !json("[[0,0,70000,1]]"));
        assert!(!json(&format!("{:?}", [[1; 4]; AREAS_MAX + 1])));
    }
}
