//! The state that every request sees.

use std::{net::IpAddr, sync::Arc};

use fairlead_api::{
    kind::Kind,
    status::{self, Status},
};
use fairlead_store::{Store, StoreError};
use parking_lot::Mutex;

use crate::{
    accept::Form,
    allocate::Allocators,
    cache::{Behind, Cache, Caches},
    config::Limits,
    inflight::InFlight,
    info::{Info, Params, Resource},
    kubelet::Kubelets,
    metrics::Metrics,
    secure::{Authenticator, Authorizer, Tokens},
};

/// Everything that handlers share.
pub struct Api {
    pub store: Arc<dyn Store>,
    pub caches: Arc<Caches>,
    pub allocators: Arc<Allocators>,
    pub authenticator: Authenticator,
    pub authorizer: Arc<Authorizer>,
    pub tokens: Arc<Tokens>,
    pub metrics: Metrics,
    pub kubelets: Kubelets,
    pub inflight: InFlight,
    pub limits: Limits,
    pub advertise: (IpAddr, u16),
    /// Since the epoch.
    pub started: std::time::Duration,
    /// What runs in this process beside the API server, by upstream's names.
    pub parts: Vec<&'static str>,
    /// How long Events are kept.
    pub event_ttl: std::time::Duration,
    /// Cancelled when the server is about to stop; long-running answers end then.
    pub stopping: tokio_util::sync::CancellationToken,
}

/// One request to a resource, after authentication and authorization.
pub struct Call {
    pub kind: &'static Kind,
    pub info: Info,
    pub resource: Resource,
    pub params: Params,
    pub form: Form,
    pub gzip: bool,
    pub user: Arc<crate::secure::User>,
    /// What the answer warns of, be it a success or a refusal.
    pub warnings: Mutex<Vec<String>>,
    /// The default field manager: the start of the User-Agent.
    pub agent: String,
}

impl Call {
    /// The key of the named object within its storage.
    pub fn key(&self) -> String {
        key(self.kind, &self.resource.namespace, &self.resource.name)
    }

    /// The prefix of the collection within its storage.
    pub fn prefix(&self) -> String {
        if self.kind.namespaced && !self.resource.namespace.is_empty() {
            format!("{}/", self.resource.namespace)
        } else {
            String::new()
        }
    }

    /// The same request about another object.
    pub fn named(&self, resource: Resource) -> Call {
        Call {
            kind: self.kind,
            info: self.info.clone(),
            resource,
            params: self.params.clone(),
            form: self.form,
            gzip: self.gzip,
            user: self.user.clone(),
            warnings: Mutex::default(),
            agent: self.agent.clone(),
        }
    }

    pub fn not_found(&self) -> Status {
        not_found(self.kind, &self.resource.name)
    }
}

/// The stored version of a resource.
pub fn kind_of(group: &str, plural: &str) -> Option<&'static Kind> {
    let named =
        |kind: &&&'static Kind| kind.group == group && kind.plural == plural && kind.convert.is_none();
    fairlead_api::kinds::REGISTRY.iter().find(named).copied()
}

/// The key of an object within its storage.
pub fn key(kind: &Kind, namespace: &str, name: &str) -> String {
    if kind.namespaced { format!("{namespace}/{name}") } else { name.to_owned() }
}

/// The key of an object in the store.
pub fn store_key(kind: &Kind, key: &str) -> String {
    format!("{}/{key}", kind.storage)
}

pub fn not_found(kind: &Kind, name: &str) -> Status {
    // The one kind that upstream's errors name in the singular.
    let plural = if kind.storage == "componentstatuses" { kind.singular } else { kind.plural };
    status::not_found(kind.group, plural, name)
}

impl Api {
    /// The cache that holds a kind's objects.
    ///
    /// # Errors
    /// For kinds that hold none.
    pub fn cache(&self, kind: &Kind) -> Result<&Arc<Cache>, Status> {
        self.caches.of(kind).ok_or_else(status::method_not_allowed)
    }
}

/// What a failing store means to a client.
pub fn unavailable(error: StoreError) -> Status {
    match error {
        StoreError::Compacted { requested, oldest } => status::too_old(requested, oldest),
        StoreError::Future { requested, current } => status::too_large_resource_version(requested, current),
        StoreError::Unavailable(reason) => {
            status::service_unavailable(format!("the store is unavailable: {reason}"))
        }
        other => status::internal(&other.to_string()),
    }
}

/// What a cache that lags behind means to a client.
pub fn behind(error: Behind) -> Status {
    match error {
        Behind::Timeout { asked, current } => status::too_large_resource_version(asked, current),
        Behind::Store(error) => unavailable(error),
    }
}
