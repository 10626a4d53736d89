//! What is to be done next for a pod. Pure: the pod, what Docker has, how its probes stand, and the time.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::jiff::Timestamp;

use super::backoff;
use crate::docker::body::spec_hash;
use crate::docker::state::{Instance, Phase, PodRuntime};

/// How a running container's probes stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Whether its startup probe has succeeded (or it has none).
    pub started: bool,
    /// Why it must be restarted, if its liveness or startup probe has failed.
    pub doomed: Option<Doom>,
}

/// Which probe ended a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doom {
    /// Liveness.
    Liveness,
    /// Startup.
    Startup,
}

/// A container to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    /// Docker's id.
    pub id: String,
    /// Its name in the pod.
    pub name: String,
    /// What the event says.
    pub message: String,
    /// The probe that asked for it.
    pub doom: Option<Doom>,
}

/// A container to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Its name in the pod.
    pub name: String,
    /// Whether it is an init container.
    pub init: bool,
    /// An instance that was made and never started.
    pub made: Option<String>,
    /// How many instances came before.
    pub restart_count: u32,
    /// Seconds that it will wait after its end.
    pub backoff_seconds: u32,
}

/// A container that waits for its next start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its name in the pod.
    pub name: String,
    /// Whether it is an init container.
    pub init: bool,
    /// Until when.
    pub until: Timestamp,
    /// The whole wait, seconds.
    pub seconds: u32,
}

/// The next steps of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Everything is to be stopped and a fresh sandbox made.
    pub new_sandbox: bool,
    /// Containers to stop.
    pub kill: Vec<Kill>,
    /// Containers to start, in order.
    pub start: Vec<Start>,
    /// Containers in back-off.
    pub waiting: Vec<Waiting>,
    /// All work is done, or failed for good; the pod is to be wound up.
    pub finished: bool,
}

/// Whether an init container is a sidecar (KEP-753).
#[must_use]
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn restart_policy(spec: &PodSpec) -> &str {
    spec.restart_policy.as_deref().unwrap_or("Always")
}

/// Whether an ended main container is started again.
#[must_use]
pub fn restarts(spec: &PodSpec, exit_code: i32) -> bool {
    match restart_policy(spec) {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

/// What a decision is made from.
pub struct View<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// What Docker has of it.
    pub runtime: &'a PodRuntime,
    /// How a container's probes stand, by name; asked for running containers only.
    pub health: &'a dyn Fn(&str) -> Health,
    /// Restart counts the API knows, for containers that Docker has lost.
    pub known_restarts: &'a dyn Fn(&str) -> Option<u32>,
    /// Now.
    pub now: Timestamp,
}

impl View<'_> {
    fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }

    fn start(&self, container: &Container, init: bool) -> Start {
        let latest = self.runtime.latest(&container.name);
        let made = latest.filter(|latest| {
            latest.phase == Phase::Created
                && latest.hash == spec_hash(container)
                && self.runtime.sandbox().is_some_and(|sandbox| sandbox.id == latest.sandbox_id)
        });
        let (previous, count) = match (latest, made) {
            (Some(_), Some(made)) => (None, made.restart_count),
            (Some(latest), None) => (Some(latest), latest.restart_count + 1),
            (None, _) => (None, (self.known_restarts)(&container.name).map_or(0, |count| count + 1)),
        };
        Start {
            name: container.name.clone(),
            init,
            made: made.map(|made| made.id.clone()),
            restart_count: count,
            backoff_seconds: made
                .map_or_else(|| backoff::next_seconds(previous), |made| made.backoff_seconds),
        }
    }

    /// Starts a container, or has it wait.
    fn start_or_wait(&self, plan: &mut Plan, container: &Container, init: bool) {
        let ended = self.runtime.latest(&container.name).filter(|latest| latest.phase == Phase::Exited);
        match ended.and_then(|ended| Some((backoff::waits_until(ended, self.now)?, ended.backoff_seconds))) {
            Some((until, seconds)) => {
                plan.waiting.push(Waiting { name: container.name.clone(), init, until, seconds });
            }
            None => plan.start.push(self.start(container, init)),
        }
    }

    /// Why a running container must go, if it must.
    fn must_die(&self, container: &Container, instance: &Instance) -> Option<Kill> {
        let kill = |message: String, doom| {
            Some(Kill { id: instance.id.clone(), name: container.name.clone(), message, doom })
        };
        let name = &container.name;
        if instance.hash != spec_hash(container) {
            return kill(format!("Container {name} definition changed, will be restarted"), None);
        }
        match (self.health)(name).doomed {
            Some(Doom::Liveness) => kill(
                format!("Container {name} failed liveness probe, will be restarted"),
                Some(Doom::Liveness),
            ),
            Some(Doom::Startup) => {
                kill(format!("Container {name} failed startup probe, will be restarted"), Some(Doom::Startup))
            }
            None => None,
        }
    }

    /// The instance of a container in the sandbox that is in use.
    fn current(&self, name: &str) -> Option<&Instance> {
        let sandbox = self.runtime.sandbox()?;
        self.runtime.latest(name).filter(|instance| instance.sandbox_id == sandbox.id)
    }
}

