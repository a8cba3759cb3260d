use std::time::SystemTime;

use super::*;
use crate::testing::photo_jpeg;

fn folder_of(names: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (n, name) in names.iter().enumerate() {
        std::fs::write(folder.path().join(name), photo_jpeg(32, 32, n as u8)).unwrap();
    }
    settle(folder.path());
    folder
}

/// Lets the last change of everything in the folder, and of the folder itself, be long ago.
fn settle(folder: &Path) {
    let then = SystemTime::now() - 2 * SETTLED_AFTER;
    for entry in std::fs::read_dir(folder).unwrap() {
        File::open(entry.unwrap().path()).unwrap().set_modified(then).unwrap();
    }
    File::open(folder).unwrap().set_modified(then).unwrap();
}

fn drain(folder: &mut Folder) -> Vec<(Input, bool)> {
    let mut inputs = Vec::new();
    loop {
        match folder.next().unwrap() {
            Next::Frame(captured) => inputs.push((captured.input.unwrap(), true)),
            Next::PassedOver { input, .. } => inputs.push((input.unwrap(), false)),
            Next::End => return inputs,
            Next::NotYet(_) => settle(&folder.path),
        }
    }
}

fn open(folder: &tempfile::TempDir, already: &[(Input, bool)]) -> Result<Folder, SourceError> {
    Folder::open(folder.path(), already.to_vec())
}

fn labels(inputs: &[(Input, bool)]) -> Vec<&str> {
    inputs.iter().map(|(input, _)| input.label.as_str()).collect()
}

#[test]
fn pictures_come_in_name_order_whatever_the_case_of_their_extension() {
    let folder = folder_of(&["b.JPG", "a.jpeg", "10.jpg", "9.jpg", "c.txt", "noextension", "d.Png"]);
    let mut source = open(&folder, &[]).unwrap();
    assert_eq!(source.remaining(), 5);
    assert_eq!(labels(&drain(&mut source)), ["10.jpg", "9.jpg", "a.jpeg", "b.JPG", "d.Png"]);
    assert_eq!(source.next(), Ok(Next::End));
}

#[test]
fn every_ending_of_a_jpeg_is_read() {
    let folder = folder_of(&["a.jpe", "b.JFIF", "c.jpeg", "d.jpg"]);
    assert_eq!(labels(&drain(&mut open(&folder, &[]).unwrap())), ["a.jpe", "b.JFIF", "c.jpeg", "d.jpg"]);
}

