//! A pod's status as upstream reports it. Pure: what Docker has, how probes stand, what stands in the way.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::decide::{is_sidecar, restarts};
use super::qos::Qos;
use crate::docker::state::{Instance, Phase, PodRuntime};

/// Why a container does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `ImagePullBackOff` and the like.
    pub reason: &'static str,
    /// More.
    pub message: String,
}

/// How a container's probes stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Its startup probe has succeeded, or it has none.
    pub started: bool,
    /// Its readiness probe succeeds, or it has none.
    pub ready: bool,
}

/// An end that the kubelet has decided on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// `Failed`, or empty for what the containers say.
    pub phase: &'static str,
    /// `DeadlineExceeded` and the like.
    pub reason: String,
    /// More.
    pub message: String,
}

/// What a status is made from.
pub struct View<'a> {
    /// The pod, with the status the API has.
    pub pod: &'a Pod,
    /// What Docker has.
    pub runtime: &'a PodRuntime,
    /// Probes of a running container, by name.
    pub readiness: &'a dyn Fn(&str) -> Readiness,
    /// What stands in the way of containers.
    pub problems: &'a BTreeMap<String, Problem>,
    /// Last words of ended containers, by Docker id.
    pub messages: &'a BTreeMap<String, String>,
    /// How images are reported, by Docker's image id.
    pub images: &'a BTreeMap<String, String>,
    /// The pod's addresses.
    pub addresses: &'a [String],
    /// The node's addresses.
    pub host_addresses: &'a [String],
    /// Whether the sandbox runs and has its network.
    pub sandbox_ready: bool,
    /// An end that was decided on.
    pub verdict: Option<&'a Verdict>,
    /// The pod is being wound up: nothing is started any more.
    pub ending: bool,
    /// Now.
    pub now: Timestamp,
}

