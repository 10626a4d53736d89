//! Deployment: one ReplicaSet per revision of the template, and a controlled walk from the old ones to the new.

mod condition;
pub mod plan;
mod revision;
mod status;
pub mod template;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::Context;
use crate::event::Recorder;
use crate::informer::{Change, Informer, Key};
use crate::pod::Pod;
use crate::queue::{Failure, Outcome, Queue, Step, work};
use crate::{clock, owner, pod, selector, write};
use plan::{Limits, Scale};

const WORKERS: usize = 5;

struct Controller {
    context: Context,
    recorder: Recorder,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    queue: Queue<Key>,
}

/// Starts the controller.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let controller = Arc::new(Controller {
        recorder: context.recorder.of("deployment-controller"),
        deployments: context.informers.get(|_: &mut Deployment| {}),
        sets: context.informers.get(|_: &mut ReplicaSet| {}),
        pods: context.pods(),
        queue: Queue::default(),
        context: context.clone(),
    });
    controller.sets.index(pod::BY_CONTROLLER, |set| {
        owner::controller_of(set).map(|owner| owner.uid.clone()).into_iter().collect()
    });
    let queue = controller.queue.clone();
    controller.deployments.on_change(move |change| {
        queue.add_all(change.latest().map(|deployment| Key::of(&**deployment)));
    });
    let listener = controller.clone();
    controller.sets.on_change(move |change| listener.set_changed(change));
    let listener = controller.clone();
    controller.pods.on_change(move |change| listener.pod_changed(change));
    async move {
        controller.deployments.synced().await;
        controller.sets.synced().await;
        controller.pods.synced().await;
        let queue = controller.queue.clone();
        let shutdown = controller.context.shutdown.clone();
        work("deployment", &queue, WORKERS, &shutdown, |key| controller.sync(key)).await;
    }
    .boxed()
}

/// A deployment being worked on, with its ReplicaSets as the API last answered them.
struct Rollout {
    deployment: Deployment,
    new: Option<ReplicaSet>,
    old: Vec<ReplicaSet>,
}

impl Rollout {
    fn all(&self) -> impl Iterator<Item = &ReplicaSet> {
        self.old.iter().chain(&self.new)
    }

    fn scales(&self) -> Vec<Scale> {
        self.all().map(Scale::of).collect()
    }

    fn limits(&self) -> Limits {
        Limits::of(&self.deployment)
    }

    fn put(&mut self, set: ReplicaSet) {
        let uid = set.uid();
        if let Some(slot) = self.old.iter_mut().chain(&mut self.new).find(|known| known.uid() == uid) {
            *slot = set;
        }
    }
}

impl Controller {
    fn owner_of(&self, set: &ReplicaSet) -> Option<Key> {
        let owner = owner::controller_of(set).filter(|owner| owner.kind == "Deployment")?;
        Some(Key::new(set.metadata.namespace.as_deref().unwrap_or_default(), &owner.name))
    }

    fn set_changed(&self, change: &Change<'_, ReplicaSet>) {
        self.queue.add_all(change.both().filter_map(|set| self.owner_of(set)));
        let Some(set) = change.new.filter(|set| owner::controller_of(&***set).is_none()) else { return };
        for deployment in self.deployments.list_in(&set.namespace().unwrap_or_default()) {
            let selected = deployment.spec.as_ref().map(|spec| &spec.selector);
            if selected.is_some_and(|selected| selector::matches(selected, set.metadata.labels.as_ref())) {
                self.queue.add(Key::of(&*deployment));
            }
        }
    }

    /// Recreate waits for the last old pod to be gone.
    fn pod_changed(&self, change: &Change<'_, Pod>) {
        let (Some(pod), None) = (change.old, change.new) else { return };
        let Some(owner) = owner::controller_of(&**pod).filter(|owner| owner.kind == "ReplicaSet") else {
            return;
        };
        let set = self.sets.get(&Key::new(&pod.namespace().unwrap_or_default(), &owner.name));
        self.queue.add_all(set.and_then(|set| self.owner_of(&set)));
    }

