//! Where a camera's pictures come from: `[camera.source]`, as the camera agent's own file has it.

use serde::{Deserialize, Serialize};

use super::check::{self, APPLIED};
use super::document::{Given, Section};
use crate::problem::Problems;

/// A program's command line has at most so many words.
const WORDS_MAX: usize = 64;
/// A word of it has at most so many bytes.
const WORD_BYTES_MAX: usize = 4_096;

/// One source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Source {
    /// A V4L2 device.
    V4l2 {
        /// Such as `/dev/video0`; none for the first camera that can be used.
        #[serde(skip_serializing_if = "Option::is_none")]
        device: Option<String>,
        /// Preferred width, px.
        #[serde(skip_serializing_if = "Option::is_none")]
        width: Option<u64>,
        /// Preferred height, px.
        #[serde(skip_serializing_if = "Option::is_none")]
        height: Option<u64>,
        /// Preferred rate, frames a second.
        #[serde(skip_serializing_if = "Option::is_none")]
        fps: Option<u64>,
    },
    /// A folder of pictures.
    Folder {
        /// Its path.
        path: String,
    },
    /// A program that writes MJPEG.
    Command {
        /// Its words; one may hold a password, as `rtsp://user:password@host` does.
        command: Vec<String>,
        /// Whether its success is the end of the input.
        #[serde(skip_serializing_if = "Option::is_none")]
        finite: Option<bool>,
        /// How long it may give no picture, s.
        #[serde(rename = "silence-s", skip_serializing_if = "Option::is_none")]
        silence_s: Option<u64>,
    },
}

impl Default for Source {
    fn default() -> Self {
        Self::V4l2 { device: None, width: None, height: None, fps: None }
    }
}

/// Reads the table; `former` fills in passwords that were applied before.
pub fn read(mut section: Section<'_, '_>, former: Option<&Source>, problems: &mut Problems) -> Given<Source> {
    if !section.is_there() {
        return Given::Absent;
    }
    let before = problems.count();
    let kind = section.get("kind", problems, |kind: String| match kind.as_str() {
        "v4l2" | "folder" | "command" => Ok(kind),
        _ => Err(format!("{} is no kind of source: choose of v4l2, folder and command", check::told(&kind))),
    });
    let device = section.get("device", problems, |path: String| absolute(path, "/dev/"));
    let width = section.get("width", problems, |px| check::within(px, 1, 16_384));
    let height = section.get("height", problems, |px| check::within(px, 1, 16_384));
    let fps = section.get("fps", problems, |fps| check::within(fps, 1, 1_000));
    let path = section.get("path", problems, |path: String| absolute(path, "/"));
    let command = section.get("command", problems, |words: Vec<String>| words_of(words, former));
    let finite = section.plain::<bool>("finite", problems);
    let silence_s = section.get("silence-s", problems, |s| check::within(s, 0, 86_400));
    let given = [
        ("device", device != Given::Absent, "v4l2"),
        ("width", width != Given::Absent, "v4l2"),
        ("height", height != Given::Absent, "v4l2"),
        ("fps", fps != Given::Absent, "v4l2"),
        ("path", path != Given::Absent, "folder"),
        ("command", command != Given::Absent, "command"),
        ("finite", finite != Given::Absent, "command"),
        ("silence-s", silence_s != Given::Absent, "command"),
    ];
    let wanted = match kind {
        Given::Right(kind) => kind,
        Given::Absent => {
            section.blame("kind", "a source needs its kind: v4l2, folder or command", problems);
            return Given::Wrong;
        }
        Given::Wrong => return Given::Wrong,
    };
    for (key, _, kind) in given.iter().filter(|(_, is_given, kind)| *is_given && *kind != wanted) {
        section.blame(key, format!("only a source of kind {kind} has it"), problems);
    }
    let missing = |section: &Section<'_, '_>, key: &str, problems: &mut Problems| {
        if problems.count() == before {
            section.blame(key, format!("a source of kind {wanted} needs it"), problems);
        }
    };
    let found = match wanted.as_str() {
        "v4l2" => Some(Source::V4l2 {
            device: device.right(),
            width: width.right(),
            height: height.right(),
            fps: fps.right(),
        }),
        "folder" => path.right().map(|path| Source::Folder { path }),
        _ => command.right().map(|command| Source::Command {
            command,
            finite: finite.right(),
            silence_s: silence_s.right(),
        }),
    };
    if found.is_none() {
        missing(&section, if wanted == "folder" { "path" } else { "command" }, problems);
    }
    section.finish(problems);
    // A key that is not known may be the very one that was meant: half a source is none.
    match found {
        Some(source) if problems.count() == before => Given::Right(source),
        _ => Given::Wrong,
    }
}

