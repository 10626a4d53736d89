//! Admission: one file and one line of [`PLUGINS`] per plugin. Mutating steps run before the strategy, validating
//! ones after validation, each in the order of the registry, as upstream's chain does.

mod certificate_requests;
mod certificate_subject;
mod default_ingress_class;
mod default_storage_class;
mod escalation;
mod namespace_lifecycle;
mod node_restriction;
mod priority;
mod service_account;
mod storage_protection;
mod taint_nodes;
mod toleration_seconds;

use fairlead_api::{
    kind::Kind,
    status::{self, Status},
};
use futures::future::BoxFuture;
use serde_json::Value;

use crate::{api::Api, secure::User};

/// What is done to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    /// `exec`, `attach`, `portforward`, `proxy`.
    Connect,
}

/// A request as plugins see it.
#[derive(Clone, Copy)]
pub struct Attributes<'a> {
    pub kind: &'static Kind,
    pub subresource: &'a str,
    pub operation: Operation,
    pub namespace: &'a str,
    /// Empty while a name is still to be generated.
    pub name: &'a str,
    /// What a name is generated from.
    pub prefix: &'a str,
    pub user: &'a User,
    /// The object as it is; `None` for a creation.
    pub old: Option<&'a Value>,
    pub dry_run: bool,
}

impl Attributes<'_> {
    /// Whether this is about the main resource of a storage.
    fn is(&self, storage: &str) -> bool {
        self.kind.storage == storage && self.subresource.is_empty()
    }

    /// 403 with upstream's words.
    fn forbidden(&self, message: &str) -> Status {
        let name = if self.name.is_empty() { self.prefix } else { self.name };
        status::forbidden(self.kind.group, self.kind.plural, name, message)
    }
}

type Mutate = for<'a> fn(&'a Api, &'a Attributes<'a>, &'a mut Value) -> BoxFuture<'a, Result<(), Status>>;
type Validate = for<'a> fn(&'a Api, &'a Attributes<'a>, &'a Value) -> BoxFuture<'a, Result<(), Status>>;

/// A plugin; its name is upstream's.
pub struct Plugin {
    pub name: &'static str,
    mutate: Option<Mutate>,
    validate: Option<Validate>,
}

impl Plugin {
    const BASE: Plugin = Plugin { name: "", mutate: None, validate: None };
}

/// All plugins, in upstream's order.
pub static PLUGINS: &[Plugin] = &[
    namespace_lifecycle::PLUGIN,
    service_account::PLUGIN,
    node_restriction::PLUGIN,
    taint_nodes::PLUGIN,
    priority::PLUGIN,
    toleration_seconds::PLUGIN,
    default_storage_class::PLUGIN,
    storage_protection::PLUGIN,
    certificate_requests::PLUGIN,
    certificate_subject::PLUGIN,
    default_ingress_class::PLUGIN,
    escalation::PLUGIN,
];

/// Runs the mutating steps.
///
/// # Errors
/// The first refusal.
pub async fn mutate(api: &Api, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), Status> {
    for plugin in PLUGINS {
        if let Some(mutate) = plugin.mutate {
            mutate(api, attributes, object).await?;
        }
    }
    Ok(())
}

/// Runs the validating steps; `object` is null for deletions.
///
/// # Errors
/// The first refusal.
pub async fn validate(api: &Api, attributes: &Attributes<'_>, object: &Value) -> Result<(), Status> {
    for plugin in PLUGINS {
        if let Some(validate) = plugin.validate {
            validate(api, attributes, object).await?;
        }
    }
    Ok(())
}
