//! ReplicaSet: as many pods as asked for.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use kube::{Api, ResourceExt};

use crate::Context;
use crate::event::Recorder;
use crate::expectation::Expectations;
use crate::informer::{Change, Informer, Key};
use crate::pod::Pod;
use crate::queue::{Outcome, Queue, Step, work};
use crate::{clock, owner, pod, replica, selector, write};

/// Annotation by which a user says which pods are cheap to delete.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const WORKERS: usize = 5;

struct Controller {
    context: Context,
    recorder: Recorder,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    queue: Queue<Key>,
    expectations: Expectations,
}

/// Starts the controller.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let controller = Arc::new(Controller {
        recorder: context.recorder.of("replicaset-controller"),
        sets: context.informers.get(|_: &mut ReplicaSet| {}),
        pods: context.pods(),
        queue: Queue::default(),
        expectations: Expectations::default(),
        context: context.clone(),
    });
    controller.sets.index(pod::BY_CONTROLLER, |set| {
        owner::controller_of(set).map(|owner| owner.uid.clone()).into_iter().collect()
    });
    let listener = controller.clone();
    controller.sets.on_change(move |change| {
        if let Some(set) = change.latest() {
            let key = Key::of(&**set);
            if change.new.is_none() {
                listener.expectations.forget(&key);
            }
            listener.queue.add(key);
        }
    });
    let listener = controller.clone();
    controller.pods.on_change(move |change| listener.pod_changed(change));
    async move {
        controller.sets.synced().await;
        controller.pods.synced().await;
        let queue = controller.queue.clone();
        let shutdown = controller.context.shutdown.clone();
        work("replicaset", &queue, WORKERS, &shutdown, |key| controller.sync(key)).await;
    }
    .boxed()
}

impl Controller {
    fn pod_changed(&self, change: &Change<'_, Pod>) {
        let owner_key = |pod: &Pod| {
            let owner = owner::controller_of(pod).filter(|owner| owner.kind == "ReplicaSet")?;
            Some(Key::new(pod.metadata.namespace.as_deref().unwrap_or_default(), &owner.name))
        };
        let Some(pod) = change.latest() else { return };
        if let Some(key) = owner_key(pod) {
            if change.old.is_none() {
                self.expectations.created(&key, 1);
            }
            if change.new.is_none() || pod::is_terminating(pod) {
                self.expectations.deleted(&key, &pod.uid().unwrap_or_default());
            }
            self.queue.add(key);
        } else if owner::controller_of(&**pod).is_none() && change.new.is_some() {
            for set in self.sets.list_in(pod.metadata.namespace.as_deref().unwrap_or_default()) {
                let selected = set.spec.as_ref().map(|spec| &spec.selector);
                if selected.is_some_and(|selected| selector::matches(selected, pod.metadata.labels.as_ref()))
                {
                    self.queue.add(Key::of(&*set));
                }
            }
        }
        if let Some(key) = change.old.and_then(|old| owner_key(old)) {
            self.queue.add(key);
        }
    }

    async fn sync(&self, key: Key) -> Outcome {
        let Some(set) = self.sets.get(&key) else {
            self.expectations.forget(&key);
            return Ok(None);
        };
        let Some(spec) = &set.spec else { return Ok(None) };
        let settled = self.expectations.satisfied(&key, clock::instant());
        let uid = set.uid().unwrap_or_default();
        let mut candidates = self.pods.find(pod::BY_CONTROLLER, &uid);
        candidates.extend(self.pods.find(pod::BY_CONTROLLER, &pod::orphans_of(&key.namespace)));
        candidates.retain(|pod| !pod::is_finished(pod));
        let mine = owner::claim_all(&self.context.client, &*set, &spec.selector, candidates).await?;
        let (active, terminating): (Vec<_>, Vec<_>) =
            mine.into_iter().partition(|pod| !pod::is_terminating(pod));
        let mut failure = None;
        if settled && set.metadata.deletion_timestamp.is_none() {
            failure = self.manage(&key, &set, &active).await;
        }
        let now = clock::now();
        let reason = failure.as_ref().map(|(reason, error)| (*reason, replica::words(error)));
        let status = status_of(&set, &active, terminating.len(), reason, now);
        let api: Api<ReplicaSet> = Api::namespaced(self.context.client.clone(), &key.namespace);
        match write::status(&api, &*set, set.status.as_ref(), &status).await {
            Ok(_) => {}
            Err(failure) if failure.is_not_found() => return Ok(None),
            Err(failure) => return Err(failure),
        }
        if let Some((_, error)) = failure {
            return if replica::is_namespace_terminating(&error) {
                Ok(None)
            } else {
                Err(error).step("create or delete pods")
            };
        }
        let unripe = status.ready_replicas != status.available_replicas;
        let min_ready = u64::try_from(spec.min_ready_seconds.unwrap_or_default()).unwrap_or_default();
        Ok((unripe && min_ready > 0).then(|| Duration::from_secs(min_ready)))
    }

