//! Metrics in the Prometheus text format, under upstream's names and labels.

use std::{
    collections::HashMap,
    fmt::{Display, Write as _},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use fairlead_api::kind::{Act, Kind};
use parking_lot::Mutex;

use crate::{
    cache::Caches,
    info::{Info, Params},
};

/// Upstream's buckets of durations, in seconds: of requests, and of calls of the store.
const SECONDS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];
/// The paths without a resource that requests are counted by; others share the empty one.
const PATHS: [&str; 9] =
    ["/healthz", "/livez", "/readyz", "/metrics", "/version", "/api", "/apis", "/openapi/v2", "/openapi/v3"];

/// The labels of a request. They come from the registry, never from what a client sent: a series for every path that
/// somebody makes up would grow without end.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Labels {
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
    scope: &'static str,
    verb: &'static str,
    version: &'static str,
    dry_run: &'static str,
}

struct Histogram {
    limits: &'static [f64],
    buckets: Vec<u64>,
    count: u64,
    sum: f64,
}

impl Histogram {
    fn new(limits: &'static [f64]) -> Self {
        Histogram { limits, buckets: vec![0; limits.len()], count: 0, sum: 0.0 }
    }

    fn add(&mut self, seconds: f64) {
        // Each observation is kept in the first bucket that holds it; they are summed when they are shown.
        let at = self.limits.partition_point(|limit| *limit < seconds);
        if let Some(bucket) = self.buckets.get_mut(at) {
            *bucket += 1;
        }
        self.count += 1;
        self.sum += seconds;
    }
}

struct Series {
    codes: Vec<(u16, u64)>,
    durations: Histogram,
}

#[derive(Default)]
struct State {
    requests: HashMap<Labels, Series>,
    long_running: HashMap<Labels, i64>,
    watches: HashMap<Watched, Arc<Watches>>,
    store: HashMap<(&'static str, &'static str), Histogram>,
    failures: HashMap<(&'static str, &'static str), u64>,
}

