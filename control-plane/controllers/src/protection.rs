//! Objects of storage that are in use stay: claims that a pod mounts, volumes that are bound, classes that a claim or
//! a volume names. Admission puts a finalizer on each; here it goes once the object is being deleted and nobody uses
//! it any more.

use std::fmt::Debug;
use std::future::Future;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::informer::{Cached, Informer, Key};
use crate::pod::Pod;
use crate::queue::{Failure, Outcome, Queue, Step, work};
use crate::{Context, write};

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";
const CLASS: &str = "kubernetes.io/vac-protection";

/// Starts the controller of claims.
pub fn claims(context: &Context) -> BoxFuture<'static, ()> {
    let (claims, queue) = watched::<PersistentVolumeClaim>(context);
    let target = queue.clone();
    context.pods().on_change(move |change| {
        target.add_all(change.both().flat_map(|pod| claims_of(pod)));
    });
    let client = context.client.clone();
    guard(context, "pvc-protection", CLAIM, claims, queue, move |claim: &PersistentVolumeClaim| {
        let (key, client) = (Key::of(claim), client.clone());
        async move {
            // Asked of the API and not of the cache, which may not have heard of a pod yet.
            let api: Api<Pod> = Api::namespaced(client, &key.namespace);
            let pods = api.list(&ListParams::default()).await.step("list pods")?;
            let placed = |pod: &&Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
            Ok(pods.items.iter().filter(placed).any(|pod| claims_of(pod).contains(&key)))
        }
    })
}

/// Starts the controller of volumes.
pub fn volumes(context: &Context) -> BoxFuture<'static, ()> {
    let (volumes, queue) = watched::<PersistentVolume>(context);
    guard(context, "pv-protection", VOLUME, volumes, queue, |volume: &PersistentVolume| {
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        std::future::ready(Ok(phase == Some("Bound")))
    })
}

/// Starts the controller of volume attributes classes.
pub fn classes(context: &Context) -> BoxFuture<'static, ()> {
    let (classes, queue) = watched::<VolumeAttributesClass>(context);
    let claims: Informer<PersistentVolumeClaim> = context.informers.get(|_| {});
    let volumes: Informer<PersistentVolume> = context.informers.get(|_| {});
    let target = queue.clone();
    claims.on_change(move |change| {
        target.add_all(
            change.old.into_iter().flat_map(|claim| classes_of(claim)).map(|name| Key::new("", &name)),
        );
    });
    let target = queue.clone();
    volumes.on_change(move |change| {
        target.add_all(change.old.and_then(|volume| class_of(volume)).map(|name| Key::new("", &name)));
    });
    let client = context.client.clone();
    guard(context, "vac-protection", CLASS, classes, queue, move |class: &VolumeAttributesClass| {
        let (name, client) = (class.name_any(), client.clone());
        async move {
            let all = ListParams::default();
            let claims: Api<PersistentVolumeClaim> = Api::all(client.clone());
            let claims = claims.list(&all).await.step("list claims")?;
            if claims.items.iter().any(|claim| classes_of(claim).contains(&name)) {
                return Ok(true);
            }
            let volumes: Api<PersistentVolume> = Api::all(client);
            let volumes = volumes.list(&all).await.step("list volumes")?;
            Ok(volumes.items.iter().any(|volume| class_of(volume) == Some(name.clone())))
        }
    })
}

/// The claims that a pod mounts, those made for it included.
fn claims_of(pod: &Pod) -> Vec<Key> {
    let namespace = pod.namespace().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let names = volumes.filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", pod.name_any(), volume.name)),
        (None, None) => None,
    });
    names.map(|name| Key::new(&namespace, &name)).collect()
}

/// The classes that a claim has, wants or is on its way to.
fn classes_of(claim: &PersistentVolumeClaim) -> Vec<String> {
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone());
    let status = claim.status.as_ref();
    let present = status.and_then(|status| status.current_volume_attributes_class_name.clone());
    let target = status.and_then(|status| status.modify_volume_status.as_ref());
    let target = target.and_then(|modify| modify.target_volume_attributes_class_name.clone());
    [wanted, present, target].into_iter().flatten().filter(|name| !name.is_empty()).collect()
}

