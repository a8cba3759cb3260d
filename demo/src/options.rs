//! What a run is asked to do, and whether it can be.

use std::collections::BTreeMap;
use std::fs::FileType;
use std::path::{Path, PathBuf};
use std::time::Duration;

use microlambda_runtime::counted;

use crate::{Error, Isolation, Programs};

/// Limit of one step unless another is given, ms.
pub(crate) const DEFAULT_R_LIMIT_MS: u64 = 400;
/// The shortest bound of a frame that a camera agent takes, bytes.
pub(crate) const FRAME_BYTES_LEAST: u32 = 16 << 10;
/// The largest one, bytes.
const FRAME_BYTES_LIMIT: u32 = 16 << 20;
/// Endings of pictures that the camera agent plays.
const PICTURES: [&str; 5] = ["jpg", "jpeg", "jpe", "jfif", "png"];
/// Endings of pictures that it does not read.
const OTHER_PICTURES: [&str; 8] = ["heic", "heif", "webp", "tif", "tiff", "gif", "bmp", "avif"];
/// Models that recognition needs.
const MODELS: [&str; 2] = ["dlib_face_recognition_resnet_model_v1.dat", "shape_predictor_5_face_landmarks.dat"];

/// Plays a folder of photos as a camera, lets edge nodes find out who is new in short steps that travel between them,
/// kills one half way, and compares the result with that of one long run.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// Folder of JPEG or PNG pictures [default: photos/demo of the data directory]
    #[arg(long, value_name = "DIR")]
    pub photos: Option<PathBuf>,
    /// Where `make setup` put models and photos
    #[arg(long, value_name = "DIR", env = "MICROLAMBDA_DATA", default_value = "target/data")]
    pub data: PathBuf,
    /// Number of edge nodes
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=26))]
    pub nodes: u8,
    /// Limit of one step, ms
    #[arg(long, value_name = "N", default_value_t = DEFAULT_R_LIMIT_MS, value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    pub r_limit_ms: u64,
    /// Longest picture that is sent as it is, bytes; longer ones are encoded anew. For a broker with a limit for packets
    #[arg(long, value_name = "N", default_value_t = FRAME_BYTES_LIMIT, value_parser = frame_bytes())]
    pub frame_bytes_max: u32,
    /// A broker that runs already, `mqtt://user:password@host:port`, instead of the embedded one. Other users see the
    /// password on the command line, and not in the environment
    #[arg(long, value_name = "URL", env = "MICROLAMBDA_BROKER", hide_env_values = true)]
    pub broker: Option<String>,
    /// Port of the embedded broker [default: a free one]
    #[arg(long, value_name = "PORT", conflicts_with = "broker")]
    pub port: Option<u16>,
    /// Leave every node alive
    #[arg(long)]
    pub no_kill: bool,
    /// How far the agents are kept apart
    #[arg(long, value_enum, default_value_t = Isolation::Auto)]
    pub isolation: Isolation,
    /// Where summary, contact sheet and logs go
    #[arg(long, value_name = "DIR", default_value = "target/demo")]
    pub out: PathBuf,
    /// Give up when no step has ended for this time, s, and for twice the limit of a step
    #[arg(long, value_name = "N", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout_s: u64,
}

/// What a camera agent takes as `bytes-max` in `[frame]`.
fn frame_bytes() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(i64::from(FRAME_BYTES_LEAST)..=i64::from(FRAME_BYTES_LIMIT))
}

/// Everything a run needs, found and checked.
#[derive(Debug)]
pub(crate) struct Plan {
    pub programs: Programs,
    pub photos: PathBuf,
    /// Files that the camera will read, or say why not.
    pub photos_len: u64,
    /// Files that it does not even look at, in words; empty if there are none.
    pub left_out: String,
    pub models: PathBuf,
    pub data: PathBuf,
    pub nodes: u8,
    pub r_limit_ms: u64,
    pub frame_bytes_max: u32,
    pub broker: Option<String>,
    pub port: Option<u16>,
    pub kill: bool,
    pub isolation: Isolation,
    pub out: PathBuf,
    pub timeout: Duration,
}