/// Group, version and kind of a watch.
type Watched = (&'static str, &'static str, &'static str);

#[derive(Default)]
struct Watches {
    open: AtomicI64,
    events: AtomicU64,
    bytes: AtomicU64,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    reading: AtomicI64,
    writing: AtomicI64,
}

/// All counters of one server.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Inner>);

/// A watcher that is counted as long as this lives.
pub struct Registered(Arc<Watches>);

impl Registered {
    /// Events that were sent, and their bytes.
    pub fn sent(&self, events: usize, bytes: usize) {
        self.0.events.fetch_add(events as u64, Relaxed);
        self.0.bytes.fetch_add(bytes as u64, Relaxed);
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

/// A request that is counted when it ends.
pub struct Running {
    metrics: Metrics,
    labels: Labels,
    long: bool,
    writes: bool,
    since: Instant,
}

impl Running {
    /// Whether it may last for as long as the client likes.
    pub fn is_long(&self) -> bool {
        self.long
    }

    /// The request was answered with this code.
    pub fn answered(&self, code: u16) {
        let seconds = self.since.elapsed().as_secs_f64();
        let mut state = self.metrics.0.state.lock();
        let series = state
            .requests
            .entry(self.labels)
            .or_insert_with(|| Series { codes: Vec::new(), durations: Histogram::new(SECONDS) });
        match series.codes.iter_mut().find(|(own, _)| *own == code) {
            Some((_, count)) => *count += 1,
            None => series.codes.push((code, 1)),
        }
        if !self.long {
            series.durations.add(seconds);
        }
    }

    fn flying(&self) -> &AtomicI64 {
        if self.writes { &self.metrics.0.writing } else { &self.metrics.0.reading }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.long {
            *self.metrics.0.state.lock().long_running.entry(self.labels).or_default() -= 1;
        } else {
            self.flying().fetch_sub(1, Relaxed);
        }
    }
}

impl Metrics {
    /// Starts to count a request; `kind` is the resource that it names, if it is served.
    pub fn begin(&self, info: &Info, kind: Option<&'static Kind>, params: &Params, apply: bool) -> Running {
        let labels = labels(info, kind, params, apply);
        let long = info.long_running();
        let writes = !matches!(info.verb, "get" | "list" | "watch" | "head");
        let running = Running { metrics: self.clone(), labels, long, writes, since: Instant::now() };
        if long {
            *self.0.state.lock().long_running.entry(labels).or_default() += 1;
        } else {
            running.flying().fetch_add(1, Relaxed);
        }
        running
    }

    /// Counts a watcher.
    pub fn watcher(&self, kind: &'static Kind) -> Registered {
        let key = (kind.group, kind.version, kind.kind);
        let watches = self.0.state.lock().watches.entry(key).or_default().clone();
        watches.open.fetch_add(1, Relaxed);
        Registered(watches)
    }

    /// Counts a call of the store.
    pub fn stored(&self, operation: &'static str, resource: &'static str, since: Instant, failed: bool) {
        let mut state = self.0.state.lock();
        let key = (operation, resource);
        state.store.entry(key).or_insert_with(|| Histogram::new(SECONDS)).add(since.elapsed().as_secs_f64());
        if failed {
            *state.failures.entry(key).or_default() += 1;
        }
    }

    /// Everything as text.
    pub fn text(&self, caches: &Caches, store_bytes: u64, started: Duration) -> String {
        let mut out = Text(String::with_capacity(32 << 10));
        self.requests(&mut out);
        self.watches(&mut out);
        self.store(&mut out, caches, store_bytes);
        out.family("kubernetes_build_info", "gauge", "What this server was built from.");
        let (major, minor, version) = ("1", "36", crate::discover::GIT_VERSION);
        out.sample(
            "kubernetes_build_info",
            &[("git_version", version), ("major", major), ("minor", minor)],
            1,
        );
        out.process(started);
        out.0
    }

    fn requests(&self, out: &mut Text) {
        let state = self.0.state.lock();
        let mut all: Vec<_> = state.requests.iter().collect();
        all.sort_by_key(|(labels, _)| **labels);
        out.family("apiserver_request_total", "counter", "Requests by verb, resource and code.");
        for (labels, series) in &all {
            for (code, count) in &series.codes {
                let code = code.to_string();
                out.sample("apiserver_request_total", &with(labels.pairs(true), "code", &code), count);
            }
        }
        let name = "apiserver_request_duration_seconds";
        out.family(name, "histogram", "Time until a request was answered.");
        for (labels, series) in all.iter().filter(|(_, series)| series.durations.count > 0) {
            out.histogram(name, &labels.pairs(true), &series.durations);
        }
        let name = "apiserver_longrunning_requests";
        out.family(name, "gauge", "Watches and streams that are open.");
        let mut long: Vec<_> = state.long_running.iter().collect();
        long.sort();
        for (labels, count) in long {
            out.sample(name, &labels.pairs(false), count);
        }
        let name = "apiserver_current_inflight_requests";
        out.family(name, "gauge", "Requests that are worked on.");
        for (kind, count) in [("mutating", &self.0.writing), ("readOnly", &self.0.reading)] {
            out.sample(name, &[("request_kind", kind)], count.load(Relaxed));
        }
    }

    fn watches(&self, out: &mut Text) {
        let mut all: Vec<_> =
            self.0.state.lock().watches.iter().map(|(key, watches)| (*key, watches.clone())).collect();
        all.sort_by_key(|(key, _)| *key);
        type Value = fn(&Watches) -> i64;
        let families: [(&str, &str, &str, Value); 3] = [
            ("apiserver_registered_watchers", "gauge", "Watchers that are open.", |w| w.open.load(Relaxed)),
            ("apiserver_watch_events_total", "counter", "Events sent to watchers.", |w| {
                w.events.load(Relaxed).cast_signed()
            }),
            ("apiserver_watch_events_bytes_total", "counter", "Bytes of the events sent to watchers.", |w| {
                w.bytes.load(Relaxed).cast_signed()
            }),
        ];
        for (name, kind, help, value) in families {
            out.family(name, kind, help);
            for ((group, version, kind), watches) in &all {
                out.sample(name, &[("group", *group), ("kind", kind), ("version", version)], value(watches));
            }
        }
    }

    fn store(&self, out: &mut Text, caches: &Caches, bytes: u64) {
        let mut sizes: Vec<(&Kind, usize)> = caches.all().map(|cache| (cache.kind, cache.len())).collect();
        sizes.sort_by_key(|(kind, _)| (kind.group, kind.plural));
        out.family("apiserver_resource_objects", "gauge", "Objects that are stored.");
        for (kind, count) in &sizes {
            let labels = [("group", kind.group), ("resource", kind.plural)];
            out.sample("apiserver_resource_objects", &labels, count);
        }
        out.family("apiserver_storage_objects", "gauge", "Objects that are stored, by qualified resource.");
        for (kind, count) in &sizes {
            let resource = fairlead_api::status::qualified(kind.group, kind.plural);
            out.sample("apiserver_storage_objects", &[("resource", &resource)], count);
        }
        out.family("apiserver_storage_size_bytes", "gauge", "Size of the store.");
        out.sample("apiserver_storage_size_bytes", &[("storage_cluster_id", "etcd-0")], bytes);
        out.family("apiserver_cache_revision", "gauge", "Store revision that the watch caches have reached.");
        out.sample("apiserver_cache_revision", &[], caches.applied());
        let state = self.0.state.lock();
        let mut calls: Vec<_> = state.store.iter().collect();
        calls.sort_by_key(|(key, _)| **key);
        fn pairs(key: &(&'static str, &'static str)) -> [(&'static str, &'static str); 2] {
            [("operation", key.0), ("resource", key.1)]
        }
        out.family("etcd_requests_total", "counter", "Calls of the store.");
        for (key, histogram) in &calls {
            out.sample("etcd_requests_total", &pairs(key), histogram.count);
        }
        out.family("etcd_request_errors_total", "counter", "Calls of the store that failed.");
        for (key, _) in &calls {
            let failed = state.failures.get(*key).copied().unwrap_or(0);
            out.sample("etcd_request_errors_total", &pairs(key), failed);
        }
        out.family("etcd_request_duration_seconds", "histogram", "Time of a call of the store.");
        for (key, histogram) in &calls {
            out.histogram("etcd_request_duration_seconds", &pairs(key), histogram);
        }
    }
}

type Pair<'a> = (&'a str, &'a str);

fn with<'a>(mut pairs: Vec<Pair<'a>>, name: &'a str, value: &'a str) -> Vec<Pair<'a>> {
    pairs.push((name, value));
    pairs.sort_unstable();
    pairs
}

impl Labels {
    fn pairs(&self, dry_run: bool) -> Vec<Pair<'static>> {
        let mut pairs = vec![("component", "apiserver")];
        if dry_run {
            pairs.push(("dry_run", self.dry_run));
        }
        pairs.extend([
            ("group", self.group),
            ("resource", self.resource),
            ("scope", self.scope),
            ("subresource", self.subresource),
            ("verb", self.verb),
            ("version", self.version),
        ]);
        pairs
    }
}

