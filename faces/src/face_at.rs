//! Where a face is in its chain, and its picture.

use serde::{Deserialize, Serialize};

/// A face of a chain, by its place. Where somebody was first seen names them: [`crate::fold::event_id`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FaceAt {
    /// The number of the frame's record.
    pub sequence: u64,
    /// Its index among the faces of the frame's finished analysis, from 0.
    pub face_index: u32,
}

/// A picture of a face with some margin, for people only: never part of a state or a digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thumbnail {
    /// Whose it is.
    pub at: FaceAt,
    /// A JPEG picture; a worker makes its sides at most [`THUMBNAIL_PX_MAX`](crate::proto::THUMBNAIL_PX_MAX), and of at most
    /// [`THUMBNAIL_BYTES_MAX`](crate::proto::THUMBNAIL_BYTES_MAX) bytes.
    pub jpeg: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{from_bytes, to_bytes};

    #[test]
    fn a_thumbnail_is_written_as_the_tuple_that_it_was() {
        let jpeg = vec![0xff, 0xd8, 0x80, 0x00];
        let tuple = (300_u64, 200_u32, jpeg.clone());
        let thumbnail = Thumbnail { at: FaceAt { sequence: tuple.0, face_index: tuple.1 }, jpeg };
        let bytes = to_bytes(&tuple).unwrap();
        assert_eq!(to_bytes(&thumbnail).unwrap(), bytes);
        assert_eq!(from_bytes::<Thumbnail>(&bytes).unwrap(), thumbnail);
    }

    #[test]
    fn faces_are_in_the_order_of_their_frames() {
        let places = [(1, 0), (1, 1), (2, 0)].map(|(sequence, face_index)| FaceAt { sequence, face_index });
        assert!(places.is_sorted());
    }
}
