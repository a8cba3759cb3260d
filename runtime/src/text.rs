//! Text for people: what must not drive their terminal, and counts that read well.

use std::fmt::Display;

/// `text` on one line, with every character that a terminal obeys instead of showing made visible: `\n`, `\u{1b}`.
///
/// File names, labels and messages of other programs may hold anything: a name with an escape sequence could rewrite
/// the screen, one with a line break could forge a line. Marks that reverse the direction of writing are shown too.
pub fn printable(text: impl Display) -> String {
    let mut shown = String::new();
    for c in text.to_string().chars() {
        if c.is_control() || is_invisible_mark(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Line and paragraph separators, and marks of the direction of writing.
fn is_invisible_mark(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `1 photo`, `2 photos`: for nouns that only take an `s`.
pub fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_shown_what_it_would_obey() {
        let name = "a\u{1b}[2Jb\n\tc\u{7}\u{9b}d\u{202e}gpj.jpg";
        assert_eq!(printable(name), r"a\u{1b}[2Jb\n\tc\u{7}\u{9b}d\u{202e}gpj.jpg");
        assert_eq!(printable("Käthe & Éric 三.jpg"), "Käthe & Éric 三.jpg");
    }

    #[test]
    fn one_has_no_plural() {
        assert_eq!([0, 1, 2].map(|n| counted(n, "face")), ["0 faces", "1 face", "2 faces"]);
    }
}
