//! Garbage collection by owner references: what nobody owns any more goes, foreground deletion waits for dependents,
//! orphaning lets them be.
//!
//! Every kind that can be listed, watched and deleted is followed by its metadata alone.

mod graph;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, PartialObjectMeta, Patch, PatchParams, Preconditions,
    PropagationPolicy,
};
use kube::runtime::{WatchStreamExt, watcher};
use parking_lot::{Mutex, RwLock};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::Context;
use crate::queue::{Failure, Outcome, Queue, Step, work};
use crate::served::{self, Served};
use graph::{Graph, Identity, Owned, Todo};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
/// How often the served kinds are read again.
const REDISCOVER: Duration = Duration::from_secs(30);
const WORKERS: usize = 8;

/// One object to look at, by uid.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Uid(Arc<str>);

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

struct Collector {
    context: Context,
    graph: Mutex<Graph>,
    kinds: RwLock<HashMap<(String, String), Kind>>,
    delete: Queue<Uid>,
    orphan: Queue<Uid>,
    ready: watch::Sender<bool>,
}

/// A followed kind.
#[derive(Clone)]
struct Kind {
    resource: ApiResource,
    namespaced: bool,
    synced: watch::Receiver<bool>,
    stop: CancellationToken,
}

/// Starts the controller.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let collector = Arc::new(Collector {
        context: context.clone(),
        graph: Mutex::default(),
        kinds: RwLock::default(),
        delete: Queue::default(),
        orphan: Queue::default(),
        ready: watch::Sender::new(false),
    });
    async move {
        let mut ready = collector.ready.subscribe();
        let shutdown = collector.context.shutdown.clone();
        let working = async {
            // Nothing is judged before every kind was listed: an owner not seen yet is not an owner gone.
            let _ = ready.wait_for(|ready| *ready).await;
            let delete = work("collect", &collector.delete, WORKERS, &shutdown, |uid| collector.judge(uid));
            let orphan = work("orphan", &collector.orphan, 2, &shutdown, |uid| collector.orphan(uid));
            futures::join!(delete, orphan);
        };
        futures::join!(working, collector.clone().discover());
    }
    .boxed()
}

/// Events own nothing, are owned by nothing, and come in masses.
fn is_followed(served: &Served) -> bool {
    served.is_collectable() && served.resource.plural != "events"
}

impl Collector {
    /// Keeps the set of followed kinds in step with discovery.
    async fn discover(self: Arc<Self>) {
        loop {
            match served::kinds(&self.context.client).await {
                Ok(served) => self.clone().follow_all(served).await,
                Err(failure) => {
                    let cause =
                        std::error::Error::source(&failure).map(ToString::to_string).unwrap_or_default();
                    tracing::warn!(%failure, cause, "kinds not discovered, trying again");
                }
            }
            let pause = if *self.ready.borrow() { REDISCOVER } else { Duration::from_millis(500) };
            tokio::time::sleep(pause).await;
        }
    }

    async fn follow_all(self: Arc<Self>, served: Vec<Served>) {
        let mut wanted = HashMap::new();
        for kind in served.into_iter().filter(is_followed) {
            wanted.entry((kind.resource.group.clone(), kind.resource.kind.clone())).or_insert(kind);
        }
        {
            let mut kinds = self.kinds.write();
            kinds.retain(|id, kind| {
                let stays = wanted.get(id).is_some_and(|known| known.resource == kind.resource);
                if !stays {
                    kind.stop.cancel();
                }
                stays
            });
            for (id, served) in wanted {
                if kinds.contains_key(&id) {
                    continue;
                }
                let (synced, receiver) = watch::channel(false);
                let stop = self.context.shutdown.child_token();
                let namespaced = served.is_namespaced();
                let kind = Kind { resource: served.resource, namespaced, synced: receiver, stop };
                tokio::spawn(self.clone().follow(kind.clone(), synced));
                kinds.insert(id, kind);
            }
        }
        let waiting: Vec<_> = self.kinds.read().values().map(|kind| kind.synced.clone()).collect();
        for mut synced in waiting {
            // A kind that cannot be listed holds nothing back forever; its objects are judged by live reads.
            let wait = synced.wait_for(|synced| *synced);
            let _ = tokio::time::timeout(Duration::from_secs(30), wait).await;
        }
        self.ready.send_replace(true);
    }

