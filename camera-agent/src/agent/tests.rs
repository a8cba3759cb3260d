use std::path::Path;

use super::*;
use crate::spool::{Identity, Spool};

/// The id under which a camera of this name is known to its broker.
fn client_id(site: &str, camera: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "site = \"{site}\"\ncamera = \"{camera}\"\n[broker]\nurl = \"mqtt://127.0.0.1\"\n[source]\nkind = \"folder\"\npath = \"/x\""
    );
    let config = Config::parse(&text, Path::new("camera.toml")).unwrap();
    let identity =
        Identity { camera: config.camera.clone(), class: config.source.class(), source: config.source.describe() };
    let spool = SpoolHandle::start(Spool::open(folder.path(), &identity, config.spool, 0).unwrap()).unwrap();
    let agent = Agent::new(config, Options::default(), spool, (0, String::new())).unwrap();
    agent.link_config().unwrap().client_id
}

#[test]
fn no_two_cameras_have_one_id_with_the_broker_whatever_the_names_of_their_sites() {
    assert_eq!(client_id("home", "door"), "microlambda-camera:home:door");
    assert_ne!(client_id("home-front", "door"), client_id("home", "front-door"));
}
