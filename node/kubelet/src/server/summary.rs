//! `/stats/summary`: what containers use, as metrics pipelines read it.

use std::collections::HashMap;

use futures::StreamExt as _;
use http::{Response, StatusCode};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::answer::{self, Body};
use crate::clock;
use crate::docker::labels;
use crate::pod::manager::Manager;

/// Containers read at the same time.
const PARALLEL: usize = 4;

/// Answers the request.
pub async fn answer(manager: &Manager) -> Response<Body> {
    let shared = manager.shared();
    let listed = match shared.engine.list(None).await {
        Ok(listed) => listed,
        Err(error) => return answer::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    let now = Time(clock::now());
    let before = busy();
    let running = listed.into_iter().filter(|entry| {
        entry.running && entry.labels.get(labels::TYPE).map(String::as_str) == Some(labels::TYPE_CONTAINER)
    });
    let readings: Vec<_> = futures::stream::iter(running)
        .map(|entry| async {
            let stats = shared.engine.stats(&entry.id).await.ok()?;
            Some((entry, stats))
        })
        .buffer_unordered(PARALLEL)
        .filter_map(|reading| async { reading })
        .collect()
        .await;
    let mut pods: HashMap<String, (Value, Vec<Value>)> = HashMap::new();
    for (entry, stats) in readings {
        let cpu =
            stats.cpu_stats.and_then(|cpu| cpu.cpu_usage).and_then(|usage| usage.total_usage).unwrap_or(0);
        let memory = stats.memory_stats.and_then(|memory| memory.usage).unwrap_or(0);
        let name = entry.labels.get(labels::CONTAINER_NAME).cloned().unwrap_or_default();
        let reference =
            json!({"name": entry.owner.name, "namespace": entry.owner.namespace, "uid": entry.owner.uid});
        let container = json!({"name": name,
            "cpu": {"time": now, "usageCoreNanoSeconds": cpu},
            "memory": {"time": now, "usageBytes": memory, "workingSetBytes": memory}});
        pods.entry(entry.owner.uid).or_insert_with(|| (reference, Vec::new())).1.push(container);
    }
    let pods: Vec<Value> = pods
        .into_values()
        .map(|(reference, containers)| json!({"podRef": reference, "containers": containers}))
        .collect();
    let mut node = json!({"nodeName": shared.args.node_name});
    if let Some(memory) = read("/proc/meminfo").as_deref().and_then(memory) {
        node["memory"] = memory;
        node["memory"]["time"] = json!(now);
    }
    if let (Some(before), Some(after)) = (before, busy()) {
        let later = clock::now();
        let seconds = clock::seconds_between(now.0, later);
        node["cpu"] = json!({"time": Time(later), "usageCoreNanoSeconds": after});
        if seconds > 0.0 {
            // The rate while the containers were read.
            node["cpu"]["usageNanoCores"] = json!((after.saturating_sub(before) as f64 / seconds) as u64);
        }
    }
    let summary = json!({"node": node, "pods": pods});
    answer::json_value(StatusCode::OK, &summary)
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// Nanoseconds that the cores were busy since the machine started.
fn busy() -> Option<u64> {
    busy_of(&read("/proc/stat")?)
}

fn busy_of(stat: &str) -> Option<u64> {
    /// `USER_HZ` is 100 on every Linux.
    const TICK: u64 = 10_000_000;
    let cores = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = cores.split_whitespace().map_while(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq (proc(5)).
    let all: u64 = ticks.iter().take(7).sum();
    Some((all - ticks.get(3..5)?.iter().sum::<u64>()) * TICK)
}

/// What the node uses: all but what is free, of which the working set is what cannot be given back.
fn memory(meminfo: &str) -> Option<Value> {
    let bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    let (total, free, available) = (bytes("MemTotal")?, bytes("MemFree")?, bytes("MemAvailable")?);
    Some(json!({
        "availableBytes": available,
        "usageBytes": total.saturating_sub(free),
        "workingSetBytes": total.saturating_sub(available),
        "rssBytes": bytes("AnonPages")?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_use_is_what_its_kernel_says() {
        let stat = "cpu  100 20 30 1000 50 6 7 8 0 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n";
        assert_eq!(busy_of(stat), Some(1_630_000_000));
        let meminfo = "MemTotal: 8000 kB\nMemFree: 1000 kB\nMemAvailable:   5000 kB\nAnonPages: 700 kB\n";
        let memory = memory(meminfo).expect("a whole text");
        assert_eq!(memory["availableBytes"], 5000 * 1024);
        assert_eq!(memory["workingSetBytes"], 3000 * 1024);
        assert_eq!(memory["usageBytes"], 7000 * 1024);
        assert_eq!(memory["rssBytes"], 700 * 1024);
        assert_eq!(super::memory("MemTotal: 8000 kB\n"), None);
    }
}