    /// Creates or deletes pods until there are as many as asked for; returns the first error.
    async fn manage(
        &self,
        key: &Key,
        set: &ReplicaSet,
        active: &[Arc<Pod>],
    ) -> Option<(&'static str, kube::Error)> {
        let wanted = replicas(set);
        let client = &self.context.client;
        if active.len() < wanted {
            let count = (wanted - active.len()).min(replica::BURST);
            let template = set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
            let pod = replica::compose(set, &template);
            self.expectations.expect(key, count, [], clock::instant());
            let create = |_| replica::create(client, &self.recorder, set, &pod);
            let (created, error) = replica::slow_start(count, create).await;
            self.expectations.created(key, count - created);
            return error.map(|error| ("FailedCreate", error));
        }
        if active.len() > wanted {
            let count = (active.len() - wanted).min(replica::BURST);
            let victims = to_delete(active, &self.related(set), count, clock::now());
            let uids = victims.iter().map(|pod| pod.uid().unwrap_or_default());
            self.expectations.expect(key, 0, uids, clock::instant());
            let deletions = victims.iter().map(|pod| async move {
                let answer = replica::delete(client, &self.recorder, set, pod).await;
                // The informer may never show a deletion that failed or found nothing.
                if !matches!(answer, Ok(true)) {
                    self.expectations.deleted(key, &pod.uid().unwrap_or_default());
                }
                answer
            });
            let answers = futures::future::join_all(deletions).await;
            return answers.into_iter().find_map(Result::err).map(|error| ("FailedDelete", error));
        }
        None
    }

    /// How many active pods of the same deployment each node runs.
    fn related(&self, set: &ReplicaSet) -> HashMap<String, usize> {
        let siblings = match owner::controller_of(set) {
            Some(owner) => self.sets.find(pod::BY_CONTROLLER, &owner.uid),
            None => vec![Arc::new(set.clone())],
        };
        let mut by_node = HashMap::new();
        for sibling in siblings {
            for pod in self.pods.find(pod::BY_CONTROLLER, &sibling.uid().unwrap_or_default()) {
                if let Some(node) = pod::node_of(&pod).filter(|_| pod::is_active(&pod)) {
                    *by_node.entry(node.to_owned()).or_default() += 1;
                }
            }
        }
        by_node
    }
}

/// `spec.replicas`; 1 when not set, as the API defaults it.
#[must_use]
pub fn replicas(set: &ReplicaSet) -> usize {
    let wanted = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    usize::try_from(wanted).unwrap_or_default()
}

/// The `count` pods that are the least loss.
#[must_use]
pub fn to_delete(
    active: &[Arc<Pod>],
    related: &HashMap<String, usize>,
    count: usize,
    now: Timestamp,
) -> Vec<Arc<Pod>> {
    let mut ranked = active.to_vec();
    if count < ranked.len() {
        ranked.sort_by(|a, b| rank(a, b, related, now));
    }
    ranked.truncate(count);
    ranked
}

/// Orders pods by how willingly they are given up: unassigned, pending, not ready, cheap by annotation, crowded on
/// their node, ready for a shorter time, restarted more often, younger.
fn rank(a: &Pod, b: &Pod, related: &HashMap<String, usize>, now: Timestamp) -> Ordering {
    let phase_rank = |pod: &Pod| match pod::phase(pod) {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    };
    let cost = |pod: &Pod| {
        let annotations = pod.metadata.annotations.as_ref();
        annotations.and_then(|all| all.get(DELETION_COST)?.parse::<i32>().ok()).unwrap_or_default()
    };
    let crowd = |pod: &Pod| pod::node_of(pod).and_then(|node| related.get(node).copied()).unwrap_or_default();
    let created = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    pod::node_of(a)
        .is_some()
        .cmp(&pod::node_of(b).is_some())
        .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
        .then_with(|| pod::is_ready(a).cmp(&pod::is_ready(b)))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| crowd(b).cmp(&crowd(a)))
        .then_with(|| by_age(pod::ready_since(a), pod::ready_since(b), now))
        .then_with(|| pod::restarts(b).cmp(&pod::restarts(a)))
        .then_with(|| by_age(created(a), created(b), now))
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

