//! Upstream's defaults for pods and pod templates.

use serde_json::{Map, Value, json};

use crate::validate::quantity::Quantity;

/// The object under `key`, made when absent or null. `None` when something else stands there.
pub fn object<'a>(v: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    let map = v.as_object_mut()?;
    let child = map.entry(key).or_insert(Value::Null);
    if child.is_null() {
        *child = Value::Object(Map::new());
    }
    child.is_object().then_some(child)
}

/// Sets `key` when it is absent or null.
pub fn unset(v: &mut Value, key: &str, default: Value) {
    if let Some(map) = v.as_object_mut() {
        let child = map.entry(key).or_insert(Value::Null);
        if child.is_null() {
            *child = default;
        }
    }
}

/// Sets `key` when it is absent, null or Go's zero value: fields that are no pointers.
pub fn zero(v: &mut Value, key: &str, default: Value) {
    if let Some(map) = v.as_object_mut() {
        let child = map.entry(key).or_insert(Value::Null);
        let blank = match child {
            Value::Null => true,
            Value::String(s) => s.is_empty(),
            Value::Number(n) => n.as_f64() == Some(0.0),
            _ => false,
        };
        if blank {
            *child = default;
        }
    }
}

/// Rounds every quantity of a resource list up to thousandths, the finest that upstream keeps in such lists.
pub fn whole_milli(list: &mut Value) {
    const STEP: i128 = 1_000_000;
    for amount in list.as_object_mut().into_iter().flat_map(|m| m.values_mut()) {
        let Some(Quantity(nano)) = Quantity::of(amount).filter(|q| q.0 % STEP != 0) else { continue };
        let milli = nano.div_euclid(STEP) + 1;
        let text = if milli % 1000 == 0 { (milli / 1000).to_string() } else { format!("{milli}m") };
        *amount = json!(text);
    }
}

/// Narrows the selectors that name keys of the pod's own labels (`matchLabelKeys`) by the labels' values.
pub fn own_labels(v: &mut Value) {
    let labels = v["metadata"]["labels"].clone();
    let Some(spec) = v.get_mut("spec") else { return };
    each(spec, "topologySpreadConstraints", |c| narrow(c, &labels));
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = spec.get_mut("affinity").and_then(|a| a.get_mut(kind)) else { continue };
        each(affinity, "requiredDuringSchedulingIgnoredDuringExecution", |term| narrow(term, &labels));
        each(affinity, "preferredDuringSchedulingIgnoredDuringExecution", |term| {
            with(term, "podAffinityTerm", |term| narrow(term, &labels));
        });
    }
}

fn narrow(term: &mut Value, labels: &Value) {
    for (keys, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for key in term[keys].as_array().cloned().unwrap_or_default() {
            let Some(value) = key.as_str().and_then(|key| labels.get(key)).cloned() else { continue };
            let requirement = json!({"key": key, "operator": operator, "values": [value]});
            with(term, "labelSelector", |selector| {
                if let Some(list) = selector.as_object_mut() {
                    let list = list.entry("matchExpressions").or_insert_with(|| json!([]));
                    if let Some(list) = list.as_array_mut() {
                        list.push(requirement);
                    }
                }
            });
        }
    }
}

/// `limits` and `requests`.
pub fn resource_lists(resources: &mut Value) {
    with(resources, "limits", whole_milli);
    with(resources, "requests", whole_milli);
}

/// The elements of the list under `key`.
pub fn each(v: &mut Value, key: &str, mut act: impl FnMut(&mut Value)) {
    for item in v.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten() {
        act(item);
    }
}

/// The object under `key`, when there is one.
pub fn with(v: &mut Value, key: &str, act: impl FnOnce(&mut Value)) {
    if let Some(child) = v.get_mut(key).filter(|c| c.is_object()) {
        act(child);
    }
}

/// A pod: its spec, what only pods get (requests from limits, service links, ports of the host's network), its status.
pub fn pod(v: &mut Value) {
    let Some(spec) = object(v, "spec") else { return };
    pod_spec(spec);
    zero_host_ports(spec);
    for list in ["containers", "initContainers"] {
        each(spec, list, |c| with(c, "resources", requests_from_limits));
    }
    with(spec, "resources", requests_from_limits);
    pod_requests(spec);
    unset(spec, "enableServiceLinks", json!(true));
    if let Some(status) = object(v, "status") {
        zero(status, "phase", json!("Pending"));
        addresses(status, "podIP", "podIPs");
    }
}

/// The single address is the first of the list; when they differ the single one wins.
fn addresses(status: &mut Value, single: &str, list: &str) {
    let one = status[single].as_str().unwrap_or_default().to_owned();
    let first = status[list][0]["ip"].as_str().unwrap_or_default().to_owned();
    if !one.is_empty() && one != first {
        status[list] = json!([{"ip": one}]);
    } else if one.is_empty() && !first.is_empty() {
        status[single] = json!(first);
    }
}

/// A pod template: metadata and spec are always there.
pub fn template(v: &mut Value) {
    object(v, "metadata");
    if let Some(spec) = object(v, "spec") {
        pod_spec(spec);
    }
}

