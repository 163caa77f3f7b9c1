//! How a running process hands over to its successor, over one Unix socket pair.
//!
//! [`wire`] carries the messages and the descriptors; it knows nothing of what they mean.

pub mod wire;
