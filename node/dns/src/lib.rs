//! Cluster DNS answered on the node: Services, their endpoints and pods by name, everything else by upstream servers.
//!
//! Follows the Kubernetes DNS specification 1.1.0 and, where that is silent, CoreDNS. [`zone`] is the index, [`answer`]
//! makes octets of it, [`cache`] keeps what upstream servers said; these are pure. [`watch`] fills the index,
//! [`forward`] asks, [`serve`] holds the sockets, [`supervise`] keeps them over a
//! crash.
//!
//! Questions about the cluster and cached ones never leave the thread that received them. Before all lists are in,
//! queries wait in the sockets' queues, so that a restart is a pause for clients and no failure.

pub mod answer;
pub mod cache;
pub mod config;
pub mod datagram;
pub mod forward;
pub mod message;
pub mod metrics;
pub mod name;
pub mod resolve;
pub mod serve;
pub mod settings;
pub mod supervise;
pub mod watch;
pub mod zone;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use tokio::sync::watch as channel;
use tokio_util::sync::CancellationToken;

pub use settings::Args;

use crate::config::{Config, Routes, resolv_conf};
use crate::forward::Forwarder;
use crate::metrics::Metrics;
use crate::resolve::Resolver;
use crate::serve::{ListenError, Sockets};
use crate::watch::Sink;
use crate::zone::Zone;

/// How long queries wait for the lists after a start. Then names outside the cluster are answered without them, and
/// those of the cluster with SERVFAIL.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often the node's resolv.conf is read again.
const RESOLV_CONF_INTERVAL: Duration = Duration::from_secs(5);

/// What can end or prevent a run. Each variant names the step that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address could not be bound.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// There are no usable credentials for the API server.
    #[error("credentials for the API server: {0}")]
    Credentials(String),
    /// The sockets could not be handed from parent to child.
    #[error("handing sockets on: {0}")]
    Sockets(io::Error),
    /// The sockets could not be served.
    #[error("serving: {0}")]
    Serve(io::Error),
    /// The metrics' address could not be served.
    #[error("serving metrics on {address}: {source}")]
    Metrics {
        /// Which address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Runs cluster DNS on this node until `shutdown` is cancelled.
///
/// # Errors
/// [`Error`] when it cannot be started.
pub async fn run(args: Args, shutdown: CancellationToken) -> Result<(), Error> {
    let start = Instant::now();
    let sockets = match supervise::inherited().map_err(Error::Sockets)? {
        Some((datagrams, listeners)) => Sockets::inherit(datagrams, listeners),
        None => Sockets::bind(&args.listen)?,
    };
    let listening = sockets.addresses();
    tracing::info!(addresses = ?listening, domain = %args.domain, "listening");
    if args.supervise && std::env::var_os(supervise::SOCKETS).is_none() {
        let (datagrams, listeners) = sockets.into_parts();
        return supervise::run(&datagrams, &listeners, shutdown).await.map_err(Error::Sockets);
    }
    let client = client(args.kubeconfig.clone()).await?;
    let lists: Vec<_> = watch::LISTS.into_iter().chain([watch::CONFIG_LIST]).collect();
    let metrics = Arc::new(Metrics::new(&lists));
    let zone = Arc::new(RwLock::new(Zone::new(args.domain.clone())));
    let forwarder = Arc::new(Forwarder::new(Routes::default()));
    let (config, configs) = channel::channel(Config::default());
    let (synced, mut when_synced) = channel::channel(false);
    let stop = shutdown.child_token();
    let _stop_all = stop.clone().drop_guard();

    let sink = Sink { zone: zone.clone(), metrics: metrics.clone(), config, synced };
    let informers = watch::watch_all(client, args.node_name.clone(), sink);
    tokio::spawn(stop.clone().run_until_cancelled_owned(informers));
    let router = Router { args: args.clone(), listening, zone: zone.clone(), forwarder: forwarder.clone() };
    router.route(&Config::default());
    tokio::spawn(stop.clone().run_until_cancelled_owned(router.keep(configs)));

    let address = args.metrics_address;
    let listener = metrics::listen(address).await.map_err(|source| Error::Metrics { address, source })?;
    let pages = metrics::serve(listener, metrics.clone(), forwarder.clone(), zone.clone(), stop.clone());
    tokio::spawn(async move {
        if let Err(error) = pages.await {
            tracing::warn!(%error, "metrics are not served any more");
        }
    });
    let waited = tokio::time::timeout(PATIENCE, when_synced.wait_for(|synced| *synced)).await;
    if waited.is_err() {
        tracing::warn!(
            waiting_for = ?metrics.waiting_for(),
            "names of the cluster are answered SERVFAIL until the API server has listed them"
        );
    }
    tracing::info!(after_ms = start.elapsed().as_millis() as u64, "answering");
    sockets.serve(Resolver { zone, forwarder }, metrics, shutdown).await.map_err(Error::Serve)
}

async fn client(kubeconfig: Option<PathBuf>) -> Result<kube::Client, Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Credentials(error.to_string());
    let config = match kubeconfig {
        Some(path) => {
            let file = kube::config::Kubeconfig::read_from(path).map_err(|error| failed(&error))?;
            kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default())
                .await
                .map_err(|error| failed(&error))?
        }
        None => kube::Config::incluster_env().map_err(|error| failed(&error))?,
    };
    kube::Client::try_from(config).map_err(|error| failed(&error))
}

/// Decides which servers are asked: the ConfigMap's, the flags', the node's.
struct Router {
    args: Args,
    listening: Vec<SocketAddr>,
    zone: Arc<RwLock<Zone>>,
    forwarder: Arc<Forwarder>,
}

impl Router {
    /// Keeps the routes as the ConfigMap, resolv.conf and the cluster's own addresses have them.
    async fn keep(self, mut configs: channel::Receiver<Config>) {
        let mut tick = tokio::time::interval(RESOLV_CONF_INTERVAL);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                changed = configs.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
            let config = configs.borrow_and_update().clone();
            self.route(&config);
        }
    }

    fn route(&self, config: &Config) {
        let node = if self.args.upstream.is_empty() {
            node_servers(&self.args.resolv_conf)
        } else {
            self.args.upstream.clone()
        };
        self.forwarder.set_routes(Routes::new(config, &node, |server| self.is_own(server)));
    }

    /// Whether a server is this one, on its socket or by its Service.
    fn is_own(&self, server: &SocketAddr) -> bool {
        let here = server.ip().is_loopback() || server.ip().is_unspecified();
        let listening = self.listening.iter().any(|own| {
            own.port() == server.port() && (own.ip() == server.ip() || here && own.ip().is_unspecified())
        });
        let zone = self.zone.read();
        let service = zone.addresses(answer::OWN_SERVICE).is_some_and(|own| match server.ip() {
            std::net::IpAddr::V4(v4) => own.v4.contains(&v4),
            std::net::IpAddr::V6(v6) => own.v6.contains(&v6),
        });
        listening || service
    }
}

fn node_servers(path: &Path) -> Vec<SocketAddr> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let (servers, unread) = resolv_conf(&text);
            if !unread.is_empty() {
                tracing::debug!(?unread, path = %path.display(), "servers that are no plain address are not asked");
            }
            servers
        }
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "the node's servers are not known; give --upstream");
            Vec::new()
        }
    }
}
