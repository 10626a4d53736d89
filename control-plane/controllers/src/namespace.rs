//! Namespace: removes everything in a namespace that is being deleted, then lets it go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams};
use kube::discovery::verbs;
use kube::{Api, ResourceExt};

use crate::informer::{Informer, Key};
use crate::queue::{Failure, Outcome, Queue, Step, work};
use crate::served::{self, Served};
use crate::{Context, clock, write};

/// The finalizer in `spec.finalizers` that this controller answers for.
const FINALIZER: &str = "kubernetes";
const WORKERS: usize = 4;

struct Controller {
    context: Context,
    namespaces: Informer<Namespace>,
}

/// Starts the controller.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let namespaces: Informer<Namespace> = context.informers.get(|_| {});
    let queue: Queue<Key> = Queue::default();
    let target = queue.clone();
    namespaces.on_change(move |change| {
        let leaving = change.new.filter(|namespace| namespace.metadata.deletion_timestamp.is_some());
        target.add_all(leaving.map(|namespace| Key::of(&**namespace)));
    });
    // The last pods end by themselves after their grace: look again when each is gone.
    let (target, known) = (queue.clone(), namespaces.clone());
    context.pods().on_change(move |change| {
        let (Some(pod), None) = (change.old, change.new) else { return };
        let key = Key::new("", pod.metadata.namespace.as_deref().unwrap_or_default());
        if known.get(&key).is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some()) {
            target.add(key);
        }
    });
    let controller = Arc::new(Controller { context: context.clone(), namespaces });
    async move {
        controller.namespaces.synced().await;
        let shutdown = controller.context.shutdown.clone();
        work("namespace", &queue, WORKERS, &shutdown, |key| controller.sync(key)).await;
    }
    .boxed()
}

/// What is left of a namespace.
#[derive(Default, Debug, PartialEq, Eq)]
struct Remains {
    /// `plural.group` -> objects that are still there.
    objects: BTreeMap<String, usize>,
    /// Finalizer -> objects that wait for it.
    finalizers: BTreeMap<String, usize>,
    /// What could not be deleted, in words.
    failures: Vec<String>,
    /// Why discovery is incomplete.
    undiscovered: Option<String>,
}

impl Remains {
    fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.failures.is_empty() && self.undiscovered.is_none()
    }
}

impl Controller {
    async fn sync(&self, key: Key) -> Outcome {
        let Some(cached) = self.namespaces.get(&key) else { return Ok(None) };
        let finalizers = cached.spec.as_ref().and_then(|spec| spec.finalizers.as_ref());
        let ours = finalizers.is_some_and(|all| all.iter().any(|finalizer| finalizer == FINALIZER));
        if cached.metadata.deletion_timestamp.is_none() || !ours {
            return Ok(None);
        }
        let remains = self.empty(&key.name).await;
        let api: Api<Namespace> = Api::all(self.context.client.clone());
        let Some(live) = api.get_opt(&key.name).await.step("read the namespace")? else { return Ok(None) };
        if live.metadata.uid != cached.metadata.uid {
            return Ok(None);
        }
        let mut status = live.status.clone().unwrap_or_default();
        status.phase = Some("Terminating".to_owned());
        let conditions = status.conditions.take().unwrap_or_default();
        status.conditions = Some(merge(conditions, conditions_of(&remains, clock::now())));
        let written = write::status(&api, &live, live.status.as_ref(), &status).await?;
        if !remains.is_empty() {
            // Content that waits for somebody else is polled; pods announce themselves.
            return Ok(Some(Duration::from_secs(if remains.finalizers.is_empty() { 1 } else { 3 })));
        }
        self.finalize(&api, written.unwrap_or(live)).await?;
        Ok(None)
    }

    async fn finalize(&self, api: &Api<Namespace>, mut namespace: Namespace) -> Result<(), Failure> {
        if let Some(finalizers) = namespace.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
        let name = namespace.name_any();
        let answer = api.replace_subresource("finalize", &name, &PostParams::default(), &namespace).await;
        match answer {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => Err(error).step("finalize the namespace"),
        }
    }

    /// Deletes what can be deleted and tells what is left.
    async fn empty(&self, namespace: &str) -> Remains {
        let mut remains = Remains::default();
        let kinds = match served::kinds(&self.context.client).await {
            Ok(kinds) => kinds,
            Err(failure) => {
                remains.undiscovered = Some(failure.to_string());
                return remains;
            }
        };
        for kind in kinds.iter().filter(|kind| kind.is_namespaced()) {
            if let Err(error) = self.empty_kind(namespace, kind, &mut remains).await {
                remains.failures.push(format!("{}: {}", kind.name(), crate::replica::words(&error)));
            }
        }
        remains
    }

