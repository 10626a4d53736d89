//! Service, EndpointSlice -> frontends and backends.

mod entries;
pub mod health;
pub mod maglev;
pub mod reach;
pub mod table;

pub use table::{ServiceChange, ServiceTable};