impl Plan {
    /// Checks what can be checked before anything is started.
    ///
    /// # Errors
    /// What is missing, with the command that brings it.
    pub fn new(args: &DemoArgs, programs: Programs) -> Result<Self, Error> {
        programs.check()?;
        let photos = args.photos.clone().unwrap_or_else(|| args.data.join("photos/demo"));
        let folder = Folder::look(&photos)?;
        let models = args.data.join("models");
        for model in MODELS {
            let path = models.join(model);
            if !path.is_file() {
                return Err(Error::Model { path });
            }
        }
        let no_out = |e: std::io::Error| {
            Error::file(&args.out, format!("cannot be made ({e}): choose another folder with `--out DIR`"))
        };
        std::fs::create_dir_all(&args.out).map_err(no_out)?;
        let absolute = |path: &Path| path.canonicalize().map_err(|e| Error::file(path, e));
        Ok(Self {
            photos: absolute(&photos)?,
            photos_len: folder.pictures,
            left_out: folder.left_out(),
            models: absolute(&models)?,
            data: absolute(&args.data)?,
            out: absolute(&args.out)?,
            nodes: args.nodes,
            r_limit_ms: args.r_limit_ms,
            frame_bytes_max: args.frame_bytes_max,
            broker: args.broker.clone(),
            port: args.port,
            kill: !args.no_kill,
            isolation: args.isolation,
            timeout: Duration::from_secs(args.timeout_s),
            programs,
        })
    }
}

/// What stands in a folder under the ending of a picture, by the rules of the camera agent's folder source.
#[derive(Debug, Default)]
struct Folder {
    pictures: u64,
    /// Files with another ending, by that ending.
    others: BTreeMap<&'static str, u64>,
    links: u64,
    unnameable: u64,
    subfolders: u64,
}

impl Folder {
    fn look(path: &Path) -> Result<Self, Error> {
        let error = |why: String| Error::Photos { path: path.to_path_buf(), why };
        let mut folder = Self::default();
        for entry in std::fs::read_dir(path).map_err(|e| error(e.to_string()))?.flatten() {
            let name = entry.file_name();
            // `file_type` does not follow links.
            let kind = entry.file_type();
            if kind.as_ref().is_ok_and(FileType::is_dir) {
                folder.subfolders += 1;
                continue;
            }
            let ending = Path::new(&name).extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
            let Some(ending) = ending else { continue };
            if !PICTURES.contains(&ending.as_str()) {
                let other = OTHER_PICTURES.into_iter().find(|other| *other == ending);
                if let Some(other) = other.filter(|_| kind.is_ok_and(|kind| kind.is_file())) {
                    *folder.others.entry(other).or_insert(0) += 1;
                }
                continue;
            }
            match kind {
                Ok(kind) if kind.is_symlink() => folder.links += 1,
                Ok(kind) if kind.is_file() && name.to_str().is_none() => folder.unnameable += 1,
                Ok(kind) if kind.is_file() => folder.pictures += 1,
                Ok(_) | Err(_) => {}
            }
        }
        if folder.pictures > 0 {
            return Ok(folder);
        }
        let none = (folder.links + folder.unnameable == 0)
            .then(|| "no file ends in .jpg, .jpeg, .jpe, .jfif or .png".to_string());
        let left_out = Some(folder.left_out()).filter(|left_out| !left_out.is_empty());
        Err(error(none.into_iter().chain(left_out).collect::<Vec<_>>().join("; ")))
    }

