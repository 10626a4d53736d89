use std::collections::BTreeSet;

use fairlead_api::{discovery, kinds, openapi, table};
use serde_json::Value;

/// Every `$ref` in a document.
fn references(value: &Value, out: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(text)) = map.get("$ref") {
                out.insert(text.rsplit('/').next().unwrap_or_default().to_owned());
            }
            map.values().for_each(|v| references(v, out));
        }
        Value::Array(list) => list.iter().for_each(|v| references(v, out)),
        _ => {}
    }
}

#[test]
fn openapi_v3_describes_every_kind_as_kubectl_looks_for_it() {
    for (group, versions) in discovery::groups() {
        for version in versions {
            let doc = openapi::v3(group, version).expect("a document");
            let mut found = BTreeSet::new();
            references(&doc, &mut found);
            for name in found {
                assert!(doc["components"]["schemas"].get(&name).is_some(), "{group}/{version}: {name}");
            }
        }
    }
    let apps = openapi::v3("apps", "v1").expect("a document");
    let patch = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
    assert!(patch["requestBody"]["content"].get("application/strategic-merge-patch+json").is_some());
    let names: Vec<&str> =
        patch["parameters"].as_array().into_iter().flatten().filter_map(|p| p["name"].as_str()).collect();
    assert!(names.contains(&"fieldValidation"), "{names:?}");
    let spec = &apps["components"]["schemas"]["io.k8s.api.apps.v1.DeploymentSpec"];
    assert_eq!(spec["properties"]["strategy"]["x-kubernetes-patch-strategy"], "retainKeys");
    assert_eq!(spec["properties"]["strategy"]["default"], serde_json::json!({}));
    assert!(
        spec["properties"]["replicas"]["description"]
            .as_str()
            .is_some_and(|d| d.starts_with("Number of desired pods"))
    );
    assert!(openapi::v3("apps", "v9").is_none());
}

#[test]
fn the_index_names_every_document_by_its_content() {
    let index = openapi::index();
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap_or_default();
    assert!(url.starts_with("/openapi/v3/apis/apps/v1?hash="), "{url}");
    assert_ne!(index["paths"]["api/v1"], index["paths"]["apis/apps/v1"]);
}

#[test]
fn openapi_v2_holds_all_definitions() {
    let doc = openapi::v2();
    let mut found = BTreeSet::new();
    references(&doc, &mut found);
    for name in found {
        assert!(doc["definitions"].get(&name).is_some(), "{name}");
    }
    assert_eq!(doc["swagger"], "2.0");
}

#[test]
fn discovery_shows_subresources_with_their_own_kinds() {
    let apps = discovery::resource_list("apps", "v1").expect("served");
    let scale = apps["resources"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|r| r["name"] == "deployments/scale")
        .expect("scale");
    assert_eq!((&scale["group"], &scale["kind"]), (&Value::from("autoscaling"), &Value::from("Scale")));
    let all = discovery::aggregated(false, discovery::Aggregated::V2);
    assert_eq!(all["apiVersion"], "apidiscovery.k8s.io/v2");
    let autoscaling = discovery::group("autoscaling").expect("served");
    assert_eq!(autoscaling["preferredVersion"]["version"], "v2");
    assert!(discovery::resource_list("apps", "v2").is_none());
}

#[test]
fn every_kind_prints_as_many_cells_as_it_has_columns() {
    let printing = fairlead_api::kind::Printing { now: 0 };
    for kind in kinds::REGISTRY {
        let object = serde_json::json!({"metadata": {"name": "x"}});
        let cells = (kind.cells)(&object, &printing).len();
        assert_eq!(cells, table::columns(kind).len(), "{}/{} {}", kind.group, kind.version, kind.kind);
    }
}