/// How far the init containers are.
enum Init {
    /// Main containers may run.
    Done,
    /// Not yet.
    Going,
    /// One failed and will not be tried again.
    Failed,
}

/// Computes the next steps.
#[must_use]
pub fn plan(view: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = view.spec() else { return plan };
    if is_finished(view, spec) {
        plan.finished = true;
        return plan;
    }
    if view.runtime.sandbox().is_none() {
        plan.new_sandbox = true;
        return plan;
    }
    // Instances of an earlier sandbox would sit in namespaces nobody else is in.
    let sandbox = view.runtime.sandbox().map(|sandbox| sandbox.id.clone()).unwrap_or_default();
    for stray in view.runtime.containers.iter().filter(|one| one.is_running() && one.sandbox_id != sandbox) {
        let message = format!("Stopping container {}", stray.container);
        plan.kill.push(Kill { id: stray.id.clone(), name: stray.container.clone(), message, doom: None });
    }
    match plan_init(view, spec, &mut plan) {
        Init::Done => plan_main(view, spec, &mut plan),
        Init::Going => {}
        Init::Failed => plan.finished = true,
    }
    plan
}

fn plan_init(view: &View<'_>, spec: &PodSpec, plan: &mut Plan) -> Init {
    // Once a main container was made in this sandbox, init containers are over; sidecars go on.
    let initialized = spec.containers.iter().any(|container| view.current(&container.name).is_some());
    let mut state = Init::Done;
    for container in spec.init_containers.iter().flatten() {
        let instance = view.current(&container.name);
        if is_sidecar(container) {
            match instance {
                Some(instance) if instance.is_running() => match view.must_die(container, instance) {
                    Some(kill) => plan.kill.push(kill),
                    None if (view.health)(&container.name).started => continue,
                    None => {}
                },
                _ => view.start_or_wait(plan, container, true),
            }
            if initialized {
                continue;
            }
            state = Init::Going;
            break;
        }
        if initialized {
            continue;
        }
        match instance {
            Some(instance) if instance.phase == Phase::Exited && instance.exit_code == 0 => continue,
            Some(instance) if instance.is_running() => {
                if instance.hash != spec_hash(container) {
                    plan.kill.extend(view.must_die(container, instance));
                }
            }
            Some(instance) if instance.phase == Phase::Exited && restart_policy(spec) == "Never" => {
                return Init::Failed;
            }
            _ => view.start_or_wait(plan, container, true),
        }
        state = Init::Going;
        break;
    }
    state
}

fn plan_main(view: &View<'_>, spec: &PodSpec, plan: &mut Plan) {
    for container in &spec.containers {
        match view.runtime.latest(&container.name) {
            Some(instance) if instance.is_running() => plan.kill.extend(view.must_die(container, instance)),
            Some(instance) if instance.phase == Phase::Exited && !restarts(spec, instance.exit_code) => {}
            _ => view.start_or_wait(plan, container, false),
        }
    }
}

