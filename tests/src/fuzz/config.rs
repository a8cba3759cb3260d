//! Configuration files of both agents.

use std::path::Path;

use microlambda_runtime::{BrokerUrl, ConfigError, config as file};

/// The text as either agent's file, and as a broker's address.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    edge(&text);
    camera(&text);
    if let Ok(url) = text.parse::<BrokerUrl>() {
        assert_eq!(url.to_string().parse::<BrokerUrl>().as_ref(), Ok(&url));
        assert!(!url.host.is_empty() && url.port > 0);
    }
}

/// What is accepted is within its bounds and is read again as it is written.
fn edge(text: &str) {
    let read = |text: &str| file::parse::<edge_agent::config::Config>(text, Path::new("edge.toml"), "edge-agent");
    let config = match read(text) {
        Ok(config) => config,
        Err(error) => return assert_helpful(text, &error),
    };
    if let Err(error) = config.check() {
        return assert_helpful(text, &error);
    }
    let limits = &config.chain;
    // What timers are made of: none can overflow, nor be 0.
    assert!(limits.r_limit_ms > 0 && limits.grace_ms > 0 && limits.announce_ms > 0);
    assert!(limits.r_limit_ms.checked_mul(1_000 * 16).is_some());
    assert!(config.faces.distance_max.is_finite() && config.faces.picture_px_max > 0);
    let written = toml::to_string(&config).expect("a configuration as text");
    let again = read(&written).unwrap_or_else(|error| panic!("{error} in what this program wrote:\n{written}"));
    assert_eq!(again, config);
    assert!(again.check().is_ok());
}

fn camera(text: &str) {
    let read = |text: &str| camera_agent::config::Config::parse(text, Path::new("camera.toml"));
    let config = match read(text) {
        Ok(config) => config,
        Err(error) => return assert_helpful(text, &error),
    };
    assert!(config.spool.frames_max > 0 && config.spool.bytes_max >= config.frame_bytes_max as u64);
    assert!(!config.source.describe().is_empty());
    let mut report = config.report();
    without_absent_keys(&mut report);
    let written = toml::to_string(&report["config"]).expect("a configuration as text");
    let again = read(&written).unwrap_or_else(|error| panic!("{error} in what this program reports:\n{written}"));
    let mut report_again = again.report();
    without_absent_keys(&mut report_again);
    assert_eq!(report_again, report);
}

/// TOML has no word for nothing: such a key is left out.
fn without_absent_keys(value: &mut serde_json::Value) {
    if let serde_json::Value::Object(map) = value {
        map.retain(|_, value| !value.is_null());
        map.values_mut().for_each(without_absent_keys);
    }
}

/// An error names a line of the file or a key, and says something.
fn assert_helpful(text: &str, error: &ConfigError) {
    assert!(!error.to_string().is_empty());
    match error {
        ConfigError::Wrong { line, .. } => assert!(*line <= text.split('\n').count()),
        ConfigError::Value { key, why, .. } => assert!(!key.is_empty() && !why.is_empty()),
        other => panic!("{other} for a text that is at hand"),
    }
}
