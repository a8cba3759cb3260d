//! Whose spool is it, and may it be opened?

use super::*;

#[test]
fn a_job_is_recognised_whatever_the_password_to_its_source_and_whether_a_former_build_wrote_that_down() {
    let job = |source: &str| Identity { source: source.into(), ..identity(ChainClass::Batch) };
    let shown = job("command ffmpeg -i http://me:***@cam/clip -");
    for written in [&job("command ffmpeg -i http://me:secret@cam/clip -"), &shown] {
        let folder = tempfile::tempdir().unwrap();
        drop(Spool::open(folder.path(), written, ROOMY, 0).unwrap());
        drop(Spool::open(folder.path(), &shown, ROOMY, 0).unwrap());
        let other = Spool::open(folder.path(), &job("command ffmpeg -i http://me:***@cam/other -"), ROOMY, 0);
        let why = other.err().unwrap().to_string();
        assert!(why.contains("http://me:***@cam/clip") && !why.contains("secret"), "{why}");
    }
}

#[test]
fn a_job_is_recognised_however_the_path_of_its_folder_is_written() {
    let job = |source: &str| Identity { source: source.into(), ..identity(ChainClass::Batch) };
    let folder = tempfile::tempdir().unwrap();
    let is_taken = |source: &str| Spool::open(folder.path(), &job(source), ROOMY, 0).is_ok();
    for same in ["folder /srv/k5", "folder /srv/k5/", "folder /srv//k5", "folder /srv/./k5/."] {
        assert!(is_taken(same), "{same}");
    }
    for other in ["folder /srv/k5/x", "folder srv/k5", "folder /srv/k4/../k5", "command /srv/k5/", "folder"] {
        assert!(!is_taken(other), "{other}");
    }
}

#[test]
fn the_folder_of_an_edge_agent_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("edge.sqlite"), "").unwrap();
    std::fs::write(folder.path().join("last-end"), "clean\n").unwrap();
    let refused = Spool::open_or_renew(folder.path(), &identity(ChainClass::Live), ROOMY, 0).map(drop);
    for refused in [refused, replace(folder.path()).map(drop)] {
        let why = refused.unwrap_err().to_string();
        assert!(why.contains("belongs to an edge agent: give the camera agent a folder of its own"), "{why}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn one_folder_serves_one_agent_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let _first = open(&folder, ChainClass::Live, ROOMY);
    let error = Spool::open(folder.path(), &identity(ChainClass::Live), ROOMY, 0).unwrap_err();
    assert!(matches!(error, SpoolError::InUse(_)));
    assert!(error.to_string().contains("`state-dir`"), "{error}");
    assert!(matches!(replace(folder.path()), Err(SpoolError::InUse(_))));
}

#[test]
fn another_camera_class_or_input_is_refused_until_a_new_job_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let first_chain = open(&folder, ChainClass::Batch, ROOMY).view().chain.clone();
    let mut others = [identity(ChainClass::Live), identity(ChainClass::Batch), identity(ChainClass::Batch)];
    others[1].camera = Name::new("garage").unwrap();
    others[2].source = "folder /others".into();
    for other in others {
        let error = Spool::open(folder.path(), &other, ROOMY, 0).unwrap_err().to_string();
        assert!(error.contains("--new-job") && error.contains("folder /pictures"), "{error}");
    }
    assert!(replace(folder.path()).unwrap());
    assert_ne!(open(&folder, ChainClass::Live, ROOMY).view().chain, first_chain);
    assert!(replace(tempfile::tempdir().unwrap().path()).is_ok_and(|found| !found));
}

#[test]
fn a_spool_that_never_held_anything_says_so_to_whoever_asks_for_something_else() {
    let folder = tempfile::tempdir().unwrap();
    let untouched = || match Spool::open(folder.path(), &identity(ChainClass::Batch), ROOMY, 0) {
        Err(SpoolError::Other { untouched, .. }) => untouched,
        opened => panic!("{:?}", opened.err()),
    };
    let mut spool = open(&folder, ChainClass::Live, ROOMY);
    drop(spool);
    assert!(untouched());
    spool = open(&folder, ChainClass::Live, ROOMY);
    append(&mut spool, 0..1);
    drop(spool);
    assert!(!untouched());
}

#[test]
fn a_spool_of_a_newer_program_is_refused_and_stays_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(&folder, ChainClass::Live, ROOMY));
    let db = Connection::open(folder.path().join("spool.sqlite")).unwrap();
    db.pragma_update(None, "user_version", 7).unwrap();
    db.execute_batch("ALTER TABLE record ADD COLUMN news TEXT").unwrap();
    let error = renew(&folder, ChainClass::Live).unwrap_err();
    assert!(matches!(error, SpoolError::Newer { found: 7, .. }), "{error}");
    assert!(!folder.path().join("damaged-1").exists());
}
