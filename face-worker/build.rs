//! Compiles the binding to dlib, and takes dlib's face detector out of it; the libraries themselves are linked by the dlib crate.

use std::env;
use std::fs::File;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=src/dlib.cpp");
    println!("cargo:rerun-if-changed=src/hog.hpp");
    println!("cargo:rerun-if-changed=src/hog");
    println!("cargo:rerun-if-changed=src/detector.cpp");
    // dlib's headers are system headers: their own warnings are not ours.
    cc::Build::new()
        .cpp(true)
        .std("c++14")
        .file("src/dlib.cpp")
        .opt_level(3)
        // A fused multiplication and addition rounds otherwise, and not every processor has it.
        .flag("-ffp-contract=off")
        // Neither error numbers nor floating-point traps are looked at: without them loops with roots and choices become vectors.
        .flag("-fno-math-errno")
        .flag("-fno-trapping-math")
        .compile("face_worker_dlib");
    println!("cargo:rustc-link-lib=dlib");
    println!("cargo:rustc-link-lib=openblas");
    unpack_detector(Path::new(&variable("OUT_DIR")));
}

/// Writes the detector as the installed dlib serializes it to `frontal_face_detector.dat`. dlib holds it as packed text, and takes a
/// quarter of a second to unpack it: once here, instead of in each worker.
fn unpack_detector(folder: &Path) {
    let program = folder.join("detector");
    let compiler = cc::Build::new().cpp(true).std("c++14").opt_level(1).get_compiler();
    let mut build = compiler.to_command();
    build.arg("src/detector.cpp").arg("-o").arg(&program).args(["-ldlib", "-lopenblas"]);
    run(&mut build);
    // Built for another kind of computer, it runs where cargo runs that one's programs.
    let runner = format!("CARGO_TARGET_{}_RUNNER", variable("TARGET").to_uppercase().replace('-', "_"));
    println!("cargo:rerun-if-env-changed={runner}");
    let mut unpack = match env::var(&runner) {
        Ok(runner) => {
            let mut words = runner.split_whitespace();
            let mut command = Command::new(words.next().unwrap_or_else(|| panic!("{runner} is empty")));
            command.args(words).arg(&program);
            command
        }
        Err(_) if variable("TARGET") == variable("HOST") => Command::new(&program),
        Err(_) => panic!("set {runner} to what runs programs for {} here, such as qemu-aarch64", variable("TARGET")),
    };
    let file = folder.join("frontal_face_detector.dat");
    unpack.stdout(File::create(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())));
    run(&mut unpack);
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| panic!("{name}: {error}"))
}
