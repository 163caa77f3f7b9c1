//! dispatch

pub mod addresses;
