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
    let summary = json!({"node": {"nodeName": shared.args.node_name}, "pods": pods});
    answer::json_value(StatusCode::OK, &summary)
}
