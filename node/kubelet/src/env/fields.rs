//! Downward API: fields of the pod and resources of its containers as text.

use k8s_openapi::api::core::v1::{Pod, ResourceFieldSelector};
use std::collections::BTreeMap;

use crate::quantity;

/// What a pod is told about the node and itself that its spec does not say.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The node's addresses, the primary one first.
    pub host_ips: Vec<String>,
    /// The pod's addresses, once it has them.
    pub pod_ips: Vec<String>,
    /// CPU the node gives to pods, in thousandths.
    pub allocatable_cpu: i64,
    /// Memory the node gives to pods, bytes.
    pub allocatable_memory: i64,
    /// Disk the node gives to pods, bytes.
    pub allocatable_storage: i64,
}

/// Why a field cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No such field.
    #[error("unsupported fieldPath: {0}")]
    Field(String),
    /// No such resource.
    #[error("unsupported container resource : {0}")]
    Resource(String),
    /// No such container.
    #[error("container {0} not found")]
    Container(String),
    /// Not a divisor.
    #[error("invalid divisor {0:?}")]
    Divisor(String),
}

/// All keys of a map as `key="value"` lines, escaped as Go writes them.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let line = |(key, value): (&String, &String)| format!("{key}={}", quoted(value));
    map.into_iter().flatten().map(line).collect::<Vec<_>>().join("\n")
}

/// Go's `%q`.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if u32::from(control) < 0x20 || control == '\x7f' => {
                out.push_str(&format!("\\x{:02x}", u32::from(control)));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// The value of a `fieldRef`.
///
/// # Errors
/// [`Error::Field`] for paths that the downward API does not have.
pub fn field(pod: &Pod, path: &str, around: &Surroundings) -> Result<String, Error> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    if let Some((base, key)) = path.strip_suffix(']').and_then(|path| path.split_once("['")) {
        let key = key.trim_end_matches('\'');
        let map = match base {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return Err(Error::Field(path.to_owned())),
        };
        return Ok(map.and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(meta.labels.as_ref()),
        "metadata.annotations" => lines(meta.annotations.as_ref()),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => {
            spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default()
        }
        "status.hostIP" => around.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => around.host_ips.join(","),
        "status.podIP" => around.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => around.pod_ips.join(","),
        _ => return Err(Error::Field(path.to_owned())),
    })
}

/// The value of a `resourceFieldRef`; a missing limit is what the node has.
///
/// # Errors
/// Says which container, resource or divisor is not one.
pub fn resource(
    pod: &Pod,
    default_container: &str,
    selector: &ResourceFieldSelector,
    around: &Surroundings,
) -> Result<String, Error> {
    let name =
        selector.container_name.as_deref().filter(|name| !name.is_empty()).unwrap_or(default_container);
    let spec = pod.spec.as_ref();
    let mut all =
        spec.into_iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let container =
        all.find(|container| container.name == name).ok_or_else(|| Error::Container(name.to_owned()))?;
    let unknown = || Error::Resource(selector.resource.clone());
    let (kind, resource) = selector.resource.split_once('.').ok_or_else(unknown)?;
    let resources = container.resources.as_ref();
    let amount = match kind {
        "limits" => resources.and_then(|all| all.limits.as_ref()?.get(resource)),
        "requests" => resources.and_then(|all| all.requests.as_ref()?.get(resource)),
        _ => return Err(unknown()),
    };
    let divisor = selector.divisor.clone().filter(|divisor| !divisor.0.is_empty() && divisor.0 != "0");
    let bad_divisor = || Error::Divisor(divisor.clone().map(|divisor| divisor.0).unwrap_or_default());
    let limits = kind == "limits";
    let value = if resource == "cpu" {
        let milli =
            amount.and_then(quantity::milli).unwrap_or(if limits { around.allocatable_cpu } else { 0 });
        let by = divisor
            .as_ref()
            .map_or(Some(1000), quantity::milli)
            .filter(|by| *by > 0)
            .ok_or_else(bad_divisor)?;
        divide_up(milli, by)
    } else {
        let available = match resource {
            "memory" => around.allocatable_memory,
            "ephemeral-storage" => around.allocatable_storage,
            huge if huge.starts_with("hugepages-") => 0,
            _ => return Err(unknown()),
        };
        let bytes = amount.and_then(quantity::units).unwrap_or(if limits { available } else { 0 });
        let by =
            divisor.as_ref().map_or(Some(1), quantity::units).filter(|by| *by > 0).ok_or_else(bad_divisor)?;
        divide_up(bytes, by)
    };
    Ok(value.to_string())
}

fn divide_up(value: i64, by: i64) -> i64 {
    value.div_euclid(by) + i64::from(value.rem_euclid(by) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u",
                "labels": {"a": "1", "b": "x\"y\n"}, "annotations": {"k/x": "v"}},
            "spec": {"nodeName": "n", "serviceAccountName": "sa", "containers": [
                {"name": "c", "resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "100Mi"}}}]}
        }))
        .unwrap()
    }

    #[test]
    fn fields_read_as_upstream_writes_them() {
        let around = Surroundings {
            host_ips: vec!["10.0.0.1".to_owned(), "fd00::a".to_owned()],
            pod_ips: vec!["10.244.0.2".to_owned(), "fd00::2".to_owned()],
            ..Default::default()
        };
        for (path, expected) in [
            ("metadata.name", Ok("p")),
            ("metadata.labels", Ok("a=\"1\"\nb=\"x\\\"y\\n\"")),
            ("metadata.labels['a']", Ok("1")),
            ("metadata.annotations['k/x']", Ok("v")),
            ("metadata.annotations['none']", Ok("")),
            ("spec.serviceAccountName", Ok("sa")),
            ("status.podIP", Ok("10.244.0.2")),
            ("status.podIPs", Ok("10.244.0.2,fd00::2")),
            ("status.hostIP", Ok("10.0.0.1")),
            ("status.hostIPs", Ok("10.0.0.1,fd00::a")),
            ("status.phase", Err(Error::Field("status.phase".to_owned()))),
        ] {
            assert_eq!(field(&pod(), path, &around), expected.map(str::to_owned), "{path}");
        }
    }

    #[test]
    fn resources_fall_back_to_the_nodes() {
        let around =
            Surroundings { allocatable_cpu: 2000, allocatable_memory: 1 << 30, ..Default::default() };
        for (resource_name, divisor, expected) in [
            ("limits.cpu", None, Ok("2")),
            ("limits.cpu", Some("1m"), Ok("1500")),
            ("requests.memory", Some("1Mi"), Ok("100")),
            ("limits.memory", Some("1Mi"), Ok("1024")),
            ("requests.cpu", None, Ok("0")),
            ("limits.gpu", None, Err(Error::Resource("limits.gpu".to_owned()))),
            ("limits.cpu", Some("x"), Err(Error::Divisor("x".to_owned()))),
        ] {
            let selector: ResourceFieldSelector =
                serde_json::from_value(json!({"resource": resource_name, "divisor": divisor})).unwrap();
            let seen = resource(&pod(), "c", &selector, &around);
            assert_eq!(seen, expected.map(str::to_owned), "{resource_name} {divisor:?}");
        }
    }
}
