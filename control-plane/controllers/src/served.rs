//! What the API server serves, as discovery says.

use kube::Client;
use kube::api::ApiResource;
use kube::discovery::{ApiCapabilities, Discovery, Scope, verbs};

use crate::queue::{Failure, Step};

/// One kind of the API.
#[derive(Clone, Debug)]
pub struct Served {
    /// Group, version, kind and plural.
    pub resource: ApiResource,
    /// What can be done with it.
    pub capabilities: ApiCapabilities,
}

impl Served {
    /// Whether its objects live in namespaces.
    pub fn is_namespaced(&self) -> bool {
        self.capabilities.scope == Scope::Namespaced
    }

    /// Whether its objects can be listed, watched and deleted.
    pub fn is_collectable(&self) -> bool {
        [verbs::LIST, verbs::WATCH, verbs::DELETE]
            .iter()
            .all(|verb| self.capabilities.supports_operation(verb))
    }

    /// `plural.group`, as resources are named in messages.
    pub fn name(&self) -> String {
        format!("{}.{}", self.resource.plural, self.resource.group)
    }
}

/// Every kind in its preferred version.
///
/// # Errors
/// Discovery could not be read in full.
pub async fn kinds(client: &Client) -> Result<Vec<Served>, Failure> {
    let discovery = match Discovery::new(client.clone()).run_aggregated().await {
        Ok(discovery) => discovery,
        Err(_) => Discovery::new(client.clone()).run().await.step("discover the API's resources")?,
    };
    let groups = discovery.groups();
    let resources = groups.flat_map(|group| group.resources_by_stability());
    Ok(resources.map(|(resource, capabilities)| Served { resource, capabilities }).collect())
}
