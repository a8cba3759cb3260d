//! What a camera's spool is made for. The camera agent takes a spool for no other camera and no other job, so this is remembered.

use std::path::{Path, PathBuf};

use microlambda_runtime::without_passwords;
use microlambda_wire::Name;
use serde::{Deserialize, Serialize};
use toml::Table;

use crate::input::source::Source;

/// A camera, as its agent tells one from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Camera {
    /// Its name.
    pub name: Name,
    /// What its pictures are read from, if they have an end; a live camera may get another device.
    pub job: Option<String>,
}

impl Camera {
    /// The camera of this name with this source.
    pub fn new(name: Name, source: &Source) -> Self {
        let job = match source {
            Source::Folder { path } => {
                // A path can be written in more than one way.
                let path: PathBuf = Path::new(path).components().collect();
                Some(format!("folder {}", path.display()))
            }
            Source::Command { command, finite: Some(true), .. } => {
                Some(format!("command {}", without_passwords(&command.join(" "))))
            }
            Source::Command { finite: Some(false) | None, .. } | Source::V4l2 { .. } => None,
        };
        Self { name, job }
    }

    /// The camera of the agent's own file on a host of this name; none if it does not say.
    pub fn of_file(text: &str, host: &str) -> Option<Self> {
        let table: Table = text.parse().ok()?;
        let name = match table.get("camera") {
            Some(name) => Name::new(name.as_str()?).ok()?,
            None => Name::of_camera_on(host).ok()?,
        };
        let source: Source = table.get("source")?.clone().try_into().ok()?;
        Some(Self::new(name, &source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn camera(text: &str) -> Option<Camera> {
        Camera::of_file(text, "Door_1.lan")
    }

    #[test]
    fn a_camera_without_a_name_has_its_hosts() {
        let file = "[source]\nkind = \"v4l2\"\ndevice = \"/dev/video0\"\n";
        assert_eq!(camera(file), Some(Camera { name: Name::new("door_1").unwrap(), job: None }));
        assert_eq!(camera(&format!("camera = \"gate\"\n{file}")).unwrap().name.as_str(), "gate");
        for none in [
            "# mine\n",
            "camera = 3\n[source]\nkind = \"v4l2\"\ndevice = \"/dev/video0\"\n",
            "[source]\nkind = \"x\"\n",
        ] {
            assert_eq!(camera(none), None, "{none}");
        }
    }

    #[test]
    fn only_a_finite_input_is_a_job() {
        let job = |source: &str| camera(&format!("[source]\n{source}\n")).unwrap().job;
        assert_eq!(job("kind = \"folder\"\npath = \"/srv//a/./b/\""), job("kind = \"folder\"\npath = \"/srv/a/b\""));
        assert_ne!(job("kind = \"folder\"\npath = \"/srv/a\""), job("kind = \"folder\"\npath = \"/srv/b\""));
        let command = "kind = \"command\"\ncommand = [\"ffmpeg\", \"rtsp://me:pass1234@cam/x\"]";
        assert_eq!(job(command), None);
        let finite = job(&format!("{command}\nfinite = true")).unwrap();
        assert!(finite.starts_with("command ffmpeg") && !finite.contains("pass1234"), "{finite}");
    }
}
