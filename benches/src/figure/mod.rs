//! What the benchmark `figure` consists of: the lines it draws, how one trial goes, how trials are kept and what follows from them.

pub mod analysis;
pub mod line;
pub mod plot;
pub mod raw;
pub mod stand;
pub mod tables;
pub mod trial;