    async fn follow(self: Arc<Self>, kind: Kind, synced: watch::Sender<bool>) {
        type Meta = PartialObjectMeta<DynamicObject>;
        let api: Api<Meta> = Api::all_with(self.context.client.clone(), &kind.resource);
        let stream = watcher(api, watcher::Config::default()).default_backoff();
        let mut stream = std::pin::pin!(stream.take_until(kind.stop.clone().cancelled_owned()));
        let mut listed = HashSet::new();
        while let Some(event) = stream.next().await {
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(object)) => {
                    listed.extend(object.metadata.uid.as_deref().map(Arc::from));
                    self.observe(&kind, &object.metadata);
                }
                Ok(watcher::Event::InitDone) => {
                    let gone = self.graph.lock().missing(&kind.resource, &listed);
                    gone.iter().for_each(|uid| self.vanish(uid));
                    listed = HashSet::new();
                    synced.send_replace(true);
                }
                Ok(watcher::Event::Apply(object)) => self.observe(&kind, &object.metadata),
                Ok(watcher::Event::Delete(object)) => {
                    if let Some(uid) = &object.metadata.uid {
                        self.vanish(uid);
                    }
                }
                Err(error) => {
                    tracing::debug!(kind = kind.resource.kind, %error, "metadata watch failed, trying again");
                }
            }
        }
        // The kind is served no more, so none of its objects exists.
        let gone = self.graph.lock().missing(&kind.resource, &HashSet::new());
        gone.iter().for_each(|uid| self.vanish(uid));
    }

    fn observe(&self, kind: &Kind, meta: &ObjectMeta) {
        let Some(uid) = meta.uid.as_deref() else { return };
        let owned = Owned {
            identity: Identity {
                group: kind.resource.group.as_str().into(),
                kind: kind.resource.kind.as_str().into(),
                namespace: meta.namespace.as_deref().unwrap_or_default().into(),
                name: meta.name.as_deref().unwrap_or_default().into(),
            },
            owners: meta.owner_references.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            foreground: has_finalizer(meta, FOREGROUND),
            orphans: has_finalizer(meta, ORPHAN),
        };
        let todo = self.graph.lock().put(uid, owned);
        self.enqueue(todo);
    }

    fn vanish(&self, uid: &str) {
        let todo = self.graph.lock().remove(uid);
        self.enqueue(todo);
    }

    fn enqueue(&self, todo: Todo) {
        self.delete.add_all(todo.judge.into_iter().map(Uid));
        self.orphan.add_all(todo.orphan.into_iter().map(Uid));
    }

    fn api_of(&self, identity: &Identity) -> Result<Api<DynamicObject>, Failure> {
        let kinds = self.kinds.read();
        let id = (identity.group.to_string(), identity.kind.to_string());
        let Some(kind) = kinds.get(&id) else {
            return Err(Failure::Object(format!("kind {}/{} is not served", identity.group, identity.kind)));
        };
        let client = self.context.client.clone();
        if kind.namespaced {
            if identity.namespace.is_empty() {
                return Err(Failure::Object(format!("{identity} is named without a namespace")));
            }
            Ok(Api::namespaced_with(client, &identity.namespace, &kind.resource))
        } else {
            Ok(Api::all_with(client, &kind.resource))
        }
    }

    /// The object as the API has it now, if it is still the one of that uid.
    async fn live(&self, uid: &str, identity: &Identity) -> Result<Option<ObjectMeta>, Failure> {
        let api = self.api_of(identity)?;
        let live = api.get_metadata_opt(&identity.name).await.step("read an object")?;
        Ok(live.map(|live| live.metadata).filter(|meta| meta.uid.as_deref() == Some(uid)))
    }

    /// Decides over one object, by what its owners are now.
    async fn judge(&self, uid: Uid) -> Outcome {
        let Some(known) = self.graph.lock().get(&uid.0) else { return Ok(None) };
        if (known.deleting && !known.foreground) || self.graph.lock().is_kept(&uid.0) {
            return Ok(None);
        }
        let Some(meta) = self.live(&uid.0, &known.identity).await? else {
            // The watch did not say that it went, or it never was.
            self.vanish(&uid.0);
            return Ok(None);
        };
        if known.is_virtual {
            return Ok(None);
        }
        if meta.deletion_timestamp.is_some() && has_finalizer(&meta, FOREGROUND) {
            return self.wait_for_dependents(&uid.0, &known.identity, &meta).await;
        }
        let owners = meta.owner_references.clone().unwrap_or_default();
        if owners.is_empty() || meta.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let mut standing = Vec::new();
        for owner in &owners {
            standing.push(self.standing(owner, &known.identity).await?);
        }
        let has_dependents = self.graph.lock().has_dependents(&uid.0);
        match verdict(&standing, has_dependents) {
            Verdict::Keep => Ok(None),
            Verdict::Disown => {
                let kept = owners.iter().zip(&standing).filter(|(_, standing)| **standing == Standing::Solid);
                let kept: Vec<_> = kept.map(|(owner, _)| owner).collect();
                self.patch(&known.identity, &meta, json!({"ownerReferences": kept})).await
            }
            Verdict::DeleteForeground => {
                let api = self.api_of(&known.identity)?;
                self.unblock(&uid.0, &owners, &known.identity, &meta).await?;
                delete(&api, &meta, PropagationPolicy::Foreground).await
            }
            Verdict::Delete => {
                let policy = if has_finalizer(&meta, ORPHAN) {
                    PropagationPolicy::Orphan
                } else if has_finalizer(&meta, FOREGROUND) {
                    PropagationPolicy::Foreground
                } else {
                    PropagationPolicy::Background
                };
                delete(&self.api_of(&known.identity)?, &meta, policy).await
            }
        }
    }

    async fn standing(&self, owner: &OwnerReference, dependent: &Identity) -> Result<Standing, Failure> {
        let identity = Identity::of(owner, &dependent.namespace);
        let known = self.graph.lock().get(&owner.uid).filter(|known| !known.is_virtual);
        if let Some(known) = known.filter(|known| known.identity.is(&identity)) {
            let waiting = known.deleting && known.foreground;
            return Ok(if waiting { Standing::Waiting } else { Standing::Solid });
        }
        let identity = self.with_scope(identity)?;
        Ok(match self.live(&owner.uid, &identity).await? {
            None => Standing::Gone,
            Some(meta) if meta.deletion_timestamp.is_some() && has_finalizer(&meta, FOREGROUND) => {
                Standing::Waiting
            }
            Some(_) => Standing::Solid,
        })
    }

    /// An owner is in the dependent's namespace, or in none when its kind has none.
    fn with_scope(&self, mut identity: Identity) -> Result<Identity, Failure> {
        let id = (identity.group.to_string(), identity.kind.to_string());
        match self.kinds.read().get(&id) {
            Some(kind) if !kind.namespaced => identity.namespace = "".into(),
            Some(_) => {}
            None => return Err(Failure::Object(format!("owner {identity} is of a kind that is not served"))),
        }
        Ok(identity)
    }

    /// Foreground deletion: the object goes when no dependent blocks it any more.
    async fn wait_for_dependents(&self, uid: &str, identity: &Identity, meta: &ObjectMeta) -> Outcome {
        let blocking = self.graph.lock().blocking(uid);
        if blocking.is_empty() {
            return self.patch(identity, meta, json!({"finalizers": without(meta, FOREGROUND)})).await;
        }
        self.delete.add_all(blocking.into_iter().map(Uid));
        Ok(None)
    }

    /// Two objects that wait for each other would wait forever: the one to be deleted gives up blocking its owners.
    async fn unblock(
        &self,
        uid: &str,
        owners: &[OwnerReference],
        identity: &Identity,
        meta: &ObjectMeta,
    ) -> Result<(), Failure> {
        if !self.graph.lock().has_waiting_dependents(uid) {
            return Ok(());
        }
        let freed: Vec<OwnerReference> = owners
            .iter()
            .cloned()
            .map(|owner| OwnerReference { block_owner_deletion: Some(false), ..owner })
            .collect();
        let api = self.api_of(identity)?;
        let patch = json!({"metadata": {"uid": meta.uid, "ownerReferences": freed}});
        let name = meta.name.as_deref().unwrap_or_default();
        api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .step("unblock an owner")?;
        Ok(())
    }

    /// Orphaning: the dependents forget their owner, then it goes.
    async fn orphan(&self, uid: Uid) -> Outcome {
        let Some(known) = self.graph.lock().get(&uid.0) else { return Ok(None) };
        let Some(meta) = self.live(&uid.0, &known.identity).await? else {
            self.vanish(&uid.0);
            return Ok(None);
        };
        if meta.deletion_timestamp.is_none() || !has_finalizer(&meta, ORPHAN) {
            return Ok(None);
        }
        let dependents = self.graph.lock().dependents(&uid.0);
        for (dependent, identity) in dependents {
            let Some(theirs) = self.live(&dependent, &identity).await? else { continue };
            let owners = theirs.owner_references.clone().unwrap_or_default();
            let kept: Vec<_> = owners.iter().filter(|owner| *owner.uid != *uid.0).collect();
            if kept.len() < owners.len() {
                self.patch(&identity, &theirs, json!({"ownerReferences": kept})).await?;
            }
        }
        self.patch(&known.identity, &meta, json!({"finalizers": without(&meta, ORPHAN)})).await
    }

    /// Changes the metadata of an object that must be as it was read; one that is gone is fine.
    async fn patch(&self, identity: &Identity, meta: &ObjectMeta, mut change: Value) -> Outcome {
        if let Value::Object(fields) = &mut change {
            for value in fields.values_mut().filter(|value| value.as_array().is_some_and(Vec::is_empty)) {
                *value = Value::Null;
            }
        }
        change["uid"] = json!(meta.uid);
        change["resourceVersion"] = json!(meta.resource_version);
        let api = self.api_of(identity)?;
        let patch = Patch::Merge(json!({"metadata": change}));
        match api.patch_metadata(&identity.name, &PatchParams::default(), &patch).await {
            Ok(_) => Ok(None),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
            Err(error) => Err(error).step("change an object's metadata"),
        }
    }
}

