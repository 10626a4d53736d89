//! Pods and containers as Docker is asked to make them. Pure: everything that needs looking up is given.

use std::collections::HashMap;

use bollard::models::{ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use sha2::{Digest as _, Sha256};

use super::labels::{self, Owner};
use super::security::{self, Refused};
use crate::quantity;
use crate::settings::Args;

/// Scheduling period of CPU quotas, microseconds.
const CPU_PERIOD: i64 = 100_000;

/// Hash of what cannot change without a new container: name and image, as upstream.
#[must_use]
pub fn spec_hash(container: &Container) -> String {
    let mut hash = Sha256::new();
    hash.update(container.name.as_bytes());
    hash.update([0]);
    hash.update(container.image.as_deref().unwrap_or_default().as_bytes());
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Whose containers a pod's are.
#[must_use]
pub fn owner_of(pod: &Pod) -> Owner {
    Owner {
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: pod.metadata.name.clone().unwrap_or_default(),
    }
}

/// The host name a pod sees.
#[must_use]
pub fn hostname(pod: &Pod) -> String {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let spec = pod.spec.as_ref();
    let chosen = spec.and_then(|spec| spec.hostname_override.clone().or_else(|| spec.hostname.clone()));
    let mut name = chosen.filter(|chosen| !chosen.is_empty()).unwrap_or(name);
    // The kernel's limit is 64 with the terminating zero; upstream cuts likewise.
    name.truncate(63);
    name.trim_end_matches(['-', '.']).to_owned()
}

fn base_labels(
    node: &HashMap<String, String>,
    owner: &Owner,
    kind: &str,
    container: &str,
) -> HashMap<String, String> {
    let mut all = node.clone();
    for (key, value) in [
        (labels::TYPE, kind),
        (labels::POD_NAME, &owner.name),
        (labels::POD_NAMESPACE, &owner.namespace),
        (labels::POD_UID, &owner.uid),
        (labels::CONTAINER_NAME, container),
    ] {
        all.insert(key.to_owned(), value.to_owned());
    }
    all
}

fn log_config() -> HostConfigLogConfig {
    let limits = [("max-size", "10m"), ("max-file", "5")];
    HostConfigLogConfig {
        typ: Some("json-file".to_owned()),
        config: Some(limits.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
    }
}

/// What a sandbox needs that its pod does not say.
#[derive(Debug)]
pub struct SandboxParts<'a> {
    /// Flags.
    pub args: &'a Args,
    /// Labels of the node.
    pub node_labels: HashMap<String, String>,
    /// How many sandboxes came before.
    pub attempt: u32,
    /// Grace period of the pod, seconds.
    pub grace: i64,
    /// Whether scores below zero are allowed.
    pub negative_oom: bool,
    /// Command to give when the image has none.
    pub command: Option<Vec<String>>,
}

/// The sandbox of a pod.
///
/// # Errors
/// [`Refused`] when the pod asks for a sysctl that is not safe.
pub fn sandbox(pod: &Pod, parts: SandboxParts<'_>) -> Result<ContainerCreateBody, Refused> {
    let owner = owner_of(pod);
    let spec = pod.spec.clone().unwrap_or_default();
    let host_network = spec.host_network == Some(true);
    let mut all = base_labels(&parts.node_labels, &owner, labels::TYPE_SANDBOX, labels::SANDBOX_NAME);
    all.insert(labels::RESTART_COUNT.to_owned(), parts.attempt.to_string());
    all.insert(labels::GRACE_SECONDS.to_owned(), parts.grace.to_string());
    all.insert(labels::HOST_NETWORK.to_owned(), host_network.to_string());
    let mut sysctls = security::sysctls(&spec)?;
    if !host_network && parts.args.node_ip.iter().any(|address| address.is_ipv6()) {
        // Docker switches IPv6 off where it makes no IPv6 network itself; here the CNI plugin does.
        sysctls.extend(
            ["all", "default"].map(|scope| (format!("net.ipv6.conf.{scope}.disable_ipv6"), "0".to_owned())),
        );
    }
    let host = HostConfig {
        network_mode: Some(if host_network { parts.args.host_network_mode() } else { "none".to_owned() }),
        ipc_mode: Some(if spec.host_ipc == Some(true) { "host" } else { "shareable" }.to_owned()),
        pid_mode: (spec.host_pid == Some(true)).then(|| "host".to_owned()),
        cpu_shares: Some(2),
        oom_score_adj: Some(if parts.negative_oom { -998 } else { 0 }),
        sysctls: (!sysctls.is_empty()).then(|| sysctls.into_iter().collect()),
        log_config: Some(log_config()),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        ..Default::default()
    };
    Ok(ContainerCreateBody {
        image: Some(parts.args.pause_image.clone()),
        cmd: parts.command,
        // A container that joins another's network takes that one's name; Docker refuses a name of its own.
        hostname: (!host_network).then(|| hostname(pod)),
        labels: Some(all),
        host_config: Some(host),
        ..Default::default()
    })
}

/// What a container needs that its spec does not say.
#[derive(Debug)]
pub struct ContainerParts<'a> {
    /// Flags.
    pub args: &'a Args,
    /// Labels of the node.
    pub node_labels: HashMap<String, String>,
    /// Sandbox it joins.
    pub sandbox_id: &'a str,
    /// Environment, `NAME=value`.
    pub env: Vec<String>,
    /// Command after expansion.
    pub command: Option<Vec<String>>,
    /// Arguments after expansion.
    pub arguments: Option<Vec<String>>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Earlier instances.
    pub restart_count: u32,
    /// Seconds to wait after this instance's end.
    pub backoff_seconds: u32,
    /// Grace period of the pod, seconds.
    pub grace: i64,
    /// File with its last words.
    pub termination_file: String,
    /// The kernel's choice under memory pressure.
    pub oom_score: i64,
}

/// One container of a pod.
///
/// # Errors
/// [`Refused`] when its security context asks for something that cannot be honoured.
pub fn container(
    pod: &Pod,
    container: &Container,
    parts: ContainerParts<'_>,
) -> Result<ContainerCreateBody, Refused> {
    let spec = pod.spec.clone().unwrap_or_default();
    let mut host = namespaces(&spec, &parts);
    resources(container, &mut host);
    security::apply(parts.args, &spec, container, &mut host)?;
    host.oom_score_adj = Some(parts.oom_score);
    host.log_config = Some(log_config());
    host.mounts = Some(parts.mounts);
    let mut all = base_labels(&parts.node_labels, &owner_of(pod), labels::TYPE_CONTAINER, &container.name);
    for (key, value) in [
        (labels::SANDBOX_ID, parts.sandbox_id.to_owned()),
        (labels::RESTART_COUNT, parts.restart_count.to_string()),
        (labels::SPEC_HASH, spec_hash(container)),
        (labels::BACKOFF_SECONDS, parts.backoff_seconds.to_string()),
        (labels::GRACE_SECONDS, parts.grace.to_string()),
        (labels::TERMINATION_FILE, parts.termination_file),
    ] {
        all.insert(key.to_owned(), value);
    }
    let stdin = container.stdin == Some(true);
    Ok(ContainerCreateBody {
        image: container.image.clone(),
        user: security::user(spec.security_context.as_ref(), container.security_context.as_ref()),
        entrypoint: parts.command,
        cmd: parts.arguments,
        env: Some(parts.env),
        working_dir: container.working_dir.clone(),
        tty: container.tty,
        open_stdin: Some(stdin),
        stdin_once: Some(stdin && container.stdin_once == Some(true)),
        labels: Some(all),
        // The kubelet probes; an image's own health check would only cost.
        healthcheck: Some(bollard::models::HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..Default::default()
        }),
        host_config: Some(host),
        ..Default::default()
    })
}