/// Whether every main container has ended and none is to be started again.
fn is_finished(view: &View<'_>, spec: &PodSpec) -> bool {
    let over = |container: &Container| {
        view.runtime
            .latest(&container.name)
            .is_some_and(|latest| latest.phase == Phase::Exited && !restarts(spec, latest.exit_code))
    };
    !spec.containers.is_empty() && spec.containers.iter().all(over)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::state::tests::{at, exited, running, sandbox};
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}))
            .unwrap()
    }

    /// Gives instances the hash of the pod's containers, so that only what a case changes differs.
    fn hashed(pod: &Pod, mut instances: Vec<Instance>) -> PodRuntime {
        let spec = pod.spec.as_ref().unwrap();
        for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
            for instance in
                instances.iter_mut().filter(|one| one.container == container.name && one.hash.is_empty())
            {
                instance.hash = spec_hash(container);
            }
        }
        PodRuntime::new(instances)
    }

    fn plan_at(pod: &Pod, instances: Vec<Instance>, second: i64, healthy: &dyn Fn(&str) -> Health) -> Plan {
        let runtime = hashed(pod, instances);
        let known = |_: &str| None;
        plan(&View { pod, runtime: &runtime, health: healthy, known_restarts: &known, now: at(second) })
    }

    fn well(_: &str) -> Health {
        Health { started: true, doomed: None }
    }

    /// `start a#1`, `kill b`, `wait c`, `sandbox`, `finished`.
    fn shown(plan: &Plan) -> Vec<String> {
        let mut out = Vec::new();
        if plan.new_sandbox {
            out.push("sandbox".to_owned());
        }
        if plan.finished {
            out.push("finished".to_owned());
        }
        out.extend(plan.kill.iter().map(|kill| format!("kill {}", kill.name)));
        out.extend(plan.start.iter().map(|start| {
            let made = if start.made.is_some() { " made" } else { "" };
            format!("start {}#{}{made}", start.name, start.restart_count)
        }));
        out.extend(plan.waiting.iter().map(|wait| format!("wait {}", wait.name)));
        out
    }

    #[test]
    fn containers_start_restart_wait_and_finish_by_policy() {
        let up = || sandbox(Phase::Running);
        let backing_off = Instance { backoff_seconds: 10, ..exited("a", 1, 1, 5) };
        let made = Instance { phase: Phase::Created, started: None, ..running("a", 3) };
        for (policy, instances, expected) in [
            ("Always", vec![], vec!["sandbox"]),
            ("Always", vec![sandbox(Phase::Exited), exited("a", 0, 1, 5)], vec!["sandbox"]),
            ("Always", vec![up()], vec!["start a#0"]),
            ("Always", vec![up(), running("a", 0)], vec![]),
            ("Always", vec![up(), exited("a", 0, 0, 5)], vec!["start a#1"]),
            ("Always", vec![up(), backing_off.clone()], vec!["wait a"]),
            ("Always", vec![up(), made], vec!["start a#3 made"]),
            ("OnFailure", vec![up(), exited("a", 0, 1, 5)], vec!["start a#1"]),
            ("OnFailure", vec![up(), exited("a", 0, 0, 5)], vec!["finished"]),
            ("Never", vec![up(), exited("a", 0, 1, 5)], vec!["finished"]),
            ("Never", vec![sandbox(Phase::Exited), exited("a", 0, 1, 5)], vec!["finished"]),
            ("Never", vec![sandbox(Phase::Exited)], vec!["sandbox"]),
        ] {
            let pod = pod(json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "i"}]}));
            let seen = plan_at(&pod, instances.clone(), 6, &well);
            assert_eq!(shown(&seen), expected, "{policy} {instances:?}");
        }
    }

    #[test]
    fn init_containers_run_one_after_another_before_the_rest() {
        let spec = |policy: &str| {
            pod(json!({"restartPolicy": policy, "initContainers": [{"name": "i"}, {"name": "j"}],
                "containers": [{"name": "a"}, {"name": "b"}]}))
        };
        let up = || sandbox(Phase::Running);
        for (policy, instances, expected) in [
            ("Always", vec![up()], vec!["start i#0"]),
            ("Always", vec![up(), running("i", 0)], vec![]),
            ("Always", vec![up(), exited("i", 0, 0, 5)], vec!["start j#0"]),
            ("Always", vec![up(), exited("i", 0, 3, 5)], vec!["start i#1"]),
            ("Never", vec![up(), exited("i", 0, 3, 5)], vec!["finished"]),
            (
                "Always",
                vec![up(), exited("i", 0, 0, 5), exited("j", 0, 0, 6)],
                vec!["start a#0", "start b#0"],
            ),
            // Init containers whose instances were removed do not run again beside a main one.
            ("Always", vec![up(), running("a", 0)], vec!["start b#0"]),
            // A new sandbox starts over.
            (
                "Always",
                vec![
                    up(),
                    Instance { sandbox_id: "old".to_owned(), ..exited("i", 0, 0, 5) },
                    Instance { sandbox_id: "old".to_owned(), ..exited("a", 0, 0, 5) },
                ],
                vec!["start i#1"],
            ),
        ] {
            let seen = plan_at(&spec(policy), instances.clone(), 100, &well);
            assert_eq!(shown(&seen), expected, "{policy} {instances:?}");
        }
    }

    #[test]
    fn sidecars_hold_back_the_rest_until_started_and_are_restarted_later() {
        let pod = pod(json!({"restartPolicy": "Never",
            "initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "i"}], "containers": [{"name": "a"}]}));
        let up = || sandbox(Phase::Running);
        let starting = |_: &str| Health { started: false, doomed: None };
        assert_eq!(shown(&plan_at(&pod, vec![up()], 9, &well)), ["start s#0"]);
        assert_eq!(shown(&plan_at(&pod, vec![up(), running("s", 0)], 9, &starting)), [""; 0]);
        assert_eq!(shown(&plan_at(&pod, vec![up(), running("s", 0)], 9, &well)), ["start i#0"]);
        let working = vec![up(), exited("s", 0, 0, 5), exited("i", 0, 0, 5), running("a", 0)];
        assert_eq!(shown(&plan_at(&pod, working, 9, &well)), ["start s#1"]);
        let done = vec![up(), running("s", 0), exited("i", 0, 0, 5), exited("a", 0, 0, 6)];
        assert_eq!(shown(&plan_at(&pod, done, 9, &well)), ["finished"]);
    }

    #[test]
    fn failed_probes_and_changed_images_end_a_container() {
        let pod = pod(json!({"containers": [{"name": "a", "image": "new"}]}));
        let up = || sandbox(Phase::Running);
        let sick = |_: &str| Health { started: true, doomed: Some(Doom::Liveness) };
        let plan = plan_at(&pod, vec![up(), running("a", 0)], 9, &sick);
        assert_eq!(plan.kill[0].message, "Container a failed liveness probe, will be restarted");
        let changed = Instance { hash: "other".to_owned(), ..running("a", 0) };
        let plan = plan_at(&pod, vec![up(), changed], 9, &well);
        assert_eq!(plan.kill[0].message, "Container a definition changed, will be restarted");
        let stray = Instance { sandbox_id: "old".to_owned(), ..running("a", 0) };
        assert_eq!(shown(&plan_at(&pod, vec![up(), stray], 9, &well)), ["kill a"]);
    }

    #[test]
    fn restart_counts_survive_a_lost_docker() {
        let pod = pod(json!({"containers": [{"name": "a"}]}));
        let runtime = hashed(&pod, vec![sandbox(Phase::Running)]);
        let known = |_: &str| Some(4);
        let seen =
            plan(&View { pod: &pod, runtime: &runtime, health: &well, known_restarts: &known, now: at(0) });
        assert_eq!(shown(&seen), ["start a#5"]);
    }
}
