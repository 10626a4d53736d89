//! NetworkPolicy -> identities and rule entries.

pub mod identity;
pub mod rules;
pub mod spec;

pub use rules::{Plan, Rules};
