//! NetworkPolicy -> identities and rule entries.

pub mod bridge;
pub mod identity;
pub mod rules;
pub mod spec;

pub use bridge::{Bridge, bridge};
pub use rules::{Plan, Rules};