fn pod_spec(spec: &mut Value) {
    zero(spec, "dnsPolicy", json!("ClusterFirst"));
    zero(spec, "restartPolicy", json!("Always"));
    object(spec, "securityContext");
    unset(spec, "terminationGracePeriodSeconds", json!(30));
    zero(spec, "schedulerName", json!("default-scheduler"));
    service_account(spec);
    with(spec, "overhead", whole_milli);
    with(spec, "resources", resource_lists);
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        each(spec, list, container);
    }
    each(spec, "volumes", volume);
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are always equal.
fn service_account(spec: &mut Value) {
    let text = |spec: &Value, key: &str| spec[key].as_str().unwrap_or_default().to_owned();
    let name = match text(spec, "serviceAccountName") {
        n if n.is_empty() => text(spec, "serviceAccount"),
        n => n,
    };
    if !name.is_empty() {
        spec["serviceAccountName"] = json!(name);
        spec["serviceAccount"] = json!(name);
    }
}

fn container(c: &mut Value) {
    let image = c["image"].as_str().unwrap_or_default();
    let policy = pull_policy(image);
    zero(c, "imagePullPolicy", json!(policy));
    zero(c, "terminationMessagePath", json!("/dev/termination-log"));
    zero(c, "terminationMessagePolicy", json!("File"));
    object(c, "resources");
    with(c, "resources", resource_lists);
    each(c, "ports", |p| zero(p, "protocol", json!("TCP")));
    each(c, "env", |e| with(e, "valueFrom", |f| with(f, "fieldRef", field_ref)));
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        with(c, name, probe);
    }
    with(c, "lifecycle", |l| {
        for hook in ["postStart", "preStop"] {
            with(l, hook, |h| with(h, "httpGet", http_get));
        }
    });
}

/// `Always` for the tag `latest` or no tag and no digest.
fn pull_policy(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

fn probe(p: &mut Value) {
    zero(p, "timeoutSeconds", json!(1));
    zero(p, "periodSeconds", json!(10));
    zero(p, "successThreshold", json!(1));
    zero(p, "failureThreshold", json!(3));
    with(p, "httpGet", http_get);
    with(p, "grpc", |g| unset(g, "service", json!("")));
}

fn http_get(h: &mut Value) {
    zero(h, "path", json!("/"));
    zero(h, "scheme", json!("HTTP"));
}

fn field_ref(f: &mut Value) {
    zero(f, "apiVersion", json!("v1"));
}

fn volume(v: &mut Value) {
    let bare = v.as_object().is_some_and(|m| !m.iter().any(|(k, s)| k != "name" && !s.is_null()));
    if bare {
        v["emptyDir"] = json!({});
    }
    for name in ["secret", "configMap", "downwardAPI", "projected"] {
        with(v, name, |s| unset(s, "defaultMode", json!(420)));
    }
    with(v, "downwardAPI", downward_items);
    with(v, "projected", |p| {
        each(p, "sources", |s| {
            with(s, "downwardAPI", downward_items);
            with(s, "serviceAccountToken", |t| unset(t, "expirationSeconds", json!(3600)));
            with(s, "podCertificate", |t| unset(t, "maxExpirationSeconds", json!(86400)));
        });
    });
    with(v, "ephemeral", |e| {
        with(e, "volumeClaimTemplate", |t| {
            object(t, "metadata");
            if let Some(spec) = object(t, "spec") {
                unset(spec, "volumeMode", json!("Filesystem"));
                object(spec, "resources");
                with(spec, "resources", resource_lists);
            }
        });
    });
    with(v, "image", |i| {
        let policy = pull_policy(i["reference"].as_str().unwrap_or_default());
        zero(i, "pullPolicy", json!(policy));
    });
    volume_source(v);
}

/// Defaults of sources that volumes of pods and PersistentVolumes share.
pub fn volume_source(v: &mut Value) {
    with(v, "hostPath", |h| unset(h, "type", json!("")));
    with(v, "iscsi", |i| zero(i, "iscsiInterface", json!("default")));
    with(v, "rbd", |r| {
        zero(r, "pool", json!("rbd"));
        zero(r, "user", json!("admin"));
        zero(r, "keyring", json!("/etc/ceph/keyring"));
    });
    with(v, "azureDisk", |d| {
        unset(d, "cachingMode", json!("ReadWrite"));
        unset(d, "kind", json!("Shared"));
        unset(d, "fsType", json!("ext4"));
        unset(d, "readOnly", json!(false));
    });
    with(v, "scaleIO", |s| {
        zero(s, "storageMode", json!("ThinProvisioned"));
        zero(s, "fsType", json!("xfs"));
    });
}

fn downward_items(v: &mut Value) {
    each(v, "items", |i| with(i, "fieldRef", field_ref));
}

/// A limit without a request is the request too.
fn requests_from_limits(resources: &mut Value) {
    let Some(limits) = resources["limits"].as_object().filter(|l| !l.is_empty()).cloned() else { return };
    let Some(requests) = object(resources, "requests") else { return };
    for (name, amount) in limits {
        unset(requests, &name, amount);
    }
}

/// A pod-level resource that only containers request is requested for the pod as their sum; upstream does so for
/// resources that the pod limits, which `requests_from_limits` has already filled in when no container requests them.
fn pod_requests(spec: &mut Value) {
    if spec["resources"]["requests"].as_object().is_some_and(Map::is_empty)
        && let Some(map) = spec["resources"].as_object_mut()
    {
        map.remove("requests");
    }
}

/// With the host's network the container's port is the node's.
fn zero_host_ports(spec: &mut Value) {
    if spec["hostNetwork"] != json!(true) {
        return;
    }
    for list in ["containers", "initContainers"] {
        each(spec, list, |c| {
            each(c, "ports", |p| {
                let port = p["containerPort"].clone();
                zero(p, "hostPort", port);
            });
        });
    }
}
