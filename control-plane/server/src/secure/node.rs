//! The Node authorizer (`plugin/pkg/auth/authorizer/node`): a kubelet may read what the pods on its node refer to,
//! and write only what is its own.

use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::Value;

use super::authorize::{Attributes, Decision};
use super::rules::Rule;
use super::{NODES, User, bootstrap};

const USER_PREFIX: &str = "system:node:";

/// The node whose kubelet this user is.
pub fn node_name(user: &User) -> Option<&str> {
    let name = user.name.strip_prefix(USER_PREFIX)?;
    user.is_in(NODES).then_some(name)
}

/// What a pod can refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Referent {
    Secret,
    ConfigMap,
    Claim,
    ServiceAccount,
}

/// What counts of a Pod: its node, and the objects that it names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    node: String,
    references: BTreeSet<(Referent, String)>,
}

impl<'de> Deserialize<'de> for Pod {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Pod::of(&Value::deserialize(from)?))
    }
}

/// What counts of a PersistentVolumeClaim.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Claim {
    #[serde(default)]
    spec: ClaimSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClaimSpec {
    #[serde(default)]
    volume_name: Option<String>,
}

/// Where a container or volume names a secret or config map: the path below it, and what lies there.
const VOLUME_REFERENCES: [(&str, Referent); 12] = [
    ("/secret/secretName", Referent::Secret),
    ("/configMap/name", Referent::ConfigMap),
    ("/persistentVolumeClaim/claimName", Referent::Claim),
    ("/azureFile/secretName", Referent::Secret),
    ("/cephfs/secretRef/name", Referent::Secret),
    ("/cinder/secretRef/name", Referent::Secret),
    ("/flexVolume/secretRef/name", Referent::Secret),
    ("/iscsi/secretRef/name", Referent::Secret),
    ("/rbd/secretRef/name", Referent::Secret),
    ("/scaleIO/secretRef/name", Referent::Secret),
    ("/storageos/secretRef/name", Referent::Secret),
    ("/csi/nodePublishSecretRef/name", Referent::Secret),
];
const SOURCE_REFERENCES: [(&str, Referent); 2] =
    [("/secret/name", Referent::Secret), ("/configMap/name", Referent::ConfigMap)];
const ENV_REFERENCES: [(&str, Referent); 2] = [
    ("/valueFrom/secretKeyRef/name", Referent::Secret),
    ("/valueFrom/configMapKeyRef/name", Referent::ConfigMap),
];
const ENV_FROM_REFERENCES: [(&str, Referent); 2] =
    [("/secretRef/name", Referent::Secret), ("/configMapRef/name", Referent::ConfigMap)];

fn items<'a>(of: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    of.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// The objects that a pod names.
pub fn references(pod: &Value) -> BTreeSet<(Referent, String)> {
    let mut found = BTreeSet::new();
    let mut add = |at: &Value, table: &[(&str, Referent)]| {
        for (pointer, kind) in table {
            if let Some(name) = at.pointer(pointer).and_then(Value::as_str) {
                found.insert((*kind, name.to_owned()));
            }
        }
    };
    add(pod, &[("/spec/serviceAccountName", Referent::ServiceAccount)]);
    for secret in items(pod, "/spec/imagePullSecrets") {
        add(secret, &[("/name", Referent::Secret)]);
    }
    for volume in items(pod, "/spec/volumes") {
        add(volume, &VOLUME_REFERENCES);
        for source in items(volume, "/projected/sources") {
            add(source, &SOURCE_REFERENCES);
        }
    }
    for list in ["/spec/containers", "/spec/initContainers", "/spec/ephemeralContainers"] {
        for container in items(pod, list) {
            for variable in items(container, "/env") {
                add(variable, &ENV_REFERENCES);
            }
            for source in items(container, "/envFrom") {
                add(source, &ENV_FROM_REFERENCES);
            }
        }
    }
    // The claim of an ephemeral volume has a name made of the pod's and the volume's.
    let pod_name = pod.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    for volume in items(pod, "/spec/volumes").filter(|volume| volume.get("ephemeral").is_some()) {
        if let Some(name) = volume.get("name").and_then(Value::as_str) {
            found.insert((Referent::Claim, format!("{pod_name}-{name}")));
        }
    }
    found
}

impl Pod {
    fn of(pod: &Value) -> Self {
        let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default().to_owned();
        // A mirror pod is written by the kubelet itself and must not widen what it may read.
        let mirror = pod.pointer("/metadata/annotations").is_some_and(|a| a.get(MIRROR).is_some());
        let references = if mirror || node.is_empty() { BTreeSet::new() } else { references(pod) };
        Pod { node, references }
    }
}

/// Marks a pod that the kubelet shows for a static one of its own.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

type Reference = (Referent, Box<str>, Box<str>);

