//! The fuzz targets on what is known: their seeds, and the corpora that fuzzing has left in `fuzz/corpus/`.

use std::fs;
use std::path::{Path, PathBuf};

use microlambda_tests::fuzz::{TARGETS, seeds};

/// A corpus is kept this small, bytes; `scripts/fuzz minimise` makes it so.
const CORPUS_BYTES_MAX: u64 = 128 << 10;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

/// Feeds a target its seeds and its corpus.
fn replay(name: &str) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target of this name");
    seeds::of(name).iter().for_each(|seed| target(seed));
    let (mut files, mut bytes) = (0, 0);
    for entry in fs::read_dir(folder().join("corpus").join(name)).expect("a corpus").flatten() {
        // Shown only if the target panics: it then says by which input.
        println!("{}", entry.path().display());
        let input = fs::read(entry.path()).expect("an input");
        target(&input);
        files += 1;
        bytes += input.len() as u64;
    }
    assert!(
        files >= 5,
        "a corpus of {files} files: run `make fuzz TARGET={name}`, then `scripts/fuzz minimise {name}`"
    );
    assert!(bytes <= CORPUS_BYTES_MAX, "a corpus of {bytes} bytes: run `scripts/fuzz minimise {name}`");
}

macro_rules! replays {
    ($($test:ident: $target:literal),* $(,)?) => {
        $(#[test] fn $test() { replay($target); })*
        const REPLAYED: &[&str] = &[$($target),*];
    };
}

replays! {
    topics_are_read_as_they_are_written: "topics",
    payloads_are_bounded_and_read_as_they_are_written: "payloads",
    frames_carry_their_metadata_and_their_picture: "frame",
    pictures_get_their_tables_and_keep_their_size: "jpeg",
    streams_are_split_without_losing_a_byte: "mjpeg",
    messages_of_a_worker_lead_to_a_state_that_goes_on: "worker",
    checkpoints_fold_to_the_same_state_however_they_are_cut: "checkpoint",
    configurations_are_read_as_they_are_written: "config",
    a_chain_keeps_its_promises_whatever_happens: "chain",
}

#[test]
fn every_target_has_a_program_and_is_replayed() {
    let manifest: toml::Table =
        fs::read_to_string(folder().join("Cargo.toml")).expect("its manifest").parse().expect("TOML");
    let programs: Vec<&str> =
        manifest["bin"].as_array().expect("programs").iter().filter_map(|bin| bin["name"].as_str()).collect();
    let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(programs, names);
    assert_eq!(REPLAYED, names);
}
