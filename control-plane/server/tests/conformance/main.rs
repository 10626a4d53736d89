//! Every registered kind, one row each, over the server's TLS listener: what a client sees of create, defaults,
//! refusals, get, list, table, watch, the four patches, status, dry run, finalizers and deletion.
//!
//! Which of these a kind takes part in follows from its descriptor alone.

#[path = "../running/mod.rs"]
mod running;

mod check;

use std::{collections::BTreeMap, sync::Arc};

use fairlead_api::{decode, kind::Kind, kinds::REGISTRY};
use futures::StreamExt;
use running::{Directory, Running};
use serde::Deserialize;
use serde_json::{Value, json};

const ROWS: &str = include_str!("rows.yaml");
/// Kinds under way at once.
const AT_ONCE: usize = 8;

/// What the checks know of one kind; `rows.yaml` says what the fields mean.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    body: Value,
    #[serde(default)]
    before: Vec<Value>,
    #[serde(default)]
    defaults: BTreeMap<String, Value>,
    #[serde(default)]
    invalid: Vec<(String, Value, String)>,
    #[serde(default = "unprocessable")]
    code: u16,
    change: Option<(String, Value, Value)>,
    #[serde(default)]
    fixed: Vec<(String, Value, String)>,
    status: Option<Value>,
}

fn unprocessable() -> u16 {
    422
}

fn rows() -> BTreeMap<String, Row> {
    let tree = decode::yaml(ROWS.as_bytes()).unwrap();
    assert_eq!(tree.strict, Vec::<String>::new(), "a kind has two rows");
    serde_json::from_value(tree.value).unwrap()
}

fn label(kind: &Kind) -> String {
    format!("{}/{}", kind.api_version(), kind.kind)
}

#[test]
fn every_registered_kind_has_a_row_and_every_row_a_kind() {
    let rows = rows();
    let kinds: Vec<String> = REGISTRY.iter().map(|kind| label(kind)).collect();
    let without: Vec<&String> = kinds.iter().filter(|kind| !rows.contains_key(*kind)).collect();
    let unknown: Vec<&String> = rows.keys().filter(|row| !kinds.contains(row)).collect();
    assert!(without.is_empty() && unknown.is_empty(), "without a row: {without:?}; no kind: {unknown:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_registered_kind_behaves_as_its_descriptor_says() {
    let directory = Directory::new("conformance");
    let server = Arc::new(Running::start(&directory.0).await);
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": check::NAMESPACE}});
    server.post("/api/v1/namespaces", &namespace, 201).await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    server.post(&format!("/api/v1/namespaces/{}/serviceaccounts", check::NAMESPACE), &account, 201).await;
    let checks = rows().into_iter().filter_map(|(name, row)| {
        let kind = REGISTRY.iter().copied().find(|kind| label(kind) == name)?;
        let server = server.clone();
        Some(async move { check::kind(&server, kind, &row).await.err().map(|e| format!("{name}: {e:#}")) })
    });
    let failures: Vec<String> = futures::stream::iter(checks)
        .buffer_unordered(AT_ONCE)
        .filter_map(|failure| async { failure })
        .collect()
        .await;
    Arc::into_inner(server).expect("no check is under way").stop().await;
    assert!(failures.is_empty(), "{} kinds differ:\n{}", failures.len(), failures.join("\n"));
}
