//! The site's broker: who may do what, and mosquitto's settings.

use microlambda_wire::{Name, TopicPrefix};
use serde::{Deserialize, Serialize};

use crate::input::check::to_hex;
use crate::input::join::Member;

/// Port of the listener on the network: MQTT over TLS.
pub const TLS_PORT: u16 = 8883;
/// Port of the listener for this node's own agents.
pub const LOCAL_PORT: u16 = 1883;
/// Random bytes in a password.
const PASSWORD_RANDOM_BYTES: usize = 20;
/// No message is longer, bytes: a frame of 16 MiB and what comes with it, as the agents' own bound.
const PACKET_BYTES_MAX: usize = microlambda_runtime::PACKET_BYTES_MAX_DEFAULT;
/// Messages that wait for one slow client at most; mosquitto's own 1000 drops silently.
const QUEUED_MESSAGES_MAX: usize = 20_000;
/// Bytes that wait for one slow client, or for one that keeps its session and stays away: more than the longest packet, and several of them fit a small
/// Pi's memory.
const QUEUED_BYTES_MAX: usize = 32 << 20;
const _: () = assert!(QUEUED_BYTES_MAX > PACKET_BYTES_MAX, "the longest packet can wait");
/// Clients at most: far more than a site has nodes.
const CONNECTIONS_MAX: usize = 200;
/// Retained messages are written to the card this often, s.
const AUTOSAVE_S: u32 = 900;
/// A kept session, up to [`QUEUED_BYTES_MAX`] of memory and of each autosave, outlives its subscriber so long, in
/// mosquitto's notation.
const SESSIONS_KEPT: &str = "1d";

/// One password per member of the site.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    camera: String,
    edge: String,
    viewer: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(…)")
    }
}

impl Credentials {
    /// New ones; each out of 160 random bits.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn make() -> Result<Self, getrandom::Error> {
        let password = || {
            let mut bytes = [0; PASSWORD_RANDOM_BYTES];
            getrandom::fill(&mut bytes).map(|()| to_hex(&bytes))
        };
        Ok(Self { camera: password()?, edge: password()?, viewer: password()? })
    }

    /// The password of a member.
    pub fn of(&self, member: Member) -> &str {
        match member {
            Member::Camera => &self.camera,
            Member::Edge => &self.edge,
            Member::Viewer => &self.viewer,
        }
    }

    /// `user:password` lines, not hashed yet.
    pub fn lines(&self) -> String {
        Member::ALL.map(|member| format!("{}:{}\n", member.as_str(), self.of(member))).concat()
    }
}

/// What a member may do with a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum May {
    Read,
    Write,
    Both,
}

/// The topics of each member, below the site's prefix. Encodings travel in continuations, ahead of them, and in what nodes exchange to catch up: only
/// edge nodes read those. Frames go from cameras to edge nodes alone.
fn rules(member: Member) -> &'static [(May, &'static str)] {
    match member {
        Member::Camera => &[
            (May::Write, "camera/+/status"),
            // Its own last one, which the broker keeps, tells a camera whether its spool was set back.
            (May::Both, "camera/+/head"),
            (May::Read, "camera/+/want"),
            (May::Write, "camera/+/frame/+"),
            (May::Write, "camera/+/record/+"),
            (May::Write, "camera/+/image"),
            (May::Read, "node/+/status"),
        ],
        Member::Edge => &[
            (May::Read, "camera/+/head"),
            (May::Write, "camera/+/want"),
            (May::Read, "camera/+/frame/+"),
            (May::Read, "camera/+/record/+"),
            (May::Both, "chain/+/continuation"),
            (May::Both, "chain/+/claim"),
            (May::Both, "chain/+/ahead"),
            (May::Both, "chain/+/done"),
            (May::Both, "sync/+/want"),
            (May::Both, "sync/+/have"),
            (May::Both, "face/+"),
            (May::Both, "event"),
            (May::Both, "node/+/status"),
        ],
        Member::Viewer => &[
            (May::Read, "camera/+/status"),
            (May::Read, "camera/+/head"),
            (May::Read, "camera/+/image"),
            (May::Read, "chain/+/claim"),
            (May::Read, "chain/+/done"),
            (May::Read, "face/+"),
            (May::Read, "event"),
            (May::Read, "node/+/status"),
        ],
    }
}

/// mosquitto's access rules for a site. Whatever is not in them is refused.
pub fn acl(site: &Name) -> String {
    let mut text =
        String::from("# Written by microlambda-provision. Who may read and write which topics; the rest is refused.\n");
    for member in Member::ALL {
        text.push_str(&format!("\nuser {}\n", member.as_str()));
        for (may, topic) in rules(member) {
            let verb = match may {
                May::Read => "read",
                May::Write => "write",
                May::Both => "readwrite",
            };
            text.push_str(&format!("topic {verb} {}/{topic}\n", prefix(site)));
        }
    }
    text
}

/// `microlambda/<site>`, from the one place that knows it.
fn prefix(site: &Name) -> String {
    let event = microlambda_wire::Topic::Event.build(&TopicPrefix::new(site));
    event.trim_end_matches("/event").to_owned()
}

/// Where mosquitto finds its files.
pub struct Files<'a> {
    /// Passwords.
    pub passwords: &'a str,
    /// Access rules.
    pub acl: &'a str,
    /// Certificate, the authority's, and key.
    pub certificate: &'a str,
}

