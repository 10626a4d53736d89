//! Service, EndpointSlice -> frontends and backends.

pub mod table;

pub use table::{ServiceChange, ServiceTable};
