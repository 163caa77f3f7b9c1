//! Quorum: how many members a pool of some size needs.
