//! `edge-agent inspect`: what the worker sees in a picture.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use microlambda_faces::proto::{FromWorker, ToWorker, UnitOutcome};
use microlambda_faces::{Analysis, FACES_MAX, Face, FaceOutcome, FaceParams, FrameAnalysis, Unusable};
use microlambda_runtime::{counted, printable};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::cli::{CommandError, runtime};
use crate::config::Config;
use crate::report::{print, print_json};
use crate::worker::{Worker, WorkerCommand, WorkerEvent};

/// No picture file is larger, bytes: what the worker's protocol carries.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// A picture may take this long, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// JPEG or PNG pictures
    #[arg(required = true)]
    photos: Vec<PathBuf>,
    /// Show the 128 numbers of each usable face
    #[arg(long)]
    encodings: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Configuration file; without one the defaults apply
    #[arg(short, long)]
    config: Option<PathBuf>,
    /// Folder with the models, instead of the configuration's; in a checkout target/data/models is found by itself
    #[arg(long)]
    models: Option<PathBuf>,
}

pub(crate) fn run(args: &InspectArgs) -> Result<(), CommandError> {
    let config = match &args.config {
        Some(path) => Config::load(path)?,
        None => Config::defaults()?,
    };
    let command = WorkerCommand {
        program: config.worker_program()?,
        models_dir: args.models.clone().unwrap_or_else(|| config.models_dir.clone()),
        engine: config.engine,
        memory_mb: config.worker_memory_mb,
    };
    runtime()?.block_on(inspect(args, config.faces, &command))
}

async fn inspect(args: &InspectArgs, params: FaceParams, command: &WorkerCommand) -> Result<(), CommandError> {
    let mut session = Session::open(command).await?;
    let mut pictures = Vec::new();
    let mut failed = 0;
    for (photo, step) in args.photos.iter().zip(1_u64..) {
        let analysis = match read(photo) {
            Ok(bytes) => match session.analyse(step, bytes, params).await {
                Ok(analysis) => analysis,
                Err(why) => {
                    session = Session::open(command).await?;
                    Analysis::Unreadable { why }
                }
            },
            Err(why) => Analysis::Unreadable { why },
        };
        failed += usize::from(!matches!(analysis, Analysis::Frame(_)));
        if args.json {
            pictures.push(picture_json(photo, &analysis, params, args.encodings));
        } else {
            print(&picture_text(photo, &analysis, params, args.encodings))?;
        }
    }
    if args.json {
        print_json(&pictures)?;
    }
    if failed == 0 {
        Ok(())
    } else {
        Err(CommandError::Failed(format!(
            "{failed} of {} could not be read",
            counted(args.photos.len() as u64, "picture")
        )))
    }
}

fn read(photo: &Path) -> Result<Vec<u8>, String> {
    let metadata = std::fs::metadata(photo).map_err(|error| format!("{error}; check the path and its permissions"))?;
    if !metadata.is_file() {
        return Err("not a file; give picture files, for a folder FOLDER/*".into());
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(format!(
            "{} bytes, at most {FILE_BYTES_MAX} are looked at as they are; save it as a smaller JPEG, as a camera agent does with such a picture",
            metadata.len()
        ));
    }
    std::fs::read(photo).map_err(|error| format!("{error}; check the path and its permissions"))
}

/// A worker that looks at one picture after the other.
struct Session {
    worker: Worker,
    events: mpsc::Receiver<WorkerEvent>,
}

impl Session {
    async fn open(command: &WorkerCommand) -> Result<Self, CommandError> {
        let (sender, events) = mpsc::channel(64);
        let worker = Worker::spawn(command, 0, sender)
            .map_err(|error| CommandError::Failed(format!("cannot start {}: {error}", command.program.display())))?;
        let mut session = Self { worker, events };
        match session.next().await.map_err(CommandError::Failed)? {
            FromWorker::Ready { .. } => Ok(session),
            FromWorker::Fatal { message } => Err(CommandError::Failed(message)),
            other => Err(CommandError::Failed(format!("the worker began with {other:?}"))),
        }
    }

