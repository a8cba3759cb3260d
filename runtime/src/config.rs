//! Configuration files: TOML, unknown keys refused, errors that name file, line, key and remedy.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::{printable, without_passwords};

/// No configuration file is longer, bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// There is no such file.
    #[error(
        "there is no configuration file {}: write one with `{program} example-config > {}` and edit it",
        path.display(),
        path.display()
    )]
    Missing {
        /// The configuration file.
        path: PathBuf,
        /// The program that wanted it.
        program: String,
    },
    /// It cannot be read.
    #[error("cannot read the configuration {}: {why}", path.display())]
    Unreadable {
        /// The configuration file.
        path: PathBuf,
        /// What the system says, and what to do.
        why: String,
    },
    /// It is not what the program expects.
    #[error(
        "{}:{line}: {what}\n  {excerpt}\ncorrect it and check with `{program} validate --config {}`",
        path.display(),
        path.display()
    )]
    Wrong {
        /// The configuration file.
        path: PathBuf,
        /// The line, from 1; 0 if the error belongs to the file as a whole.
        line: usize,
        /// What is wrong, with the key and the keys or values allowed.
        what: String,
        /// The line's text.
        excerpt: String,
        /// The program that wanted it.
        program: String,
    },
    /// A value that reads well but cannot be used.
    #[error("{}{key}: {why}", file.as_ref().map_or(String::new(), |file| format!("{}: ", file.display())))]
    Value {
        /// The file, where it is known.
        file: Option<PathBuf>,
        /// The key, with its table.
        key: String,
        /// What is wrong and what to do.
        why: String,
    },
}

impl ConfigError {
    /// An error about one key's value.
    pub fn value(key: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Value { file: None, key: key.into(), why: why.into() }
    }

    /// The same error, told as one of the file `path`.
    #[must_use]
    pub fn in_file(self, path: &Path) -> Self {
        match self {
            Self::Value { file: None, key, why } => Self::Value { file: Some(path.to_owned()), key, why },
            other => other,
        }
    }
}

/// Reads `path` as TOML into `T`; `program` is named in the remedies.
///
/// # Errors
/// [`ConfigError`], meant to be shown to people as it is.
pub fn load<T: DeserializeOwned>(path: &Path, program: &str) -> Result<T, ConfigError> {
    let unreadable = |why: String| ConfigError::Unreadable { path: path.to_owned(), why };
    let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => ConfigError::Missing { path: path.to_owned(), program: program.to_owned() },
        _ => unreadable(format!("{error}; check the permissions of the file and of its folder")),
    })?;
    if !metadata.is_file() {
        return Err(unreadable("it is not a regular file".into()));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(unreadable(format!("it has {} bytes, at most {FILE_BYTES_MAX} are read", metadata.len())));
    }
    let bytes = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
    let text = text_of(bytes).map_err(unreadable)?;
    parse(&text, path, program)
}

/// Checks the path that stands under `key`: nothing here expands `~`, and SQLite would take an empty name for the working folder.
/// Whether anything is there is not looked at.
///
/// # Errors
/// [`ConfigError::Value`] says what to write instead.
pub fn check_path(key: &str, path: &Path) -> Result<(), ConfigError> {
    let wrong = |why: String| Err(ConfigError::value(key, why));
    if path.as_os_str().is_empty() {
        return wrong("it is empty: write a path, or leave the key out".into());
    }
    if path.as_os_str().as_bytes().contains(&0) {
        return wrong("it holds a NUL character, which no path can: write it without".into());
    }
    let mut components = path.components();
    if components.next() == Some(Component::Normal("~".as_ref())) {
        let whole = Path::new("/home/ann").join(components.as_path());
        let whole = printable(whole.display());
        return wrong(format!("`~` would be a folder of that name: write the whole path, such as {whole}"));
    }
    Ok(())
}

/// Text, or what is wrong with its encoding.
fn text_of(bytes: Vec<u8>) -> Result<String, String> {
    // In UTF-16 every other byte of plain English is a NUL, which TOML has no use for.
    let nul = bytes.iter().position(|&byte| byte == 0);
    let (bytes, at) = match (String::from_utf8(bytes), nul) {
        (Ok(text), None) => return Ok(text),
        (Ok(text), Some(at)) => (text.into_bytes(), at),
        (Err(error), _) => {
            let at = error.utf8_error().valid_up_to();
            (error.into_bytes(), at)
        }
    };
    let guess = if nul.is_some() { ", and seems to be UTF-16" } else { "" };
    Err(format!("byte {at}, in line {}, is no UTF-8 text{guess}: save it as UTF-8", line_at(&bytes, at)))
}

/// The line of the byte at `at`, from 1.
fn line_at(bytes: &[u8], at: usize) -> usize {
    bytes[..at].iter().filter(|&&byte| byte == b'\n').count() + 1
}

/// As [`load`], from text that stands (or would stand) in `path`.
///
/// # Errors
/// [`ConfigError::Wrong`].
pub fn parse<T: DeserializeOwned>(text: &str, path: &Path, program: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map(|span| span.start.min(text.len()));
        let mut line = at.map_or(0, |at| line_at(text.as_bytes(), at));
        let mut what = without_passwords(&error.message().replace('\n', " "));
        // What is said of a list in a table's place speaks of the table's first key. A key that nobody knows is told as such.
        if !what.starts_with("unknown field")
            && let Some((table, its_line)) = repeatable_table(text)
        {
            line = its_line;
            what = format!("`[[{table}]]` begins one of several, and there is one `[{table}]`: write `[{table}]`");
        }
        ConfigError::Wrong {
            path: path.to_owned(),
            line,
            what,
            excerpt: without_passwords(text.lines().nth(line.saturating_sub(1)).unwrap_or_default().trim()),
            program: program.to_owned(),
        }
    })
}

