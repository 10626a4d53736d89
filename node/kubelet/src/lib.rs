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
pub mod image;
pub mod metrics;
pub mod node;
pub mod objects;
pub mod pod;
pub mod probe;
pub mod quantity;
pub mod server;
pub mod settings;
pub mod shared;
pub mod volume;

use std::sync::Arc;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use self::cni::Cni;
use self::docker::Engine;
use self::env::fields::Surroundings;
use self::env::watch::Services;
use self::events::Recorder;
use self::image::Images;
use self::metrics::Metrics;
use self::node::lease;
use self::node::machine::{self, Capacity};
use self::node::register::Registrar;
use self::objects::Objects;
use self::pod::manager::Manager;
use self::shared::{PARALLEL_STARTS, Shared};
use self::volume::Volumes;

pub use settings::Args;

/// Why the kubelet could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig cannot be used.
    #[error("kubeconfig {path}: {source}")]
    Kubeconfig {
        /// Its path.
        path: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Addresses that a node cannot have.
    #[error("--node-ip takes one address, or one of each family")]
    Addresses,
    /// Docker.
    #[error(transparent)]
    Docker(#[from] docker::Error),
    /// The kubelet's own API cannot be served.
    #[error("kubelet API: {0}")]
    Server(#[from] server::Error),
}

fn kubeconfig_error(args: &Args, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Kubeconfig { path: args.kubeconfig.display().to_string(), source: Box::new(source) }
}

async fn client(args: &Args) -> Result<kube::Client, Error> {
    let file = Kubeconfig::read_from(&args.kubeconfig).map_err(|error| kubeconfig_error(args, error))?;
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(|error| kubeconfig_error(args, error))?;
    kube::Client::try_from(config).map_err(|error| kubeconfig_error(args, error))
}

/// Waits for Docker: at boot it may come up after the kubelet.
async fn docker(args: &Args) -> Result<Engine, Error> {
    loop {
        match Engine::connect(&args.docker_host, &args.cluster_name, &args.node_name).await {
            Ok(engine) => return Ok(engine),
            Err(error @ docker::Error::Host(_)) => return Err(error.into()),
            Err(error) => tracing::warn!(%error, "waiting for Docker"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Runs the kubelet until `shutdown` is cancelled. Containers go on running: the next kubelet takes them over.
///
/// # Errors
/// Fails when its files cannot be read or its port is taken; everything else is tried again.
pub async fn run(args: Args, shutdown: CancellationToken) -> Result<(), Error> {
    if !args.has_valid_addresses() {
        return Err(Error::Addresses);
    }
    let args = Arc::new(args);
    let client = client(&args).await?;
    let engine = tokio::select! {
        engine = docker(&args) => engine?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let info = engine.info().await?;
    let listener = server::Listener::bind(&args).await?;
    let capacity = Capacity::read(&info, &args);
    let cni = Cni::new(&args);
    let registrar = Registrar {
        args: args.clone(),
        client: client.clone(),
        engine: engine.clone(),
        cni: cni.clone(),
        port: listener.port(),
        capacity,
        info: machine::system_info(&info, &args),
    };
    let node = tokio::select! {
        node = registrar.register() => node,
        () = shutdown.cancelled() => return Ok(()),
    };
    let events = Recorder::start(client.clone(), &args.node_name).for_node(&node);
    events.node(events::Level::Normal, "Starting", "Starting kubelet.");
    let negative_oom = docker::oom::negative_allowed();
    if !negative_oom {
        tracing::warn!("CAP_SYS_RESOURCE is missing: OOM scores below zero are not used");
    }
    let (network, network_seen) = watch::channel(Some(node::conditions::network_reason()));
    let objects = Objects::new(client.clone());
    let shared = Arc::new(Shared {
        volumes: Volumes::new(args.clone(), client.clone(), objects.clone()),
        images: Images::new(engine.clone(), events.clone(), objects.clone()),
        services: Services::start(client.clone(), shutdown.clone()),
        objects,
        cni,
        network: network_seen,
        surroundings: Surroundings {
            host_ips: args.host_ips(),
            pod_ips: Vec::new(),
            allocatable_cpu: capacity.cpus * 1000,
            allocatable_memory: capacity.allocatable_memory(),
            allocatable_storage: capacity.allocatable_storage(),
        },
        memory: capacity.memory,
        negative_oom,
        starts: Semaphore::new(PARALLEL_STARTS),
        metrics: Metrics::default(),
        events: events.clone(),
        engine,
        client: client.clone(),
        args,
    });
    let manager = Manager::new(shared);
    tracing::info!(node = %manager.shared().args.node_name, port = listener.port(), "kubelet is up");
    tokio::select! {
        () = lease::run(client, node.clone()) => {}
        () = registrar.run(node, network, events) => {}
        () = manager.clone().run() => {}
        () = listener.serve(manager) => {}
        () = shutdown.cancelled() => {}
    }
    Ok(())
}
