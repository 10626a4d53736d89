//! The pod's sandbox: the container that holds its namespaces, its network, and the files all containers get.

use std::net::IpAddr;
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::clock;
use crate::cni::PodNetwork;
use crate::docker::body::{self, SandboxParts};
use crate::docker::labels::{self, docker_name};
use crate::docker::state::Instance;
use crate::events::Level;
use crate::files;
use crate::pod::stop;
use crate::shared::Shared;

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Docker.
    #[error("{0}")]
    Docker(#[from] crate::docker::Error),
    /// The network.
    #[error("failed to set up sandbox container {sandbox:?} network for pod {pod:?}: {source}")]
    Network {
        /// Its id.
        sandbox: String,
        /// The pod.
        pod: String,
        /// What the plugins said.
        source: Box<crate::cni::Error>,
    },
    /// Something that the pod must not ask for.
    #[error(transparent)]
    Refused(#[from] crate::docker::security::Refused),
    /// Something that this node does not do.
    #[error("{0} is not supported by this node")]
    Unsupported(&'static str),
    /// The image of the sandbox is not there.
    #[error("sandbox image {image:?}: {reason}")]
    Image {
        /// Its name.
        image: String,
        /// Why.
        reason: String,
    },
    /// A file of the pod.
    #[error("cannot write {path}: {source}")]
    File {
        /// Which.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Features of pods that change what a sandbox is.
fn check_supported(pod: &Pod) -> Result<(), Error> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let has = |name: &Option<String>| name.as_ref().is_some_and(|name| !name.is_empty());
    if has(&spec.runtime_class_name) {
        return Err(Error::Unsupported("runtimeClassName"));
    }
    if spec.host_users == Some(false) {
        return Err(Error::Unsupported("hostUsers: false"));
    }
    if spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        return Err(Error::Unsupported("resourceClaims"));
    }
    Ok(())
}

/// Whether a pod shares the node's network.
#[must_use]
pub fn on_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true)
}

/// Makes and starts a sandbox.
///
/// # Errors
/// [`Error`] is what the event then says.
pub async fn create(shared: &Shared, pod: &Pod, attempt: u32) -> Result<Instance, Error> {
    check_supported(pod)?;
    let command = sandbox_command(shared).await?;
    let parts = SandboxParts {
        args: &shared.args,
        node_labels: shared.engine.node_labels(),
        attempt,
        grace: stop::grace_seconds(pod),
        negative_oom: shared.negative_oom,
        command,
    };
    let body = body::sandbox(pod, parts)?;
    let name = docker_name(labels::SANDBOX_NAME, &body::owner_of(pod), attempt);
    let id = shared.engine.create(&name, body).await?;
    if let Err(error) = shared.engine.start(&id).await {
        shared.engine.remove(&id).await?;
        return Err(error.into());
    }
    let made = shared.engine.inspect(&id).await?;
    Ok(made.ok_or(crate::docker::Error::Incomplete("the sandbox that was just made"))?)
}

/// What the sandbox runs when its image does not say; pulls the image when it is missing.
async fn sandbox_command(shared: &Shared) -> Result<Option<Vec<String>>, Error> {
    let name = &shared.args.pause_image;
    let image = match shared.engine.image(name).await? {
        Some(image) => image,
        None => {
            let failed = |reason: String| Error::Image { image: name.clone(), reason };
            shared.engine.pull(name, None).await.map_err(|error| failed(error.to_string()))?;
            shared
                .engine
                .image(name)
                .await?
                .ok_or_else(|| failed("is not there after its pull".to_owned()))?
        }
    };
    let config = image.config.unwrap_or_default();
    let says = |words: &Option<Vec<String>>| words.as_ref().is_some_and(|words| !words.is_empty());
    Ok((!says(&config.entrypoint) && !says(&config.cmd)).then(|| vec!["/pause".to_owned()]))
}

/// What the plugins are told about a pod.
#[must_use]
pub fn pod_network(pod: &Pod, sandbox: &Instance) -> PodNetwork {
    let owner = body::owner_of(pod);
    let containers =
        pod.spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let mappings = ports.filter(|port| port.host_port.is_some_and(|port| port > 0)).map(|port| {
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()).to_lowercase();
        let mut mapping =
            json!({"hostPort": port.host_port, "containerPort": port.container_port, "protocol": protocol});
        if let (Some(ip), Some(object)) = (&port.host_ip, mapping.as_object_mut()) {
            object.insert("hostIP".to_owned(), Value::String(ip.clone()));
        }
        mapping
    });
    PodNetwork {
        namespace: owner.namespace,
        name: owner.name,
        uid: owner.uid,
        sandbox: sandbox.id.clone(),
        netns: netns(sandbox),
        port_mappings: mappings.collect(),
        bandwidth: bandwidth(pod),
    }
}

/// Limits of bandwidth that make sense, in bits per second: upstream's.
const MIN_RATE: i64 = 1_000;
const MAX_RATE: i64 = 1_000_000_000_000_000;

/// The bandwidth capability from the pod's annotations, in bits per second.
fn bandwidth(pod: &Pod) -> Option<Value> {
    let limit = |direction: &str| {
        let annotations = pod.metadata.annotations.as_ref()?;
        let text = annotations.get(&format!("kubernetes.io/{direction}-bandwidth"))?;
        let quantity = k8s_openapi::apimachinery::pkg::api::resource::Quantity(text.clone());
        crate::quantity::units(&quantity).filter(|rate| (MIN_RATE..=MAX_RATE).contains(rate))
    };
    let mut out = serde_json::Map::new();
    for direction in ["ingress", "egress"] {
        if let Some(rate) = limit(direction) {
            out.insert(format!("{direction}Rate"), json!(rate));
            // The burst upstream gives: as much as an int32 holds.
            out.insert(format!("{direction}Burst"), json!(i32::MAX));
        }
    }
    (!out.is_empty()).then_some(Value::Object(out))
}

