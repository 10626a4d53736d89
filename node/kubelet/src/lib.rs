//! The kubelet: runs the pods that are bound to this node on Docker Engine, and says how they are.
//!
//! Docker is the truth about containers, found again by labels; the API is the truth about what should run; the
//! worker of each pod ([`pod::worker`]) looks at both and takes the next step, so that a kubelet can be killed
//! anywhere and its successor goes on. Nothing here knows which dataplane or control plane it works with.

pub mod clock;
pub mod cni;
pub mod docker;
pub mod env;
pub mod events;
pub mod files;
pub mod objects;
pub mod pod;
pub mod probe;
pub mod quantity;
pub mod settings;
pub mod volume;

pub use settings::Args;

use tokio_util::sync::CancellationToken;

/// Why the kubelet could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {}

/// Runs.
///
/// # Errors
/// None yet.
pub async fn run(_args: Args, shutdown: CancellationToken) -> Result<(), Error> {
    shutdown.cancelled().await;
    Ok(())
}
