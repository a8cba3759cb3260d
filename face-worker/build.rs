//! Compiles the binding to dlib; the libraries themselves are linked by the dlib crate.

fn main() {
    println!("cargo:rerun-if-changed=src/dlib.cpp");
    // dlib's headers are system headers: their own warnings are not ours.
    cc::Build::new().cpp(true).std("c++14").file("src/dlib.cpp").opt_level(3).compile("face_worker_dlib");
    println!("cargo:rustc-link-lib=dlib");
    println!("cargo:rustc-link-lib=openblas");
}