/// Path of a sandbox's network namespace; empty when its process is gone.
#[must_use]
pub fn netns(sandbox: &Instance) -> String {
    if sandbox.is_running() && sandbox.pid > 0 {
        format!("/proc/{}/ns/net", sandbox.pid)
    } else {
        String::new()
    }
}

/// Attaches a sandbox to the network, unless it is already.
///
/// # Errors
/// [`Error::Network`].
pub async fn attach(shared: &Shared, pod: &Pod, sandbox: &Instance) -> Result<Vec<IpAddr>, Error> {
    if on_host_network(pod) {
        return Ok(shared.args.node_ip.clone());
    }
    if let Some(addresses) = attached(shared, sandbox) {
        return Ok(addresses);
    }
    let network = pod_network(pod, sandbox);
    let owner = body::owner_of(pod);
    let added = shared.cni.add(network).await.map_err(|source| Error::Network {
        sandbox: sandbox.id.clone(),
        pod: format!("{}_{}", owner.name, owner.namespace),
        source: Box::new(source),
    })?;
    Ok(shared.args.in_order(added))
}

/// Addresses of a sandbox that has its network already.
#[must_use]
pub fn attached(shared: &Shared, sandbox: &Instance) -> Option<Vec<IpAddr>> {
    shared.cni.attached(&sandbox.id).map(|addresses| shared.args.in_order(addresses))
}

/// Detaches and removes one sandbox.
///
/// # Errors
/// Fails when the plugins or Docker do; it is then found again.
pub async fn remove(shared: &Shared, sandbox: &Instance, pod: &str) -> Result<(), Error> {
    shared.cni.del(&sandbox.id, &netns(sandbox)).await.map_err(|source| Error::Network {
        sandbox: sandbox.id.clone(),
        pod: pod.to_owned(),
        source: Box::new(source),
    })?;
    shared.engine.remove(&sandbox.id).await?;
    Ok(())
}

/// Names of the pod's own files.
pub const HOSTS: &str = "etc-hosts";
/// `/etc/resolv.conf`.
pub const RESOLV: &str = "resolv-conf";
/// `/etc/hostname`.
pub const HOSTNAME: &str = "hostname";

/// Writes the files that all containers of a pod see.
///
/// # Errors
/// [`Error::File`].
pub fn write_files(shared: &Shared, pod: &Pod, addresses: &[IpAddr]) -> Result<(), Error> {
    let args = &shared.args;
    let directory = args.pod_dir(pod.metadata.uid.as_deref().unwrap_or_default());
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        let result = std::fs::create_dir_all(&directory).and_then(|()| {
            // In place: containers that run have this very file mounted.
            if std::fs::read_to_string(&path).is_ok_and(|known| known == text) {
                Ok(())
            } else {
                std::fs::write(&path, text)
            }
        });
        result.map_err(|source| Error::File { path: path.display().to_string(), source })
    };
    let node_file = |name: &str| {
        let own = args.on_machine(Path::new(name));
        std::fs::read_to_string(own).or_else(|_| std::fs::read_to_string(name)).unwrap_or_default()
    };
    let machine = on_host_network(pod).then(|| node_file("/etc/hosts"));
    write(HOSTS, &files::hosts(pod, addresses, &args.cluster_domain, machine.as_deref()))?;
    let node = files::Resolver::parse(&node_file("/etc/resolv.conf"));
    let (resolver, remarks) = files::resolver(pod, &node, &args.cluster_dns, &args.cluster_domain);
    for remark in remarks {
        shared.events.pod(pod, Level::Warning, remark.reason, remark.message);
    }
    write(RESOLV, &resolver.to_text())?;
    let name = if on_host_network(pod) { args.node_name.clone() } else { body::hostname(pod) };
    write(HOSTNAME, &format!("{name}\n"))?;
    tracing::debug!(directory = %directory.display(), at = %clock::now(), "wrote the pod's files");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::state::Phase;
    use crate::docker::state::tests::sandbox;

    #[test]
    fn plugins_learn_host_ports_and_bandwidth() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u",
                "annotations": {"kubernetes.io/ingress-bandwidth": "10M"}},
            "spec": {"containers": [{"name": "c", "ports": [
                {"containerPort": 80, "hostPort": 8080}, {"containerPort": 53, "protocol": "UDP", "hostPort": 53, "hostIP": "127.0.0.1"},
                {"containerPort": 81}]}]}
        })).unwrap();
        let network = pod_network(&pod, &sandbox(Phase::Running));
        assert_eq!(network.netns, "/proc/4/ns/net");
        assert_eq!(
            network.port_mappings,
            [
                json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}),
                json!({"hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1"}),
            ]
        );
        assert_eq!(network.bandwidth, Some(json!({"ingressRate": 10_000_000, "ingressBurst": i32::MAX})));
        assert_eq!(netns(&sandbox(Phase::Exited)), "");
        for (rate, expected) in [
            ("1", None),
            ("999", None),
            ("1k", Some(1_000)),
            ("1P", Some(MAX_RATE)),
            ("2P", None),
            ("x", None),
        ] {
            let mut limited = pod.clone();
            let annotations = limited.metadata.annotations.get_or_insert_default();
            annotations.clear();
            annotations.insert("kubernetes.io/egress-bandwidth".to_owned(), rate.to_owned());
            let seen = bandwidth(&limited).and_then(|limits| limits["egressRate"].as_i64());
            assert_eq!(seen, expected, "{rate}");
        }
    }
}