#[test]
fn pictures_of_other_kinds_and_subfolders_are_named_with_what_to_do() {
    let folder = folder_of(&["a.HEIC", "notes.txt"]);
    let why = || open(&folder, &[]).unwrap_err().to_string();
    assert!(why().contains(" (1 file that ends in .heic is not read: convert it to JPEG): put"), "{}", why());
    for name in ["b.heic", "c.webp", "d.tif"] {
        std::fs::write(folder.path().join(name), "").unwrap();
    }
    for name in ["2024", "2025", ".hidden", "album.gif"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    let left_out =
        "4 files that end in .heic or .tif or .webp are not read: convert them to JPEG; 3 subfolders are not searched";
    assert!(why().contains(&format!(" ({left_out}): put")), "{}", why());
    std::fs::write(folder.path().join("e.jpg"), photo_jpeg(32, 32, 1)).unwrap();
    assert_eq!(list(folder.path(), SourceError::Fatal).unwrap().left_out().as_deref(), Some(left_out));
    assert_eq!(list(folder_of(&["a.jpg"]).path(), SourceError::Fatal).unwrap().left_out(), None);
}

#[test]
fn links_and_subfolders_are_not_read() {
    let folder = folder_of(&["a.jpg"]);
    std::os::unix::fs::symlink(folder.path().join("a.jpg"), folder.path().join("link.jpg")).unwrap();
    std::fs::create_dir(folder.path().join("folder.jpg")).unwrap();
    assert_eq!(labels(&drain(&mut open(&folder, &[]).unwrap())), ["a.jpg"]);
    std::fs::remove_file(folder.path().join("a.jpg")).unwrap();
    let error = open(&folder, &[]).unwrap_err().to_string();
    assert!(error.contains("1 symbolic link was passed over: copy the files"), "{error}");
}

#[test]
fn a_frame_is_the_file_itself_with_its_time() {
    let folder = folder_of(&["a.jpg"]);
    let path = folder.path().join("a.jpg");
    let taken = SystemTime::UNIX_EPOCH + Duration::from_millis(1_234_567_890_123);
    File::options().write(true).open(&path).unwrap().set_modified(taken).unwrap();
    let Next::Frame(captured) = open(&folder, &[]).unwrap().next().unwrap() else { panic!() };
    assert_eq!(captured.picture, Picture::File(photo_jpeg(32, 32, 0)));
    assert_eq!((captured.captured_at_ms, captured.label.as_str()), (1_234_567_890_123, "a.jpg"));
}

#[test]
fn a_folder_without_pictures_or_none_at_all_is_explained() {
    let folder = folder_of(&["readme.txt"]);
    let error = open(&folder, &[]).unwrap_err().to_string();
    assert!(error.contains("no pictures") && error.contains("`path` in [source]"), "{error}");
    let error = Folder::open(&folder.path().join("none"), []).unwrap_err().to_string();
    assert!(error.contains("`path` in [source]"), "{error}");
}

#[test]
fn a_huge_file_is_passed_over_with_its_name() {
    let folder = folder_of(&["b.jpg"]);
    File::create(folder.path().join("a.jpg")).unwrap().set_len(FILE_BYTES_MAX + 10).unwrap();
    settle(folder.path());
    let mut source = open(&folder, &[]).unwrap();
    let Next::PassedOver { why, .. } = source.next().unwrap() else { panic!() };
    assert!(why.contains("a.jpg") && why.contains("64 MiB"), "{why}");
    let inputs = drain(&mut open(&folder, &[]).unwrap());
    assert_eq!(open(&folder, &inputs).unwrap().remaining(), 0);
}

#[test]
fn a_restart_goes_on_behind_what_was_read() {
    let folder = folder_of(&["a.jpg", "b.jpg", "c.jpg"]);
    let inputs = drain(&mut open(&folder, &[]).unwrap());
    let mut rest = open(&folder, &inputs[..2]).unwrap();
    assert_eq!(labels(&drain(&mut rest)), ["c.jpg"]);
    assert_eq!(open(&folder, &inputs).unwrap().remaining(), 0);
    std::fs::write(folder.path().join("d.jpg"), photo_jpeg(32, 32, 9)).unwrap();
    assert_eq!(open(&folder, &inputs).unwrap().remaining(), 1, "what comes later is new");
}

#[test]
fn a_touched_file_with_the_same_content_is_unchanged() {
    let folder = folder_of(&["a.jpg"]);
    let inputs = drain(&mut open(&folder, &[]).unwrap());
    let file = File::options().write(true).open(folder.path().join("a.jpg")).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    assert!(open(&folder, &inputs).is_ok());
}

#[test]
fn a_folder_that_changed_behind_the_reader_is_refused_with_name_and_remedy() {
    let changed = |change: &dyn Fn(&Path), expected: &str| {
        let folder = folder_of(&["b.jpg", "c.jpg"]);
        let inputs = drain(&mut open(&folder, &[]).unwrap());
        change(folder.path());
        let error = open(&folder, &inputs).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("--new-job"), "{error}");
    };
    changed(&|path| std::fs::remove_file(path.join("b.jpg")).unwrap(), "c.jpg stands in its place");
    changed(&|path| std::fs::remove_file(path.join("c.jpg")).unwrap(), "c.jpg is gone");
    changed(&|path| std::fs::write(path.join("b.jpg"), "other").unwrap(), "b.jpg has another content");
}

#[test]
fn what_was_passed_over_may_be_gone_after_a_restart() {
    let folder = folder_of(&["a.jpg", "b.jpg", "c.jpg", "d.jpg"]);
    let mut inputs = drain(&mut open(&folder, &[]).unwrap());
    for (gone, (_, spooled)) in ["b.jpg", "d.jpg"].iter().zip(inputs.iter_mut().skip(1).step_by(2)) {
        std::fs::remove_file(folder.path().join(gone)).unwrap();
        *spooled = false;
    }
    assert_eq!(open(&folder, &inputs).unwrap().remaining(), 0);
    assert_eq!(labels(&drain(&mut open(&folder, &inputs[..2]).unwrap())), ["c.jpg"]);
}