    async fn next(&mut self) -> Result<FromWorker, String> {
        match tokio::time::timeout(PATIENCE, self.events.recv()).await {
            Ok(Some(WorkerEvent::Said(_, message))) => Ok(*message),
            Ok(Some(WorkerEvent::Gone(_, why))) => Err(format!("looking at this picture, {why}")),
            Ok(None) => Err("the worker is gone".into()),
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        }
    }

    async fn analyse(&mut self, step: u64, picture: Vec<u8>, params: FaceParams) -> Result<Analysis, String> {
        let r_limit_us = u64::try_from(PATIENCE.as_micros()).unwrap_or(u64::MAX);
        let start = ToWorker::Start { step, r_limit_us, units_max: u32::MAX, costs: Vec::new(), params, resume: None };
        let frame = ToWorker::Frame { sequence: 0, jpeg: picture, moved: None, more: false };
        if !self.worker.send(&start) || !self.worker.send(&frame) {
            return Err("the worker does not take the picture".into());
        }
        let mut analysis = None;
        loop {
            match self.next().await? {
                FromWorker::Unit { outcome: UnitOutcome::Done(done), .. } => analysis = Some(done),
                FromWorker::Begin { .. }
                | FromWorker::Unit { .. }
                | FromWorker::Ready { .. }
                | FromWorker::Tried { .. }
                | FromWorker::Refused { .. }
                | FromWorker::Prepared { .. } => {}
                FromWorker::Stopped { stop, .. } => {
                    return analysis.ok_or_else(|| format!("the worker stopped without a result ({stop:?})"));
                }
                FromWorker::Fatal { message } => return Err(message),
            }
        }
    }
}

/// Whether a face can be compared, and if not, why.
fn usable(face: &Face) -> Result<(), String> {
    match &face.outcome {
        FaceOutcome::Encoded(_) => Ok(()),
        FaceOutcome::Unusable(Unusable::TooSmall { face_px }) => Err(format!("too small: {face_px} px")),
        FaceOutcome::Unusable(Unusable::Blurred { sharpness }) => Err(format!("blurred: sharpness {sharpness:.1}")),
        FaceOutcome::Unusable(Unusable::NoEncoding) => Err("no sound encoding".into()),
        FaceOutcome::Unusable(Unusable::SetAside { why }) => Err(format!("set aside: {why}")),
        FaceOutcome::Unusable(Unusable::NoFace) => Err("no face".into()),
    }
}

/// Whether there may be faces that nobody looked at.
fn is_crowded(frame: &FrameAnalysis) -> bool {
    frame.faces.len() >= FACES_MAX
}

fn picture_json(photo: &Path, analysis: &Analysis, params: FaceParams, encodings: bool) -> Value {
    // JSON has only Unicode, and file names any bytes.
    let name = photo.to_string_lossy();
    let frame = match analysis {
        Analysis::Frame(frame) => frame,
        Analysis::Unreadable { why } | Analysis::SetAside { why } => {
            return json!({ "photo": name, "error": why, "faces": [] });
        }
    };
    let face = |face: &Face| {
        let rect = face.seen.rect;
        let mut value = json!({
            "box": { "left": rect.left, "top": rect.top, "right": rect.right, "bottom": rect.bottom },
            "size_px": rect.width().min(rect.height()), "score": face.seen.score, "sharpness": face.sharpness,
            "usable": usable(face).is_ok(), "reason": usable(face).err(),
            "enough_for_somebody_new": usable(face).is_ok() && face.seen.score >= params.new_person_score_min,
        });
        if let (true, FaceOutcome::Encoded(encoding)) = (encodings, &face.outcome) {
            value["encoding"] = json!(encoding);
        }
        value
    };
    let faces: Vec<Value> = frame.faces.iter().map(face).collect();
    json!({
        "photo": name, "width_px": frame.width_px, "height_px": frame.height_px, "crowded": is_crowded(frame), "faces": faces,
    })
}

