//! The controllers: each drives one part of the cluster from what is towards what is asked for.
//!
//! Every controller is level-triggered and knows the API through a `kube::Client` only. They share one informer per
//! kind, and each can be killed between any two writes: the next run continues from what it finds.

use std::time::Duration;

use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

/// What the controllers need to know of the cluster they run in.
#[derive(Clone, Debug)]
pub struct Options {
    /// Address ranges that node pod ranges are cut from; at most one per address family.
    pub cluster_cidr: Vec<IpNet>,
    /// Prefix length of a node's IPv4 pod range (24 by default). IPv6 ranges are always cut as /64.
    pub node_mask: u8,
    /// How long a node may be silent before its conditions become Unknown.
    pub node_monitor_grace: Duration,
    /// Comma-separated controller names: `*` enables all, `-name` takes one away, `none` (or empty) runs none.
    pub enabled: String,
    /// PEM of the CA that signed the API server's certificate, published in every namespace.
    pub root_ca_pem: String,
}

/// Why the controllers could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `Options::enabled` names a controller that does not exist.
    #[error("unknown controller \"{0}\"")]
    UnknownController(String),
    /// A pod range cannot be cut out of the cluster's range.
    #[error("node mask /{mask} does not fit in cluster range {cidr}")]
    NodeMask {
        /// The cluster's range.
        cidr: IpNet,
        /// The prefix length asked for.
        mask: u8,
    },
    /// Two cluster ranges of one family, which the API cannot express.
    #[error("more than one cluster range of the same address family: {0}")]
    DuplicateFamily(IpNet),
}

/// Runs the enabled controllers until `shutdown` is cancelled.
///
/// # Errors
/// Only for options that cannot work; failures of the API are retried for as long as it takes.
pub async fn run(client: kube::Client, options: Options, shutdown: CancellationToken) -> Result<(), Error> {
    let _ = (client, options);
    shutdown.cancelled().await;
    Ok(())
}
