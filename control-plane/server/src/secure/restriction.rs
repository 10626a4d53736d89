//! What a kubelet may write where authorization cannot see it: the NodeRestriction admission plugin
//! (`plugin/pkg/admission/noderestriction`).

use fairlead_api::status::{self, Status};
use serde_json::Value;

use super::node::{MIRROR, node_name, references};
use super::{Objects, User};

/// A write as admission sees it.
pub struct Admission<'a> {
    pub user: &'a User,
    /// `create`, `update` (also for patch and apply) or `delete`.
    pub operation: &'a str,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    /// The object as it would be written; of a subresource its own kind. `None` for a deletion.
    pub new: Option<&'a Value>,
    /// The object as it is; `None` for a creation.
    pub old: Option<&'a Value>,
}

/// Labels that a kubelet may set on its Node below the reserved domains.
const KUBELET_LABELS: [&str; 13] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "node.kubernetes.io/windows-build",
    "node.kubernetes.io/exclude-from-external-load-balancers",
];

impl Admission<'_> {
    /// Lets through everybody but kubelets, and of those what concerns their own node.
    ///
    /// # Errors
    /// The 403 to answer with.
    pub fn check(&self, objects: &dyn Objects) -> Result<(), Status> {
        let Some(node) = node_name(self.user) else { return Ok(()) };
        if node.is_empty() {
            return Err(self.forbidden(&format!(
                "could not determine node from user {}",
                status::quoted(&self.user.name)
            )));
        }
        match (self.group, self.resource, self.subresource) {
            ("", "pods", "") => self.pod(node, objects),
            ("", "pods", "status") => self.pod_status(node),
            ("", "pods", "eviction") => self.eviction(node, objects),
            ("", "nodes", "" | "status") => self.node(node),
            ("", "serviceaccounts", "token") => self.token(node, objects),
            ("coordination.k8s.io", "leases", "") => self.lease(node),
            ("storage.k8s.io", "csinodes", "") => self.csi_node(node),
            ("", "pods", other) => {
                Err(self.forbidden(&format!("unexpected pod subresource {}", status::quoted(other))))
            }
            _ => Ok(()),
        }
    }

    fn forbidden(&self, message: &str) -> Status {
        status::forbidden(self.group, self.resource, self.name, message)
    }

    fn pod(&self, node: &str, objects: &dyn Objects) -> Result<(), Status> {
        match self.operation {
            "create" => self.mirror_pod(node, self.new.unwrap_or(&Value::Null), objects),
            "delete" => match self.old {
                Some(pod) if node_of(pod) != node => Err(self.forbidden(&format!(
                    "node {} can only delete pods with spec.nodeName set to itself",
                    status::quoted(node)
                ))),
                _ => Ok(()),
            },
            other => Err(self.forbidden(&format!("unexpected operation {}", status::quoted(&upper(other))))),
        }
    }

    /// A mirror pod belongs to its node, and to nobody else.
    fn owner(&self, node: &str, owners: &[Value], objects: &dyn Objects) -> Result<(), Status> {
        let quoted = status::quoted(node);
        let only = |words: &str| {
            Err(self.forbidden(&format!("node {quoted} can only create pods with {words} set to itself")))
        };
        let owner = match owners {
            [one] => one,
            [] => return only("an owner reference"),
            _ => return only("a single owner reference"),
        };
        let is = [("/kind", "Node"), ("/apiVersion", "v1"), ("/name", node)];
        if is.iter().any(|(field, wanted)| text(owner, field) != *wanted) {
            return only("an owner reference");
        }
        if owner["controller"] != true {
            return only("a controller owner reference");
        }
        if owner["blockOwnerDeletion"] == true {
            return Err(self
                .forbidden(&format!("node {quoted} must not set blockOwnerDeletion on an owner reference")));
        }
        let found =
            objects.find("", "nodes", "", node).ok_or_else(|| status::not_found("", "nodes", node))?;
        let (uid, own) = (text(owner, "/uid"), text(&found, "/metadata/uid"));
        if uid != own {
            return Err(self.forbidden(&format!("node {node} UID mismatch: expected {uid} got {own}")));
        }
        Ok(())
    }

    /// A kubelet creates pods only to show its static ones, and those reach nothing in the API.
    fn mirror_pod(&self, node: &str, pod: &Value, objects: &dyn Objects) -> Result<(), Status> {
        let refuse = |message: String| Err(self.forbidden(&message));
        if pod.pointer("/metadata/annotations").is_none_or(|a| a.get(MIRROR).is_none()) {
            let wanted = status::quoted(MIRROR);
            return refuse(format!(
                "pod does not have {wanted} annotation, node {} can only create mirror pods",
                status::quoted(node)
            ));
        }
        if node_of(pod) != node {
            return refuse(format!(
                "node {} can only create pods with spec.nodeName set to itself",
                status::quoted(node)
            ));
        }
        let owners = pod.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        self.owner(node, owners.map_or(&[][..], Vec::as_slice), objects)?;
        if !references(pod).is_empty() {
            return refuse(format!(
                "node {} can not create pods that reference secrets, configmaps, service accounts or persistent volume claims",
                status::quoted(node)
            ));
        }
        Ok(())
    }

    fn pod_status(&self, node: &str) -> Result<(), Status> {
        if self.operation != "update" {
            return Err(
                self.forbidden(&format!("unexpected operation {}", status::quoted(&upper(self.operation))))
            );
        }
        if self.old.is_some_and(|pod| node_of(pod) != node) {
            return Err(self.forbidden(&format!(
                "node {} can only update pod status for pods with spec.nodeName set to itself",
                status::quoted(node)
            )));
        }
        let labels = |pod: Option<&Value>| pod.and_then(|pod| pod.pointer("/metadata/labels")).cloned();
        if self.new.is_some() && labels(self.new) != labels(self.old) {
            return Err(self.forbidden(&format!(
                "node {} cannot update labels through pod status",
                status::quoted(node)
            )));
        }
        Ok(())
    }

    fn eviction(&self, node: &str, objects: &dyn Objects) -> Result<(), Status> {
        let name = match self.new.map(|eviction| text(eviction, "/metadata/name")) {
            Some(name) if !name.is_empty() => name,
            _ => self.name.to_owned(),
        };
        let pod = objects
            .find("", "pods", self.namespace, &name)
            .ok_or_else(|| status::not_found("", "pods", &name))?;
        if node_of(&pod) == node {
            return Ok(());
        }
        Err(self.forbidden(&format!(
            "node {} can only evict pods with spec.nodeName set to itself",
            status::quoted(node)
        )))
    }

    fn node(&self, node: &str) -> Result<(), Status> {
        let requested = match self.new {
            Some(new) if self.name.is_empty() => text(new, "/metadata/name"),
            _ => self.name.to_owned(),
        };
        if requested != node {
            return Err(self.forbidden(&format!(
                "node {} is not allowed to modify node {}",
                status::quoted(node),
                status::quoted(&requested)
            )));
        }
        let Some(new) = self.new else { return Ok(()) };
        if self.operation == "create" {
            let labels = self.refused_labels(&Value::Null, new);
            if !labels.is_empty() {
                return Err(self.forbidden(&format!(
                    "node {} is not allowed to set the following labels: {}",
                    status::quoted(node),
                    labels.join(", ")
                )));
            }
            return Ok(());
        }
        let old = self.old.unwrap_or(&Value::Null);
        if old.pointer("/spec/configSource") != new.pointer("/spec/configSource") {
            return Err(self.forbidden(&format!(
                "node {} is not allowed to update configSource to a new non-nil configSource",
                status::quoted(node)
            )));
        }
        let empty = Value::Array(Vec::new());
        let taints =
            |of: &Value| of.pointer("/spec/taints").filter(|t| !t.is_null()).unwrap_or(&empty).clone();
        if self.subresource.is_empty() && taints(old) != taints(new) {
            return Err(
                self.forbidden(&format!("node {} is not allowed to modify taints", status::quoted(node)))
            );
        }
        if old.pointer("/metadata/ownerReferences") != new.pointer("/metadata/ownerReferences") {
            return Err(self.forbidden(&format!(
                "node {} is not allowed to modify ownerReferences",
                status::quoted(node)
            )));
        }
        let labels = self.refused_labels(old, new);
        if labels.is_empty() {
            return Ok(());
        }
        Err(self.forbidden(&format!("is not allowed to modify labels: {}", labels.join(", "))))
    }

    /// The labels that differ between the two and that a kubelet may not touch, sorted.
    fn refused_labels(&self, old: &Value, new: &Value) -> Vec<String> {
        let of = |node: &Value| node.pointer("/metadata/labels").and_then(Value::as_object).cloned();
        let (old, new) = (of(old).unwrap_or_default(), of(new).unwrap_or_default());
        let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        let changed = keys.into_iter().filter(|key| old.get(*key) != new.get(*key));
        changed.filter(|key| reserved(key)).cloned().collect()
    }

    /// A kubelet asks for tokens of its own pods only, bound to them.
    fn token(&self, node: &str, objects: &dyn Objects) -> Result<(), Status> {
        let request = self.new.unwrap_or(&Value::Null);
        let bound = request.pointer("/spec/boundObjectRef").filter(|bound| !bound.is_null());
        let Some(bound) = bound else {
            return Err(self.forbidden("node requested token not bound to a pod"));
        };
        if text(bound, "/apiVersion") != "v1"
            || text(bound, "/kind") != "Pod"
            || text(bound, "/name").is_empty()
        {
            return Err(self.forbidden("node requested token not bound to a pod"));
        }
        let uid = text(bound, "/uid");
        if uid.is_empty() {
            return Err(self.forbidden("node requested token with a pod binding without a uid"));
        }
        let name = text(bound, "/name");
        let pod = objects
            .find("", "pods", self.namespace, &name)
            .ok_or_else(|| status::not_found("", "pods", &name))?;
        if text(&pod, "/metadata/uid") != uid {
            return Err(self.forbidden(&format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            )));
        }
        if node_of(&pod) != node {
            return Err(self.forbidden("node requested token bound to a pod scheduled on a different node"));
        }
        Ok(())
    }

    fn lease(&self, node: &str) -> Result<(), Status> {
        if self.namespace != "kube-node-lease" {
            return Err(self.forbidden("can only access leases in the \"kube-node-lease\" system namespace"));
        }
        let name = match self.new {
            Some(new) if self.operation == "create" => text(new, "/metadata/name"),
            _ => self.name.to_owned(),
        };
        if name == node {
            return Ok(());
        }
        Err(self.forbidden("can only access node lease with the same name as the requesting node"))
    }

    fn csi_node(&self, node: &str) -> Result<(), Status> {
        let name = match self.new {
            Some(new) if self.operation == "create" => text(new, "/metadata/name"),
            _ => self.name.to_owned(),
        };
        if name == node {
            return Ok(());
        }
        Err(self.forbidden("can only access CSINode with the same name as the requesting node"))
    }
}

/// A label below `kubernetes.io` or `k8s.io` that is not among those that kubelets set.
fn reserved(key: &str) -> bool {
    if KUBELET_LABELS.contains(&key) {
        return false;
    }
    let Some((domain, _)) = key.split_once('/') else { return false };
    let below = |parent: &str| {
        domain == parent || domain.strip_suffix(parent).is_some_and(|start| start.ends_with('.'))
    };
    let kubelets = below("kubelet.kubernetes.io") || below("node.kubernetes.io");
    let restricted = below("node-restriction.kubernetes.io");
    restricted || ((below("kubernetes.io") || below("k8s.io")) && !kubelets)
}

fn text(of: &Value, pointer: &str) -> String {
    of.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn node_of(pod: &Value) -> &str {
    pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default()
}

fn upper(operation: &str) -> String {
    operation.to_ascii_uppercase()
}

#[cfg(test)]
#[path = "restriction_tests.rs"]
mod tests;
