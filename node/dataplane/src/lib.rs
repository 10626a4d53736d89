//! The node dataplane: turns Services, EndpointSlices, NetworkPolicies, Pods and Nodes into BPF map entries.
//!
//! Pure tables (`service`, `policy`, `overlay`) say what should be in the maps; [`maps`] is the one place that
//! writes them; [`link`] loads and pins programs; [`cni`] answers the CNI plugin.

pub mod bpf;
pub mod endpoints;
pub mod link;
pub mod maps;
pub mod model;
pub mod overlay;
pub mod policy;
pub mod service;
pub mod settings;

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

pub use settings::{Args, OverlayMode};

/// What can end or prevent a run of the dataplane. Each variant names the step that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A flag is out of range or contradicts another.
    #[error("invalid settings: {0}")]
    Settings(String),
    /// A file or directory could not be read, written or made.
    #[error("{path}: {source}")]
    File {
        /// Which path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Runs the dataplane of one node until `shutdown` is cancelled.
///
/// # Errors
/// Fails when the programs cannot be loaded or the node's network cannot be set up.
pub async fn run(args: Args, shutdown: CancellationToken) -> Result<(), Error> {
    let _settings = args.into_settings()?;
    shutdown.cancelled().await;
    Ok(())
}
