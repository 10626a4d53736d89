//! The registry of kinds: one file each, one line here.

use crate::kind::Kind;

mod configmap;

/// Every kind that is served, in upstream's discovery order.
pub static REGISTRY: &[&Kind] = &[&configmap::KIND];
