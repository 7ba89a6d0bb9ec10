//! The engines that run Claude Code, with the real program or a stand-in, on a model's server of ours.
//!
//! The same [`cases`] hold for both programs: the stand-in is right where the real one is.

pub mod cases;
pub mod model;
pub mod program;
pub mod world;