/// Computes the status.
#[must_use]
pub fn compute(view: &View<'_>) -> PodStatus {
    let spec = view.pod.spec.clone().unwrap_or_default();
    let old = view.pod.status.clone().unwrap_or_default();
    let init: Vec<&Container> = spec.init_containers.iter().flatten().collect();
    let initialized_before =
        spec.containers.iter().any(|container| view.runtime.latest(&container.name).is_some());
    let default_reason = if init.is_empty() { "ContainerCreating" } else { "PodInitializing" };
    let main: Vec<ContainerStatus> = spec
        .containers
        .iter()
        .map(|container| container_status(view, container, default_reason, old.container_statuses.as_deref()))
        .collect();
    let init: Vec<ContainerStatus> = init
        .into_iter()
        .map(|container| {
            let known = old.init_container_statuses.as_deref();
            let mut status = container_status(view, container, "PodInitializing", known);
            let done = status
                .state
                .as_ref()
                .and_then(|state| state.terminated.as_ref())
                .is_some_and(|end| end.exit_code == 0);
            if !is_sidecar(container) {
                // Instances may have been cleared away since they succeeded.
                status.ready = done || (initialized_before && view.runtime.latest(&container.name).is_none());
            }
            status
        })
        .collect();
    let phase = phase(view, &spec, &old, &init, &main);
    let conditions = conditions(view, &spec, &old, &phase, &init, &main);
    let verdict = view.verdict;
    PodStatus {
        phase: Some(phase),
        reason: verdict.map(|verdict| verdict.reason.clone()).or(old.reason).filter(|text| !text.is_empty()),
        message: verdict
            .map(|verdict| verdict.message.clone())
            .or(old.message)
            .filter(|text| !text.is_empty()),
        conditions: Some(conditions),
        host_ip: view.host_addresses.first().cloned(),
        host_ips: Some(view.host_addresses.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: view.addresses.first().cloned(),
        pod_ips: (!view.addresses.is_empty())
            .then(|| view.addresses.iter().map(|ip| PodIP { ip: ip.clone() }).collect()),
        start_time: old.start_time.or(Some(Time(view.now))),
        qos_class: Some(old.qos_class.unwrap_or_else(|| Qos::of(view.pod).name().to_owned())),
        init_container_statuses: (!init.is_empty()).then_some(init),
        container_statuses: Some(main),
        observed_generation: view.pod.metadata.generation,
        ..Default::default()
    }
}

fn terminated(view: &View<'_>, instance: &Instance) -> ContainerStateTerminated {
    let reason = if instance.oom_killed {
        "OOMKilled"
    } else if instance.started.is_none() {
        "ContainerCannotRun"
    } else if instance.exit_code == 0 {
        "Completed"
    } else {
        "Error"
    };
    let words = view.messages.get(&instance.id).cloned().filter(|words| !words.is_empty());
    ContainerStateTerminated {
        exit_code: instance.exit_code,
        reason: Some(reason.to_owned()),
        message: words.or_else(|| Some(instance.error.clone()).filter(|error| !error.is_empty())),
        started_at: instance.started.map(Time),
        finished_at: instance.finished.map(Time),
        container_id: Some(format!("docker://{}", instance.id)),
        signal: None,
    }
}

fn container_status(
    view: &View<'_>,
    container: &Container,
    default_reason: &str,
    old: Option<&[ContainerStatus]>,
) -> ContainerStatus {
    let known = old.and_then(|list| list.iter().find(|status| status.name == container.name));
    let mut instances = view.runtime.instances(&container.name).filter(|one| one.phase != Phase::Created);
    let latest = instances.next();
    let previous = instances.find(|one| one.phase == Phase::Exited);
    let problem = view.problems.get(&container.name);
    let ended = |instance: &Instance| ContainerState {
        terminated: Some(terminated(view, instance)),
        ..Default::default()
    };
    let waiting = |reason: &str, message: Option<String>| ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
        ..Default::default()
    };
    let mut last_state = previous.map(ended).unwrap_or_default();
    let mut readiness = Readiness::default();
    let state = match (latest, problem) {
        (Some(instance), _) if instance.is_running() => {
            readiness = (view.readiness)(&container.name);
            ContainerState {
                running: Some(ContainerStateRunning { started_at: instance.started.map(Time) }),
                ..Default::default()
            }
        }
        (Some(instance), Some(problem)) if !view.ending => {
            last_state = ended(instance);
            waiting(problem.reason, Some(problem.message.clone()).filter(|message| !message.is_empty()))
        }
        (Some(instance), _) => ended(instance),
        (None, Some(problem)) if !view.ending => {
            waiting(problem.reason, Some(problem.message.clone()).filter(|message| !message.is_empty()))
        }
        (None, _) => match known.filter(|_| view.ending).and_then(|known| known.state.clone()) {
            // The pod ends without Docker knowing its containers: what was known last stays, unless it ran.
            Some(state) if state.terminated.is_some() => state,
            Some(state) if state.running.is_some() => unknown_end(known),
            _ => waiting(default_reason, None),
        },
    };
    let running = state.running.is_some();
    let image =
        latest.map_or_else(|| container.image.clone().unwrap_or_default(), |instance| instance.image.clone());
    let count = latest.map(|instance| i32::try_from(instance.restart_count).unwrap_or(i32::MAX));
    ContainerStatus {
        name: container.name.clone(),
        image,
        image_id: latest
            .and_then(|instance| view.images.get(&instance.image_id).cloned())
            .or_else(|| Some(known?.image_id.clone()))
            .unwrap_or_default(),
        container_id: latest
            .map(|instance| format!("docker://{}", instance.id))
            .or_else(|| known.and_then(|known| known.container_id.clone())),
        restart_count: count.or_else(|| Some(known?.restart_count)).unwrap_or(0),
        ready: running && readiness.ready,
        started: Some(running && readiness.started),
        state: Some(state),
        last_state: Some(last_state),
        volume_mounts: mounts(container),
        ..Default::default()
    }
}

