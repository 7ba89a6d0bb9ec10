//! The engines that run Claude Code, with the real program or a stand-in, on a model's server of ours.
//!
//! The same cases hold for both programs, of an engine alone ([`cases`]) and of a whole fleet ([`fleet`]): the stand-in is right
//! where the real one is.

pub mod cases;
pub mod fleet;
pub mod model;
pub mod program;
pub mod world;
