//! The twinpool daemon and its commands.

fn main() {}