fn picture_text(photo: &Path, analysis: &Analysis, params: FaceParams, encodings: bool) -> String {
    let frame = match analysis {
        Analysis::Frame(frame) => frame,
        Analysis::Unreadable { why } | Analysis::SetAside { why } => {
            return format!("{}: {}\n", printable(photo.display()), printable(why));
        }
    };
    let photo = printable(photo.display());
    let count = if is_crowded(frame) {
        format!("at least {FACES_MAX} faces: only the {FACES_MAX} surest are looked at")
    } else {
        counted(frame.faces.len() as u64, "face")
    };
    let mut text = format!("{photo}: {}×{} px, {count}\n", frame.width_px, frame.height_px);
    for face in &frame.faces {
        let rect = face.seen.rect;
        let verdict = match usable(face) {
            Ok(()) if face.seen.score < params.new_person_score_min => "usable, too weak for somebody new".to_owned(),
            Ok(()) => "usable".to_owned(),
            Err(why) => format!("unusable: {}", printable(why)),
        };
        text += &format!(
            "  box {},{} to {},{}  size {} px  score {:.2}  sharpness {:.1}  {verdict}\n",
            rect.left,
            rect.top,
            rect.right,
            rect.bottom,
            rect.width().min(rect.height()),
            face.seen.score,
            face.sharpness
        );
        if let (true, FaceOutcome::Encoded(encoding)) = (encodings, &face.outcome) {
            let values: Vec<String> = encoding.values().iter().map(f32::to_string).collect();
            text += &format!("    {}\n", values.join(" "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use microlambda_faces::{ENCODING_LEN, Encoding, Rect, SeenFace};

    use super::*;

    fn picture_of(faces: usize) -> Analysis {
        let seen = SeenFace { rect: Rect { left: 0, top: 0, right: 39, bottom: 39 }, score: 1.0 };
        let face = Face { seen, sharpness: 9.0, outcome: FaceOutcome::Unusable(Unusable::NoEncoding) };
        Analysis::Frame(FrameAnalysis { faces: vec![face; faces], ..FrameAnalysis::default() })
    }

    #[test]
    fn a_picture_of_as_many_faces_as_are_looked_at_is_told_as_one_that_may_have_more() {
        let (photo, params) = (Path::new("a.jpg"), FaceParams::default());
        for (faces, is_crowded, said) in [
            (FACES_MAX - 1, false, "px, 255 faces\n"),
            (FACES_MAX, true, "px, at least 256 faces: only the 256 surest are looked at\n"),
        ] {
            let picture = picture_of(faces);
            let text = picture_text(photo, &picture, params, false);
            assert!(text.contains(said), "{text}");
            let value = picture_json(photo, &picture, params, false);
            assert_eq!((&value["crowded"], value["faces"].as_array().map(Vec::len)), (&json!(is_crowded), Some(faces)));
        }
    }

    #[test]
    fn an_encoding_is_a_plain_list_of_numbers() {
        let values: Vec<f32> = (0..ENCODING_LEN).map(|at| at as f32 / 8.0 - 9.0).collect();
        let Analysis::Frame(mut frame) = picture_of(1) else { panic!("a frame") };
        frame.faces[0].outcome = FaceOutcome::Encoded(Encoding::try_from(values.clone()).expect("an encoding"));
        let picture = Analysis::Frame(frame);
        let value = picture_json(Path::new("a.jpg"), &picture, FaceParams::default(), true);
        assert_eq!(value["faces"][0]["encoding"], json!(values));
        let text = picture_text(Path::new("a.jpg"), &picture, FaceParams::default(), true);
        assert!(text.contains("\n    -9 -8.875 -8.75 "), "{text}");
    }

    #[test]
    fn a_file_that_is_too_large_as_it_is_is_refused_with_what_a_camera_does() {
        let folder = tempfile::tempdir().expect("a folder");
        let photo = folder.path().join("a.png");
        File::create(&photo).and_then(|file| file.set_len(FILE_BYTES_MAX + 1)).expect("a file");
        let why = read(&photo).expect_err("more than the worker's protocol carries");
        assert!(why.contains("as a camera agent does"), "{why}");
    }
}
