//! The API server: TLS, authentication, authorization, admission, one generic set of handlers over kinds, the watch
//! cache; and the control plane around it.
//!
//! A request goes TLS -> authenticate -> authorize -> decode -> default -> admit -> strategy -> one store transaction
//! -> answer. No kind has a handler of its own; an answer is sent only after the write is durable.

pub mod accept;
pub mod admit;
pub mod allocate;
pub mod api;
pub mod body;
pub mod cache;
pub mod client;
pub mod component;
pub mod config;
pub mod defaults;
pub mod delete;
pub mod discover;
pub mod health;
pub mod inflight;
pub mod info;
pub mod ingest;
pub mod kubelet;
pub mod managed;
pub mod metered;
pub mod metrics;
pub mod options;
pub mod pace;
pub mod patch;
pub mod proxy;
pub mod read;
pub mod reply;
pub mod route;
pub mod secure;
pub mod select;
pub mod serve;
pub mod start;
pub mod subresource;
pub mod verbatim;
pub mod watch;
pub mod write;

pub use config::{Limits, ServeArgs};
pub use start::{Error, Server, start};