    async fn sync(&self, key: Key) -> Outcome {
        let Some(cached) = self.deployments.get(&key) else { return Ok(None) };
        let Some(spec) = &cached.spec else { return Ok(None) };
        if selector::is_everything(&spec.selector) {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.recorder.warning(&*cached, "SelectingAll", message.to_owned());
            return Ok(None);
        }
        let mut sets = self.sets.find(pod::BY_CONTROLLER, &cached.uid().unwrap_or_default());
        let orphans = self.sets.list_in(&key.namespace);
        sets.extend(orphans.into_iter().filter(|set| owner::controller_of(&**set).is_none()));
        let sets = owner::claim_all(&self.context.client, &*cached, &spec.selector, sets).await?;
        let mut sets: Vec<ReplicaSet> = sets.into_iter().map(|set| (*set).clone()).collect();
        sets.sort_by(revision::by_creation);
        let new = sets.iter().position(|set| template::is_current(set, &cached));
        let new = new.map(|index| sets.remove(index));
        let mut rollout = Rollout { deployment: (*cached).clone(), new, old: sets };
        if cached.metadata.deletion_timestamp.is_some() {
            self.write_status(&mut rollout, None).await?;
            return Ok(None);
        }
        match self.roll(&mut rollout).await {
            Ok(()) => Ok(status::look_again(&rollout.deployment, clock::now())),
            Err(Failure::Api { source, .. }) if crate::replica::is_namespace_terminating(&source) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    async fn roll(&self, rollout: &mut Rollout) -> Result<(), Failure> {
        self.note_pause(rollout).await?;
        let paused = rollout.deployment.spec.as_ref().and_then(|spec| spec.paused) == Some(true);
        let rescaled = plan::is_rescaled(&rollout.limits(), rollout.all());
        if paused || rescaled {
            self.ensure_new(rollout, false).await?;
            self.rescale(rollout).await?;
            if paused {
                self.clean_up(rollout).await?;
            }
            return self.write_status(rollout, None).await;
        }
        if rollout.limits().recreate { self.recreate(rollout).await } else { self.roll_on(rollout).await }
    }

    async fn roll_on(&self, rollout: &mut Rollout) -> Result<(), Failure> {
        self.ensure_new(rollout, true).await?;
        let limits = rollout.limits();
        let mut steps =
            plan::grow_new(&limits, &rollout.scales(), rollout.new.as_ref().map(Scale::of).as_ref());
        if steps.is_empty() {
            let old: Vec<Scale> = rollout.old.iter().map(Scale::of).collect();
            steps = plan::shrink_old(&limits, &old, rollout.new.as_ref().map(Scale::of).as_ref());
        }
        let moved = !steps.is_empty();
        self.scale(rollout, &steps).await?;
        if !moved && status::is_complete(&rollout.deployment, rollout.deployment.status.as_ref()) {
            self.clean_up(rollout).await?;
        }
        self.write_progress(rollout).await
    }

    async fn recreate(&self, rollout: &mut Rollout) -> Result<(), Failure> {
        self.ensure_new(rollout, false).await?;
        let old: Vec<Scale> = rollout.old.iter().map(Scale::of).collect();
        let steps = plan::empty(&old);
        if !steps.is_empty() || self.old_pods_run(rollout) {
            self.scale(rollout, &steps).await?;
            return self.write_progress(rollout).await;
        }
        self.ensure_new(rollout, true).await?;
        let steps = plan::grow_new(
            &rollout.limits(),
            &rollout.scales(),
            rollout.new.as_ref().map(Scale::of).as_ref(),
        );
        self.scale(rollout, &steps).await?;
        if status::is_complete(&rollout.deployment, rollout.deployment.status.as_ref()) {
            self.clean_up(rollout).await?;
        }
        self.write_progress(rollout).await
    }

    fn old_pods_run(&self, rollout: &Rollout) -> bool {
        rollout.old.iter().any(|set| {
            let reported = set.status.as_ref().map_or(0, |status| status.replicas);
            let pods = self.pods.find(pod::BY_CONTROLLER, &set.uid().unwrap_or_default());
            reported > 0 || pods.iter().any(|pod| !pod::is_finished(pod))
        })
    }

    fn api_of<K>(&self, rollout: &Rollout) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        let namespace = rollout.deployment.namespace().unwrap_or_default();
        Api::namespaced(self.context.client.clone(), &namespace)
    }

    /// Sets the sizes of ReplicaSets and tells about each that changes.
    async fn scale(&self, rollout: &mut Rollout, steps: &[plan::Step]) -> Result<(), Failure> {
        let limits = rollout.limits();
        let api: Api<ReplicaSet> = self.api_of(rollout);
        for step in steps {
            let Some(set) = rollout.all().find(|set| set.uid().as_deref() == Some(&step.uid)) else {
                continue;
            };
            let from = Scale::of(set).replicas;
            let mut patch = json!({"metadata": {"annotations": revision::size_annotations(&limits)}});
            if from != step.to {
                patch["spec"] = json!({"replicas": step.to});
            } else if revision::sizes_are_noted(set, &limits) {
                continue;
            }
            let name = set.name_any();
            let written = write::guarded(&api, set, patch, "scale a ReplicaSet").await?;
            rollout.put(written);
            if from != step.to {
                let direction = if from < step.to { "up" } else { "down" };
                let message = format!("Scaled {direction} replica set {name} from {from} to {}", step.to);
                self.recorder.normal(&rollout.deployment, "ScalingReplicaSet", message);
            }
        }
        Ok(())
    }

    async fn rescale(&self, rollout: &mut Rollout) -> Result<(), Failure> {
        let old: Vec<Scale> = rollout.old.iter().map(Scale::of).collect();
        let new = rollout.new.as_ref().map(Scale::of);
        let reported =
            rollout.deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or_default();
        let steps = plan::rescale(&rollout.limits(), &old, new.as_ref(), reported);
        self.scale(rollout, &steps).await
    }

    /// Deletes the oldest empty ReplicaSets beyond the history limit.
    async fn clean_up(&self, rollout: &Rollout) -> Result<(), Failure> {
        let api: Api<ReplicaSet> = self.api_of(rollout);
        for set in revision::beyond_history(&rollout.deployment, &rollout.old) {
            let same = Preconditions { uid: set.uid(), resource_version: None };
            match api.delete(&set.name_any(), &DeleteParams::background().preconditions(same)).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(error) => return Err(error).step("delete an old ReplicaSet"),
            }
        }
        Ok(())
    }