/// Which node's pods refer to what.
#[derive(Default)]
pub struct Graph {
    pods: HashMap<(Box<str>, Box<str>), Pod>,
    /// By node: how many of its pods refer to an object.
    nodes: HashMap<Box<str>, HashMap<Reference, usize>>,
    /// By claim: the volume that it is bound to.
    volumes: HashMap<(Box<str>, Box<str>), Box<str>>,
}

impl Graph {
    /// Puts, replaces or (with `None`) removes a pod.
    pub fn set_pod(&mut self, namespace: &str, name: &str, pod: Option<Pod>) {
        let key = (namespace.into(), name.into());
        if self.pods.get(&key) == pod.as_ref() {
            return;
        }
        if let Some(before) = self.pods.remove(&key)
            && let Some(counts) = self.nodes.get_mut(before.node.as_str())
        {
            for (kind, of) in before.references {
                let reference = (kind, namespace.into(), of.into());
                if let Some(count) = counts.get_mut(&reference) {
                    *count -= 1;
                    if *count == 0 {
                        counts.remove(&reference);
                    }
                }
            }
            if counts.is_empty() {
                self.nodes.remove(before.node.as_str());
            }
        }
        let Some(pod) = pod.filter(|pod| !pod.node.is_empty()) else { return };
        if !pod.references.is_empty() {
            let counts = self.nodes.entry(pod.node.as_str().into()).or_default();
            for (kind, of) in &pod.references {
                *counts.entry((*kind, namespace.into(), of.as_str().into())).or_default() += 1;
            }
        }
        self.pods.insert(key, pod);
    }

    /// Puts, replaces or (with `None`) removes a claim.
    pub fn set_claim(&mut self, namespace: &str, name: &str, claim: Option<Claim>) {
        let key = (namespace.into(), name.into());
        match claim.and_then(|claim| claim.spec.volume_name) {
            Some(volume) => self.volumes.insert(key, volume.into()),
            None => self.volumes.remove(&key),
        };
    }

    fn refers(&self, node: &str, kind: Referent, namespace: &str, name: &str) -> bool {
        let reference = (kind, namespace.into(), name.into());
        self.nodes.get(node).is_some_and(|counts| counts.contains_key(&reference))
    }

    fn uses_volume(&self, node: &str, volume: &str) -> bool {
        let mut bound = self.volumes.iter().filter(|(_, of)| of.as_ref() == volume);
        bound.any(|((namespace, claim), _)| self.refers(node, Referent::Claim, namespace, claim))
    }

    fn on_node(&self, node: &str, namespace: &str, pod: &str) -> bool {
        self.pods.get(&(namespace.into(), pod.into())).is_some_and(|pod| pod.node == node)
    }

    /// Whether the kubelet of `node` may do this; a refusal leaves the word to RBAC.
    pub fn authorize(&self, node: &str, a: &Attributes<'_>) -> Decision {
        if node.is_empty() {
            return Decision::Refuse(format!(
                "unknown node for user {}",
                fairlead_api::status::quoted(&a.user.name)
            ));
        }
        if a.path.is_none() {
            match (a.group, a.resource) {
                ("", "secrets") => return self.read_referenced(node, Referent::Secret, a),
                ("", "configmaps") => return self.read_referenced(node, Referent::ConfigMap, a),
                ("", "persistentvolumeclaims") => return self.claim(node, a),
                ("", "persistentvolumes") => return self.volume(node, a),
                ("", "serviceaccounts") => return self.service_account(node, a),
                ("", "pods") => return self.pod(node, a),
                ("", "nodes") => return own_node(node, a),
                ("coordination.k8s.io", "leases") => return own_lease(node, a),
                ("storage.k8s.io", "csinodes") => return own_csi_node(node, a),
                _ => {}
            }
        }
        if STATIC.iter().any(|rule| rule.allows(a)) {
            return Decision::Allow(String::new());
        }
        Decision::Refuse(String::new())
    }

    fn related(&self, node: &str, related: bool) -> Decision {
        if related {
            Decision::Allow(String::new())
        } else {
            Decision::Refuse(format!("no relationship found between node '{node}' and this object"))
        }
    }

    fn read_referenced(&self, node: &str, kind: Referent, a: &Attributes<'_>) -> Decision {
        if !matches!(a.verb, "get" | "list" | "watch") {
            return refuse("can only read resources of this type");
        }
        if !a.subresource.is_empty() {
            return refuse("cannot read subresource");
        }
        if a.namespace.is_empty() {
            return refuse("can only read namespaced object of this type");
        }
        if a.name.is_empty() {
            return refuse("No Object name found");
        }
        self.related(node, self.refers(node, kind, a.namespace, a.name))
    }

    fn claim(&self, node: &str, a: &Attributes<'_>) -> Decision {
        match (a.verb, a.subresource) {
            ("get", "") | ("update" | "patch", "status") => {}
            (_, "status") => return refuse("can only update resources of this type"),
            _ => return refuse("can only get individual resources of this type"),
        }
        self.related(node, self.refers(node, Referent::Claim, a.namespace, a.name))
    }

