//! What Docker knows about one pod: the kubelet's truth about containers.

use std::collections::HashMap;

use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::labels;

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Made, never started.
    Created,
    /// Its process runs.
    Running,
    /// Its process has ended, or could not be started.
    Exited,
}

/// One container (or sandbox) in Docker.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// Docker's id.
    pub id: String,
    /// Container name in the pod.
    pub container: String,
    /// Whether it is the pod's sandbox.
    pub is_sandbox: bool,
    /// Where it is in its life.
    pub phase: Phase,
    /// When it was made.
    pub created: Timestamp,
    /// When its process started.
    pub started: Option<Timestamp>,
    /// When its process ended.
    pub finished: Option<Timestamp>,
    /// Exit code of an ended process.
    pub exit_code: i32,
    /// Whether the kernel killed it for memory.
    pub oom_killed: bool,
    /// Why Docker could not start it.
    pub error: String,
    /// Process id on the machine while it runs.
    pub pid: i64,
    /// Image as the container names it.
    pub image: String,
    /// Id of the image (`sha256:…`).
    pub image_id: String,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Signal that asks it to end, if its image names one.
    pub stop_signal: Option<String>,
    /// Its labels' numbers.
    pub restart_count: u32,
    /// Hash of the spec it was made from.
    pub hash: String,
    /// Sandbox it lives in.
    pub sandbox_id: String,
    /// Seconds to wait after its end before the next start.
    pub backoff_seconds: u32,
    /// Grace period of its pod.
    pub grace_seconds: Option<i64>,
    /// File with its last words.
    pub termination_file: String,
    /// Whether it was made for the node's network.
    pub host_network: bool,
}

impl Instance {
    /// How long its process ran, as far as it did.
    #[must_use]
    pub fn ran_for(&self) -> SignedDuration {
        match (self.started, self.finished) {
            (Some(started), Some(finished)) => finished.duration_since(started),
            _ => SignedDuration::ZERO,
        }
    }

    /// Whether its process runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }
}

/// Everything Docker has of one pod, newest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodRuntime {
    /// Sandboxes.
    pub sandboxes: Vec<Instance>,
    /// Containers of all names.
    pub containers: Vec<Instance>,
}

impl PodRuntime {
    /// Sorts instances into a pod's state.
    #[must_use]
    pub fn new(instances: Vec<Instance>) -> Self {
        let (mut sandboxes, mut containers): (Vec<_>, Vec<_>) =
            instances.into_iter().partition(|instance| instance.is_sandbox);
        let newest_first =
            |a: &Instance, b: &Instance| (b.restart_count, b.created).cmp(&(a.restart_count, a.created));
        sandboxes.sort_by(newest_first);
        containers.sort_by(newest_first);
        Self { sandboxes, containers }
    }

    /// The sandbox that is in use, if its process runs.
    #[must_use]
    pub fn sandbox(&self) -> Option<&Instance> {
        self.sandboxes.first().filter(|sandbox| sandbox.is_running())
    }

    /// Instances of one container, newest first.
    pub fn instances<'a>(&'a self, container: &'a str) -> impl Iterator<Item = &'a Instance> {
        self.containers.iter().filter(move |instance| instance.container == container)
    }

    /// The newest instance of one container.
    #[must_use]
    pub fn latest(&self, container: &str) -> Option<&Instance> {
        self.containers.iter().find(|instance| instance.container == container)
    }

    /// Whether nothing of the pod runs.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        !self.containers.iter().any(Instance::is_running)
    }
}

