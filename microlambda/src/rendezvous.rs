//! Highest random weight (rendezvous) hashing, Thaler and Ravishankar 1998: nodes that know of each other queue up without
//! a word.

use crate::{Digest, DigestBuilder};

/// What a node draws at a place of a chain, for one purpose: whoever draws least stands first, of equals by name.
pub(crate) fn draw<'a>(purpose: &str, chain: &str, place: &[u64], node: &'a str) -> (Digest, &'a str) {
    let builder = DigestBuilder::new(purpose).field(chain.as_bytes());
    let builder = place.iter().fold(builder, |builder, number| builder.number(*number));
    (builder.field(node.as_bytes()).finish(), node)
}
