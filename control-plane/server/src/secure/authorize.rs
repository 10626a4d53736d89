//! Authorization: `system:masters`, then the Node authorizer, then RBAC. Nothing is denied outright: what nobody
//! allows is forbidden.

use fairlead_api::status::{self, Status, quoted};
use parking_lot::RwLock;

use super::node::{Graph, node_name};
use super::rbac::{Binding, Index, Role, RoleRef};
use super::rules::Rule;
use super::{MASTERS, User};

/// What a request asks for (`k8s.io/apiserver/pkg/authorization/authorizer.Attributes`).
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    pub user: &'a User,
    pub verb: &'a str,
    /// API group, empty for core.
    pub group: &'a str,
    pub version: &'a str,
    /// Plural name, without the subresource.
    pub resource: &'a str,
    pub subresource: &'a str,
    /// Empty for the whole cluster.
    pub namespace: &'a str,
    /// Empty for collections. For a list or watch with the field selector `metadata.name=X` it is X.
    pub name: &'a str,
    /// As the client sent it, `""` without. The Node authorizer looks for `spec.nodeName` and `metadata.name`.
    pub field_selector: &'a str,
    /// Set for a request that names no resource; the fields about resources are empty then.
    pub path: Option<&'a str>,
}

impl<'a> Attributes<'a> {
    /// A request about nothing yet, to be completed.
    pub fn new(user: &'a User, verb: &'a str) -> Self {
        Attributes {
            user,
            verb,
            group: "",
            version: "",
            resource: "",
            subresource: "",
            namespace: "",
            name: "",
            field_selector: "",
            path: None,
        }
    }

    /// A request for a path that names no resource.
    pub fn path(user: &'a User, verb: &'a str, path: &'a str) -> Self {
        Attributes { path: Some(path), ..Attributes::new(user, verb) }
    }

    /// The 403 in upstream's words; `reason` may be empty.
    pub fn forbidden(&self, reason: &str) -> Status {
        let user = quoted(&self.user.name);
        let mut message = match self.path {
            Some(path) => format!("User {user} cannot {} path {}", self.verb, quoted(path)),
            None => {
                let resource = match self.subresource {
                    "" => self.resource.to_owned(),
                    sub => format!("{}/{sub}", self.resource),
                };
                let place = match self.namespace {
                    "" => "at the cluster scope".to_owned(),
                    namespace => format!("in the namespace {}", quoted(namespace)),
                };
                format!(
                    "User {user} cannot {} resource {} in API group {} {place}",
                    self.verb,
                    quoted(&resource),
                    quoted(self.group)
                )
            }
        };
        if !reason.is_empty() {
            message.push_str(": ");
            message.push_str(reason);
        }
        status::forbidden(self.group, self.resource, self.name, &message)
    }
}

/// The answer for one request, with its reason in upstream's words (may be empty).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow(String),
    /// No authorizer had an opinion, which means no.
    Refuse(String),
}

impl Decision {
    pub fn is_allowed(&self) -> bool {
        matches!(self, Decision::Allow(_))
    }
}

/// A resource whose objects the authorizer must be told of: API group and plural.
pub type Watched = (&'static str, &'static str);

/// Who may do what, from the objects it has been told of.
#[derive(Default)]
pub struct Authorizer {
    rbac: RwLock<Index>,
    nodes: RwLock<Graph>,
}

impl Authorizer {
    /// The resources that [`Authorizer::observe`] wants, all of their objects, before the first request.
    pub const WATCHED: [Watched; 6] = [
        ("rbac.authorization.k8s.io", "clusterroles"),
        ("rbac.authorization.k8s.io", "roles"),
        ("rbac.authorization.k8s.io", "clusterrolebindings"),
        ("rbac.authorization.k8s.io", "rolebindings"),
        ("", "pods"),
        ("", "persistentvolumeclaims"),
    ];

    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the newest state of one object of a watched resource (JSON), or its deletion. Cheap; called with the
    /// cache's events in their order.
    pub fn observe(&self, resource: &str, namespace: &str, name: &str, object: Option<&[u8]>) {
        match resource {
            "clusterroles" | "roles" => {
                let role: Option<Role> = object.and_then(|bytes| parse(resource, namespace, name, bytes));
                self.rbac.write().set_role(namespace, name, role);
            }
            "clusterrolebindings" | "rolebindings" => {
                let binding: Option<Binding> =
                    object.and_then(|bytes| parse(resource, namespace, name, bytes));
                self.rbac.write().set_binding(namespace, name, binding);
            }
            "pods" => {
                let pod = object.and_then(|bytes| parse(resource, namespace, name, bytes));
                self.nodes.write().set_pod(namespace, name, pod);
            }
            "persistentvolumeclaims" => {
                let claim = object.and_then(|bytes| parse(resource, namespace, name, bytes));
                self.nodes.write().set_claim(namespace, name, claim);
            }
            _ => {}
        }
    }

    /// Whether the user may do this.
    pub fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        if attributes.user.is_in(MASTERS) {
            return Decision::Allow(String::new());
        }
        let mut reason = String::new();
        if let Some(node) = node_name(attributes.user) {
            match self.nodes.read().authorize(node, attributes) {
                Decision::Refuse(because) => reason = because,
                allow => return allow,
            }
        }
        match self.rbac.read().allowed_by(attributes) {
            Some(because) => Decision::Allow(because),
            None => Decision::Refuse(reason),
        }
    }

    /// The same as [`Authorizer::authorize`], as the answer to a request that is not allowed.
    ///
    /// # Errors
    /// The 403 to answer with.
    pub fn check(&self, attributes: &Attributes<'_>) -> Result<(), Status> {
        match self.authorize(attributes) {
            Decision::Allow(_) => Ok(()),
            Decision::Refuse(reason) => Err(attributes.forbidden(&reason)),
        }
    }

    /// Every RBAC rule that applies to `user` in `namespace` (empty: those of the cluster only).
    pub fn rules_of(&self, user: &User, namespace: &str) -> Vec<Rule> {
        self.rbac.read().rules_of(user, namespace)
    }

    /// All rules of the role that a binding refers to, `None` if it does not exist.
    pub fn referenced_rules(&self, reference: &RoleRef, namespace: &str) -> Option<Vec<Rule>> {
        let index = self.rbac.read();
        let role = index.referenced(reference, namespace)?;
        let mut rules = Vec::new();
        index.visit_rules(&role, &mut |rule| {
            rules.push(rule.clone());
            false
        });
        Some(rules)
    }
}

/// An object that cannot be read grants nothing, and that is logged: the API refuses such objects, so only foreign
/// writes into the store can make one.
fn parse<T: serde::de::DeserializeOwned>(
    resource: &str,
    namespace: &str,
    name: &str,
    bytes: &[u8],
) -> Option<T> {
    serde_json::from_slice(bytes)
        .inspect_err(|error| tracing::warn!(resource, namespace, name, %error, "not understood, ignored"))
        .ok()
}

#[cfg(test)]
#[path = "authorize_tests.rs"]
mod tests;