/// Younger first, ages compared by powers of two so that an even spread is not undone for seconds of difference.
fn by_age(a: Option<Timestamp>, b: Option<Timestamp>, now: Timestamp) -> Ordering {
    let magnitude = |time: Option<Timestamp>| {
        let seconds = time.map(|time| clock::since(time, now).as_secs())?;
        Some(seconds.checked_ilog2().map_or(0, |magnitude| magnitude + 1))
    };
    magnitude(a).cmp(&magnitude(b))
}

fn status_of(
    set: &ReplicaSet,
    active: &[Arc<Pod>],
    terminating: usize,
    failure: Option<(&str, String)>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let spec = set.spec.as_ref();
    let min_ready = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or_default();
    let template =
        spec.and_then(|spec| spec.template.as_ref()).and_then(|template| template.metadata.as_ref());
    let labels = template.and_then(|meta| meta.labels.clone()).unwrap_or_default();
    let count = |test: &dyn Fn(&Pod) -> bool| {
        let count = active.iter().filter(|pod| test(pod)).count();
        i32::try_from(count).unwrap_or(i32::MAX)
    };
    let mut conditions = set.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    set_failure(&mut conditions, failure, now);
    ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: Some(count(&|pod| selector::covers(&labels, pod.metadata.labels.as_ref()))),
        ready_replicas: Some(count(&pod::is_ready)),
        available_replicas: Some(count(&|pod| pod::is_available(pod, min_ready, now))),
        terminating_replicas: Some(i32::try_from(terminating).unwrap_or(i32::MAX)),
        observed_generation: set.metadata.generation,
        conditions: (!conditions.is_empty()).then_some(conditions),
    }
}

fn set_failure(conditions: &mut Vec<ReplicaSetCondition>, failure: Option<(&str, String)>, now: Timestamp) {
    let known = conditions.iter().any(|condition| condition.type_ == "ReplicaFailure");
    match failure {
        Some((reason, message)) if !known => conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".to_owned(),
            status: "True".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(clock::stamp(now)),
        }),
        None => conditions.retain(|condition| condition.type_ != "ReplicaFailure"),
        Some(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: &str = "2026-01-02T00:00:00Z";

    fn make(name: &str, change: serde_json::Value) -> Arc<Pod> {
        let mut value = json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {}},
            "spec": {"containers": [], "nodeName": "n1"},
            "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}
        });
        json_patch::merge(&mut value, &change);
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[track_caller]
    fn goes_first(change: serde_json::Value) {
        let pods = [make("kept", json!({})), make("given-up", change)];
        let related = HashMap::from([("n1".to_owned(), 1), ("crowded".to_owned(), 3)]);
        let victims = to_delete(&pods, &related, 1, NOW.parse().unwrap());
        assert_eq!(victims[0].name_any(), "given-up");
    }

    #[test]
    fn deletion_takes_the_least_useful_pod() {
        goes_first(json!({"spec": {"nodeName": null}}));
        goes_first(json!({"status": {"phase": "Pending"}}));
        goes_first(json!({"status": {"conditions": []}}));
        goes_first(json!({"metadata": {"annotations": {DELETION_COST: "-5"}}}));
        goes_first(json!({"spec": {"nodeName": "crowded"}}));
        goes_first(json!({"status": {"conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T23:59:00Z"}]}}));
        goes_first(json!({"status": {"containerStatuses": [
            {"name": "c", "restartCount": 3, "ready": true, "image": "", "imageID": ""}]}}));
        goes_first(json!({"metadata": {"creationTimestamp": "2026-01-01T23:59:00Z"}}));
    }

    #[test]
    fn the_status_counts_labels_readiness_and_availability() {
        let set: ReplicaSet = serde_json::from_value(json!({
            "metadata": {"name": "web", "generation": 3},
            "spec": {"selector": {}, "minReadySeconds": 60,
                "template": {"metadata": {"labels": {"app": "web"}}}}
        }))
        .unwrap();
        let fresh = json!({"metadata": {"labels": {"app": "web"}}, "status": {"conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T23:59:30Z"}]}});
        let pods = [make("a", json!({})), make("b", fresh), make("c", json!({"status": {"conditions": []}}))];
        let status = status_of(&set, &pods, 2, None, NOW.parse().unwrap());
        assert_eq!(
            (status.replicas, status.fully_labeled_replicas, status.ready_replicas),
            (3, Some(1), Some(2))
        );
        assert_eq!((status.available_replicas, status.terminating_replicas), (Some(1), Some(2)));
        assert_eq!(status.observed_generation, Some(3));
    }
}
