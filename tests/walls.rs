//! What the agents of a site see of each other and of the photos.

use std::fs::{self, DirEntry};
use std::io;
use std::path::Path;

use microlambda_tests::{Site, data_dir};

/// What is in a folder as a process sees it.
fn seen_by(pid: u32, folder: &Path) -> Vec<String> {
    let folder = folder.canonicalize().expect("a folder");
    let inside =
        Path::new("/proc").join(pid.to_string()).join("root").join(folder.strip_prefix("/").expect("its path"));
    let entries = fs::read_dir(&inside).unwrap_or_else(|error| panic!("{}: {error}", inside.display()));
    let name = |entry: io::Result<DirEntry>| entry.expect("an entry").file_name().to_string_lossy().into_owned();
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}

#[test]
fn a_node_finds_the_photos_nowhere_and_the_camera_finds_its_own_alone() {
    let mut site = Site::new();
    if !site.walls().hold() {
        eprintln!("SKIPPED: {}", site.walls());
        return;
    }
    let photos = site.photos(&["people/obama.jpg"]);
    site.start_node("a", 1_000, "stay");
    site.start_camera(&photos);
    assert_eq!(site.outcome(&["a"]).people, ["00_obama.jpg"]);
    let root = photos.parent().expect("the site's folder").to_path_buf();
    let node = site.node("a").pid().expect("a node");
    let camera = site.camera.as_ref().and_then(|camera| camera.pid()).expect("a camera");
    assert_eq!(seen_by(node, &data_dir()), ["models"]);
    assert_eq!(seen_by(camera, &data_dir()), [""; 0]);
    assert_eq!(seen_by(node, &root), ["agents", "bus"]);
    assert_eq!(seen_by(node, &root.join("agents")), ["a"]);
    assert_eq!(seen_by(camera, &root), ["agents", "bus", "photos"]);
    assert_eq!(seen_by(camera, &root.join("agents")), ["camera"]);
    assert_eq!(seen_by(camera, &photos), ["00_obama.jpg"]);
    // What `make setup` downloads stays there as well.
    if let Some(downloads) = microlambda_demo::downloads() {
        assert_eq!(seen_by(node, &downloads), [""; 0]);
    }
    site.stop_and_check();
}
