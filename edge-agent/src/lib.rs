//! The edge agent: everything around the pure core that touches the world.
//!
//! Owns the store, the worker process, the bus connection and the driver that carries out what the chains decide. It links
//! no dlib: recognition runs in `face-worker`, which may die.

pub mod cli;
pub mod config;
mod explain;
mod inspect;
pub mod node;
mod report;
pub mod store;
pub mod worker;