fn absolute(path: String, below: &str) -> check::Checked<String> {
    let sound = path.starts_with(below) && path.len() <= WORD_BYTES_MAX && !path.chars().any(char::is_control);
    if sound { Ok(path) } else { Err(format!("{} is not a path below {below}", check::told(&path))) }
}

fn words_of(words: Vec<String>, former: Option<&Source>) -> check::Checked<Vec<String>> {
    if words.first().is_none_or(|program| program.is_empty()) || words.len() > WORDS_MAX {
        return Err(format!("a command is 1 to {WORDS_MAX} texts, the program first"));
    }
    if words.iter().any(|word| word.len() > WORD_BYTES_MAX || word.contains('\0')) {
        return Err(format!("a word has at most {WORD_BYTES_MAX} bytes"));
    }
    let known: &[String] = match former {
        Some(Source::Command { command, .. }) => command,
        Some(Source::V4l2 { .. } | Source::Folder { .. }) | None => &[],
    };
    words.into_iter().map(|word| restored(word, known)).collect()
}

/// `word`, with the password that was applied before in it again.
fn restored(word: String, known: &[String]) -> check::Checked<String> {
    if !word.contains(APPLIED) {
        return Ok(word);
    }
    let before = known.iter().find(|known| password_in(known).is_some_and(|at| redacted(known, at) == word));
    before.cloned().ok_or_else(|| "its password was taken out when it was applied: write it again".into())
}

/// Where the password stands in a word that is an address with one, and was not taken out before.
pub fn password_in(word: &str) -> Option<std::ops::Range<usize>> {
    microlambda_runtime::password_in(word).filter(|range| word[range.clone()] != *APPLIED)
}

/// `word` without the password at `at`.
pub fn redacted(word: &str, at: std::ops::Range<usize>) -> String {
    format!("{}{APPLIED}{}", &word[..at.start], &word[at.end..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::document::Document;

    fn told(text: &str, former: Option<&Source>) -> (Given<Source>, String) {
        let mut problems = Problems::default();
        let document = Document::read("f", text, &mut problems);
        let source = read(document.root().section("source", &mut problems), former, &mut problems);
        (source, problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn half_a_source_is_none() {
        for (text, part) in [
            ("device = \"/dev/video0\"", "needs its kind"),
            ("kind = \"folder\"", "`source.path`: a source of kind folder needs it"),
            ("kind = \"folder\"\npath = \"photos\"", "not a path below /"),
            ("kind = \"v4l2\"\ndevice = \"/etc/shadow\"", "not a path below /dev/"),
            ("kind = \"v4l2\"\nfps = 0", "0 is outside 1 to 1000"),
            ("kind = \"v4l2\"\npath = \"/p\"", "only a source of kind folder has it"),
            ("kind = \"v4l2\"\ndevise = \"/dev/video1\"", "did you mean `device`?"),
            ("kind = \"webcam\"", "is no kind of source"),
            ("kind = \"command\"\ncommand = []", "the program first"),
        ] {
            let (source, told) = told(&format!("[source]\n{text}\n"), None);
            assert!(source == Given::Wrong && told.contains(part), "{text}: {told}");
        }
        assert_eq!(told("", None).0, Given::Absent);
        assert_eq!(told("[source]\nkind = \"v4l2\"\n", None).0, Given::Right(Source::default()));
    }

    #[test]
    fn a_password_in_an_address_is_found_and_comes_back_from_what_was_applied() {
        let word = "rtsp://ann:se:cr@t@cam.local/live?x=a@b";
        let at = password_in(word).unwrap();
        assert_eq!(&word[at.clone()], "se:cr@t");
        let redacted = redacted(word, at);
        assert_eq!(redacted, "rtsp://ann:(applied)@cam.local/live?x=a@b");
        assert_eq!(password_in(&redacted), None);
        let command = |words: &[&str]| Source::Command {
            command: words.iter().map(|&word| word.into()).collect(),
            finite: None,
            silence_s: Some(0),
        };
        let former = command(&["ffmpeg", word]);
        let text =
            format!("[source]\nkind = \"command\"\nsilence-s = 0\ncommand = [\"ffmpeg\", \"-v\", \"{redacted}\"]\n");
        assert_eq!(told(&text, Some(&former)).0, Given::Right(command(&["ffmpeg", "-v", word])));
        let (source, told) = told(&text, None);
        assert!(source == Given::Wrong && told.contains("write it again"), "{told}");
    }
}