fn labels(info: &Info, kind: Option<&'static Kind>, params: &Params, apply: bool) -> Labels {
    let dry_run = if params.all("dryRun").any(|value| value == "All") { "All" } else { "" };
    let Some(resource) = &info.resource else {
        let path = PATHS.iter().find(|path| **path == info.path.trim_end_matches('/'));
        return Labels {
            subresource: path.copied().unwrap_or_default(),
            verb: verb(info.verb),
            ..Labels::default()
        };
    };
    let sub = kind.and_then(|kind| kind.subresources.iter().find(|sub| sub.name == resource.subresource));
    // A subresource that does not exist makes no series of its own either.
    let Some(kind) = kind.filter(|_| resource.subresource.is_empty() || sub.is_some()) else {
        return Labels { verb: verb(info.verb), ..Labels::default() };
    };
    let connects =
        sub.is_some_and(|sub| matches!(sub.act, Act::Exec | Act::Attach | Act::PortForward | Act::Proxy));
    Labels {
        group: kind.group,
        version: kind.version,
        resource: kind.plural,
        subresource: sub.map_or("", |sub| sub.name),
        scope: match (resource.name.is_empty(), resource.namespace.is_empty()) {
            (false, _) => "resource",
            _ if info.verb == "create" => "resource",
            (true, false) => "namespace",
            (true, true) => "cluster",
        },
        verb: match info.verb {
            _ if connects => "CONNECT",
            "patch" if apply => "APPLY",
            other => verb(other),
        },
        dry_run,
    }
}

/// Upstream counts some verbs under the name of their method.
fn verb(verb: &str) -> &'static str {
    match verb {
        "get" => "GET",
        "head" => "HEAD",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        _ => "OTHER",
    }
}

