//! Who may do what: certificates, TLS, authentication, authorization, service-account tokens, default roles.
//!
//! A request's way through here: the TLS certificate or the bearer token names a [`User`]; impersonation may replace
//! it; the [`Authorizer`] answers whether that user may do what the request asks. Nothing is remembered between
//! requests but indexes that the server feeds from its watch caches.

pub mod authenticate;
pub mod authorize;
pub mod bootstrap;
pub mod escalation;
#[cfg(test)]
mod fixture;
pub mod node;
pub mod pki;
pub mod rbac;
pub mod restriction;
pub mod review;
pub mod rules;
pub mod tls;
pub mod tokens;

use std::collections::BTreeMap;

use serde_json::Value;

pub use authenticate::Authenticator;
pub use authorize::{Attributes, Authorizer, Decision};
pub use pki::Pki;
pub use tokens::Tokens;

/// Members may do everything, whatever RBAC says.
pub const MASTERS: &str = "system:masters";
/// Every user that proved who it is.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Those who proved nothing.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The name of those who proved nothing.
pub const ANONYMOUS: &str = "system:anonymous";
/// All kubelets.
pub const NODES: &str = "system:nodes";
/// All service accounts; those of one namespace are in `system:serviceaccounts:NAMESPACE` too.
pub const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
/// Names of service accounts start so: `system:serviceaccount:NAMESPACE:NAME`.
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// Who makes a request (`k8s.io/apiserver/pkg/authentication/user.Info`). A request extension, as `Arc<User>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    /// Empty if unknown.
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A component of the control plane, as its client certificate would name it.
    pub fn component(name: &str) -> Self {
        User { name: name.to_owned(), groups: vec![AUTHENTICATED.to_owned()], ..User::default() }
    }

    /// The server itself: the identity of its own start-up writes.
    pub fn server() -> Self {
        User {
            name: "system:apiserver".to_owned(),
            groups: vec![MASTERS.to_owned(), AUTHENTICATED.to_owned()],
            ..User::default()
        }
    }

    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// Namespace and name, if this is a service account.
    pub fn service_account(&self) -> Option<(&str, &str)> {
        service_account(&self.name)
    }

    /// The form in `userInfo` and `user` fields; empty parts are left out.
    pub fn to_json(&self) -> Value {
        let mut out = serde_json::Map::new();
        if !self.name.is_empty() {
            out.insert("username".to_owned(), self.name.clone().into());
        }
        if !self.uid.is_empty() {
            out.insert("uid".to_owned(), self.uid.clone().into());
        }
        if !self.groups.is_empty() {
            out.insert("groups".to_owned(), self.groups.clone().into());
        }
        if !self.extra.is_empty() {
            let extra = self.extra.iter().map(|(key, values)| (key.clone(), values.clone().into()));
            out.insert("extra".to_owned(), Value::Object(extra.collect()));
        }
        Value::Object(out)
    }
}

/// Splits `system:serviceaccount:NAMESPACE:NAME`; `None` if it is not of that form.
pub fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
    let plain = |part: &str| !part.is_empty() && !part.contains(':');
    (plain(namespace) && plain(name)).then_some((namespace, name))
}

/// Objects as the server's caches hold them now.
pub trait Objects: Send + Sync {
    /// The object, or `None` if there is none. `namespace` is empty for cluster-scoped resources.
    fn find(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Value>;
}
