//! What Raspberry Pi Imager is told about the image.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value;

/// The tags of a list of devices.
fn tags<'a>(devices: impl IntoIterator<Item = &'a Value>) -> BTreeSet<&'a str> {
    devices.into_iter().filter_map(Value::as_str).collect()
}

#[test]
fn every_device_that_the_image_is_for_can_be_chosen_in_raspberry_pi_imager() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("a.img"), "an image").unwrap();
    fs::write(at("a.img.zst"), "compressed").unwrap();
    fs::create_dir_all(at("usr/lib")).unwrap();
    fs::write(at("usr/lib/os-release"), "IMAGE_VERSION=0.1.0-20261124\n").unwrap();
    let mut tar = Command::new("tar");
    tar.arg("--create").arg("--file").arg(at("root.tar")).arg("--directory").arg(folder.path());
    assert!(tar.arg("./usr/lib/os-release").status().unwrap().success());
    let mut describe = Command::new("python3");
    describe.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../image-build/describe")).arg("manifest");
    describe.args([at("root.tar"), at("a.img"), at("a.img.zst"), "https://a.example/a.img.zst".into(), at("manifest")]);
    assert!(describe.status().unwrap().success());
    let manifest: Value = serde_json::from_slice(&fs::read(at("manifest")).unwrap()).unwrap();
    let devices = manifest["imager"]["devices"].as_array().unwrap();
    let offered = tags(devices.iter().flat_map(|device| device["tags"].as_array().unwrap()));
    let image = &manifest["os_list"][0];
    assert_eq!(tags(image["devices"].as_array().unwrap()), offered);
    assert_eq!(devices.len(), 5, "four boards, and none in particular");
    // Without one of these Imager does not take the entry.
    assert!(image["icon"].is_string());
    for key in ["name", "description", "url", "extract_sha256", "release_date"] {
        assert!(image[key].as_str().is_some_and(|text| !text.is_empty()), "{key}");
    }
    assert_eq!(image["release_date"], "2026-11-24");
    assert_eq!((image["extract_size"].as_u64(), image["image_download_size"].as_u64()), (Some(8), Some(10)));
}