/// What is said of a container that ran and that Docker no longer has.
fn unknown_end(known: Option<&ContainerStatus>) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".to_owned()),
            message: Some("The container could not be located when the pod was terminated".to_owned()),
            container_id: known.and_then(|known| known.container_id.clone()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts = container.volume_mounts.as_ref().filter(|mounts| !mounts.is_empty())?;
    let status = mounts.iter().map(|mount| VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: mount.read_only.filter(|read_only| *read_only),
        recursive_read_only: mount.read_only.filter(|read_only| *read_only).map(|_| "Disabled".to_owned()),
        ..Default::default()
    });
    Some(status.collect())
}

fn end_of(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    status.state.as_ref()?.terminated.as_ref()
}

/// Upstream's rules for a pod's phase.
fn phase(
    view: &View<'_>,
    spec: &PodSpec,
    old: &PodStatus,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
) -> String {
    if let Some(verdict) = view.verdict.filter(|verdict| !verdict.phase.is_empty()) {
        return verdict.phase.to_owned();
    }
    // A pod that has ended stays ended.
    if let Some(end @ ("Succeeded" | "Failed")) = old.phase.as_deref() {
        return end.to_owned();
    }
    let never = spec.restart_policy.as_deref() == Some("Never");
    let started =
        main.iter().any(|status| end_of(status).is_some() || is_running(status) || was_running(status));
    for (container, status) in spec.init_containers.iter().flatten().zip(init) {
        let end = end_of(status);
        let failed = end.is_some_and(|end| end.exit_code != 0);
        if is_sidecar(container) {
            let up = is_running(status) && status.started == Some(true);
            if !started && !up {
                return if view.ending && failed { "Failed".to_owned() } else { "Pending".to_owned() };
            }
            continue;
        }
        if failed && (never || view.ending) {
            return "Failed".to_owned();
        }
        if !status.ready && !started {
            return "Pending".to_owned();
        }
    }
    let (mut waiting, mut running, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for status in main {
        if is_running(status) {
            running += 1;
        } else if let Some(end) = end_of(status) {
            stopped += 1;
            succeeded += i32::from(end.exit_code == 0);
        } else if was_running(status) {
            stopped += 1;
        } else {
            waiting += 1;
        }
    }
    let always = spec.restart_policy.as_deref().unwrap_or("Always") == "Always";
    let outcome = if waiting > 0 {
        "Pending"
    } else if running > 0 || (stopped > 0 && always && !view.ending) {
        "Running"
    } else if stopped > 0 && stopped == succeeded {
        "Succeeded"
    } else if stopped > 0 && (never || view.ending) {
        "Failed"
    } else if stopped > 0 {
        "Running"
    } else {
        "Pending"
    };
    outcome.to_owned()
}

fn is_running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.running.is_some())
}

fn was_running(status: &ContainerStatus) -> bool {
    status.last_state.as_ref().is_some_and(|state| state.terminated.is_some())
}