/// The text format.
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[Pair<'_>], value: impl Display) {
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}={text:?}", if i == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn histogram(&mut self, name: &str, labels: &[Pair<'_>], histogram: &Histogram) {
        let (bucket, mut below) = (format!("{name}_bucket"), 0);
        for (limit, count) in histogram.limits.iter().zip(&histogram.buckets) {
            below += count;
            let limit = limit.to_string();
            self.sample(&bucket, &with(labels.to_vec(), "le", &limit), below);
        }
        self.sample(&bucket, &with(labels.to_vec(), "le", "+Inf"), histogram.count);
        self.sample(&format!("{name}_sum"), labels, histogram.sum);
        self.sample(&format!("{name}_count"), labels, histogram.count);
    }

    /// What the kernel says of this process.
    fn process(&mut self, started: Duration) {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages = |at| statm.split_whitespace().nth(at).and_then(|n| n.parse::<u64>().ok());
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // What follows the command's name, which may hold anything: user and system ticks of 10 ms.
        let after = stat.rsplit_once(')').map(|(_, after)| after).unwrap_or_default();
        let ticks = |at| after.split_whitespace().nth(at).and_then(|n| n.parse::<u64>().ok());
        let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        self.family("process_start_time_seconds", "gauge", "Start of the process since the epoch.");
        self.sample("process_start_time_seconds", &[], started.as_secs());
        if let (Some(user), Some(system)) = (ticks(11), ticks(12)) {
            self.family("process_cpu_seconds_total", "counter", "Time on the processor, user and system.");
            self.sample("process_cpu_seconds_total", &[], (user + system) as f64 / 100.0);
        }
        let memory = [("process_virtual_memory_bytes", 0), ("process_resident_memory_bytes", 1)];
        for (name, at) in memory {
            if let Some(pages) = pages(at) {
                self.family(name, "gauge", "Memory of the process.");
                self.sample(name, &[], pages * 4096);
            }
        }
        self.family("process_open_fds", "gauge", "Open descriptors.");
        self.sample("process_open_fds", &[], files);
    }
}

#[cfg(test)]
mod tests {
    use fairlead_api::registry;
    use http::Method;

    use super::*;

    #[track_caller]
    fn check(method: Method, uri: &str, wanted: &str) {
        let (path, query) = uri.split_once('?').map_or((uri, None), |(path, query)| (path, Some(query)));
        let params = Params::parse(query);
        let info = Info::parse(&method, path, &params);
        let kind = info.resource.as_ref().and_then(|r| registry::find(&r.group, &r.version, &r.plural));
        let seen = labels(&info, kind, &params, false);
        let seen = [seen.verb, seen.group, seen.resource, seen.subresource, seen.scope, seen.dry_run];
        assert_eq!(seen.join(" "), wanted, "{method} {uri}");
    }

    #[test]
    fn requests_have_upstreams_labels_and_none_of_the_clients() {
        check(Method::GET, "/api/v1/namespaces/a/pods/p", "GET  pods  resource ");
        check(
            Method::POST,
            "/apis/apps/v1/namespaces/a/deployments?dryRun=All",
            "POST apps deployments  resource All",
        );
        check(Method::GET, "/api/v1/namespaces/a/pods?watch=1", "WATCH  pods  namespace ");
        check(Method::GET, "/api/v1/pods", "LIST  pods  cluster ");
        check(Method::POST, "/api/v1/namespaces/a/pods/p/exec", "CONNECT  pods exec resource ");
        check(Method::GET, "/api/v1/namespaces/a/pods/p/made-up", "GET     ");
        check(Method::GET, "/api/v1/namespaces/a/made-up", "LIST     ");
        check(Method::GET, "/readyz", "GET   /readyz  ");
        check(Method::GET, "/made-up", "GET     ");
    }

    #[test]
    fn an_observation_counts_in_every_bucket_that_holds_it() {
        let mut histogram = Histogram::new(&[1.0, 2.0, 4.0]);
        [0.5, 2.0, 3.0, 9.0].into_iter().for_each(|seconds| histogram.add(seconds));
        let mut out = Text(String::new());
        out.histogram("h", &[("a", "b")], &histogram);
        let wanted = "h_bucket{a=\"b\",le=\"1\"} 1\nh_bucket{a=\"b\",le=\"2\"} 2\nh_bucket{a=\"b\",le=\"4\"} 3\n\
                      h_bucket{a=\"b\",le=\"+Inf\"} 4\nh_sum{a=\"b\"} 14.5\nh_count{a=\"b\"} 4\n";
        assert_eq!(out.0, wanted);
    }
}
