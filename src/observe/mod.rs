//! What is seen from outside: HTTP endpoints, metrics, status, events.

pub mod counters;
