//! What the dataplane says about itself: readiness, Prometheus metrics, names for numbers in flow records.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use fairlead_abi::{Counter, Metric, Reason};
use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge, histogram::Histogram},
    registry::Registry,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    Error,
    announce::Claims,
    maps::{Fill, MapError, Maps, Observed},
    model::Key,
    policy::Rules,
    service::{ServiceTable, health::Checks, table::Gone},
};

/// State that the engine writes and the HTTP server reads.
pub struct Status {
    ready: AtomicBool,
    waiting_for: Mutex<String>,
    tables: Mutex<Tables>,
    pods: Mutex<HashMap<u32, Key>>,
    flows: Mutex<Vec<Fill>>,
    map_errors: Mutex<HashMap<&'static str, u64>>,
    latency: Histogram,
    observed: OnceLock<Observed>,
    checks: watch::Sender<Checks>,
    claims: watch::Sender<Claims>,
    gone: OnceLock<mpsc::Sender<Vec<Gone>>>,
    conntrack_evictions: AtomicU64,
    service_flows: Mutex<Vec<ServiceFlows>>,
    /// Drop records that were not logged because too many came at once.
    pub unlogged: AtomicU64,
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Status").field("ready", &self.ready).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Tables {
    services: usize,
    backends: usize,
    identities: usize,
    rulesets: usize,
    policies: usize,
    closed_policies: usize,
    rules: HashMap<u32, String>,
    fill: Vec<Fill>,
}

impl Default for Status {
    fn default() -> Self {
        // From a tenth of a millisecond to 26 s.
        let buckets = prometheus_client::metrics::histogram::exponential_buckets(0.0001, 2.0, 19);
        Status {
            ready: AtomicBool::new(false),
            waiting_for: Mutex::new("the API server".to_owned()),
            tables: Mutex::default(),
            pods: Mutex::default(),
            flows: Mutex::default(),
            map_errors: Mutex::default(),
            latency: Histogram::new(buckets),
            observed: OnceLock::new(),
            checks: watch::Sender::new(Checks::new()),
            claims: watch::Sender::new(Claims::default()),
            gone: OnceLock::new(),
            conntrack_evictions: AtomicU64::new(0),
            service_flows: Mutex::default(),
            unlogged: AtomicU64::new(0),
        }
    }
}

impl Status {
    /// Bytes of memory of the machine; 0 when it cannot be told.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib: Option<u64> = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok());
        kib.unwrap_or_default() * 1024
    }

    /// The maps that are read when somebody asks for metrics.
    pub fn observe(&self, observed: Observed) {
        // There is one set of maps per run; a second one cannot come.
        let _ = self.observed.set(observed);
    }

    /// The maps that the programs write, once they are there.
    #[must_use]
    pub fn observed(&self) -> Option<&Observed> {
        self.observed.get()
    }

    /// Health check ports, as they change.
    #[must_use]
    pub fn checks(&self) -> watch::Receiver<Checks> {
        self.checks.subscribe()
    }

    /// Health check ports have changed.
    pub fn set_checks(&self, checks: Checks) {
        self.checks.send_replace(checks);
    }

    /// What this node may announce, as it changes.
    #[must_use]
    pub fn claims(&self) -> watch::Receiver<Claims> {
        self.claims.subscribe()
    }

    /// What this node may announce has perhaps changed.
    pub fn set_claims(&self, claims: Claims) {
        self.claims.send_if_modified(|known| {
            let changed = *known != claims;
            *known = claims;
            changed
        });
    }

    /// Where backends go that datagrams must not be sent to any more.
    pub fn sweep_by(&self, sweeper: mpsc::Sender<Vec<Gone>>) {
        // There is one sweeper per run; a second one cannot come.
        let _ = self.gone.set(sweeper);
    }

    /// Has the flows of datagrams to these backends forgotten.
    pub fn forget_flows(&self, gone: Vec<Gone>) {
        let Some(sweeper) = self.gone.get() else { return };
        if sweeper.try_send(gone).is_err() {
            tracing::warn!(
                "too many backends leave at once: datagrams to some go on until their flows expire"
            );
        }
    }

    /// Flows that the kernel gave up for want of room, by what the sweeper makes of its counts.
    pub fn evicted(&self, flows: u64) {
        self.conntrack_evictions.fetch_add(flows, Ordering::Relaxed);
    }

    /// How many flows each Service has, as last seen.
    pub fn service_flows(&self, flows: Vec<ServiceFlows>) {
        *self.service_flows.lock() = flows;
    }

    /// How full every map is, as last seen.
    #[must_use]
    pub fn fill(&self) -> Vec<Fill> {
        let (tables, flows) = (self.tables.lock().fill.clone(), self.flows.lock().clone());
        tables.into_iter().chain(flows).collect()
    }

    /// The node's network stands.
    pub fn ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// Whether the node's network stands.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// What the start waits for.
    pub fn not_ready(&self, waiting_for: String) {
        *self.waiting_for.lock() = waiting_for;
    }

    /// A batch of changes was carried out in this time.
    pub fn settled(&self, took: Duration) {
        self.latency.observe(took.as_secs_f64());
    }

    /// A map could not be written.
    pub fn map_error(&self, error: &MapError) {
        *self.map_errors.lock().entry(error.map).or_default() += 1;
    }

    /// How full the maps are that programs write.
    pub fn flows(&self, fill: Vec<Fill>) {
        *self.flows.lock() = fill;
    }

    /// Sizes of the tables after a change.
    pub fn tables(&self, rules: &Rules, services: &ServiceTable, maps: &Maps) {
        let mut tables = self.tables.lock();
        (tables.services, tables.backends) = services.sizes();
        (tables.identities, tables.rulesets, tables.policies) = rules.sizes();
        tables.closed_policies = rules.closed_policies().count();
        tables.fill = maps.fill();
    }

    /// Names of the rules after a change of policies.
    pub fn rule_names(&self, rules: &Rules) {
        let names = rules.rule_names().map(|(number, name)| (number, name.to_string())).collect();
        self.tables.lock().rules = names;
    }

    /// A pod's number on this node was given, or is free again.
    pub fn pod(&self, id: u32, key: Option<Key>) {
        match key {
            Some(key) => self.pods.lock().insert(id, key),
            None => self.pods.lock().remove(&id),
        };
    }

    /// Name of the pod with that number.
    #[must_use]
    pub fn pod_name(&self, id: u32) -> Option<String> {
        self.pods.lock().get(&id).map(ToString::to_string)
    }

    /// Name of the rule with that number.
    #[must_use]
    pub fn rule_name(&self, id: u32) -> Option<String> {
        self.tables.lock().rules.get(&id).cloned()
    }
}

