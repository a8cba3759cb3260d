//! Configuration files: TOML, unknown keys refused, errors that name file, line, key and remedy.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::without_passwords;

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
        /// The file.
        path: PathBuf,
        /// The program that wanted it.
        program: String,
    },
    /// It cannot be read.
    #[error("cannot read the configuration {}: {why}", path.display())]
    Unreadable {
        /// The file.
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
        /// The file.
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
    #[error("{key}: {why}")]
    Value {
        /// The key, with its table.
        key: String,
        /// What is wrong and what to do.
        why: String,
    },
}

impl ConfigError {
    /// An error about one key's value.
    pub fn value(key: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Value { key: key.into(), why: why.into() }
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
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    parse(&text, path, program)
}

/// As [`load`], from text that stands (or would stand) in `path`.
///
/// # Errors
/// [`ConfigError::Wrong`].
pub fn parse<T: DeserializeOwned>(text: &str, path: &Path, program: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map(|span| span.start.min(text.len()));
        let line = at.map_or(0, |at| text.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count() + 1);
        ConfigError::Wrong {
            path: path.to_owned(),
            line,
            what: without_passwords(&error.message().replace('\n', " ")),
            excerpt: without_passwords(text.lines().nth(line.saturating_sub(1)).unwrap_or_default().trim()),
            program: program.to_owned(),
        }
    })
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

    #[test]
    fn a_folder_and_a_huge_file_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(load::<Sample>(folder.path(), "sample").unwrap_err().to_string().contains("not a regular file"));
        let path = folder.path().join("huge.toml");
        std::fs::write(&path, vec![b'#'; (FILE_BYTES_MAX + 1) as usize]).unwrap();
        assert!(load::<Sample>(&path, "sample").unwrap_err().to_string().contains("at most"));
    }
}
