//! Labels on everything this kubelet makes in Docker Engine: what a restarted kubelet finds its pods by.

use std::collections::HashMap;

/// Cluster the container belongs to.
pub const CLUSTER: &str = "fairlead.io/cluster";
/// Node the container belongs to.
pub const NODE: &str = "fairlead.io/node";
/// `podsandbox` or `container`.
pub const TYPE: &str = "io.kubernetes.docker.type";
/// Value of [`TYPE`] for sandboxes.
pub const TYPE_SANDBOX: &str = "podsandbox";
/// Value of [`TYPE`] for containers of a pod.
pub const TYPE_CONTAINER: &str = "container";
/// Name of the pod.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// Namespace of the pod.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// UID of the pod.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// Name of the container in its pod (`POD` for the sandbox).
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Id of the sandbox whose namespaces the container uses.
pub const SANDBOX_ID: &str = "io.kubernetes.sandbox.id";
/// How often this container was started before (sandbox: attempt).
pub const RESTART_COUNT: &str = "fairlead.io/restart-count";
/// Hash of what must not change without a restart.
pub const SPEC_HASH: &str = "fairlead.io/spec-hash";
/// Seconds to wait after this instance's end before the next start.
pub const BACKOFF_SECONDS: &str = "fairlead.io/backoff-seconds";
/// The pod's grace period, for the time when its object is gone.
pub const GRACE_SECONDS: &str = "fairlead.io/grace-seconds";
/// File that the container writes its last words to.
pub const TERMINATION_FILE: &str = "fairlead.io/termination-message-file";
/// Whether the sandbox uses the node's network.
pub const HOST_NETWORK: &str = "fairlead.io/host-network";
/// Container name of sandboxes.
pub const SANDBOX_NAME: &str = "POD";

/// Who a container belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Pod UID.
    pub uid: String,
    /// Pod namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
}

/// Reads whose container this is.
#[must_use]
pub fn owner(labels: &HashMap<String, String>) -> Option<Owner> {
    Some(Owner {
        uid: labels.get(POD_UID)?.clone(),
        namespace: labels.get(POD_NAMESPACE)?.clone(),
        name: labels.get(POD_NAME)?.clone(),
    })
}

/// A label as a number; zero when it is missing or garbled.
#[must_use]
pub fn number<N: std::str::FromStr + Default>(labels: &HashMap<String, String>, key: &str) -> N {
    labels.get(key).and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// The name Docker shows for a container of a pod.
#[must_use]
pub fn docker_name(container: &str, owner: &Owner, attempt: u32) -> String {
    format!("k8s_{container}_{}_{}_{}_{attempt}", owner.name, owner.namespace, owner.uid)
}