/// Flows of one port of a Service that are translated per packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFlows {
    /// Namespace and name.
    pub service: String,
    /// Number and protocol of the port.
    pub port: String,
    /// How many there are.
    pub flows: u64,
}

/// Reads the kernel's counters when somebody asks.
#[derive(Debug)]
struct Scrape(Arc<Status>);

type Samples = Vec<(Vec<(&'static str, String)>, u64)>;

fn family(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    kind: MetricType,
    samples: Samples,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in samples {
        let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let sample = metric.encode_family(&labels)?;
        match kind {
            MetricType::Counter => ConstCounter::new(value).encode(sample)?,
            _ => ConstGauge::new(value as i64).encode(sample)?,
        }
    }
    Ok(())
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = &self.0;
        if let Some(observed) = status.observed() {
            kernel_counters(observed, status, &mut encoder)?;
        }
        let tables = status.tables.lock();
        let gauges = [
            ("fairlead_services", "Services with a virtual address", tables.services),
            ("fairlead_backends", "Backends over all Services", tables.backends),
            ("fairlead_identities", "Sets of peers that policies tell apart", tables.identities),
            ("fairlead_rulesets", "Sets of rules that pods share", tables.rulesets),
            ("fairlead_policies", "NetworkPolicies in the cluster", tables.policies),
            (
                "fairlead_policies_closed",
                "NetworkPolicies that cannot be expressed and allow nothing",
                tables.closed_policies,
            ),
            ("fairlead_ready", "1 when the node's network stands", usize::from(status.is_ready())),
        ];
        for (name, help, value) in gauges {
            family(&mut encoder, name, help, MetricType::Gauge, vec![(Vec::new(), value as u64)])?;
        }
        let flows = status.flows.lock().clone();
        if let Some(conntrack) = flows.iter().find(|fill| fill.map == fairlead_abi::map::CONNTRACK) {
            let gauges = [
                ("fairlead_conntrack_entries", "Flows that are tracked", conntrack.entries),
                ("fairlead_conntrack_capacity", "Flows that can be tracked", conntrack.capacity),
            ];
            for (name, help, value) in gauges {
                family(&mut encoder, name, help, MetricType::Gauge, vec![(Vec::new(), value)])?;
            }
        }
        let service_flows = status.service_flows.lock().clone();
        let samples = service_flows
            .into_iter()
            .map(|one| (vec![("service", one.service), ("port", one.port)], one.flows))
            .collect();
        family(
            &mut encoder,
            "fairlead_service_flows",
            "Flows of a Service that are translated per packet; those translated at the socket are not tracked",
            MetricType::Gauge,
            samples,
        )?;
        let evicted = vec![(Vec::new(), status.conntrack_evictions.load(Ordering::Relaxed))];
        family(
            &mut encoder,
            "fairlead_conntrack_evictions",
            "Flows the kernel gave up for want of room, estimated from what was opened, expired and is left",
            MetricType::Counter,
            evicted,
        )?;
        let fill: Vec<Fill> = tables.fill.iter().chain(&flows).copied().collect();
        let sample = |value: fn(&Fill) -> u64| {
            fill.iter().map(|f| (vec![("map", f.map.to_owned())], value(f))).collect()
        };
        family(
            &mut encoder,
            "fairlead_map_entries",
            "Entries in a map",
            MetricType::Gauge,
            sample(|f| f.entries),
        )?;
        family(
            &mut encoder,
            "fairlead_map_capacity",
            "Entries a map can hold",
            MetricType::Gauge,
            sample(|f| f.capacity),
        )?;
        let errors = status
            .map_errors
            .lock()
            .iter()
            .map(|(map, count)| (vec![("map", (*map).to_owned())], *count))
            .collect();
        family(
            &mut encoder,
            "fairlead_map_errors",
            "Writes that a map refused",
            MetricType::Counter,
            errors,
        )?;
        let unlogged = vec![(Vec::new(), status.unlogged.load(Ordering::Relaxed))];
        family(
            &mut encoder,
            "fairlead_drops_unlogged",
            "Drop records left out of the log",
            MetricType::Counter,
            unlogged,
        )
    }
}

fn kernel_counters(observed: &Observed, status: &Status, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let (mut packets, mut bytes) = (Samples::new(), Samples::new());
    for reason in Reason::ALL {
        let counters = observed.drops.get(&(*reason as u32)).unwrap_or_default();
        let labels = vec![("reason", reason.name().to_owned())];
        packets.push((labels.clone(), counters.iter().map(|counter| counter.packets).sum()));
        bytes.push((labels, counters.iter().map(|counter| counter.bytes).sum()));
    }
    family(encoder, "fairlead_drops", "Packets dropped", MetricType::Counter, packets)?;
    family(encoder, "fairlead_drop_bytes", "Bytes of dropped packets", MetricType::Counter, bytes)?;
    let events = Metric::ALL.iter().map(|metric| {
        let values = observed.metrics.get(&(*metric as u32)).unwrap_or_default();
        (vec![("event", metric.name().to_owned())], values.iter().sum())
    });
    family(encoder, "fairlead_events", "What the programs did", MetricType::Counter, events.collect())?;
    let [spliced, early] =
        [&observed.spliced, &observed.early].map(|counters| counters.get(&0).unwrap_or_default());
    let packets: fn(&Counter) -> u64 = |counter| counter.packets;
    let bytes: fn(&Counter) -> u64 = |counter| counter.bytes;
    for (counters, name, help, value) in [
        (&spliced, "fairlead_spliced_messages", "Messages that went from socket to socket", packets),
        (&spliced, "fairlead_spliced_bytes", "Bytes that went from socket to socket", bytes),
        (&early, "fairlead_xdp_packets", "Packets that the uplink's driver has forwarded", packets),
        (&early, "fairlead_xdp_bytes", "Bytes of those packets", bytes),
    ] {
        let sum = vec![(Vec::new(), counters.iter().map(value).sum())];
        family(encoder, name, help, MetricType::Counter, sum)?;
    }
    let rules = status.tables.lock().rules.clone();
    let mut verdicts = Samples::new();
    for (number, name) in rules {
        let hits = observed.rule_hits.get(&number).unwrap_or_default();
        for (verdict, count) in [
            ("allowed", hits.iter().map(|hit| hit.allowed).sum()),
            ("dropped", hits.iter().map(|hit| hit.dropped).sum()),
        ] {
            verdicts.push((vec![("rule", name.clone()), ("verdict", verdict.to_owned())], count));
        }
    }
    family(
        encoder,
        "fairlead_rule_verdicts",
        "Verdicts by rule of a NetworkPolicy",
        MetricType::Counter,
        verdicts,
    )
}

struct Endpoint {
    status: Arc<Status>,
    registry: Registry,
}

/// Serves /metrics, /healthz and /readyz until `shutdown` is cancelled.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    status: Arc<Status>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let mut registry = Registry::default();
    registry.register(
        "fairlead_sync_seconds",
        "Time from receiving changes to having them in the maps",
        status.latency.clone(),
    );
    registry.register_collector(Box::new(Scrape(status.clone())));
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(readyz))
        .with_state(Arc::new(Endpoint { status, registry }));
    let at = |source| Error::Listen { address, source };
    let listener = tokio::net::TcpListener::bind(address).await.map_err(at)?;
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await.map_err(at)
}

async fn metrics(State(endpoint): State<Arc<Endpoint>>) -> impl IntoResponse {
    let mut text = String::new();
    match encode(&mut text, &endpoint.registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([("content-type", kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn readyz(State(endpoint): State<Arc<Endpoint>>) -> impl IntoResponse {
    if endpoint.status.is_ready() {
        (StatusCode::OK, "ok".to_owned())
    } else {
        let waiting_for = endpoint.status.waiting_for.lock().clone();
        (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {waiting_for}"))
    }
}
