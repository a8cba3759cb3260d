//! What the boot partition says: read, bounded, checked.

pub mod appliance;
pub mod check;
pub mod document;
pub mod join;
pub mod names;
pub mod preseed;
pub mod source;
pub mod text;
