//! Which pictures the camera passed over, and why: it counts them on the bus and names them in its log.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// What the camera agent's log says before the reason.
const MARK: &str = "a picture is passed over why=\"";
/// So much of a log is read at most, bytes: tens of thousands of names.
const LOG_BYTES_MAX: u64 = 4 << 20;

/// The reasons in a camera's log, each with the file's name, in their order; none if it cannot be read.
pub fn reasons(log: &Path) -> Vec<String> {
    let mut bytes = Vec::new();
    let read = File::open(log).and_then(|file| file.take(LOG_BYTES_MAX).read_to_end(&mut bytes));
    if read.is_err() {
        return Vec::new();
    }
    String::from_utf8_lossy(&bytes).lines().filter_map(reason).collect()
}

/// The quoted field of one line, its quotes unescaped; other characters that a terminal would obey stay escaped.
fn reason(line: &str) -> Option<String> {
    let (_, quoted) = line.split_once(MARK)?;
    let mut escaped = false;
    let end = quoted.char_indices().find_map(|(at, c)| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends.then_some(at)
    })?;
    Some(quoted[..end].replace("\\\"", "\"").replace("\\'", "'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_read_from_among_other_lines() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let why = "a \"b\"\u{1b}.jpg: it is neither a JPEG nor a PNG: convert it to JPEG";
        let text = format!(
            "01:02:03.004Z INFO  spool opened\n01:02:03.004Z WARN  a picture is passed over why={why:?} more=0\n\
             01:02:03.004Z WARN  a picture is passed over why=\"c.png: it is empty\" more=0\ncut short why=\"x"
        );
        std::fs::write(&log, text).unwrap();
        let shown = why.replace('\u{1b}', "\\u{1b}");
        assert_eq!(reasons(&log), [shown.as_str(), "c.png: it is empty"]);
        assert!(reasons(&dir.path().join("none")).is_empty());
    }
}
