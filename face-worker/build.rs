//! Compiles the binding to dlib; the libraries themselves are linked by the dlib crate.

fn main() {
    println!("cargo:rerun-if-changed=src/dlib.cpp");
    println!("cargo:rerun-if-changed=src/hog.hpp");
    println!("cargo:rerun-if-changed=src/hog");
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
}