/// mosquitto's settings beside those that Debian gives it. Without this file the broker does not start.
pub fn settings(files: &Files<'_>) -> String {
    let Files { passwords, acl, certificate } = files;
    format!(
        "# Written by microlambda-provision; other settings belong in a file of their own beside this one.\n\
         per_listener_settings false\n\
         allow_anonymous false\n\
         password_file {passwords}\n\
         acl_file {acl}\n\
         \n\
         # This node's own agents.\n\
         listener {LOCAL_PORT} 127.0.0.1\n\
         \n\
         # Everybody else: TLS only.\n\
         listener {TLS_PORT}\n\
         certfile {certificate}\n\
         keyfile {certificate}\n\
         tls_version tlsv1.2\n\
         \n\
         # To the journal, which is bounded, and not to the file that Debian names as well, which is not.\n\
         log_dest none\n\
         log_dest stderr\n\
         \n\
         # mosquitto's own bounds lose messages of a busy site without a word.\n\
         max_queued_messages {QUEUED_MESSAGES_MAX}\n\
         max_queued_bytes {QUEUED_BYTES_MAX}\n\
         max_packet_size {PACKET_BYTES_MAX}\n\
         max_connections {CONNECTIONS_MAX}\n\
         # A continuation does not wait for the acknowledgement of the packet before it.\n\
         set_tcp_nodelay true\n\
         \n\
         # Faces and states that are kept for whoever comes later; written rarely, as cards wear.\n\
         persistence true\n\
         autosave_interval {AUTOSAVE_S}\n\
         # Who watches with a session that is kept, and never comes back, is forgotten; the agents keep none.\n\
         persistent_client_expiration {SESSIONS_KEPT}\n"
    )
}

/// How the network learns of the broker (systemd-resolved's DNS-SD).
pub fn announcement(site: &Name) -> String {
    format!(
        "# Written by microlambda-provision: nodes without a configured broker find this one by mDNS.\n\
         [Service]\nName=%H\nType=_secure-mqtt._tcp\nPort={TLS_PORT}\nTxtText=site={site}\n"
    )
}

#[cfg(test)]
mod tests {
    use microlambda_wire::Topic;

    use super::*;

    /// Whether a rule's topic covers another, level by level.
    fn covers(rule: &str, topic: &str) -> bool {
        let (rule, topic): (Vec<_>, Vec<_>) = (rule.split('/').collect(), topic.split('/').collect());
        rule.len() == topic.len() && rule.iter().zip(topic).all(|(rule, level)| *rule == "+" || *rule == level)
    }

    fn may(member: Member, wanted: May, topic: &str) -> bool {
        let topic = topic.strip_prefix("microlambda/home/").unwrap();
        rules(member).iter().any(|(may, rule)| (*may == wanted || *may == May::Both) && covers(rule, topic))
    }

    #[test]
    fn agents_may_read_all_that_they_subscribe_to() {
        let (site, me) = (Name::new("home").unwrap(), Name::new("me").unwrap());
        let prefix = TopicPrefix::new(&site);
        for filter in Topic::camera_filters(&prefix, &me) {
            assert!(may(Member::Camera, May::Read, &filter), "{filter}");
        }
        for filter in Topic::edge_filters(&prefix, &me) {
            assert!(may(Member::Edge, May::Read, &filter), "{filter}");
        }
    }

    #[test]
    fn every_topic_has_a_writer_and_encodings_have_one_kind_of_reader() {
        let name = || Name::new("x").unwrap();
        let prefix = TopicPrefix::new(&Name::new("home").unwrap());
        let (camera, node, chain, face) = (name(), name(), name(), name());
        for topic in [
            Topic::CameraStatus { camera: camera.clone() },
            Topic::CameraHead { camera: camera.clone() },
            Topic::CameraWant { camera: camera.clone() },
            Topic::CameraFrame { camera: camera.clone(), node: node.clone() },
            Topic::CameraRecord { camera: camera.clone(), node: node.clone() },
            Topic::CameraImage { camera },
            Topic::Continuation { chain: chain.clone() },
            Topic::Claim { chain: chain.clone() },
            Topic::Ahead { chain: chain.clone() },
            Topic::Done { chain },
            Topic::SyncWant { node: node.clone() },
            Topic::SyncHave { node: node.clone() },
            Topic::Face { face },
            Topic::Event,
            Topic::NodeStatus { node },
        ] {
            // A topic that is added shall be thought of here.
            let (writer, holds_encodings, is_frame) = match &topic {
                Topic::CameraStatus { .. } | Topic::CameraHead { .. } | Topic::CameraImage { .. } => {
                    (Member::Camera, false, false)
                }
                Topic::CameraFrame { .. } | Topic::CameraRecord { .. } => (Member::Camera, false, true),
                Topic::Continuation { .. } | Topic::Ahead { .. } | Topic::SyncHave { .. } => {
                    (Member::Edge, true, false)
                }
                Topic::CameraWant { .. }
                | Topic::Claim { .. }
                | Topic::Done { .. }
                | Topic::SyncWant { .. }
                | Topic::Face { .. }
                | Topic::Event
                | Topic::NodeStatus { .. } => (Member::Edge, false, false),
            };
            let text = topic.build(&prefix);
            for member in Member::ALL {
                assert_eq!(may(member, May::Write, &text), member == writer, "{member:?} writes {text}");
                if holds_encodings || is_frame {
                    assert_eq!(may(member, May::Read, &text), member == Member::Edge, "{member:?} reads {text}");
                }
            }
        }
    }

    #[test]
    fn passwords_are_long_differ_and_are_not_shown() {
        let made = Credentials::make().unwrap();
        let passwords: std::collections::BTreeSet<&str> = Member::ALL.iter().map(|&member| made.of(member)).collect();
        assert!(passwords.len() == 3 && passwords.iter().all(|password| password.len() == 2 * PASSWORD_RANDOM_BYTES));
        assert!(!format!("{made:?}").contains(made.of(Member::Edge)));
    }
}
