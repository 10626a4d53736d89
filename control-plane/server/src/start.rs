//! Brings a control plane up: certificates, store, caches, default objects, sockets, controllers.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fairlead_api::kind::Kind;
use fairlead_store::{Embedded, EmbeddedOptions, Etcd, EtcdOptions, EtcdTls, Store, StoreError};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    allocate::{self, Allocators},
    api::Api,
    cache::{self, Caches, Observer},
    client,
    config::ServeArgs,
    defaults,
    inflight::InFlight,
    kubelet::Kubelets,
    metered::Metered,
    metrics::Metrics,
    secure::{Authenticator, Authorizer, Objects, Pki, Tokens, pki::PkiError, pki::ServingNames, tls},
    serve,
};

/// Why a control plane did not come up, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("certificates: {0}")]
    Pki(#[from] PkiError),
    #[error("store: {0}")]
    Store(#[from] StoreError),
    #[error("cannot listen on {address}: {source}")]
    Bind { address: SocketAddr, source: std::io::Error },
    #[error("sockets passed by the service manager: {0}")]
    Activation(std::io::Error),
    #[error("--service-cluster-ip-range has no usable address")]
    ServiceRange,
    #[error("--service-cluster-ip-range takes at most one range of an address family")]
    ServiceFamilies,
    #[error(
        "--node-cidr-mask-size is for one range of pods: with two, give --node-cidr-mask-size-ipv4 and -ipv6"
    )]
    NodeMask,
    #[error("default objects: {0}")]
    Defaults(String),
    #[error("controllers: {0}")]
    Controllers(#[from] fairlead_controllers::Error),
    #[error("scheduler: {0}")]
    Scheduler(#[from] fairlead_scheduler::Error),
}

/// A control plane that listens.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    shutdown: CancellationToken,
    tasks: tokio::task::JoinSet<Result<(), Error>>,
}

impl Server {
    /// Runs until `shutdown`, or until a part fails.
    ///
    /// # Errors
    /// The failure of the part that ended first.
    pub async fn wait(mut self) -> Result<(), Error> {
        let mut result = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            if let Ok(Err(error)) = ended
                && result.is_ok()
            {
                result = Err(error);
            }
            self.shutdown.cancel();
        }
        result
    }
}

impl Objects for Caches {
    fn find(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let kind = crate::api::kind_of(group, resource)?;
        let item = self.of(kind)?.get(&crate::api::key(kind, namespace, name))?;
        Some(item.value(kind))
    }
}

/// Feeds what is kept beside the caches.
struct Fed {
    allocators: Arc<Allocators>,
    authorizer: Arc<Authorizer>,
}

impl Observer for Fed {
    fn reset(&self) {
        self.allocators.reset();
    }

    fn foreign(&self, key: &str, present: bool) {
        self.allocators.observe(key, present);
    }

    fn object(&self, kind: &Kind, key: &str, stored: Option<&[u8]>) {
        if Authorizer::WATCHED.contains(&(kind.group, kind.plural)) {
            let (namespace, name) = key.split_once('/').unwrap_or(("", key));
            self.authorizer.observe(kind.plural, namespace, name, stored);
        }
    }
}

async fn open(args: &ServeArgs) -> Result<Arc<dyn Store>, Error> {
    let history = args.etcd_compaction_interval;
    let history = (history > Duration::ZERO).then_some(history);
    if args.etcd_servers.is_empty() {
        let directory = args.data_dir.join("store");
        let options =
            EmbeddedOptions { history: history.unwrap_or(Duration::MAX), ..EmbeddedOptions::default() };
        let opened = tokio::task::spawn_blocking(move || Embedded::open(directory, options)).await;
        let store = opened.map_err(|error| StoreError::Unavailable(error.to_string()))??;
        return Ok(Arc::new(store));
    }
    let client = args.etcd_certfile.clone().zip(args.etcd_keyfile.clone());
    let tls = (args.etcd_cafile.is_some() || client.is_some())
        .then(|| EtcdTls { ca: args.etcd_cafile.clone(), client });
    let options =
        EtcdOptions { endpoints: args.etcd_servers.clone(), tls, prefix: args.etcd_prefix.clone(), history };
    Ok(Arc::new(Etcd::connect(options).await?))
}

/// Brings everything up; the server listens when this returns.
///
/// # Errors
/// Whatever stands in the way.
pub async fn start(args: ServeArgs, shutdown: CancellationToken) -> Result<Server, Error> {
    let mut listeners = serve::activated().map_err(Error::Activation)?;
    let address = SocketAddr::new(args.bind_address, args.secure_port);
    let own = serve::bind(address).await.map_err(|source| Error::Bind { address, source })?;
    let address = own.local_addr().map_err(|source| Error::Bind { address, source })?;
    listeners.push(own);
    check_ranges(&args)?;
    let service_ip = args.service_cluster_ip_range.first().and_then(|cidr| allocate::nth(cidr, 0));
    let service_ip = service_ip.ok_or(Error::ServiceRange)?;
    let pki = certificates(&args, address, service_ip).await?;
    let store = open(&args).await?;
    let api = state(&args, &pki, address, store, &shutdown).await?;
    defaults::ensure(&api, service_ip).await?;
    let mut tasks = tokio::task::JoinSet::new();
    let tls = tls::server_config(&pki)?;
    let served = serve::serve(api.clone(), listeners, tls, shutdown.clone());
    tasks.spawn(async move {
        served.await;
        Ok(())
    });
    tasks.spawn(defaults::keep(api.clone(), service_ip, shutdown.clone()));
    components(&args, &pki, &api, &shutdown, &mut tasks);
    tracing::info!(%address, advertised = %args.advertised(), "serving");
    Ok(Server { address, shutdown, tasks })
}

