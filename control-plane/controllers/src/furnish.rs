//! Objects that every namespace has: the service account `default` and the CA bundles that token volumes mount.
//!
//! Both controllers are one pattern: watch the namespaces and the objects of that one name, put back what is missing.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::runtime::watcher;
use kube::{Api, Resource};
use serde::Serialize;
use serde_json::{Value, json};

use crate::informer::{Cached, Informer, Key};
use crate::queue::{Outcome, Queue, Step, work};
use crate::{Context, namespace, replica};

/// The service account that pods run as when they name none.
const DEFAULT_ACCOUNT: &str = "default";
/// The ConfigMaps that the projected token volume mounts, and the key that holds the cluster's CA in each.
const BUNDLES: [(&str, &str); 2] =
    [("kube-root-ca.crt", "ca.crt"), ("openshift-service-ca.crt", "service-ca.crt")];

/// Starts the controller of the default service account.
pub fn service_account(context: &Context) -> BoxFuture<'static, ()> {
    start(context, "serviceaccount", DEFAULT_ACCOUNT, |_: &Context| ServiceAccount::default(), |_, _| None)
}

/// Starts the publisher of the CA bundles.
pub fn root_ca(context: &Context) -> BoxFuture<'static, ()> {
    let publish = |(name, key): (&'static str, &'static str)| {
        let bundle =
            move |context: &Context| BTreeMap::from([(key.to_owned(), context.options.root_ca_pem.clone())]);
        let make = move |context: &Context| ConfigMap { data: Some(bundle(context)), ..Default::default() };
        let mend = move |context: &Context, known: &ConfigMap| {
            let data = bundle(context);
            (known.data.as_ref() != Some(&data)).then(|| json!({"data": data}))
        };
        start(context, "root-ca", name, make, mend)
    };
    futures::future::join_all(BUNDLES.map(publish)).map(|_| ()).boxed()
}

/// `make` gives the missing object, `mend` the patch for one that differs.
fn start<K>(
    context: &Context,
    controller: &'static str,
    name: &'static str,
    make: impl Fn(&Context) -> K + Send + Sync + 'static,
    mend: impl Fn(&Context, &K) -> Option<Value> + Send + Sync + 'static,
) -> BoxFuture<'static, ()>
where
    K: Cached + Resource<Scope = NamespaceResourceScope> + Serialize,
{
    let namespaces: Informer<Namespace> = context.informers.get(|_| {});
    let objects: Informer<K> = Informer::new(|_| {});
    let queue: Queue<Key> = Queue::default();
    let target = queue.clone();
    namespaces.on_change(move |change| {
        target.add_all(change.new.map(|namespace| Key::of(&**namespace)));
    });
    let target = queue.clone();
    objects.on_change(move |change| {
        let namespace = change.latest().and_then(|object| object.meta().namespace.clone());
        target.add_all(namespace.map(|namespace| Key::new("", &namespace)));
    });
    let context = context.clone();
    async move {
        let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let follow = objects.clone().follow(Api::all(context.client.clone()), only, context.shutdown.clone());
        let rooms = (Arc::new(make), Arc::new(mend));
        let sync = |key: Key| {
            let (make, mend) = rooms.clone();
            furnish(&context, &namespaces, &objects, name, key, make, mend)
        };
        let working = async {
            namespaces.synced().await;
            objects.synced().await;
            work(controller, &queue, 2, &context.shutdown, sync).await;
        };
        futures::join!(follow, working);
    }
    .boxed()
}

async fn furnish<K, M, N>(
    context: &Context,
    namespaces: &Informer<Namespace>,
    objects: &Informer<K>,
    name: &'static str,
    key: Key,
    make: Arc<M>,
    mend: Arc<N>,
) -> Outcome
where
    K: Cached + Resource<Scope = NamespaceResourceScope> + Serialize,
    M: Fn(&Context) -> K,
    N: Fn(&Context, &K) -> Option<Value>,
{
    if !namespaces.get(&key).is_some_and(|namespace| namespace::is_active(&namespace)) {
        return Ok(None);
    }
    let api: Api<K> = Api::namespaced(context.client.clone(), &key.name);
    if let Some(known) = objects.get(&Key::new(&key.name, name)) {
        if let Some(patch) = mend(context, &known) {
            api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.step("mend the object")?;
        }
        return Ok(None);
    }
    let mut object = make(context);
    *object.meta_mut() =
        ObjectMeta { name: Some(name.to_owned()), namespace: Some(key.name.clone()), ..Default::default() };
    match api.create(&PostParams::default(), &object).await {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) if status.is_already_exists() || status.is_not_found() => Ok(None),
        Err(error) if replica::is_namespace_terminating(&error) => Ok(None),
        Err(error) => Err(error).step("create the object"),
    }
}