    fn left_out(&self) -> String {
        let were = |count: u64| if count == 1 { "was" } else { "were" };
        let mut parts = Vec::new();
        for (ending, &count) in &self.others {
            let files = counted(count, "file");
            parts.push(if count == 1 {
                format!("{files} that ends in .{ending} is not read: convert it to JPEG")
            } else {
                format!("{files} that end in .{ending} are not read: convert them to JPEG")
            });
        }
        if self.links > 0 {
            let links = counted(self.links, "symbolic link");
            parts.push(format!("{links} {} passed over: copy the files", were(self.links)));
        }
        if self.unnameable > 0 {
            let names = counted(self.unnameable, "name");
            parts.push(format!("{names} that {} not UTF-8 {0} passed over: rename the files", were(self.unnameable)));
        }
        if self.subfolders > 0 {
            let are = if self.subfolders == 1 { "is" } else { "are" };
            parts.push(format!("{} {are} not searched", counted(self.subfolders, "subfolder")));
        }
        parts.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir_all, write};
    use std::os::unix::fs::symlink;

    use super::*;

    fn args(dir: &Path) -> DemoArgs {
        DemoArgs {
            photos: None,
            data: dir.join("data"),
            nodes: 2,
            r_limit_ms: DEFAULT_R_LIMIT_MS,
            frame_bytes_max: FRAME_BYTES_LIMIT,
            broker: None,
            port: None,
            no_kill: false,
            isolation: Isolation::Auto,
            out: dir.join("out"),
            timeout_s: 60,
        }
    }

    #[test]
    fn what_is_missing_is_named_with_the_command_that_brings_it() {
        let dir = tempfile::tempdir().unwrap();
        let (root, programs) = (dir.path(), Programs::in_dir(&dir.path().join("bin")));
        let fails = || Plan::new(&args(root), programs.clone()).unwrap_err().to_string();
        assert!(fails().contains("camera-agent is missing: run `make build`"));
        create_dir_all(root.join("bin")).unwrap();
        for program in [&programs.camera, &programs.edge, &programs.worker, &programs.demo] {
            write(program, "").unwrap();
        }
        assert!(fails().contains("photos/demo: No such file"), "{}", fails());
        create_dir_all(root.join("data/photos/demo")).unwrap();
        write(root.join("data/photos/demo/notes.txt"), "").unwrap();
        assert!(fails().contains("no file ends in .jpg") && fails().contains("--photos"));
        create_dir_all(root.join("data/photos/demo/2023.jpg")).unwrap();
        assert!(fails().contains("or .png; 1 subfolder is not searched;"), "{}", fails());
        create_dir_all(root.join("data/photos/demo/2024")).unwrap();
        symlink("a.JPG", root.join("data/photos/demo/link.jpg")).unwrap();
        let left_out = "1 symbolic link was passed over: copy the files; 2 subfolders are not searched";
        assert!(fails().contains(left_out), "{}", fails());
        for photo in ["a.JPG", "b.jfif", "c.jpe"] {
            write(root.join("data/photos/demo").join(photo), "").unwrap();
        }
        assert!(fails().contains("resnet_model_v1.dat is missing: run `make setup`"));
        create_dir_all(root.join("data/models")).unwrap();
        for model in MODELS {
            write(root.join("data/models").join(model), "").unwrap();
        }
        let plan = Plan::new(&args(root), programs.clone()).unwrap();
        assert_eq!(plan.photos_len, 3, "a link is not followed, as the camera agent does not");
        assert_eq!(plan.left_out, left_out);
        assert!(plan.photos.is_absolute() && plan.out.is_dir());
        let nowhere = DemoArgs { out: "/proc/microlambda".into(), ..args(root) };
        let error = Plan::new(&nowhere, programs.clone()).unwrap_err().to_string();
        assert!(
            error.contains("cannot be made") && error.contains("choose another folder with `--out DIR`"),
            "{error}"
        );
    }

    #[test]
    fn pictures_of_other_kinds_are_counted_by_their_endings() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["1.HEIC", "2.heic", "3.webp", "heic", "notes.txt"] {
            write(dir.path().join(name), "").unwrap();
        }
        let others = "2 files that end in .heic are not read: convert them to JPEG; \
             1 file that ends in .webp is not read: convert it to JPEG";
        let error = Folder::look(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!(".jfif or .png; {others};")), "{error}");
        write(dir.path().join("a.jpg"), "").unwrap();
        assert_eq!(Folder::look(dir.path()).unwrap().left_out(), others);
    }
}
