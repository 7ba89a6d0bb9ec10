//! The pieces of `errand dev`: its data directory, the engines it finds, what it prints.

mod banner;
mod data_dir;
mod detect;
mod outbound;

pub(crate) use banner::{Banner, local_url, without_password};
pub(crate) use data_dir::{DataDir, sqlite_url};
pub(crate) use detect::{Absent, detect};
pub(crate) use outbound::this_machine;
