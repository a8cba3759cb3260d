//! Python's `face_recognition` with its defaults, in a process of its own that looks at one picture after the other.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::Deserialize;

use crate::process::{Looks, ended};
use crate::{Error, workspace};

/// One BLAS thread and one OpenMP thread: one core, as our side has.
const ONE_THREAD: [(&str, &str); 2] = [("OPENBLAS_NUM_THREADS", "1"), ("OMP_NUM_THREADS", "1")];

/// A running interpreter.
#[derive(Debug)]
pub struct Reference {
    child: Child,
    /// `None` once it is to end.
    pictures: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// Versions, for people.
    pub name: String,
}

/// Python's side of a comparison, or why there is none.
#[derive(Debug)]
pub enum Theirs {
    /// It takes part.
    Runs(Box<Reference>),
    /// Our side is measured alone, for this reason.
    LeftOut(String),
}

/// What it says about one picture; times in ms.
#[derive(Debug, Clone, Deserialize)]
pub struct Look {
    /// From the file to pixels.
    pub decode_ms: f64,
    /// Looking for faces.
    pub search_ms: f64,
    /// Landmarks and encodings of all faces found.
    pub encode_ms: f64,
    /// Processor time of all three.
    pub cpu_ms: f64,
    /// Left, top, right, bottom, px.
    pub boxes: Vec<[f64; 4]>,
}

#[derive(Debug, Deserialize)]
struct Versions {
    version: String,
    dlib: String,
}

impl Reference {
    /// Installs what is missing with pip, by name, and says where its interpreter is.
    ///
    /// # Errors
    /// Python or a package is not to be had here, for example as there is no network.
    pub fn install() -> Result<PathBuf, Error> {
        let installed = Command::new(workspace().join("scripts/reference-python")).stderr(Stdio::inherit()).output()?;
        if !installed.status.success() {
            return Err(format!(
                "Python's face_recognition is not to be had here: scripts/reference-python ended with {}, the lines above say why; run it \
                 again where there is a network",
                installed.status
            )
            .into());
        }
        Ok(PathBuf::from(String::from_utf8(installed.stdout)?.trim()))
    }

    /// Starts one with this interpreter; it is ready when it has said its versions.
    ///
    /// # Errors
    /// It cannot be started, or says something else.
    pub fn start(python: &Path) -> Result<Self, Error> {
        let mut child = Command::new(python)
            .arg(workspace().join("benches/reference/serve.py"))
            .envs(ONE_THREAD)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let pictures = Some(child.stdin.take().ok_or("no way to the reference")?);
        let answers = BufReader::new(child.stdout.take().ok_or("no answer from the reference")?);
        let mut reference = Self { child, pictures, answers, name: String::new() };
        let Versions { version, dlib } = reference.answer()?;
        reference.name = format!("face_recognition {version} with dlib {dlib}");
        Ok(reference)
    }

    /// Has it look at a picture file.
    ///
    /// # Errors
    /// It has ended, or says something else.
    pub fn look(&mut self, file: &[u8]) -> Result<Look, Error> {
        let pictures = self.pictures.as_mut().ok_or("the reference was told to end")?;
        pictures.write_all(&u32::try_from(file.len())?.to_be_bytes())?;
        pictures.write_all(file)?;
        pictures.flush()?;
        self.answer()
    }

    fn answer<T: for<'de> Deserialize<'de>>(&mut self) -> Result<T, Error> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).map_err(|error| format!("the reference said {line:?}: {error}").into())
    }
}

impl Looks for Reference {
    fn faces(&mut self, file: &[u8]) -> Result<usize, Error> {
        Ok(self.look(file)?.boxes.len())
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn end(&mut self) -> Result<f64, Error> {
        self.pictures = None;
        ended(&mut self.child)
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Theirs {
    /// Python's side, unless it is not wanted; a dry run, which keeps nothing, does without it where it is not to be had.
    ///
    /// # Errors
    /// It is not to be had, and neither of the two was said: a page would lose its comparison.
    pub fn start(without_python: bool, dry: bool) -> Result<Self, Error> {
        if without_python {
            return Ok(Self::LeftOut("as `--without-python` asks".into()));
        }
        Self::of(Reference::install().and_then(|python| Reference::start(&python)), dry)
    }

    fn of(started: Result<Reference, Error>, dry: bool) -> Result<Self, Error> {
        match started {
            Ok(reference) => Ok(Self::Runs(Box::new(reference))),
            Err(why) if dry => Ok(Self::LeftOut(format!("as it did not start ({why})"))),
            Err(why) => {
                Err(format!("{why}; or measure our side alone with --without-python. The page is as it was").into())
            }
        }
    }

    /// The interpreter that takes part.
    pub fn running(&mut self) -> Option<&mut Reference> {
        match self {
            Self::Runs(reference) => Some(reference),
            Self::LeftOut(_) => None,
        }
    }

    /// Its versions, or that it was left out and why.
    pub fn name(&self) -> String {
        match self {
            Self::Runs(reference) => reference.name.clone(),
            Self::LeftOut(why) => format!("left out, {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_would_lose_the_comparison_is_refused_with_what_to_do() {
        let refused = Theirs::of(Err("no network".into()), false).expect_err("refused").to_string();
        assert!(refused.contains("no network") && refused.contains("--without-python"), "{refused}");
    }

    #[test]
    fn a_run_goes_on_without_python_if_it_keeps_nothing_or_is_asked_to() {
        let dry = Theirs::of(Err("no network".into()), true).expect("a dry run");
        assert_eq!(dry.name(), "left out, as it did not start (no network)");
        let mut asked = Theirs::start(true, false).expect("nothing is started");
        assert!(asked.running().is_none() && asked.name().contains("--without-python"));
    }
}
