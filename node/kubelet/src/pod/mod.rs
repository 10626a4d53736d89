//! The life of a pod on this node.

pub mod backoff;
pub mod decide;
pub mod hook;
pub mod manager;
pub mod qos;
pub mod report;
pub mod sandbox;
pub mod start;
pub mod status;
pub mod stop;
pub mod worker;
