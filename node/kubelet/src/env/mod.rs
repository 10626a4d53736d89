//! A container's environment.

pub mod build;
pub mod expand;
pub mod fields;
pub mod services;
pub mod watch;