#[test]
fn a_folder_that_is_away_is_waited_for_once_its_job_has_begun() {
    let is_trouble = |outcome: Result<(), SourceError>| {
        assert!(matches!(outcome, Err(SourceError::Trouble(_))), "{outcome:?}");
    };
    let folder = folder_of(&["a.jpg", "b.jpg"]);
    let mut source = open(&folder, &[]).unwrap();
    let Next::Frame(Captured { input, .. }) = source.next().unwrap() else { panic!() };
    let already = [(input.unwrap(), true)];
    let elsewhere = folder.path().with_extension("elsewhere");
    std::fs::rename(folder.path(), &elsewhere).unwrap();
    is_trouble(source.next().map(drop));
    is_trouble(open(&folder, &already).map(drop));
    // The place where a medium was mounted.
    std::fs::create_dir(folder.path()).unwrap();
    is_trouble(source.next().map(drop));
    is_trouble(open(&folder, &already).map(drop));
    std::fs::remove_dir(folder.path()).unwrap();
    std::fs::rename(&elsewhere, folder.path()).unwrap();
    assert_eq!(labels(&drain(&mut source)), ["b.jpg"], "nothing was passed over");
    assert_eq!(labels(&drain(&mut open(&folder, &already).unwrap())), ["b.jpg"]);
}

#[test]
fn a_file_that_is_deleted_or_renamed_before_it_is_read_costs_the_job_nothing() {
    let folder = folder_of(&["b.jpg", "c.jpg", "d.jpg", "e.jpg"]);
    let mut source = open(&folder, &[]).unwrap();
    let Next::Frame(Captured { input, .. }) = source.next().unwrap() else { panic!() };
    std::fs::remove_file(folder.path().join("c.jpg")).unwrap();
    std::fs::rename(folder.path().join("d.jpg"), folder.path().join("a.jpg")).unwrap();
    let mut already = vec![(input.unwrap(), true)];
    already.extend(drain(&mut source));
    assert_eq!(labels(&already), ["b.jpg", "e.jpg"]);
    assert_eq!(
        open(&folder, &already).unwrap().remaining(),
        0,
        "a name before what was read is left out after a restart too"
    );
    assert_eq!(labels(&drain(&mut open(&folder, &already[..1]).unwrap())), ["e.jpg"]);
}

#[test]
fn a_folder_that_is_being_filled_is_read_when_nothing_has_changed_for_a_while() {
    let folder = folder_of(&["b.jpg"]);
    let soon = SystemTime::now() + SETTLED_AFTER / 2;
    let set = |path: &Path, to| File::open(path).unwrap().set_modified(to).unwrap();
    let waits = |source: &mut Folder| matches!(source.next().unwrap(), Next::NotYet(pause) if pause <= SETTLED_AFTER);
    set(&folder.path().join("b.jpg"), soon);
    let mut source = open(&folder, &[]).unwrap();
    assert!(waits(&mut source), "a file that is being written");
    std::fs::write(folder.path().join("c.jpg"), photo_jpeg(32, 32, 7)).unwrap();
    settle(folder.path());
    set(folder.path(), soon);
    assert!(waits(&mut source), "a file was moved into the folder");
    settle(folder.path());
    assert!(matches!(source.next(), Ok(Next::Frame(_))));
    assert!(matches!(source.next(), Ok(Next::Frame(_))));
    for name in ["a.jpg", "d.jpg"] {
        std::fs::write(folder.path().join(name), photo_jpeg(32, 32, 8)).unwrap();
    }
    assert!(waits(&mut source), "the end is where nothing more comes");
    assert_eq!(labels(&drain(&mut source)), ["d.jpg"], "numbers follow the names");
}

#[test]
fn a_time_far_ahead_is_not_waited_for() {
    let folder = folder_of(&["a.jpg"]);
    let tomorrow = SystemTime::now() + Duration::from_secs(86_400);
    File::open(folder.path().join("a.jpg")).unwrap().set_modified(tomorrow).unwrap();
    assert!(matches!(open(&folder, &[]).unwrap().next(), Ok(Next::Frame(_))));
}