fn class_of(volume: &PersistentVolume) -> Option<String> {
    volume.spec.as_ref()?.volume_attributes_class_name.clone().filter(|name| !name.is_empty())
}

/// The objects of a kind and a queue that every change of them goes into.
fn watched<K: Cached>(context: &Context) -> (Informer<K>, Queue<Key>) {
    let objects: Informer<K> = context.informers.get(|_| {});
    let queue: Queue<Key> = Queue::default();
    let target = queue.clone();
    objects.on_change(move |change| target.add_all(change.new.map(|object| Key::of(&**object))));
    (objects, queue)
}

/// Lets the finalizer go from objects that are being deleted and that nobody uses; puts it on others that lack it.
fn guard<K, U, F>(
    context: &Context,
    name: &'static str,
    finalizer: &'static str,
    objects: Informer<K>,
    queue: Queue<Key>,
    is_used: U,
) -> BoxFuture<'static, ()>
where
    K: Cached + Debug,
    Api<K>: Scoped,
    U: Fn(&K) -> F + Send + Sync + 'static,
    F: Future<Output = Result<bool, Failure>> + Send + 'static,
{
    let context = context.clone();
    async move {
        objects.synced().await;
        let sync = |key: Key| {
            let object = objects.get(&key);
            let used = object.as_deref().map(&is_used);
            let client = context.client.clone();
            async move {
                let (Some(object), Some(used)) = (object, used) else { return Ok(None) };
                let api = <Api<K> as Scoped>::at(client, &key.namespace);
                settle(&api, &*object, finalizer, used).await
            }
        };
        work(name, &queue, 2, &context.shutdown, sync).await;
    }
    .boxed()
}

async fn settle<K>(
    api: &Api<K>,
    object: &K,
    finalizer: &'static str,
    used: impl Future<Output = Result<bool, Failure>>,
) -> Outcome
where
    K: Cached + Debug,
{
    let mut finalizers = object.finalizers().to_vec();
    let held = finalizers.iter().any(|own| own == finalizer);
    match (object.meta().deletion_timestamp.is_some(), held) {
        (true, true) if !used.await? => finalizers.retain(|own| own != finalizer),
        (false, false) => finalizers.push(finalizer.to_owned()),
        _ => return Ok(None),
    }
    let patch = json!({"metadata": {"finalizers": finalizers}});
    match write::guarded(api, object, patch, "write the finalizers").await {
        Err(failure) if failure.is_not_found() => Ok(None),
        done => done.map(|_| None),
    }
}

/// The API of a kind in one place: its namespace, or the cluster.
trait Scoped: Sized {
    fn at(client: kube::Client, namespace: &str) -> Self;
}

impl Scoped for Api<PersistentVolumeClaim> {
    fn at(client: kube::Client, namespace: &str) -> Self {
        Api::namespaced(client, namespace)
    }
}

impl Scoped for Api<PersistentVolume> {
    fn at(client: kube::Client, _: &str) -> Self {
        Api::all(client)
    }
}

impl Scoped for Api<VolumeAttributesClass> {
    fn at(client: kube::Client, _: &str) -> Self {
        Api::all(client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_uses_the_claims_that_it_names_and_those_made_for_it() {
        let volumes = json!([
            {"name": "a", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "b", "ephemeral": {}},
            {"name": "c", "emptyDir": {}},
        ]);
        let pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [], "volumes": volumes}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        assert_eq!(claims_of(&pod), [Key::new("n", "data"), Key::new("n", "p-b")]);
    }

    #[test]
    fn a_claim_uses_the_class_that_it_has_and_the_one_that_it_goes_to() {
        let claim = json!({
            "spec": {"volumeAttributesClassName": "new"},
            "status": {"currentVolumeAttributesClassName": "old",
                "modifyVolumeStatus": {"status": "InProgress", "targetVolumeAttributesClassName": "new"}},
        });
        let claim: PersistentVolumeClaim = serde_json::from_value(claim).unwrap();
        assert_eq!(classes_of(&claim), ["new", "old", "new"]);
    }
}