/// Ranges that the API could not express.
fn check_ranges(args: &ServeArgs) -> Result<(), Error> {
    let four = args.service_cluster_ip_range.iter().filter(|cidr| cidr.addr().is_ipv4()).count();
    if four > 1 || args.service_cluster_ip_range.len() - four > 1 {
        return Err(Error::ServiceFamilies);
    }
    if args.node_cidr_mask_size.is_some() && args.cluster_cidr.len() > 1 {
        return Err(Error::NodeMask);
    }
    Ok(())
}

async fn certificates(args: &ServeArgs, address: SocketAddr, service_ip: IpAddr) -> Result<Arc<Pki>, Error> {
    let reached = if address.ip().is_unspecified() { args.advertised() } else { address.ip() };
    let names = ServingNames {
        addresses: vec![args.advertised(), reached],
        service_ip,
        extra: args.tls_san.clone(),
        server_url: format!("https://{}", SocketAddr::new(reached, address.port())),
    };
    let data_dir = args.data_dir.clone();
    let made = tokio::task::spawn_blocking(move || Pki::ensure(&data_dir, &names)).await;
    let pki = made.map_err(|error| Error::Defaults(error.to_string()))??;
    Ok(Arc::new(pki))
}

async fn state(
    args: &ServeArgs,
    pki: &Pki,
    address: SocketAddr,
    store: Arc<dyn Store>,
    shutdown: &CancellationToken,
) -> Result<Arc<Api>, Error> {
    let allocators = Arc::new(Allocators::new(
        args.service_cluster_ip_range.clone(),
        args.service_node_port_range.clone(),
    ));
    let authorizer = Arc::new(Authorizer::new());
    let fed = Arc::new(Fed { allocators: allocators.clone(), authorizer: authorizer.clone() });
    let metrics = Metrics::default();
    let store: Arc<dyn Store> = Arc::new(Metered { store, metrics: metrics.clone() });
    let caches = cache::start(store.clone(), fed, shutdown.clone()).await?;
    let tokens = Arc::new(Tokens::new(&pki.service_account_key)?);
    let authenticator = Authenticator::new(tokens.clone(), authorizer.clone(), caches.clone());
    Ok(Arc::new(Api {
        store,
        caches,
        allocators,
        authenticator,
        authorizer,
        tokens,
        metrics,
        kubelets: Kubelets::new(tls::kubelet_client_config(pki)?),
        inflight: InFlight::new(&args.limits),
        limits: args.limits.clone(),
        advertise: (args.advertised(), address.port()),
        started: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        parts: parts(args),
        event_ttl: args.event_ttl,
        stopping: shutdown.clone(),
    }))
}

fn has_controllers(args: &ServeArgs) -> bool {
    !matches!(args.controllers.as_str(), "none" | "")
}

/// What runs in this process, by upstream's names.
fn parts(args: &ServeArgs) -> Vec<&'static str> {
    let parts = [("controller-manager", has_controllers(args)), ("scheduler", args.scheduler)];
    parts.into_iter().filter(|(_, runs)| *runs).map(|(name, _)| name).collect()
}

fn components(
    args: &ServeArgs,
    pki: &Pki,
    api: &Arc<Api>,
    shutdown: &CancellationToken,
    tasks: &mut tokio::task::JoinSet<Result<(), Error>>,
) {
    if has_controllers(args) {
        let client = client::client(api.clone(), "system:kube-controller-manager", "kube-controller-manager");
        let options = fairlead_controllers::Options {
            cluster_cidr: args.cluster_cidr.clone(),
            service_cidr: args.service_cluster_ip_range.clone(),
            node_masks: args.node_masks(),
            load_balancer_pools: args.load_balancer_pool.clone(),
            node_monitor_grace: args.node_monitor_grace(),
            enabled: args.controllers.clone(),
            root_ca_pem: pki.ca.clone(),
        };
        let shutdown = shutdown.clone();
        tasks.spawn(async move { Ok(fairlead_controllers::run(client, options, shutdown).await?) });
    }
    if args.scheduler {
        let client = client::client(api.clone(), "system:kube-scheduler", "kube-scheduler");
        let shutdown = shutdown.clone();
        tasks.spawn(async move {
            Ok(fairlead_scheduler::run(client, fairlead_scheduler::Options::default(), shutdown).await?)
        });
    }
}