/// The first table that is written as one of several, `[[table]]`, with its line: no configuration has such.
fn repeatable_table(text: &str) -> Option<(String, usize)> {
    let document: toml::Table = toml::from_str(text).ok()?;
    let headers = text.lines().enumerate().filter_map(|(at, line)| {
        let (name, _) = line.trim_start().strip_prefix("[[")?.split_once("]]")?;
        Some((name.trim().to_owned(), at + 1))
    });
    // Such a line may also stand in a text of several lines.
    headers.into_iter().find(|(name, _)| document.get(name).is_some_and(toml::Value::is_array))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "kebab-case", deny_unknown_fields)]
    struct Sample {
        #[expect(dead_code, reason = "only parsing is tested")]
        frame_rate: u32,
    }

    fn error_of(text: &str) -> String {
        parse::<Sample>(text, Path::new("sample.toml"), "sample").unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_key_is_named_with_line_and_allowed_keys() {
        let message = error_of("frame-rate = 3\nframe_rate = 4\n");
        assert!(message.starts_with("sample.toml:2: "), "{message}");
        assert!(message.contains("`frame_rate`") && message.contains("`frame-rate`"), "{message}");
        assert!(message.contains("sample validate --config sample.toml"), "{message}");
    }

    #[test]
    fn a_missing_key_is_named() {
        assert!(error_of("").contains("missing field `frame-rate`"), "{}", error_of(""));
    }

    #[test]
    fn a_wrong_type_shows_the_line() {
        let message = error_of("\nframe-rate = \"fast\"\n");
        assert!(message.contains("sample.toml:2:") && message.contains("frame-rate = \"fast\""), "{message}");
    }

    #[test]
    fn a_wrong_line_is_shown_without_its_passwords() {
        let message = error_of("frame-rate = \"rtsp://me:secret@cam\"");
        assert!(message.contains("rtsp://me:***@cam") && !message.contains("secret"), "{message}");
    }

    #[test]
    fn a_missing_file_says_how_to_get_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none.toml");
        let message = load::<Sample>(&path, "sample").unwrap_err().to_string();
        assert!(message.contains("sample example-config >"), "{message}");
    }

    fn load_bytes(bytes: &[u8]) -> Result<Sample, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sample.toml");
        std::fs::write(&path, bytes).unwrap();
        load(&path, "sample").map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_that_is_not_utf_8_is_named_with_the_place_and_the_remedy() {
        let utf_16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        for (bytes, place) in [
            (b"frame-rate = 3\n# K\xe4the\n".to_vec(), "byte 18, in line 2, is no UTF-8 text: "),
            (utf_16("\u{feff}frame-rate = 3\n"), "byte 0, in line 1, is no UTF-8 text, and seems to be UTF-16: "),
            (utf_16("frame-rate = 3\n"), "byte 1, in line 1, is no UTF-8 text, and seems to be UTF-16: "),
        ] {
            let message = load_bytes(&bytes).unwrap_err();
            assert!(message.contains("sample.toml: ") && message.contains(place), "{message}");
            assert!(message.contains("save it as UTF-8"), "{message}");
        }
        load_bytes("\u{feff}frame-rate = 3 # Käthe\n".as_bytes()).unwrap();
    }

    #[test]
    fn a_table_that_is_written_as_one_of_several_is_named() {
        #[derive(Debug, Deserialize)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields)]
        struct Whole {
            #[expect(dead_code, reason = "only parsing is tested")]
            source: Sample,
        }
        let error =
            |text: &str| parse::<Whole>(text, Path::new("sample.toml"), "sample").map(drop).unwrap_err().to_string();
        let message = error("# one\n[[source]]\nframe-rate = 3\n");
        assert!(message.starts_with("sample.toml:2: ") && message.contains("there is one `[source]`"), "{message}");
        assert!(error("[[colour]]\na = 1\n").contains("unknown field `colour`"), "{}", error("[[colour]]\na = 1\n"));
    }

    #[test]
    fn a_path_that_would_not_be_where_it_seems_is_refused_with_the_remedy() {
        for (path, remedy) in [
            ("", "leave the key out"),
            ("~", "write the whole path, such as /home/ann"),
            ("~/a b/state", "write the whole path, such as /home/ann/a b/state"),
            ("~/a\nb", r"such as /home/ann/a\nb"),
            ("/var/a\0b", "write it without"),
        ] {
            let message = check_path("state-dir", Path::new(path)).unwrap_err().to_string();
            assert!(message.starts_with("state-dir: ") && message.contains(remedy), "{message}");
        }
        for fine in ["state", "./~", "/home/~ann", "~ann", "/var/lib/microlambda/edge"] {
            check_path("state-dir", Path::new(fine)).unwrap();
        }
    }

    #[test]
    fn a_value_is_told_with_its_file() {
        let error = ConfigError::value("frame.rate", "0 is too few").in_file(Path::new("/etc/a.toml"));
        assert_eq!(error.to_string(), "/etc/a.toml: frame.rate: 0 is too few");
        assert_eq!(error.clone().in_file(Path::new("b.toml")), error);
    }

    #[test]
    fn a_folder_and_a_huge_file_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(load::<Sample>(folder.path(), "sample").unwrap_err().to_string().contains("not a regular file"));
        let path = folder.path().join("huge.toml");
        std::fs::write(&path, vec![b'#'; (FILE_BYTES_MAX + 1) as usize]).unwrap();
        assert!(load::<Sample>(&path, "sample").unwrap_err().to_string().contains("at most"));
    }
}
