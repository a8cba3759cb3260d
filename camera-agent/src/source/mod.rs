//! Where pictures come from.

pub mod command;
mod crash_guard;
mod dashboard;
pub mod folder;
pub mod pump;
pub mod v4l2;

use std::time::Duration;

use microlambda::Digest;
use microlambda_wire::LABEL_BYTES_MAX;

use crate::picture::Picture;
use crate::spool::Input;

/// A picture as the source gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// The pixels, or the file that holds them.
    pub picture: Picture,
    /// When it was taken, ms since 1970.
    pub captured_at_ms: u64,
    /// Where it came from, for people: a file's name, or empty; at most 200 bytes.
    pub label: String,
    /// For finite sources: what was read.
    pub input: Option<Input>,
}

/// What a source gives next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// The next picture.
    Frame(Captured),
    /// A piece of the input that can be no picture; `why` names it and the remedy.
    PassedOver {
        /// What is wrong with it and what to do, for people.
        why: String,
        /// For finite sources: what was read.
        input: Option<Input>,
    },
    /// Nothing yet: to be asked again after this time.
    NotYet(Duration),
    /// A finite input ends here.
    End,
}

/// What a finite input has given already, in order, each with whether it became a frame. There may be any number of them.
pub type Given = Box<dyn Iterator<Item = (Input, bool)>>;

/// Why a source gives nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// It may work again: open it anew after a pause.
    #[error("{0}")]
    Trouble(String),
    /// It will not work until somebody does what the text says.
    #[error("{0}")]
    Fatal(String),
}

/// A source of pictures. `next` blocks until there is one; it is opened, used and dropped on one thread of its own.
pub trait Source {
    /// Waits for the next picture.
    ///
    /// # Errors
    /// [`SourceError::Trouble`]: drop this source and open another; [`SourceError::Fatal`]: give up.
    fn next(&mut self) -> Result<Next, SourceError>;
}

/// `text` as a label: cut to its bound at a character's border.
pub fn label_of(text: &str) -> String {
    let end = (0..=LABEL_BYTES_MAX.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    text[..end].to_owned()
}

/// What was read, by its digest.
pub fn input_of(label: &str, bytes: &[u8], modified_at_ms: u64) -> Input {
    Input { label: label.to_owned(), digest: Digest::of(bytes), modified_at_ms, input_bytes: bytes.len() as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_cut_at_a_characters_border() {
        assert_eq!(label_of("a.jpg"), "a.jpg");
        let long = "é".repeat(150);
        assert_eq!(label_of(&long), "é".repeat(100));
        assert_eq!(label_of(&format!("x{long}")).len(), 199);
    }
}