    async fn note_pause(&self, rollout: &mut Rollout) -> Result<(), Failure> {
        let Some(conditions) = condition::pause(&rollout.deployment, clock::now()) else { return Ok(()) };
        let mut status = rollout.deployment.status.clone().unwrap_or_default();
        status.conditions = Some(conditions);
        self.put_status(rollout, status).await
    }

    async fn write_progress(&self, rollout: &mut Rollout) -> Result<(), Failure> {
        let now = clock::now();
        let computed = status::compute(&rollout.deployment, rollout.old.iter().chain(&rollout.new), now);
        let status = status::with_progress(
            &rollout.deployment,
            computed,
            rollout.old.iter(),
            rollout.new.as_ref(),
            now,
        );
        self.put_status(rollout, status).await
    }

    /// Writes the counted status; `change` may alter its conditions.
    async fn write_status(
        &self,
        rollout: &mut Rollout,
        change: Option<k8s_openapi::api::apps::v1::DeploymentCondition>,
    ) -> Result<(), Failure> {
        let now = clock::now();
        let mut status = status::compute(&rollout.deployment, rollout.all(), now);
        if let Some(change) = change {
            condition::set(status.conditions.get_or_insert_default(), change);
        }
        self.put_status(rollout, status).await
    }

    async fn put_status(&self, rollout: &mut Rollout, status: DeploymentStatus) -> Result<(), Failure> {
        let api: Api<Deployment> = self.api_of(rollout);
        let old = rollout.deployment.status.as_ref();
        if let Some(written) = write::status(&api, &rollout.deployment, old, &status).await? {
            rollout.deployment.status = written.status;
        }
        Ok(())
    }

    /// Through `status`, as upstream does: there a new annotation is no new generation.
    async fn annotate(&self, rollout: &mut Rollout, annotations: Value) -> Result<(), Failure> {
        let api: Api<Deployment> = self.api_of(rollout);
        let patch = json!({"metadata": {"uid": rollout.deployment.uid(), "annotations": annotations}});
        let name = rollout.deployment.name_any();
        let patch = kube::api::Patch::Merge(patch);
        let written = api.patch_status(&name, &kube::api::PatchParams::default(), &patch).await;
        rollout.deployment.metadata = written.step("note the revision")?.metadata;
        Ok(())
    }

