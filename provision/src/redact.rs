//! Taking secrets out of a text, and nothing else.

use std::ops::Range;

use toml::de::DeValue;
use toml_parser::Source;
use toml_parser::lexer::TokenKind;

use crate::input::check::APPLIED;
use crate::input::document::Document;
use crate::input::source::{password_in, redacted};
use crate::problem::Problems;

/// A shorter text is too likely to be a part of a comment by chance, bytes.
const IN_COMMENTS_BYTES_MIN: usize = 6;

/// The text in which the values at `paths` and passwords in the words at `commands` are replaced by `(applied)`, also where a comment
/// repeats them. Everything else is unchanged, to the byte.
pub fn redact(text: &str, paths: &[&[&str]], commands: &[&[&str]]) -> String {
    let document = Document::read("", text, &mut Problems::default());
    let mut replacements: Vec<(Range<usize>, String)> = Vec::new();
    let mut secrets: Vec<String> = Vec::new();
    for path in paths {
        let Some(value) = document.find(path) else { continue };
        if let DeValue::String(secret) = value.get_ref() {
            if secret.as_ref() == APPLIED {
                continue;
            }
            secrets.push(secret.to_string());
        }
        replacements.push((value.span(), quoted(APPLIED)));
    }
    for path in commands {
        let words = document.find(path).and_then(|value| value.get_ref().as_array());
        for word in words.into_iter().flatten() {
            let Some(text) = word.get_ref().as_str() else { continue };
            if let Some(at) = password_in(text) {
                secrets.push(text[at.clone()].to_owned());
                replacements.push((word.span(), quoted(&redacted(text, at))));
            }
        }
    }
    secrets.retain(|secret| secret.len() >= IN_COMMENTS_BYTES_MIN);
    // The longest first, so that none leaves a rest behind.
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    replacements.extend(in_comments(text, &secrets));
    replacements.sort_by_key(|(span, _)| (span.start, span.end));
    splice(text, &replacements)
}

/// Comments that repeat a secret, without it.
fn in_comments(text: &str, secrets: &[String]) -> Vec<(Range<usize>, String)> {
    let comments = Source::new(text).lex().filter(|token| token.kind() == TokenKind::Comment);
    let without = |range: Range<usize>| {
        let comment = text.get(range.clone())?;
        let cleaned =
            secrets.iter().fold(comment.to_owned(), |comment, secret| comment.replace(secret.as_str(), APPLIED));
        (cleaned != comment).then_some((range, cleaned))
    };
    comments.filter_map(|token| without(token.span().start()..token.span().end())).collect()
}

/// `text` with each range replaced; ranges are in order, and one that overlaps its forerunner is left out.
fn splice(text: &str, replacements: &[(Range<usize>, String)]) -> String {
    let mut spliced = String::with_capacity(text.len());
    let mut at = 0;
    for (range, replacement) in replacements {
        if range.start < at || text.get(range.clone()).is_none() {
            continue;
        }
        spliced.push_str(&text[at..range.start]);
        spliced.push_str(replacement);
        at = range.end;
    }
    spliced.push_str(&text[at..]);
    spliced
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_and_the_rest_stays_to_the_byte() {
        let text = "# old: password = 'hunter22'\r\n[user]\r\nname = \"hunter22\"\npassword = \"hunter22\" # hunter22!\n\
                    [camera]\nsource.command = [ 'ffmpeg', \"rtsp://me:pass word@cam/x\" ]\n";
        let wanted = "# old: password = '(applied)'\r\n[user]\r\nname = \"hunter22\"\npassword = \"(applied)\" # (applied)!\n\
                      [camera]\nsource.command = [ 'ffmpeg', \"rtsp://me:(applied)@cam/x\" ]\n";
        let paths: [&[&str]; 2] = [&["user", "password"], &["wlan", "password"]];
        let commands: [&[&str]; 1] = [&["camera", "source", "command"]];
        let redacted = redact(text, &paths, &commands);
        assert_eq!(redacted, wanted);
        assert_eq!(redact(&redacted, &paths, &commands), redacted, "once is enough");
    }

    #[test]
    fn every_way_to_write_a_text_is_found() {
        for secret in ["'''\nline\nmore'''", "\"\"\"a\\\n  b\"\"\"", "\"\\u0041bc\"", "'it''", "12345"] {
            let text = format!("[user]\npassword = {secret}\nname = \"x\"\n");
            let paths: [&[&str]; 1] = [&["user", "password"]];
            let redacted = redact(&text, &paths, &[]);
            if secret != "'it''" {
                assert_eq!(redacted, "[user]\npassword = \"(applied)\"\nname = \"x\"\n", "{secret}");
            }
        }
        for form in [
            "user.password = 'secret1'\n",
            "user = { name = 'a', password = 'secret1' }\n",
            "[\"user\"]\n'password' = 'secret1'\n",
        ] {
            let paths: [&[&str]; 1] = [&["user", "password"]];
            assert!(!redact(form, &paths, &[]).contains("secret1"), "{form}");
        }
    }
}