fn namespaces(spec: &PodSpec, parts: &ContainerParts<'_>) -> HostConfig {
    let joined = format!("container:{}", parts.sandbox_id);
    let network =
        if spec.host_network == Some(true) { parts.args.host_network_mode() } else { joined.clone() };
    let pid = if spec.host_pid == Some(true) {
        Some("host".to_owned())
    } else {
        (spec.share_process_namespace == Some(true)).then(|| joined.clone())
    };
    HostConfig {
        network_mode: Some(network),
        ipc_mode: Some(if spec.host_ipc == Some(true) { "host".to_owned() } else { joined }),
        pid_mode: pid,
        ..Default::default()
    }
}

/// Writes CPU and memory in Docker's units, as upstream converts them.
fn resources(container: &Container, host: &mut HostConfig) {
    let amount = |limits: bool, name: &str| {
        let resources = container.resources.as_ref()?;
        let map = if limits { resources.limits.as_ref() } else { resources.requests.as_ref() };
        map?.get(name)
    };
    let cpu_limit = amount(true, "cpu").and_then(quantity::milli).filter(|milli| *milli > 0);
    let cpu_request = amount(false, "cpu").and_then(quantity::milli).or(cpu_limit).unwrap_or(0);
    host.cpu_shares = Some((cpu_request.saturating_mul(1024) / 1000).clamp(2, 262_144));
    if let Some(milli) = cpu_limit {
        host.cpu_period = Some(CPU_PERIOD);
        // The kernel takes no quota below one millisecond.
        host.cpu_quota = Some((milli.saturating_mul(CPU_PERIOD) / 1000).max(1000));
    }
    if let Some(bytes) = amount(true, "memory").and_then(quantity::units).filter(|bytes| *bytes > 0) {
        host.memory = Some(bytes);
        host.memory_swap = Some(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn resources_become_shares_quota_and_limit() {
        for (resources, shares, quota, memory) in [
            (json!({}), 2, None, None),
            (json!({"requests": {"cpu": "500m"}}), 512, None, None),
            (json!({"limits": {"cpu": "2", "memory": "64Mi"}}), 2048, Some(200_000), Some(67_108_864)),
            (json!({"requests": {"cpu": "1m"}, "limits": {"cpu": "1m"}}), 2, Some(1000), None),
        ] {
            let container: Container =
                serde_json::from_value(json!({"name": "c", "resources": resources})).unwrap();
            let mut host = HostConfig::default();
            super::resources(&container, &mut host);
            assert_eq!(
                (host.cpu_shares, host.cpu_quota, host.memory),
                (Some(shares), quota, memory),
                "{resources}"
            );
        }
    }

    #[test]
    fn host_names_are_cut_to_what_the_kernel_takes() {
        let pod = |spec: serde_json::Value, name: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
        };
        assert_eq!(hostname(&pod(json!({"containers": []}), "web-1")), "web-1");
        assert_eq!(hostname(&pod(json!({"containers": [], "hostname": "h"}), "web-1")), "h");
        let long = format!("{}-{}", "a".repeat(62), "b".repeat(20));
        assert_eq!(hostname(&pod(json!({"containers": []}), &long)), "a".repeat(62));
    }

    #[test]
    fn the_hash_changes_with_the_image_and_nothing_else() {
        let of = |value: serde_json::Value| spec_hash(&serde_json::from_value(value).unwrap());
        let base = of(json!({"name": "c", "image": "a"}));
        assert_eq!(base, of(json!({"name": "c", "image": "a", "args": ["x"]})));
        assert_ne!(base, of(json!({"name": "c", "image": "b"})));
        assert_ne!(base, of(json!({"name": "d", "image": "a"})));
    }
}
