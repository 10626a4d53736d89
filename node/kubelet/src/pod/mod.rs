//! The life of a pod on this node.

pub mod backoff;
pub mod decide;
pub mod qos;
pub mod status;
