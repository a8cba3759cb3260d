//! Topics, typed both ways.

use crate::{Name, NameError};

/// What all topics of a site begin with: `microlambda/<site>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPrefix(String);

impl TopicPrefix {
    /// The prefix of `site`.
    pub fn new(site: &Name) -> Self {
        Self(format!("microlambda/{site}"))
    }
}

/// One topic of a site. `docs/topics.md` says who publishes it and what it carries.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the fields are the ids that the topic's levels carry")]
pub enum Topic {
    /// Birth and last will of a camera; retained.
    CameraStatus { camera: Name },
    /// What a camera's spool holds; retained.
    CameraHead { camera: Name },
    /// Nodes ask a camera for frames.
    CameraWant { camera: Name },
    /// A frame for one node: bare JPEG.
    CameraFrame { camera: Name, node: Name },
    /// A record that is not a frame, for one node.
    CameraRecord { camera: Name, node: Name },
    /// The newest picture, at a low rate; retained, bare JPEG.
    CameraImage { camera: Name },
    /// A state is durable: whoever is free may claim the next step.
    Continuation { chain: Name },
    /// A node's bid for a step.
    Claim { chain: Name },
    /// What a node works on ahead of a finite chain's order, and what it has found.
    Ahead { chain: Name },
    /// A finite chain's output; retained.
    Done { chain: Name },
    /// Nodes ask `node` for state they lack.
    SyncWant { node: Name },
    /// State that `node` had asked for.
    SyncHave { node: Name },
    /// One known face; retained.
    Face { face: Name },
    /// New and recognised faces.
    Event,
    /// Birth and last will of an edge node; retained.
    NodeStatus { node: Name },
}

/// The text is no topic of this site.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopicError {
    /// It does not begin with the site's prefix.
    #[error("topic {0:?} is outside this site's prefix")]
    OtherPrefix(String),
    /// It begins with the prefix, but is none of ours.
    #[error("topic {0:?} is not one of MicroLambda's: see docs/topics.md")]
    Unknown(String),
    /// A level is not a name.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl Topic {
    /// The topic as text.
    pub fn build(&self, prefix: &TopicPrefix) -> String {
        let prefix = &prefix.0;
        match self {
            Self::CameraStatus { camera } => format!("{prefix}/camera/{camera}/status"),
            Self::CameraHead { camera } => format!("{prefix}/camera/{camera}/head"),
            Self::CameraWant { camera } => format!("{prefix}/camera/{camera}/want"),
            Self::CameraFrame { camera, node } => format!("{prefix}/camera/{camera}/frame/{node}"),
            Self::CameraRecord { camera, node } => format!("{prefix}/camera/{camera}/record/{node}"),
            Self::CameraImage { camera } => format!("{prefix}/camera/{camera}/image"),
            Self::Continuation { chain } => format!("{prefix}/chain/{chain}/continuation"),
            Self::Claim { chain } => format!("{prefix}/chain/{chain}/claim"),
            Self::Ahead { chain } => format!("{prefix}/chain/{chain}/ahead"),
            Self::Done { chain } => format!("{prefix}/chain/{chain}/done"),
            Self::SyncWant { node } => format!("{prefix}/sync/{node}/want"),
            Self::SyncHave { node } => format!("{prefix}/sync/{node}/have"),
            Self::Face { face } => format!("{prefix}/face/{face}"),
            Self::Event => format!("{prefix}/event"),
            Self::NodeStatus { node } => format!("{prefix}/node/{node}/status"),
        }
    }

    /// Reads a topic.
    ///
    /// # Errors
    /// [`TopicError`] says in what way it is none of ours.
    pub fn parse(prefix: &TopicPrefix, topic: &str) -> Result<Self, TopicError> {
        let clipped = || topic.chars().take(120).collect::<String>();
        let rest = topic
            .strip_prefix(prefix.0.as_str())
            .and_then(|rest| rest.strip_prefix('/'))
            .ok_or_else(|| TopicError::OtherPrefix(clipped()))?;
        let levels: Vec<&str> = rest.splitn(6, '/').collect();
        Ok(match levels.as_slice() {
            ["camera", camera, "status"] => Self::CameraStatus { camera: camera.parse()? },
            ["camera", camera, "head"] => Self::CameraHead { camera: camera.parse()? },
            ["camera", camera, "want"] => Self::CameraWant { camera: camera.parse()? },
            ["camera", camera, "frame", node] => Self::CameraFrame { camera: camera.parse()?, node: node.parse()? },
            ["camera", camera, "record", node] => Self::CameraRecord { camera: camera.parse()?, node: node.parse()? },
            ["camera", camera, "image"] => Self::CameraImage { camera: camera.parse()? },
            ["chain", chain, "continuation"] => Self::Continuation { chain: chain.parse()? },
            ["chain", chain, "claim"] => Self::Claim { chain: chain.parse()? },
            ["chain", chain, "ahead"] => Self::Ahead { chain: chain.parse()? },
            ["chain", chain, "done"] => Self::Done { chain: chain.parse()? },
            ["sync", node, "want"] => Self::SyncWant { node: node.parse()? },
            ["sync", node, "have"] => Self::SyncHave { node: node.parse()? },
            ["face", face] => Self::Face { face: face.parse()? },
            ["event"] => Self::Event,
            ["node", node, "status"] => Self::NodeStatus { node: node.parse()? },
            _ => return Err(TopicError::Unknown(clipped())),
        })
    }

    /// What an edge node subscribes to.
    pub fn edge_filters(prefix: &TopicPrefix, node: &Name) -> Vec<String> {
        let prefix = &prefix.0;
        vec![
            format!("{prefix}/camera/+/head"),
            format!("{prefix}/camera/+/frame/{node}"),
            format!("{prefix}/camera/+/record/{node}"),
            format!("{prefix}/chain/+/continuation"),
            format!("{prefix}/chain/+/claim"),
            format!("{prefix}/chain/+/ahead"),
            format!("{prefix}/chain/+/done"),
            format!("{prefix}/sync/{node}/want"),
            format!("{prefix}/sync/{node}/have"),
            format!("{prefix}/event"),
            format!("{prefix}/face/+"),
            format!("{prefix}/node/+/status"),
        ]
    }

    /// What a camera subscribes to: wishes for its frames, and who is alive to hold them.
    pub fn camera_filters(prefix: &TopicPrefix, camera: &Name) -> Vec<String> {
        let prefix = &prefix.0;
        let own = |what| format!("{prefix}/camera/{camera}/{what}");
        // Its own last head, which the broker keeps, tells it whether its spool was set back.
        vec![own("want"), own("head"), format!("{prefix}/node/+/status")]
    }
}
