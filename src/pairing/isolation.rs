//! Isolation: whether the fault is our own.
