//! Text for people: what must not drive their terminal, and counts that read well.

use std::fmt::Display;
use std::ops::Range;

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

/// Where the first password stands in a text with addresses, `scheme://user:password@host`.
///
/// An address is taken to reach up to a `/`, `?` or `#`: a password may hold a space, and rather too much of a text is taken for one.
pub fn password_in(text: &str) -> Option<Range<usize>> {
    text.match_indices("://").find_map(|(at, mark)| {
        let start = at + mark.len();
        let authority_end = text[start..].find(['/', '?', '#']).map_or(text.len(), |end| start + end);
        let at = start + text[start..authority_end].rfind('@')?;
        let colon = start + text[start..at].find(':')?;
        Some(colon + 1..at).filter(|range| !range.is_empty())
    })
}

/// `text` with `***` for each password in an address: for whatever is shown, logged or published.
pub fn without_passwords(text: &str) -> String {
    let (mut shown, mut rest) = (String::new(), text);
    while let Some(password) = password_in(rest) {
        shown.push_str(&rest[..password.start]);
        shown.push_str("***");
        rest = &rest[password.end..];
    }
    shown + rest
}

/// `text` in at most `chars_max` characters: what is too much is taken out of its middle, as a message begins with what is wrong and ends with the remedy.
pub fn shortened(text: &str, chars_max: usize) -> String {
    const CUT: &str = " … ";
    let chars = text.chars().count();
    if chars <= chars_max {
        return text.to_owned();
    }
    let kept = chars_max.saturating_sub(CUT.chars().count());
    let (first, last) = (kept.div_ceil(2), kept / 2);
    let text = text.chars();
    let cut: String = text.clone().take(first).chain(CUT.chars()).chain(text.skip(chars - last)).collect();
    cut.chars().take(chars_max).collect()
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
    fn a_long_text_keeps_its_beginning_and_its_end() {
        assert_eq!(shortened("all of it", 9), "all of it");
        assert_eq!(shortened("what is wrong, and where; what to do", 17), "what is … t to do");
        for chars_max in 0..12 {
            assert!(shortened("ärger über ärger", chars_max).chars().count() <= chars_max, "{chars_max}");
        }
    }

    #[test]
    fn a_terminal_is_shown_what_it_would_obey() {
        let name = "a\u{1b}[2Jb\n\tc\u{7}\u{9b}d\u{202e}gpj.jpg";
        assert_eq!(printable(name), r"a\u{1b}[2Jb\n\tc\u{7}\u{9b}d\u{202e}gpj.jpg");
        assert_eq!(printable("Käthe & Éric 三.jpg"), "Käthe & Éric 三.jpg");
    }

    #[test]
    fn passwords_in_addresses_are_not_shown_and_the_rest_is() {
        for (text, shown) in [
            ("ffmpeg -i rtsp://me:secret@cam/x -f mjpeg -", "ffmpeg -i rtsp://me:***@cam/x -f mjpeg -"),
            ("rtsp://ann:se:cr@t@cam.local/live?x=a@b", "rtsp://ann:***@cam.local/live?x=a@b"),
            ("http://cam/a,rtsp://a:1@b/c, rtsp://d:2@e", "http://cam/a,rtsp://a:***@b/c, rtsp://d:***@e"),
            ("rtsp://me:pass word@cam/x: refused", "rtsp://me:***@cam/x: refused"),
            ("rtsp://käthe:ä@cam", "rtsp://käthe:***@cam"),
        ] {
            assert_eq!(without_passwords(text), shown);
            assert_eq!(without_passwords(shown), shown, "once is enough");
        }
        for none in ["rtsp://cam.local/a:b@c", "ffmpeg", "a:b@c", "rtsp://ann@cam", "rtsp://ann:@cam", "://:@"] {
            assert_eq!((password_in(none), without_passwords(none)), (None, none.to_owned()));
        }
    }

    #[test]
    fn one_has_no_plural() {
        assert_eq!([0, 1, 2].map(|n| counted(n, "face")), ["0 faces", "1 face", "2 faces"]);
    }
}
