//! This node in the API: its object, its conditions, its Lease.

pub mod conditions;
pub mod lease;
pub mod machine;
pub mod register;
