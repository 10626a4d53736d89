use fairlead_api::{kinds, registry, schema};
use serde_json::{Value, json};

#[track_caller]
fn normal(name: &str, mut value: Value) -> Value {
    schema::normalize(schema::of(name).expect("a type"), &mut value);
    value
}

#[test]
fn quantities_take_their_canonical_form() {
    for (text, expected) in [
        ("0.5", "500m"),
        ("1000m", "1"),
        ("1024Mi", "1Gi"),
        ("1.5Gi", "1536Mi"),
        ("100M", "100M"),
        ("1000", "1k"),
        ("0", "0"),
        ("0Mi", "0"),
        ("-2", "-2"),
        ("1e3", "1e3"),
        ("10e2", "1e3"),
        ("1.5", "1500m"),
        ("0.1n", "1n"),
        ("64Mi", "64Mi"),
        ("128974848", "128974848"),
        ("129e6", "129e6"),
        ("12Ei", "12Ei"),
        ("+3", "+3"),
        ("+8Gi", "8Gi"),
        ("+9Gi", "+9Gi"),
        ("007", "007"),
        ("1.0", "1"),
        ("1.234", "1.234"),
        ("01.5", "1500m"),
        ("0.25", "250m"),
        (" 2 ", "2"),
        ("-0", "0"),
        ("1025Mi", "1025Mi"),
        ("1Ki", "1Ki"),
    ] {
        assert_eq!(schema::quantity::canonical(text).as_deref(), Some(expected), "{text}");
    }
    for text in ["", "x", "1x", "1.2.3", "Mi", "1 Gi", "--1"] {
        assert_eq!(schema::quantity::canonical(text), None, "{text}");
    }
}

#[test]
fn empty_fields_go_as_go_drops_them() {
    let pod = "io.k8s.api.core.v1.PodSpec";
    assert_eq!(
        normal(
            pod,
            json!({"containers": [{"name": "c", "env": [], "stdin": false, "resources": null}], "hostNetwork": false,
            "automountServiceAccountToken": false, "nodeSelector": {}, "securityContext": {}, "hostname": ""})
        ),
        json!({"containers": [{"name": "c", "resources": {}}], "automountServiceAccountToken": false, "securityContext": {}})
    );
    assert_eq!(
        normal("io.k8s.api.apps.v1.Deployment", json!({"metadata": {"creationTimestamp": null}})),
        json!({"metadata": {}, "spec": {"selector": null, "strategy": {}, "template": {"metadata": {}, "spec": {"containers": null}}}, "status": {}})
    );
    assert_eq!(
        normal("io.k8s.api.rbac.v1.Role", json!({"metadata": {}})),
        json!({"metadata": {}, "rules": null})
    );
    assert_eq!(
        normal("io.k8s.api.core.v1.Node", json!({"metadata": {}}))["status"],
        json!({"daemonEndpoints": {"kubeletEndpoint": {"Port": 0}}, "nodeInfo": {"architecture": "", "bootID": "",
            "containerRuntimeVersion": "", "kernelVersion": "", "kubeProxyVersion": "", "kubeletVersion": "",
            "machineID": "", "operatingSystem": "", "osImage": "", "systemUUID": ""}})
    );
    assert_eq!(
        normal(
            "io.k8s.api.apps.v1.DeploymentStatus",
            json!({"replicas": 0, "conditions": [{"type": "A", "status": "True"}]})
        ),
        json!({"conditions": [{"type": "A", "status": "True", "lastTransitionTime": null, "lastUpdateTime": null}]})
    );
    assert_eq!(
        normal("io.k8s.api.core.v1.ConfigMap", json!({"metadata": {}, "data": {"a": null}}))["data"],
        json!({"a": ""})
    );
}

#[test]
fn bytes_that_are_nothing_are_empty_ones() {
    let secret = normal("io.k8s.api.core.v1.Secret", json!({"data": {"a": null, "b": "YQ=="}}));
    assert_eq!(secret["data"], json!({"a": "", "b": "YQ=="}));
}

#[test]
fn an_empty_allocatable_of_a_node_counts_as_none() {
    let kind = registry::find("", "v1", "nodes").expect("nodes are served");
    let mut node = json!({"spec": {}, "status": {"capacity": {"cpu": "1"}, "allocatable": {}}});
    (kind.default)(&mut node);
    assert_eq!(node["status"]["allocatable"], json!({"cpu": "1"}));
}

#[test]
fn times_take_their_canonical_form() {
    let lease = |renew: &str| {
        normal("io.k8s.api.coordination.v1.LeaseSpec", json!({"renewTime": renew}))["renewTime"].clone()
    };
    assert_eq!(lease("2026-01-02T03:04:05.678901Z"), "2026-01-02T03:04:05.678901Z");
    assert_eq!(lease("2026-01-02T03:04:05+02:00"), "2026-01-02T01:04:05.000000Z");
    assert_eq!(lease("1913-01-02T03:04:05.123456Z"), "1913-01-02T03:04:05.123456Z");
    let run =
        normal("io.k8s.api.core.v1.ContainerStateRunning", json!({"startedAt": "2026-01-02T03:04:05.9Z"}));
    assert_eq!(run["startedAt"], "2026-01-02T03:04:05Z");
}

#[test]
fn normalizing_twice_changes_nothing() {
    for kind in kinds::REGISTRY {
        let once = normal(kind.schema, json!({"apiVersion": kind.api_version(), "kind": kind.kind}));
        assert_eq!(normal(kind.schema, once.clone()), once, "{}", kind.kind);
    }
}

#[test]
fn every_reference_in_the_tree_leads_somewhere() {
    fn walk(schema: &schema::Schema, seen: &mut std::collections::HashSet<String>) {
        if let schema::Shape::Ref(name) = schema.shape {
            assert!(schema::of(name).is_some(), "{name}");
            if !seen.insert(name.to_owned()) {
                return;
            }
        }
        match &schema.resolve().shape {
            schema::Shape::Object(fields) => fields.iter().for_each(|f| walk(&f.schema, seen)),
            schema::Shape::Array(inner) | schema::Shape::Map(inner) => walk(inner, seen),
            _ => {}
        }
    }
    let mut seen = std::collections::HashSet::new();
    for kind in kinds::REGISTRY {
        walk(schema::of(kind.schema).expect(kind.schema), &mut seen);
    }
    assert!(seen.len() > 300, "{}", seen.len());
    assert!(registry::find_kind("apps/v1", "Deployment").is_some());
}