    /// Finds the ReplicaSet of the current template, and makes it when `create` is set.
    async fn ensure_new(&self, rollout: &mut Rollout, create: bool) -> Result<(), Failure> {
        let next = revision::next(&rollout.old);
        if let Some(set) = &rollout.new {
            if let Some(patch) = revision::annotate_existing(&rollout.deployment, set, next) {
                let api: Api<ReplicaSet> = self.api_of(rollout);
                let written = write::guarded(&api, set, patch, "note the revision on a ReplicaSet").await?;
                rollout.new = Some(written);
            }
        } else if create {
            let (set, fresh) = self.create_new(rollout, next).await?;
            let created = set.name_any();
            rollout.new = Some(set);
            if fresh {
                self.put_condition(rollout, condition::created(&created, clock::now())).await?;
            }
        }
        let Some(set) = &rollout.new else { return Ok(()) };
        let number = revision::of(set);
        if number.is_some() && number != revision::of(&rollout.deployment) {
            let annotation = json!({revision::REVISION: number.map(|number| number.to_string())});
            self.annotate(rollout, annotation).await?;
        }
        if let Some(change) = rollout
            .new
            .as_ref()
            .and_then(|set| condition::found(&rollout.deployment, &set.name_any(), clock::now()))
        {
            self.put_condition(rollout, change).await?;
        }
        Ok(())
    }

    async fn put_condition(
        &self,
        rollout: &mut Rollout,
        change: k8s_openapi::api::apps::v1::DeploymentCondition,
    ) -> Result<(), Failure> {
        if !status::has_deadline(&rollout.deployment) {
            return Ok(());
        }
        let mut status = rollout.deployment.status.clone().unwrap_or_default();
        condition::set(status.conditions.get_or_insert_default(), change);
        self.put_status(rollout, status).await
    }

    /// Creates the ReplicaSet; whether it is fresh tells the second value.
    async fn create_new(&self, rollout: &mut Rollout, next: i64) -> Result<(ReplicaSet, bool), Failure> {
        let limits = rollout.limits();
        let size = plan::first_size(&limits, &rollout.scales());
        let set = template::compose(&rollout.deployment, &limits, next, size);
        let api: Api<ReplicaSet> = self.api_of(rollout);
        match api.create(&kube::api::PostParams::default(), &set).await {
            Ok(created) => {
                if size > 0 {
                    let name = created.name_any();
                    let message = format!("Scaled up replica set {name} from 0 to {size}");
                    self.recorder.normal(&rollout.deployment, "ScalingReplicaSet", message);
                }
                Ok((created, true))
            }
            Err(kube::Error::Api(answer)) if answer.is_already_exists() => {
                self.reuse_or_collide(rollout, &api, &set.name_any()).await.map(|set| (set, false))
            }
            Err(error) => {
                if !crate::replica::is_namespace_terminating(&error) {
                    let message = format!(
                        "Failed to create new replica set {:?}: {}",
                        set.name_any(),
                        crate::replica::words(&error)
                    );
                    self.recorder.warning(&rollout.deployment, "FailedCreate", message.clone());
                    self.put_condition(rollout, condition::failed(message, clock::now())).await?;
                }
                Err(error).step("create a ReplicaSet")
            }
        }
    }

    /// The name is taken: by our own ReplicaSet that the cache does not show yet, or by another template whose hash
    /// is the same; then the collision count changes the next name.
    async fn reuse_or_collide(
        &self,
        rollout: &mut Rollout,
        api: &Api<ReplicaSet>,
        name: &str,
    ) -> Result<ReplicaSet, Failure> {
        let taken = api.get(name).await.step("read the ReplicaSet that has the name")?;
        let uid = rollout.deployment.uid().unwrap_or_default();
        if owner::is_controlled_by(&taken, &uid) && template::is_current(&taken, &rollout.deployment) {
            return Ok(taken);
        }
        let mut status = rollout.deployment.status.clone().unwrap_or_default();
        status.collision_count = Some(status.collision_count.unwrap_or_default().saturating_add(1));
        self.put_status(rollout, status).await?;
        Err(Failure::Object(format!("the name {name} is taken by another template")))
    }
}

/// How long a deployment that waits for nothing else may stay unobserved; none means until something changes.
type LookAgain = Option<Duration>;
