//! The end of containers: preStop, the signal they ask for, the grace they are given, SIGKILL.

use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::sync::watch;
use tokio::time::Instant;

use super::decide::is_sidecar;
use super::hook;
use super::worker::Order;
use crate::docker::state::{Instance, PodRuntime};
use crate::events::{Level, field_path};
use crate::shared::Shared;

/// What a container gets after a preStop hook that took all of the grace (upstream's minimum).
const LEAST_GRACE: Duration = Duration::from_secs(2);
/// How long SIGKILL may take to show.
const KILL_LIMIT: Duration = Duration::from_secs(30);
/// Grace when nothing is said.
pub const DEFAULT_GRACE: i64 = 30;

/// Seconds that a pod's containers get to end. Deleting can shorten it; a forced deletion leaves one second.
#[must_use]
pub fn grace_seconds(pod: &Pod) -> i64 {
    let spec =
        pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(DEFAULT_GRACE);
    let deletion = pod.metadata.deletion_timestamp.as_ref().and(pod.metadata.deletion_grace_period_seconds);
    deletion.unwrap_or(spec).max(1)
}

/// One container's end.
pub struct Stop<'a> {
    /// Handles.
    pub shared: &'a Shared,
    /// The pod.
    pub pod: &'a Pod,
    /// The container's spec, as far as it is known.
    pub spec: Option<&'a Container>,
    /// Whether it is an init container.
    pub init: bool,
    /// The instance.
    pub instance: &'a Instance,
    /// The pod's address, for hooks.
    pub address: &'a str,
    /// What the event says.
    pub message: String,
}

impl Stop<'_> {
    /// Ends the container; `left` tells at any time how much of the grace is left.
    ///
    /// # Errors
    /// Fails when Docker does, or when even SIGKILL does not end it.
    pub async fn run(self, left: &(dyn Fn() -> Duration + Sync)) -> Result<(), crate::docker::Error> {
        let path = field_path(self.init, &self.instance.container);
        self.shared.events.container(self.pod, path.clone(), Level::Normal, "Killing", self.message.clone());
        let hook = self.spec.and_then(|spec| Some((spec, spec.lifecycle.as_ref()?.pre_stop.as_ref()?)));
        let mut least = Instant::now();
        if let Some((spec, action)) = hook {
            let limit = left().max(Duration::from_secs(1));
            let engine = &self.shared.engine;
            let run = hook::run(engine, &self.instance.id, spec, action, self.address, limit);
            let outcome =
                tokio::time::timeout(limit, run).await.unwrap_or_else(|_| Err("timed out".to_owned()));
            if let Err(error) = outcome {
                let message = format!("PreStopHook failed: {error}");
                self.shared.events.container(self.pod, path, Level::Warning, "FailedPreStopHook", message);
            }
            least = Instant::now() + LEAST_GRACE;
        }
        let lifecycle = self.spec.and_then(|spec| spec.lifecycle.as_ref());
        let asked = lifecycle.and_then(|lifecycle| lifecycle.stop_signal.clone());
        let signal =
            asked.or_else(|| self.instance.stop_signal.clone()).unwrap_or_else(|| "SIGTERM".to_owned());
        let engine = &self.shared.engine;
        engine.signal(&self.instance.id, &signal).await?;
        let left = || left().max(least.saturating_duration_since(Instant::now()));
        if ended(engine, &self.instance.id, &left).await? {
            return Ok(());
        }
        engine.signal(&self.instance.id, "SIGKILL").await?;
        let until = Instant::now() + KILL_LIMIT;
        if ended(engine, &self.instance.id, &|| until.saturating_duration_since(Instant::now())).await? {
            return Ok(());
        }
        Err(crate::docker::Error::Timeout)
    }
}

/// Waits for an instance's end as long as `left` says; returns whether it came.
async fn ended(
    engine: &crate::docker::Engine,
    id: &str,
    left: &(dyn Fn() -> Duration + Sync),
) -> Result<bool, crate::docker::Error> {
    let mut pause = Duration::from_millis(20);
    loop {
        match engine.inspect(id).await? {
            Some(instance) if instance.is_running() => {}
            _ => return Ok(true),
        }
        let left = left();
        if left.is_zero() {
            return Ok(false);
        }
        tokio::time::sleep(pause.min(left)).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

/// Ends everything of a pod that runs: main containers together, then sidecars in reverse order (KEP-753).
///
/// `orders` can shorten the grace while this runs.
///
/// # Errors
/// Fails with the first container that cannot be ended; the others have been tried.
pub async fn all(
    shared: &Shared,
    pod: &Pod,
    runtime: &PodRuntime,
    address: &str,
    orders: &watch::Receiver<Order>,
    grace_override: Option<i64>,
) -> Result<(), crate::docker::Error> {
    let begun = Instant::now();
    let left = || {
        let pod_grace = grace_override.unwrap_or_else(|| grace_seconds(pod));
        let order = orders.borrow();
        let ordered = if order.pod.metadata.deletion_timestamp.is_some() {
            grace_seconds(&order.pod)
        } else {
            i64::MAX
        };
        let grace = pod_grace.min(ordered).max(1);
        let until = begun + Duration::from_secs(u64::try_from(grace).unwrap_or(1).min(1 << 32));
        until.saturating_duration_since(Instant::now())
    };
    let spec = pod.spec.as_ref();
    let init: Vec<&Container> =
        spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten()).collect();
    let sidecars: Vec<&Container> =
        init.iter().rev().copied().filter(|container| is_sidecar(container)).collect();
    let stop = |instance: &'_ Instance| {
        let main = spec.and_then(|spec| spec.containers.iter().find(|one| one.name == instance.container));
        let from_init = init.iter().copied().find(|one| one.name == instance.container);
        (main.or(from_init).cloned(), from_init.is_some())
    };
    let end = async |instance: &Instance| {
        let (container, is_init) = stop(instance);
        let message = format!("Stopping container {}", instance.container);
        let stop = Stop { shared, pod, spec: container.as_ref(), init: is_init, instance, address, message };
        stop.run(&left).await
    };
    let running = runtime.containers.iter().filter(|instance| instance.is_running());
    let (late, first): (Vec<_>, Vec<_>) =
        running.partition(|instance| sidecars.iter().any(|sidecar| sidecar.name == instance.container));
    let mut outcome = Ok(());
    for result in join_all(first.iter().map(|instance| end(instance))).await {
        outcome = outcome.and(result);
    }
    for sidecar in sidecars {
        for instance in late.iter().filter(|instance| instance.container == sidecar.name) {
            outcome = outcome.and(end(instance).await);
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn grace_comes_from_the_deletion_before_the_spec_and_is_never_zero() {
        for (meta, spec, expected) in [
            (json!({}), json!({}), 30),
            (json!({}), json!({"terminationGracePeriodSeconds": 5}), 5),
            (
                json!({"deletionTimestamp": "2020-01-01T00:00:00Z", "deletionGracePeriodSeconds": 2}),
                json!({"terminationGracePeriodSeconds": 50}),
                2,
            ),
            (
                json!({"deletionTimestamp": "2020-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0}),
                json!({}),
                1,
            ),
            (json!({}), json!({"terminationGracePeriodSeconds": 0}), 1),
        ] {
            let mut spec = spec;
            spec["containers"] = json!([]);
            let pod: Pod = serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap();
            assert_eq!(grace_seconds(&pod), expected, "{meta} {spec}");
        }
    }
}