async fn delete(api: &Api<DynamicObject>, meta: &ObjectMeta, policy: PropagationPolicy) -> Outcome {
    let same = Preconditions { uid: meta.uid.clone(), resource_version: meta.resource_version.clone() };
    let params =
        DeleteParams { propagation_policy: Some(policy), preconditions: Some(same), ..Default::default() };
    match api.delete(meta.name.as_deref().unwrap_or_default(), &params).await {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
        Err(error) => Err(error).step("delete an object without owners"),
    }
}

fn has_finalizer(meta: &ObjectMeta, name: &str) -> bool {
    meta.finalizers.iter().flatten().any(|finalizer| finalizer == name)
}

fn without(meta: &ObjectMeta, name: &str) -> Vec<String> {
    meta.finalizers.iter().flatten().filter(|finalizer| *finalizer != name).cloned().collect()
}

/// What an owner is to its dependent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It exists and keeps the dependent.
    Solid,
    /// It does not exist.
    Gone,
    /// It is being deleted and waits for its dependents.
    Waiting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    Disown,
    Delete,
    DeleteForeground,
}

fn verdict(owners: &[Standing], has_dependents: bool) -> Verdict {
    let any = |wanted| owners.contains(&wanted);
    if any(Standing::Solid) {
        let all = !any(Standing::Gone) && !any(Standing::Waiting);
        return if all { Verdict::Keep } else { Verdict::Disown };
    }
    if any(Standing::Waiting) && has_dependents { Verdict::DeleteForeground } else { Verdict::Delete }
}

#[cfg(test)]
mod tests {
    use super::Standing::{Gone, Solid, Waiting};
    use super::*;

    #[track_caller]
    fn check(owners: &[Standing], has_dependents: bool, expected: Verdict) {
        assert_eq!(verdict(owners, has_dependents), expected);
    }

    #[test]
    fn an_object_stays_as_long_as_one_owner_keeps_it() {
        check(&[Solid], false, Verdict::Keep);
        check(&[Solid, Gone], false, Verdict::Disown);
        check(&[Solid, Waiting], true, Verdict::Disown);
        check(&[Gone], false, Verdict::Delete);
        check(&[Gone], true, Verdict::Delete);
        check(&[Waiting], false, Verdict::Delete);
        check(&[Waiting, Gone], true, Verdict::DeleteForeground);
    }
}
