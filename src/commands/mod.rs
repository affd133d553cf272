//! The subcommands, one file each.

pub mod check;
pub mod demo;
pub mod migrate;
pub mod offsets;
pub mod produce;
pub mod prove;
pub mod run;
pub mod scratch;
