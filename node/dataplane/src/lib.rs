//! The node dataplane: turns Services, EndpointSlices, NetworkPolicies, Pods and Nodes into BPF map entries.
//!
//! Pure tables ([`service`], [`policy`], [`overlay`]) say what should be in the maps; [`maps`] is the one place that
//! writes them; [`link`] loads and pins programs; [`engine`] holds all of it and takes changes in order; [`server`]
//! answers the CNI plugin.

pub mod announce;
pub mod bpf;
pub mod conntrack;
pub mod endpoints;
pub mod engine;
pub mod flow;
pub mod inspect;
pub mod install;
pub mod link;
pub mod maps;
pub mod model;
pub mod overlay;
pub mod policy;
pub mod pressure;
pub mod server;
pub mod service;
pub mod settings;
pub mod status;
pub mod watch;

use std::{fs, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use fairlead_abi::ABI_VERSION;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use settings::{Args, OverlayMode, Settings, Xdp};

use crate::{
    engine::{Command, Engine},
    maps::Observed,
    server::PodLookup,
    status::Status,
};

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
        source: io::Error,
    },
    /// Programs, links or devices.
    #[error(transparent)]
    Link(#[from] link::LinkError),
    /// A map could not be read or written.
    #[error(transparent)]
    Map(#[from] maps::MapError),
    /// The kernel refused a change of links, addresses or routes.
    #[error(transparent)]
    Netlink(#[from] fairlead_cni::netlink::NetlinkError),
    /// The HTTP address could not be served.
    #[error("serving {address}: {source}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// There are no usable credentials for the API server.
    #[error("credentials for the API server: {0}")]
    Credentials(String),
}

/// Runs the dataplane of one node until `shutdown` is cancelled. Links and maps stay pinned: packets keep flowing, and
/// the next run takes them up.
///
/// # Errors
/// Fails when the programs cannot be loaded or the node's network cannot be set up.
pub async fn run(args: Args, shutdown: CancellationToken) -> Result<(), Error> {
    let kubeconfig = args.kubeconfig.clone();
    let settings = args.into_settings()?;
    let client = client(kubeconfig).await?;
    let (sender, receiver) = mpsc::channel(engine::QUEUE);
    let node = settings.node_name.clone();
    // Informers stop with the engine, however that ends.
    let stop = shutdown.child_token();
    let informers = tokio::spawn(watch::watch_all(client.clone(), node, sender.clone(), stop.clone()));
    let status: Arc<Status> = Arc::default();
    tokio::spawn(pressure::watch(client.clone(), settings.node_name.clone(), status.clone(), stop.clone()));
    let outcome = run_with(settings, sender, receiver, Arc::new(client), status, shutdown).await;
    stop.cancel();
    // It ends by the token; that it was cancelled is no error.
    let _ = informers.await;
    outcome
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

/// Runs the dataplane of one node on changes from anywhere, such as a test without a cluster.
///
/// # Errors
/// Fails when the programs cannot be loaded or the node's network cannot be set up.
pub async fn run_with(
    settings: Settings,
    sender: mpsc::Sender<Command>,
    receiver: mpsc::Receiver<Command>,
    pods: Arc<dyn PodLookup>,
    status: Arc<Status>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let at = |path: &std::path::Path| {
        let path = path.to_owned();
        move |source| Error::File { path, source }
    };
    fs::create_dir_all(&settings.run_dir).map_err(at(&settings.run_dir))?;
    let _lock = lock(&settings, &shutdown).await?;
    if shutdown.is_cancelled() {
        return Ok(());
    }
    let mut engine = Engine::open(settings.clone(), status.clone())?;
    status.observe(Observed::open(&maps::carry::directory(&settings.pins, ABI_VERSION))?);
    let stop = shutdown.child_token();
    let _stop_all = stop.clone().drop_guard();
    if let Some(ring) = engine.programs_mut().take_flows() {
        let reader = flow::read(ring, status.clone(), stop.clone());
        tokio::spawn(async move {
            if let Err(error) = reader.await {
                tracing::warn!(%error, "drop records cannot be read");
            }
        });
    }
    let (sweeper, gone) = mpsc::channel(conntrack::QUEUE);
    status.sweep_by(sweeper);
    tokio::spawn(conntrack::collect(status.clone(), gone, sender.clone(), stop.clone()));
    if settings.announce {
        tokio::spawn(announce::run(status.clone(), sender.clone(), stop.clone()));
    }
    tokio::spawn(service::health::serve(status.checks(), status.clone(), stop.clone()));
    let socket = settings.run_dir.join(fairlead_cni::protocol::SOCKET);
    let inspection = settings.run_dir.join(inspect::SOCKET);
    tokio::select! {
        outcome = inspect::serve(inspection, sender.clone(), stop.clone()) => outcome,
        outcome = engine.run(receiver, stop.clone()) => outcome,
        outcome = server::serve(socket, sender, pods, stop.clone()) => outcome,
        outcome = status::serve(settings.metrics_address, status, stop.clone()) => outcome,
    }
}

/// Makes sure that one dataplane writes the maps of a node: the old pod of a DaemonSet may still be ending. The kernel
/// gives the lock up when the process ends, however that happens.
async fn lock(settings: &Settings, shutdown: &CancellationToken) -> Result<fs::File, Error> {
    let path = settings.run_dir.join("dataplane.lock");
    let at = |source| Error::File { path: path.clone(), source };
    let file = fs::File::options().create(true).append(true).open(&path).map_err(at)?;
    let mut said = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) if shutdown.is_cancelled() => return Ok(file),
            Err(fs::TryLockError::WouldBlock) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::info!("waiting for another dataplane of this node to end");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(fs::TryLockError::Error(source)) => return Err(at(source)),
        }
    }
}
