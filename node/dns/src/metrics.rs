//! What the server says about itself: counters that threads add to without a lock, Prometheus text, readiness.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::{Router, routing::get};
use parking_lot::{Mutex, RwLock};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::answer::Area;
use crate::forward::Forwarder;
use crate::message::{Rcode, kind};
use crate::zone::Zone;

/// Types that are counted by name.
const KINDS: [(u16, &str); 10] = [
    (kind::A, "A"),
    (kind::AAAA, "AAAA"),
    (kind::SRV, "SRV"),
    (kind::PTR, "PTR"),
    (kind::CNAME, "CNAME"),
    (kind::TXT, "TXT"),
    (kind::NS, "NS"),
    (kind::SOA, "SOA"),
    (kind::MX, "MX"),
    (kind::ANY, "ANY"),
];
const AREAS: [(Area, &str); 3] =
    [(Area::Cluster, "cluster"), (Area::Reverse, "reverse"), (Area::Upstream, "upstream")];
const RCODES: [(Rcode, &str); 7] = [
    (Rcode::NoError, "NOERROR"),
    (Rcode::FormErr, "FORMERR"),
    (Rcode::ServFail, "SERVFAIL"),
    (Rcode::NxDomain, "NXDOMAIN"),
    (Rcode::NotImp, "NOTIMP"),
    (Rcode::Refused, "REFUSED"),
    (Rcode::BadVers, "BADVERS"),
];
/// Upper bounds of the latency's buckets, in microseconds.
const BUCKETS: [u64; 14] =
    [10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 50_000, 250_000, 1_000_000, 5_000_000];

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// The index or the cache.
    Memory,
    /// An upstream server.
    Upstream,
}

#[derive(Default)]
struct Latency {
    /// One more than there are bounds: what took longer.
    buckets: [AtomicU64; BUCKETS.len() + 1],
    nanoseconds: AtomicU64,
}

/// Counters of a running server.
pub struct Metrics {
    requests: Vec<AtomicU64>,
    memory: Latency,
    upstream: Latency,
    /// Lists that are not in yet.
    waiting_for: Mutex<Vec<&'static str>>,
    /// Contents of the ConfigMap that were refused.
    pub refused_configs: AtomicU64,
}

impl Metrics {
    /// Counters at zero; not ready until each of these lists is in.
    #[must_use]
    pub fn new(lists: &[&'static str]) -> Metrics {
        let slots = AREAS.len() * (KINDS.len() + 1) * RCODES.len();
        Metrics {
            requests: (0..slots).map(|_| AtomicU64::new(0)).collect(),
            memory: Latency::default(),
            upstream: Latency::default(),
            waiting_for: Mutex::new(lists.to_vec()),
            refused_configs: AtomicU64::new(0),
        }
    }

    /// An answer was given.
    pub fn answered(&self, area: Area, kind: u16, rcode: Rcode) {
        let kind = KINDS.iter().position(|(number, _)| *number == kind).unwrap_or(KINDS.len());
        let rcode = RCODES.iter().position(|(code, _)| *code == rcode).unwrap_or(0);
        let slot = (area as usize * (KINDS.len() + 1) + kind) * RCODES.len() + rcode;
        if let Some(counter) = self.requests.get(slot) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// `count` answers took this long each.
    pub fn took(&self, path: Path, time: Duration, count: u64) {
        if count == 0 {
            return;
        }
        let latency = match path {
            Path::Memory => &self.memory,
            Path::Upstream => &self.upstream,
        };
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.partition_point(|bound| *bound < micros);
        if let Some(counter) = latency.buckets.get(bucket) {
            counter.fetch_add(count, Ordering::Relaxed);
        }
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).saturating_mul(count);
        latency.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// A list is in; true when it was the last one.
    pub fn listed(&self, list: &str) -> bool {
        let mut waiting = self.waiting_for.lock();
        let before = waiting.len();
        waiting.retain(|one| *one != list);
        before > 0 && waiting.is_empty()
    }

    /// The lists that are not in yet.
    #[must_use]
    pub fn waiting_for(&self) -> Vec<&'static str> {
        self.waiting_for.lock().clone()
    }
}

struct Scrape {
    metrics: Arc<Metrics>,
    forwarder: Arc<Forwarder>,
    zone: Arc<RwLock<Zone>>,
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

type Samples = Vec<(Vec<(&'static str, String)>, u64)>;

fn family(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    kind: MetricType,
    samples: Samples,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in samples {
        let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let sample = metric.encode_family(&labels)?;
        match kind {
            MetricType::Counter => ConstCounter::new(value).encode(sample)?,
            _ => ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(sample)?,
        }
    }
    Ok(())
}

fn one(value: u64) -> Samples {
    vec![(Vec::new(), value)]
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let requests = ("fairlead_dns_requests", "Queries answered, by what they are about");
        family(encoder, requests, MetricType::Counter, self.requests())?;
        self.latency(encoder)?;
        let cache = &self.forwarder.cache;
        let (entries, octets) = cache.sizes();
        let load = |counter: &AtomicU64| one(counter.load(Ordering::Relaxed));
        let counter = MetricType::Counter;
        family(encoder, ("fairlead_dns_cache_hits", "Answers out of the cache"), counter, load(&cache.hits))?;
        let misses = ("fairlead_dns_cache_misses", "Questions the cache could not answer");
        family(encoder, misses, counter, load(&cache.misses))?;
        let (mut sent, mut failed) = (Samples::new(), Samples::new());
        for (server, count) in self.forwarder.counts() {
            sent.push((vec![("to", server.to_string())], count.requests));
            failed.push((vec![("to", server.to_string())], count.failures));
        }
        family(encoder, ("fairlead_dns_forward_requests", "Questions sent upstream"), counter, sent)?;
        let failures = ("fairlead_dns_forward_failures", "Questions sent upstream without a usable answer");
        family(encoder, failures, counter, failed)?;
        let refused = ("fairlead_dns_forward_refused", "Questions not sent: too many were under way");
        family(encoder, refused, counter, load(&self.forwarder.refused))?;
        let configs = ("fairlead_dns_config_refused", "Contents of the ConfigMap that were not taken");
        family(encoder, configs, counter, load(&self.metrics.refused_configs))?;
        let (services, namespaces) = self.zone.read().sizes();
        for (name, help, value) in [
            ("fairlead_dns_cache_entries", "Answers in the cache", entries),
            ("fairlead_dns_cache_octets", "Octets of the answers in the cache", octets),
            ("fairlead_dns_services", "Services with a name", services),
            ("fairlead_dns_namespaces", "Namespaces", namespaces),
            (
                "fairlead_dns_ready",
                "1 when all lists are in",
                usize::from(self.metrics.waiting_for().is_empty()),
            ),
        ] {
            family(encoder, (name, help), MetricType::Gauge, one(value as u64))?;
        }
        Ok(())
    }
}

impl Scrape {
    fn requests(&self) -> Samples {
        let mut samples = Samples::new();
        let kinds = KINDS.iter().map(|(_, name)| *name).chain(["other"]);
        let names = AREAS.iter().flat_map(|(_, area)| {
            let of_area = move |kind| RCODES.iter().map(move |(_, rcode)| (*area, kind, *rcode));
            kinds.clone().flat_map(of_area)
        });
        for ((area, kind, rcode), counter) in names.zip(&self.metrics.requests) {
            let count = counter.load(Ordering::Relaxed);
            if count > 0 {
                let labels = [("zone", area), ("type", kind), ("rcode", rcode)];
                samples.push((labels.map(|(name, value)| (name, value.to_owned())).to_vec(), count));
            }
        }
        samples
    }

    fn latency(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(
            "fairlead_dns_request_duration_seconds",
            "Time from taking a query to sending its answer",
            None,
            MetricType::Histogram,
        )?;
        for (path, latency) in [("memory", &self.metrics.memory), ("upstream", &self.metrics.upstream)] {
            let bounds = BUCKETS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::INFINITY]);
            let counts = latency.buckets.iter().map(|counter| counter.load(Ordering::Relaxed));
            let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
            let total = buckets.iter().map(|(_, count)| count).sum();
            let sum = latency.nanoseconds.load(Ordering::Relaxed) as f64 / 1e9;
            let labels = [("path", path)];
            let mut family = metric.encode_family(&labels)?;
            family.encode_histogram::<[(&str, &str); 0]>(sum, total, &buckets, None)?;
        }
        Ok(())
    }
}

struct Endpoint {
    metrics: Arc<Metrics>,
    registry: Registry,
}

/// Serves /metrics, /healthz and /readyz until `shutdown` is cancelled.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: tokio::net::TcpListener,
    metrics: Arc<Metrics>,
    forwarder: Arc<Forwarder>,
    zone: Arc<RwLock<Zone>>,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape { metrics: metrics.clone(), forwarder, zone }));
    let router = Router::new()
        .route("/metrics", get(text))
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(readyz))
        .with_state(Arc::new(Endpoint { metrics, registry }));
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

