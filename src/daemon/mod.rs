//! daemon

pub mod paths;
pub mod resolver;