/// A condition before its time of change is known.
struct Draft {
    type_: &'static str,
    status: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

fn conditions(
    view: &View<'_>,
    spec: &PodSpec,
    old: &PodStatus,
    phase: &str,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
) -> Vec<PodCondition> {
    let drafts = [
        Draft { type_: "PodReadyToStartContainers", status: view.sandbox_ready, reason: None, message: None },
        initialized(spec, phase, init, main),
        ready(view, spec, old, phase, init, main),
        containers_ready("ContainersReady", spec, phase, init, main),
        Draft { type_: "PodScheduled", status: true, reason: None, message: None },
    ];
    let known: &[PodCondition] = old.conditions.as_deref().unwrap_or_default();
    let finish = |draft: Draft| {
        let status = if draft.status { "True" } else { "False" };
        let before = known.iter().find(|condition| condition.type_ == draft.type_);
        let unchanged = before.filter(|before| before.status == status);
        PodCondition {
            type_: draft.type_.to_owned(),
            status: status.to_owned(),
            reason: draft.reason.map(str::to_owned),
            message: draft.message,
            last_transition_time: unchanged
                .and_then(|before| before.last_transition_time.clone())
                .or(Some(Time(view.now))),
            observed_generation: view.pod.metadata.generation,
            last_probe_time: None,
        }
    };
    let mut out: Vec<PodCondition> = drafts.into_iter().map(finish).collect();
    // Conditions of others (readiness gates, disruption) are theirs.
    let others = known.iter().filter(|condition| !OWN.contains(&condition.type_.as_str()));
    out.extend(others.cloned());
    out
}

/// Conditions that the kubelet writes.
pub const OWN: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

fn initialized(spec: &PodSpec, phase: &str, init: &[ContainerStatus], main: &[ContainerStatus]) -> Draft {
    let type_ = "Initialized";
    if phase == "Succeeded" {
        return Draft { type_, status: true, reason: Some("PodCompleted"), message: None };
    }
    let over =
        main.iter().any(|status| is_running(status) || end_of(status).is_some() || was_running(status));
    let open: Vec<&str> = spec
        .init_containers
        .iter()
        .flatten()
        .zip(init)
        .filter(|(container, status)| {
            let done = if is_sidecar(container) { status.started == Some(true) } else { status.ready };
            !over && !done
        })
        .map(|(_, status)| status.name.as_str())
        .collect();
    if open.is_empty() {
        return Draft { type_, status: true, reason: None, message: None };
    }
    Draft {
        type_,
        status: false,
        reason: Some("ContainersNotInitialized"),
        message: Some(format!("containers with incomplete status: [{}]", open.join(" "))),
    }
}

fn containers_ready(
    type_: &'static str,
    spec: &PodSpec,
    phase: &str,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
) -> Draft {
    match phase {
        "Succeeded" => return Draft { type_, status: false, reason: Some("PodCompleted"), message: None },
        "Failed" => return Draft { type_, status: false, reason: Some("PodFailed"), message: None },
        _ => {}
    }
    let sidecars =
        spec.init_containers.iter().flatten().zip(init).filter(|(container, _)| is_sidecar(container));
    let all = sidecars.map(|(_, status)| status).chain(main);
    let unready: Vec<&str> = all.filter(|status| !status.ready).map(|status| status.name.as_str()).collect();
    if unready.is_empty() {
        return Draft { type_, status: true, reason: None, message: None };
    }
    Draft {
        type_,
        status: false,
        reason: Some("ContainersNotReady"),
        message: Some(format!("containers with unready status: [{}]", unready.join(" "))),
    }
}

fn ready(
    view: &View<'_>,
    spec: &PodSpec,
    old: &PodStatus,
    phase: &str,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
) -> Draft {
    let draft = containers_ready("Ready", spec, phase, init, main);
    if !draft.status {
        return draft;
    }
    let known = old.conditions.as_deref().unwrap_or_default();
    let gates = view.pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    let mut open = Vec::new();
    for gate in gates {
        match known.iter().find(|condition| condition.type_ == gate.condition_type) {
            Some(condition) if condition.status == "True" => {}
            Some(condition) => open.push(format!(
                "the status of pod readiness gate {:?} is not \"True\", but {}",
                gate.condition_type, condition.status
            )),
            None => open.push(format!(
                "corresponding condition of pod readiness gate {:?} does not exist.",
                gate.condition_type
            )),
        }
    }
    if open.is_empty() {
        return draft;
    }
    Draft {
        type_: "Ready",
        status: false,
        reason: Some("ReadinessGatesNotReady"),
        message: Some(open.join(", ")),
    }
}

/// Whether every container has ended, as far as Docker knows.
#[must_use]
pub fn all_ended(spec: &PodSpec, runtime: &PodRuntime) -> bool {
    runtime.is_quiet()
        && spec.containers.iter().all(|container| {
            runtime.latest(&container.name).is_none_or(|latest| !restarts(spec, latest.exit_code))
        })
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
