//! How costs grow: with the people known, with the age of a chain, with the number of cameras.

pub mod cameras;
pub mod galleries;
pub mod histories;
mod people;
mod sync;
