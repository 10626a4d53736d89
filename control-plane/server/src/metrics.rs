//! Metrics in the Prometheus text format, under upstream's names.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc, time::Duration};

use fairlead_api::kind::Kind;
use parking_lot::Mutex;

use crate::{cache::Caches, info::Info};

/// Upstream's buckets of request durations, in seconds.
const BUCKETS: [f64; 18] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0];

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Labels {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
}

#[derive(Default)]
struct Histogram {
    buckets: [u64; BUCKETS.len()],
    count: u64,
    sum: f64,
}

#[derive(Default)]
struct State {
    requests: BTreeMap<(Labels, u16), u64>,
    durations: BTreeMap<Labels, Histogram>,
    long_running: BTreeMap<Labels, i64>,
    watchers: BTreeMap<(&'static str, &'static str, &'static str), i64>,
}

/// All counters of one server.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Mutex<State>>);

/// A watcher that is counted as long as this lives.
pub struct Registered(Metrics, (&'static str, &'static str, &'static str));

impl Drop for Registered {
    fn drop(&mut self) {
        *self.0.0.lock().watchers.entry(self.1).or_default() -= 1;
    }
}

/// A request that is counted when it ends.
pub struct Running {
    metrics: Metrics,
    labels: Labels,
    long: bool,
    since: std::time::Instant,
}

impl Running {
    /// Whether it may last for as long as the client likes.
    pub fn is_long(&self) -> bool {
        self.long
    }

    /// The request was answered with this code.
    pub fn answered(&self, code: u16) {
        let mut state = self.metrics.0.lock();
        *state.requests.entry((self.labels.clone(), code)).or_default() += 1;
        if !self.long {
            let histogram = state.durations.entry(self.labels.clone()).or_default();
            let seconds = self.since.elapsed().as_secs_f64();
            for (bucket, limit) in histogram.buckets.iter_mut().zip(BUCKETS) {
                *bucket += u64::from(seconds <= limit);
            }
            histogram.count += 1;
            histogram.sum += seconds;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.long {
            *self.metrics.0.lock().long_running.entry(self.labels.clone()).or_default() -= 1;
        }
    }
}

impl Metrics {
    /// Starts to count a request. `known` is false for resources that do not exist, which share one label.
    pub fn begin(&self, info: &Info, known: bool) -> Running {
        let resource = info.resource.as_ref().filter(|_| known);
        let text =
            |part: fn(&crate::info::Resource) -> &String| resource.map(part).cloned().unwrap_or_default();
        let scope = match resource {
            None => "",
            Some(r) if !r.name.is_empty() => "resource",
            Some(r) if !r.namespace.is_empty() => "namespace",
            Some(_) => "cluster",
        };
        let labels = Labels {
            verb: verb(info.verb),
            group: text(|r| &r.group),
            version: text(|r| &r.version),
            resource: text(|r| &r.plural),
            subresource: text(|r| &r.subresource),
            scope,
        };
        let long = info.long_running();
        if long {
            *self.0.lock().long_running.entry(labels.clone()).or_default() += 1;
        }
        Running { metrics: self.clone(), labels, long, since: std::time::Instant::now() }
    }

    /// Counts a watcher.
    pub fn watcher(&self, kind: &'static Kind) -> Registered {
        let key = (kind.group, kind.version, kind.kind);
        *self.0.lock().watchers.entry(key).or_default() += 1;
        Registered(self.clone(), key)
    }

    /// Everything as text.
    pub fn text(&self, caches: &Caches, store_bytes: u64, started: Duration) -> String {
        let mut out = String::with_capacity(16 << 10);
        self.requests(&mut out);
        let head = |out: &mut String, name: &str, kind: &str, help: &str| {
            let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        };
        head(&mut out, "apiserver_storage_objects", "gauge", "Objects that are stored, by resource.");
        let mut sizes: Vec<(String, usize)> = caches
            .all()
            .map(|cache| (fairlead_api::status::qualified(cache.kind.group, cache.kind.plural), cache.len()))
            .collect();
        sizes.sort();
        for (resource, count) in sizes {
            let _ = writeln!(out, "apiserver_storage_objects{{resource={resource:?}}} {count}");
        }
        head(&mut out, "apiserver_storage_size_bytes", "gauge", "Size of the store.");
        let _ = writeln!(out, "apiserver_storage_size_bytes {store_bytes}");
        head(
            &mut out,
            "apiserver_cache_revision",
            "gauge",
            "Store revision that the watch caches have reached.",
        );
        let _ = writeln!(out, "apiserver_cache_revision {}", caches.applied());
        head(&mut out, "process_start_time_seconds", "gauge", "Start of the process since the epoch.");
        let _ = writeln!(out, "process_start_time_seconds {}", started.as_secs());
        if let Some(rss) = resident_bytes() {
            head(&mut out, "process_resident_memory_bytes", "gauge", "Resident memory size.");
            let _ = writeln!(out, "process_resident_memory_bytes {rss}");
        }
        out
    }

    fn requests(&self, out: &mut String) {
        let state = self.0.lock();
        out.push_str("# HELP apiserver_request_total Requests by verb, resource and code.\n# TYPE apiserver_request_total counter\n");
        for ((labels, code), count) in &state.requests {
            let _ = writeln!(out, "apiserver_request_total{{code=\"{code}\",{}}} {count}", labels.text());
        }
        out.push_str("# HELP apiserver_request_duration_seconds Time to answer.\n# TYPE apiserver_request_duration_seconds histogram\n");
        for (labels, histogram) in &state.durations {
            let labels = labels.text();
            let name = "apiserver_request_duration_seconds";
            for (limit, count) in BUCKETS.iter().zip(histogram.buckets) {
                let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{limit}\"}} {count}");
            }
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", histogram.count);
            let _ = writeln!(out, "{name}_sum{{{labels}}} {}", histogram.sum);
            let _ = writeln!(out, "{name}_count{{{labels}}} {}", histogram.count);
        }
        out.push_str("# HELP apiserver_longrunning_requests Watches and streams that are open.\n# TYPE apiserver_longrunning_requests gauge\n");
        for (labels, count) in &state.long_running {
            let _ = writeln!(out, "apiserver_longrunning_requests{{{}}} {count}", labels.text());
        }
        out.push_str("# HELP apiserver_registered_watchers Watchers by resource.\n# TYPE apiserver_registered_watchers gauge\n");
        for ((group, version, kind), count) in &state.watchers {
            let _ = writeln!(
                out,
                "apiserver_registered_watchers{{group={group:?},version={version:?},kind={kind:?}}} {count}"
            );
        }
    }
}

impl Labels {
    fn text(&self) -> String {
        format!(
            "group={:?},resource={:?},scope={:?},subresource={:?},verb={:?},version={:?}",
            self.group, self.resource, self.scope, self.subresource, self.verb, self.version
        )
    }
}

/// Upstream counts some verbs under the name of their method.
fn verb(verb: &str) -> String {
    match verb {
        "create" => "POST".into(),
        "update" => "PUT".into(),
        other => other.to_uppercase(),
    }
}

/// Resident memory of this process (`/proc/self/statm`, in pages of 4 KiB).
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    text.split_whitespace().nth(1)?.parse::<u64>().ok().map(|pages| pages * 4096)
}
