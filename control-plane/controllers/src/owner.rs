//! Who controls an object: reading, adopting, releasing.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kube::api::{Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::queue::{Failure, Step};
use crate::selector;

/// The reference to the one owner that controls the object.
#[must_use]
pub fn controller_of<K: Resource>(object: &K) -> Option<&OwnerReference> {
    object.meta().owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Whether the object of `uid` controls `object`.
#[must_use]
pub fn is_controlled_by<K: Resource>(object: &K, uid: &str) -> bool {
    controller_of(object).is_some_and(|owner| owner.uid == uid)
}

/// The reference that makes `owner` the controller of a new object.
#[must_use]
pub fn reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What to do with one object that an owner's selector may or may not match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is ours and stays so.
    Keep,
    /// It is nobody's and matches: take it.
    Adopt,
    /// It is ours and matches no more: let it go.
    Release,
    /// Not ours.
    Ignore,
}

/// Decides over one object.
#[must_use]
pub fn claim<O: Resource, K: Resource>(owner: &O, selected: &LabelSelector, object: &K) -> Claim {
    let matches = selector::matches(selected, object.meta().labels.as_ref());
    let uid = owner.meta().uid.as_deref().unwrap_or_default();
    let owner_stays = owner.meta().deletion_timestamp.is_none();
    match controller_of(object) {
        Some(reference) if reference.uid == uid && matches => Claim::Keep,
        Some(reference) if reference.uid == uid && owner_stays => Claim::Release,
        None if matches && owner_stays && object.meta().deletion_timestamp.is_none() => Claim::Adopt,
        _ => Claim::Ignore,
    }
}

/// Adopts and releases `objects` as the selector says; returns those that the owner controls afterwards.
///
/// # Errors
/// The first write that failed for another reason than the object being gone.
pub async fn claim_all<O, K>(
    client: &Client,
    owner: &O,
    selected: &LabelSelector,
    objects: Vec<std::sync::Arc<K>>,
) -> Result<Vec<std::sync::Arc<K>>, Failure>
where
    O: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let namespace = owner.meta().namespace.clone().unwrap_or_default();
    let api: Api<K> = Api::namespaced(client.clone(), &namespace);
    let mut may_adopt = None;
    let mut ours = Vec::with_capacity(objects.len());
    for object in objects {
        match claim(owner, selected, &*object) {
            Claim::Keep => ours.push(object),
            Claim::Ignore => {}
            Claim::Release => release(&api, owner, &*object).await?,
            Claim::Adopt => {
                // The cached owner may be deleted or replaced already: ask once before the first adoption.
                let allowed = match may_adopt {
                    Some(allowed) => allowed,
                    None => *may_adopt.insert(still_there(client, owner, &namespace).await?),
                };
                if allowed && adopt(&api, owner, &*object).await? {
                    ours.push(object);
                }
            }
        }
    }
    Ok(ours)
}

async fn still_there<O>(client: &Client, owner: &O, namespace: &str) -> Result<bool, Failure>
where
    O: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api: Api<O> = Api::namespaced(client.clone(), namespace);
    let live = api.get_metadata_opt(&owner.name_any()).await.step("read the owner before adopting")?;
    Ok(live.is_some_and(|live| {
        live.metadata.uid == owner.meta().uid && live.metadata.deletion_timestamp.is_none()
    }))
}

async fn adopt<O, K>(api: &Api<K>, owner: &O, object: &K) -> Result<bool, Failure>
where
    O: Resource<DynamicType = ()>,
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut references = object.meta().owner_references.clone().unwrap_or_default();
    references.push(reference(owner));
    let patch = json!({"metadata": {
        "uid": object.meta().uid,
        "resourceVersion": object.meta().resource_version,
        "ownerReferences": references,
    }});
    gone_is_fine(api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await, "adopt")
}

async fn release<O, K>(api: &Api<K>, owner: &O, object: &K) -> Result<(), Failure>
where
    O: Resource<DynamicType = ()>,
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let uid = owner.meta().uid.as_deref().unwrap_or_default();
    let references = object.meta().owner_references.iter().flatten();
    let references: Vec<_> = references.filter(|reference| reference.uid != uid).collect();
    let patch = json!({"metadata": {
        "uid": object.meta().uid,
        "resourceVersion": object.meta().resource_version,
        "ownerReferences": if references.is_empty() { json!(null) } else { json!(references) },
    }});
    gone_is_fine(
        api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await,
        "release",
    )
    .map(drop)
}

fn gone_is_fine<K>(answer: Result<K, kube::Error>, step: &'static str) -> Result<bool, Failure> {
    match answer {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(false),
        Err(error) => Err(error).step(step),
    }
}