    fn volume(&self, node: &str, a: &Attributes<'_>) -> Decision {
        if a.verb != "get" || !a.subresource.is_empty() {
            return refuse("can only get individual resources of this type");
        }
        self.related(node, self.uses_volume(node, a.name))
    }

    fn service_account(&self, node: &str, a: &Attributes<'_>) -> Decision {
        match (a.verb, a.subresource) {
            ("get", "") | ("create", "token") => {}
            _ => return refuse("can only create tokens for individual service accounts"),
        }
        if a.name.is_empty() {
            return refuse("can only create tokens for individual service accounts");
        }
        self.related(node, self.refers(node, Referent::ServiceAccount, a.namespace, a.name))
    }

    fn pod(&self, node: &str, a: &Attributes<'_>) -> Decision {
        match (a.verb, a.subresource) {
            ("get", "") => self.related(node, self.on_node(node, a.namespace, a.name)),
            ("list" | "watch", "") if selects(a.field_selector, "spec.nodeName", node) => {
                Decision::Allow(String::new())
            }
            ("list" | "watch", "") if !a.name.is_empty() => {
                self.related(node, self.on_node(node, a.namespace, a.name))
            }
            ("list" | "watch", "") => refuse("can only list/watch pods with spec.nodeName field selector"),
            // The admission of node restrictions looks at whose pod it is.
            ("create" | "delete", "") | ("update" | "patch", "status") | ("create", "eviction") => {
                Decision::Allow(String::new())
            }
            _ => Decision::Refuse(String::new()),
        }
    }
}

/// What a kubelet may do whichever node it is on: the rules of the default role `system:node`, for the resources that
/// are not looked at one by one.
static STATIC: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    const ONE_BY_ONE: [(&str, &str); 9] = [
        ("", "secrets"),
        ("", "configmaps"),
        ("", "persistentvolumeclaims"),
        ("", "persistentvolumes"),
        ("", "serviceaccounts"),
        ("", "pods"),
        ("", "nodes"),
        ("coordination.k8s.io", "leases"),
        ("storage.k8s.io", "csinodes"),
    ];
    let special = |rule: &Rule, resource: &str| {
        let plural = resource.split('/').next().unwrap_or(resource);
        rule.api_groups.iter().any(|group| ONE_BY_ONE.contains(&(group.as_str(), plural)))
    };
    let mut rules = bootstrap::rules_of("system:node");
    for rule in &mut rules {
        let kept = rule.resources.iter().filter(|resource| !special(rule, resource)).cloned().collect();
        rule.resources = kept;
    }
    rules.retain(|rule| !rule.resources.is_empty() || !rule.urls.is_empty());
    rules
});

fn refuse(reason: &str) -> Decision {
    Decision::Refuse(reason.to_owned())
}

fn own_node(node: &str, a: &Attributes<'_>) -> Decision {
    match (a.verb, a.subresource) {
        // Whose node it is, admission looks at: it can say that there is no such node.
        ("create" | "update" | "patch", "") | ("update" | "patch", "status") => {
            Decision::Allow(String::new())
        }
        ("get", "") if a.name == node => Decision::Allow(String::new()),
        ("list" | "watch", "") if a.name == node || selects(a.field_selector, "metadata.name", node) => {
            Decision::Allow(String::new())
        }
        ("get" | "list" | "watch", "") => {
            Decision::Refuse(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        _ => Decision::Refuse(format!("node '{node}' cannot modify node '{}'", a.name)),
    }
}

fn own_lease(node: &str, a: &Attributes<'_>) -> Decision {
    if !matches!(a.verb, "get" | "create" | "update" | "patch" | "delete") {
        return refuse("can only get, create, update, patch, or delete a node lease");
    }
    if a.namespace != "kube-node-lease" {
        return refuse("can only access leases in the \"kube-node-lease\" system namespace");
    }
    if !a.subresource.is_empty() || (a.verb != "create" && a.name != node) {
        return refuse("can only access node lease with the same name as the requesting node");
    }
    Decision::Allow(String::new())
}

fn own_csi_node(node: &str, a: &Attributes<'_>) -> Decision {
    if !matches!(a.verb, "get" | "create" | "update" | "patch" | "delete") {
        return refuse("can only get, create, update, patch, or delete a CSINode");
    }
    if !a.subresource.is_empty() || (a.verb != "create" && a.name != node) {
        return refuse("can only access CSINode with the same name as the requesting node");
    }
    Decision::Allow(String::new())
}

/// Whether a field selector asks for this label to be exactly this value.
fn selects(selector: &str, label: &str, value: &str) -> bool {
    selector.split(',').any(|term| {
        let Some((key, wanted)) = term.split_once('=') else { return false };
        key == label && wanted.strip_prefix('=').unwrap_or(wanted) == value
    })
}
