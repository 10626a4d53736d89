//! Counters of the kubelet, in Prometheus' text format.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// The step that failed or was timed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Operation {
    /// Its name.
    pub operation_type: String,
}

/// All counters; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// Pods that have a running sandbox.
    pub running_pods: Gauge,
    /// Containers started.
    pub started_containers: Counter,
    /// Pods whose worker is at work, started so far.
    pub started_pods: Counter,
    /// Failures by operation.
    pub runtime_errors: Family<Operation, Counter>,
    /// Seconds that one look at a pod took.
    pub sync_seconds: Histogram,
    resident: Gauge<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let metrics = Self {
            registry: Arc::default(),
            running_pods: Gauge::default(),
            started_containers: Counter::default(),
            started_pods: Counter::default(),
            runtime_errors: Family::default(),
            sync_seconds: Histogram::new(exponential_buckets(0.001, 4.0, 9)),
            resident: Gauge::default(),
        };
        let r = &mut registry;
        r.register("kubelet_running_pods", "Pods that have a running sandbox", metrics.running_pods.clone());
        r.register("kubelet_started_containers", "Containers started", metrics.started_containers.clone());
        r.register("kubelet_started_pods", "Pods taken on", metrics.started_pods.clone());
        r.register(
            "kubelet_runtime_operations_errors",
            "Failures by operation",
            metrics.runtime_errors.clone(),
        );
        r.register_with_unit(
            "kubelet_pod_worker_duration",
            "Time of one look at a pod",
            Unit::Seconds,
            metrics.sync_seconds.clone(),
        );
        r.register("process_resident_memory_bytes", "Resident memory", metrics.resident.clone());
        Self { registry: Arc::new(registry), ..metrics }
    }
}

impl Metrics {
    /// Notes that an operation failed.
    pub fn failed(&self, operation: &str) {
        self.runtime_errors.get_or_create(&Operation { operation_type: operation.to_owned() }).inc();
    }

    /// Everything as text.
    ///
    /// # Errors
    /// Never in practice: writing to a string cannot fail.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a gauge of bytes; 2^52 is far beyond any resident set"
        )]
        self.resident.set(resident_bytes() as f64);
        let mut out = String::new();
        prometheus_client::encoding::text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

/// Resident memory of this process.
#[must_use]
pub fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * 4096
}