    async fn empty_kind(
        &self,
        namespace: &str,
        kind: &Served,
        remains: &mut Remains,
    ) -> Result<(), kube::Error> {
        let can = |verb| kind.capabilities.supports_operation(verb);
        if !can(verbs::LIST) || !can(verbs::DELETE) {
            return Ok(());
        }
        let client = self.context.client.clone();
        let api: Api<DynamicObject> = Api::namespaced_with(client, namespace, &kind.resource);
        let all = ListParams::default();
        let before = api.list_metadata(&all).await?;
        if before.items.is_empty() {
            return Ok(());
        }
        let background = DeleteParams::background();
        if can(verbs::DELETE_COLLECTION) {
            api.delete_collection(&background, &all).await?;
        } else {
            for object in &before.items {
                match api.delete(&object.name_any(), &background).await {
                    Ok(_) => {}
                    Err(kube::Error::Api(status)) if status.is_not_found() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let left = api.list_metadata(&all).await?;
        if !left.items.is_empty() {
            remains.objects.insert(kind.name(), left.items.len());
        }
        for finalizer in left.items.iter().flat_map(|object| object.finalizers()) {
            *remains.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
        Ok(())
    }
}

fn conditions_of(remains: &Remains, now: Timestamp) -> Vec<NamespaceCondition> {
    let make = |type_: &str, trouble: Option<(&str, String)>, (reason, message): (&str, &str)| {
        let status = if trouble.is_some() { "True" } else { "False" };
        let (reason, message) = trouble.unwrap_or((reason, message.to_owned()));
        NamespaceCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(clock::stamp(now)),
        }
    };
    let list = |counts: &BTreeMap<String, usize>, verb: &str| {
        let parts = counts.iter().map(|(name, count)| format!("{name} {verb} {count} resource instances"));
        parts.collect::<Vec<_>>().join(", ")
    };
    let some = |trouble: bool, reason, message: String| trouble.then_some((reason, message));
    let undiscovered = remains.undiscovered.clone();
    let failed = format!(
        "Failed to delete all resource types, {} remaining: {}",
        remains.failures.len(),
        remains.failures.join(", ")
    );
    let content = format!("Some resources are remaining: {}", list(&remains.objects, "has"));
    let waiting = format!(
        "Some content in the namespace has finalizers remaining: {}",
        list(&remains.finalizers, "in")
    );
    vec![
        make(
            "NamespaceDeletionDiscoveryFailure",
            undiscovered.map(|why| ("DiscoveryFailed", format!("Discovery failed for some groups: {why}"))),
            ("ResourcesDiscovered", "All resources successfully discovered"),
        ),
        make(
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        make(
            "NamespaceDeletionContentFailure",
            some(!remains.failures.is_empty(), "ContentDeletionFailed", failed),
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        make(
            "NamespaceContentRemaining",
            some(!remains.objects.is_empty(), "SomeResourcesRemain", content),
            ("ContentRemoved", "All content successfully removed"),
        ),
        make(
            "NamespaceFinalizersRemaining",
            some(!remains.finalizers.is_empty(), "SomeFinalizersRemain", waiting),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ]
}

/// New conditions over old ones; the transition time stays where the status stays.
fn merge(mut old: Vec<NamespaceCondition>, new: Vec<NamespaceCondition>) -> Vec<NamespaceCondition> {
    for mut condition in new {
        match old.iter_mut().find(|known| known.type_ == condition.type_) {
            Some(known) => {
                if known.status == condition.status {
                    condition.last_transition_time = known.last_transition_time.clone();
                }
                *known = condition;
            }
            None => old.push(condition),
        }
    }
    old
}

/// Whether the namespace takes new objects.
pub fn is_active(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
    namespace.metadata.deletion_timestamp.is_none() && phase != Some("Terminating")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_say_what_is_left_and_keep_their_transition_time() {
        let first: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let later: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let mut remains = Remains::default();
        remains.objects.insert("pods.".to_owned(), 2);
        let old = merge(Vec::new(), conditions_of(&remains, first));
        remains.objects.insert("pods.".to_owned(), 1);
        let new = merge(old, conditions_of(&remains, later));
        let content = new.iter().find(|known| known.type_ == "NamespaceContentRemaining").unwrap();
        assert_eq!(content.status, "True");
        assert_eq!(
            content.message.as_deref(),
            Some("Some resources are remaining: pods. has 1 resource instances")
        );
        assert_eq!(content.last_transition_time, Some(clock::stamp(first)));
    }
}
