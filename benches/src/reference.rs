//! Python's `face_recognition` with its defaults, in a process of its own that looks at one picture after the other.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::Deserialize;

use crate::{Error, workspace};

/// One BLAS thread and one OpenMP thread: one core, as our side has.
const ONE_THREAD: [(&str, &str); 2] = [("OPENBLAS_NUM_THREADS", "1"), ("OMP_NUM_THREADS", "1")];

/// A running interpreter.
#[derive(Debug)]
pub struct Reference {
    child: Child,
    pictures: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Versions, for people.
    pub name: String,
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
    /// Installs what is missing with pip, by name, and starts it.
    ///
    /// # Errors
    /// Python or a package is not to be had here, for example as there is no network.
    pub fn start() -> Result<Self, Error> {
        let installed = Command::new(workspace().join("scripts/reference-python")).stderr(Stdio::inherit()).output()?;
        if !installed.status.success() {
            return Err(format!("scripts/reference-python: {}", installed.status).into());
        }
        let python = String::from_utf8(installed.stdout)?;
        let mut child = Command::new(python.trim())
            .arg(workspace().join("benches/reference/serve.py"))
            .envs(ONE_THREAD)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let pictures = child.stdin.take().ok_or("no way to the reference")?;
        let answers = BufReader::new(child.stdout.take().ok_or("no answer from the reference")?);
        let mut reference = Self { child, pictures, answers, name: String::new() };
        let Versions { version, dlib } = reference.answer()?;
        reference.name = format!("face_recognition {version} with dlib {dlib}");
        Ok(reference)
    }

    /// Has it look at a JPEG.
    ///
    /// # Errors
    /// It has ended, or says something else.
    pub fn look(&mut self, jpeg: &[u8]) -> Result<Look, Error> {
        self.pictures.write_all(&u32::try_from(jpeg.len())?.to_be_bytes())?;
        self.pictures.write_all(jpeg)?;
        self.pictures.flush()?;
        self.answer()
    }

    fn answer<T: for<'de> Deserialize<'de>>(&mut self) -> Result<T, Error> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).map_err(|error| format!("the reference said {line:?}: {error}").into())
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