/// Reads Docker's answer. `None` when it is not a container of ours.
#[must_use]
pub fn instance(inspect: ContainerInspectResponse) -> Option<Instance> {
    let config = inspect.config?;
    let labels: HashMap<String, String> = config.labels.unwrap_or_default();
    let state = inspect.state?;
    let created = inspect.created.as_deref().and_then(timestamp).unwrap_or(Timestamp::UNIX_EPOCH);
    let error = state.error.unwrap_or_default();
    let phase = phase(state.status, &error);
    let finished = state.finished_at.as_deref().and_then(timestamp);
    Some(Instance {
        id: inspect.id?,
        container: labels.get(labels::CONTAINER_NAME)?.clone(),
        is_sandbox: labels.get(labels::TYPE).map(String::as_str) == Some(labels::TYPE_SANDBOX),
        phase,
        created,
        started: state.started_at.as_deref().and_then(timestamp),
        // A container that could not be started has no end of its own; its making is the best there is.
        finished: if phase == Phase::Exited { finished.or(Some(created)) } else { None },
        exit_code: i32::try_from(state.exit_code.unwrap_or_default()).unwrap_or(255),
        oom_killed: state.oom_killed.unwrap_or_default(),
        error,
        pid: state.pid.unwrap_or_default(),
        image: config.image.unwrap_or_default(),
        image_id: inspect.image.unwrap_or_default(),
        tty: config.tty.unwrap_or_default(),
        stop_signal: config.stop_signal.filter(|signal| !signal.is_empty()),
        restart_count: labels::number(&labels, labels::RESTART_COUNT),
        hash: labels.get(labels::SPEC_HASH).cloned().unwrap_or_default(),
        sandbox_id: labels.get(labels::SANDBOX_ID).cloned().unwrap_or_default(),
        backoff_seconds: labels::number(&labels, labels::BACKOFF_SECONDS),
        grace_seconds: labels.get(labels::GRACE_SECONDS).and_then(|text| text.parse().ok()),
        termination_file: labels.get(labels::TERMINATION_FILE).cloned().unwrap_or_default(),
        host_network: labels.get(labels::HOST_NETWORK).map(String::as_str) == Some("true"),
    })
}

fn phase(status: Option<ContainerStateStatusEnum>, error: &str) -> Phase {
    match status {
        Some(
            ContainerStateStatusEnum::RUNNING
            | ContainerStateStatusEnum::PAUSED
            | ContainerStateStatusEnum::RESTARTING,
        ) => Phase::Running,
        Some(ContainerStateStatusEnum::CREATED) if error.is_empty() => Phase::Created,
        _ => Phase::Exited,
    }
}

/// Docker's times; the year 1 means "never".
fn timestamp(text: &str) -> Option<Timestamp> {
    let time: Timestamp = text.parse().ok()?;
    (time > Timestamp::UNIX_EPOCH).then_some(time)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    /// A running container of sandbox `sb`.
    pub(crate) fn running(container: &str, restart_count: u32) -> Instance {
        Instance {
            id: format!("{container}-{restart_count}"),
            container: container.to_owned(),
            is_sandbox: false,
            phase: Phase::Running,
            created: at(i64::from(restart_count)),
            started: Some(at(i64::from(restart_count))),
            finished: None,
            exit_code: 0,
            oom_killed: false,
            error: String::new(),
            pid: 4,
            image: "img".to_owned(),
            image_id: "sha256:1".to_owned(),
            tty: false,
            stop_signal: None,
            restart_count,
            hash: String::new(),
            sandbox_id: "sb".to_owned(),
            backoff_seconds: 0,
            grace_seconds: None,
            termination_file: String::new(),
            host_network: false,
        }
    }

    /// The same, ended with `code` at second `end`.
    pub(crate) fn exited(container: &str, restart_count: u32, code: i32, end: i64) -> Instance {
        Instance {
            phase: Phase::Exited,
            finished: Some(at(end)),
            exit_code: code,
            pid: 0,
            ..running(container, restart_count)
        }
    }

    pub(crate) fn sandbox(phase: Phase) -> Instance {
        Instance { id: "sb".to_owned(), is_sandbox: true, phase, ..running(super::labels::SANDBOX_NAME, 0) }
    }

    #[test]
    fn docker_state_reads_as_ours() {
        use ContainerStateStatusEnum as S;
        for (status, error, expected) in [
            (Some(S::RUNNING), "", Phase::Running),
            (Some(S::PAUSED), "", Phase::Running),
            (Some(S::CREATED), "", Phase::Created),
            (Some(S::CREATED), "no such file", Phase::Exited),
            (Some(S::EXITED), "", Phase::Exited),
            (Some(S::DEAD), "", Phase::Exited),
            (None, "", Phase::Exited),
        ] {
            assert_eq!(phase(status, error), expected, "{status:?} {error:?}");
        }
        assert_eq!(timestamp("0001-01-01T00:00:00Z"), None);
        assert_eq!(timestamp("2023-11-14T22:13:20.5Z").map(|time| time.as_second()), Some(1_700_000_000));
    }

    #[test]
    fn newest_instances_come_first() {
        let runtime = PodRuntime::new(vec![
            exited("a", 0, 1, 5),
            running("a", 2),
            exited("a", 1, 1, 6),
            sandbox(Phase::Running),
        ]);
        let counts: Vec<_> = runtime.instances("a").map(|instance| instance.restart_count).collect();
        assert_eq!(counts, [2, 1, 0]);
        assert_eq!(runtime.sandbox().map(|sandbox| sandbox.id.as_str()), Some("sb"));
        assert!(!runtime.is_quiet());
    }
}