/// Binds the address of [`serve`].
///
/// # Errors
/// What the system says.
pub async fn listen(address: SocketAddr) -> std::io::Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::bind(address).await
}

async fn text(State(endpoint): State<Arc<Endpoint>>) -> impl IntoResponse {
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
    let waiting = endpoint.metrics.waiting_for();
    if waiting.is_empty() {
        (StatusCode::OK, "ok".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for the lists of {}", waiting.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_answered_is_told_in_prometheus_text() {
        let metrics = Arc::new(Metrics::new(&["services"]));
        metrics.answered(Area::Cluster, kind::A, Rcode::NoError);
        metrics.answered(Area::Cluster, kind::A, Rcode::NoError);
        metrics.answered(Area::Upstream, 0, Rcode::FormErr);
        metrics.took(Path::Memory, Duration::from_micros(30), 2);
        metrics.took(Path::Upstream, Duration::from_secs(9), 1);
        let mut registry = Registry::default();
        let zone = Zone::new(crate::name::Name::parse("cluster.local").expect("a name"));
        registry.register_collector(Box::new(Scrape {
            metrics: metrics.clone(),
            forwarder: Arc::new(Forwarder::new(crate::config::Routes::default())),
            zone: Arc::new(RwLock::new(zone)),
        }));
        let mut text = String::new();
        encode(&mut text, &registry).expect("text");
        for line in [
            r#"fairlead_dns_requests_total{zone="cluster",type="A",rcode="NOERROR"} 2"#,
            r#"fairlead_dns_requests_total{zone="upstream",type="other",rcode="FORMERR"} 1"#,
            r#"fairlead_dns_request_duration_seconds_count{path="memory"} 2"#,
            r#"fairlead_dns_request_duration_seconds_bucket{le="0.000025",path="memory"} 0"#,
            r#"fairlead_dns_request_duration_seconds_bucket{le="0.00005",path="memory"} 2"#,
            r#"fairlead_dns_request_duration_seconds_bucket{le="+Inf",path="upstream"} 1"#,
            "fairlead_dns_cache_entries{} 0",
            "fairlead_dns_ready{} 0",
        ] {
            assert!(text.lines().any(|one| one == line), "no {line} in\n{text}");
        }
        assert_eq!(metrics.waiting_for(), ["services"]);
        assert!(metrics.listed("services") && !metrics.listed("services"));
    }
}
