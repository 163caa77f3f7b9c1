//! demo
mod load;
mod members;
mod wire;
