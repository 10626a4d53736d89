//! Startup, readiness and liveness probes: one task each, its standing kept where the pod's worker looks.

pub mod grpc;
pub mod http;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use rand::Rng as _;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::clock;
use crate::docker::{self, Engine};
use crate::events::{Level, Recorder};
use crate::pod::decide::Doom;

/// Which question a probe answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Has it come up.
    Startup,
    /// May it be sent requests.
    Readiness,
    /// Must it be restarted.
    Liveness,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Startup, Self::Readiness, Self::Liveness];

    fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }

    fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
        }
    }
}

/// One try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It answered as it should.
    Success,
    /// It did not.
    Failure(String),
    /// The question could not be asked; that counts for nothing.
    Unknown(String),
}

/// What probes found about one instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// The startup probe has succeeded.
    pub started: bool,
    /// The readiness probe succeeds.
    pub ready: bool,
    /// A probe asks for its end.
    pub doomed: Option<Doom>,
}

/// Runs of equal outcomes, turned into a result at the thresholds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Tally {
    last: Option<bool>,
    run: i32,
}

impl Tally {
    /// Counts one try; `Some` when a threshold is reached with it or was before.
    fn count(&mut self, success: bool, probe: &Probe) -> Option<bool> {
        if self.last == Some(success) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = Some(success);
            self.run = 1;
        }
        let threshold =
            if success { probe.success_threshold.unwrap_or(1) } else { probe.failure_threshold.unwrap_or(3) };
        (self.run >= threshold.max(1)).then_some(success)
    }
}

type Standings = Arc<Mutex<HashMap<String, Standing>>>;

/// Probes of one pod.
pub struct Probes {
    engine: Engine,
    events: Recorder,
    standings: Standings,
    wake: Arc<Notify>,
    tasks: HashMap<(String, Kind), (String, AbortHandle)>,
}

impl Drop for Probes {
    fn drop(&mut self) {
        for (_, task) in self.tasks.values() {
            task.abort();
        }
    }
}

/// An instance that is to be probed.
pub struct Probed<'a> {
    /// Its spec.
    pub container: &'a Container,
    /// How events name it.
    pub field_path: String,
    /// Docker's id.
    pub id: String,
    /// When it started.
    pub started: Timestamp,
    /// What the API last said of it, if this kubelet found it running.
    pub adopted: Option<Standing>,
}

impl Probes {
    /// None yet; `wake` is called whenever a standing changes.
    #[must_use]
    pub fn new(engine: Engine, events: Recorder, wake: Arc<Notify>) -> Self {
        Self { engine, events, standings: Arc::default(), wake, tasks: HashMap::new() }
    }

    /// How an instance stands, given what its container asks for.
    #[must_use]
    pub fn standing(&self, container: &Container, id: &str) -> Standing {
        let known = self.standings.lock().get(id).copied().unwrap_or_default();
        let started = container.startup_probe.is_none() || known.started;
        Standing {
            started,
            ready: started && (container.readiness_probe.is_none() || known.ready),
            doomed: known.doomed,
        }
    }

    /// Starts and stops tasks so that exactly `running` is probed.
    pub fn align(&mut self, pod: &Arc<Pod>, address: &str, running: Vec<Probed<'_>>) {
        let wanted = |key: &(String, Kind), id: &str| {
            running.iter().any(|probed| probed.container.name == key.0 && probed.id == id)
        };
        self.tasks.retain(|key, (id, task)| {
            let keep = wanted(key, id);
            if !keep {
                task.abort();
            }
            keep
        });
        self.standings.lock().retain(|id, _| running.iter().any(|probed| probed.id == *id));
        for probed in running {
            self.begin(pod, address, &probed);
        }
    }

    fn begin(&mut self, pod: &Arc<Pod>, address: &str, probed: &Probed<'_>) {
        if let Some(adopted) = probed.adopted {
            self.standings.lock().entry(probed.id.clone()).or_insert(adopted);
        }
        for kind in Kind::ALL {
            let Some(probe) = kind.of(probed.container) else { continue };
            let key = (probed.container.name.clone(), kind);
            if self.tasks.contains_key(&key) {
                continue;
            }
            let task = Task {
                engine: self.engine.clone(),
                events: self.events.clone(),
                standings: self.standings.clone(),
                wake: self.wake.clone(),
                pod: pod.clone(),
                container: probed.container.clone(),
                field_path: probed.field_path.clone(),
                probe: probe.clone(),
                kind,
                id: probed.id.clone(),
                address: address.to_owned(),
                started: probed.started,
                adopted: probed.adopted.is_some(),
            };
            self.tasks.insert(key, (probed.id.clone(), tokio::spawn(task.run()).abort_handle()));
        }
    }

    /// Ends liveness and startup probes: the pod is on its way out, only its readiness still matters.
    pub fn only_readiness(&mut self) {
        self.tasks.retain(|(_, kind), (_, task)| {
            let keep = *kind == Kind::Readiness;
            if !keep {
                task.abort();
            }
            keep
        });
    }
}

struct Task {
    engine: Engine,
    events: Recorder,
    standings: Standings,
    wake: Arc<Notify>,
    pod: Arc<Pod>,
    container: Container,
    field_path: String,
    probe: Probe,
    kind: Kind,
    id: String,
    address: String,
    started: Timestamp,
    adopted: bool,
}

fn seconds(value: Option<i32>, default: i32) -> Duration {
    Duration::from_secs(u64::try_from(value.unwrap_or(default).max(1)).unwrap_or(1))
}

impl Task {
    async fn run(self) {
        let period = seconds(self.probe.period_seconds, 10);
        self.wait_first(period).await;
        let mut tally = Tally::default();
        loop {
            if self.is_due() {
                let outcome = self.ask().await;
                if self.record(&outcome, &mut tally) {
                    return;
                }
            }
            // Until the container has started its other probes look again soon.
            let held = !self.is_due();
            tokio::time::sleep(if held { period.min(Duration::from_secs(1)) } else { period }).await;
        }
    }

    /// The initial delay counts from the container's start; a fleet that is adopted is not probed all at once.
    async fn wait_first(&self, period: Duration) {
        let delay = f64::from(self.probe.initial_delay_seconds.unwrap_or(0).max(0));
        let age = clock::seconds_between(self.started, clock::now());
        let mut wait = Duration::from_secs_f64((delay - age).max(0.0));
        if self.adopted {
            wait += period.mul_f64(rand::rng().random_range(0.0..1.0));
        }
        tokio::time::sleep(wait).await;
    }

    /// Readiness and liveness wait for the startup probe.
    fn is_due(&self) -> bool {
        self.kind == Kind::Startup
            || self.container.startup_probe.is_none()
            || self.standings.lock().get(&self.id).is_some_and(|standing| standing.started)
    }

    /// Takes one outcome in; returns whether this probe's work is done.
    fn record(&self, outcome: &Outcome, tally: &mut Tally) -> bool {
        let title = self.kind.title();
        let success = match outcome {
            Outcome::Success => true,
            Outcome::Failure(why) => {
                let message = format!("{title} probe failed: {why}");
                self.events.container(
                    &self.pod,
                    self.field_path.clone(),
                    Level::Warning,
                    "Unhealthy",
                    message,
                );
                false
            }
            Outcome::Unknown(why) if why.is_empty() => return false,
            Outcome::Unknown(why) => {
                let message = format!("{title} probe errored: {why}");
                self.events.container(
                    &self.pod,
                    self.field_path.clone(),
                    Level::Warning,
                    "ProbeError",
                    message,
                );
                return false;
            }
        };
        let Some(result) = tally.count(success, &self.probe) else { return false };
        let mut standings = self.standings.lock();
        let standing = standings.entry(self.id.clone()).or_default();
        let before = *standing;
        match (self.kind, result) {
            (Kind::Startup, true) => standing.started = true,
            (Kind::Startup, false) => standing.doomed = Some(Doom::Startup),
            (Kind::Readiness, ready) => standing.ready = ready,
            (Kind::Liveness, true) => {}
            (Kind::Liveness, false) => standing.doomed = Some(Doom::Liveness),
        }
        let changed = before != *standing;
        let doomed = standing.doomed.is_some();
        drop(standings);
        if changed {
            self.wake.notify_one();
        }
        // A started container stays started, and a doomed one is not asked again.
        self.kind == Kind::Startup && result || doomed && self.kind != Kind::Readiness
    }

    async fn ask(&self) -> Outcome {
        let limit = seconds(self.probe.timeout_seconds, 1);
        if let Some(action) = &self.probe.exec {
            return self.ask_exec(action.command.as_deref().unwrap_or_default(), limit).await;
        }
        if let Some(action) = &self.probe.http_get {
            let target = match http::Target::new(action, &self.container, &self.address) {
                Ok(target) => target,
                Err(error) => return Outcome::Unknown(error),
            };
            return match http::get(&target, limit).await {
                Ok(answer) if (200..400).contains(&answer.code) => Outcome::Success,
                Ok(answer) => Outcome::Failure(format!("HTTP probe failed with statuscode: {}", answer.code)),
                Err(error) => Outcome::Failure(error),
            };
        }
        if let Some(action) = &self.probe.tcp_socket {
            let host =
                action.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| self.address.clone());
            return match http::port(&action.port, &self.container) {
                Ok(port) => ask_tcp(&http::authority(&host, port), limit).await,
                Err(error) => Outcome::Unknown(error),
            };
        }
        if let Some(action) = &self.probe.grpc {
            let service = action.service.clone().unwrap_or_default();
            let Ok(port) = u16::try_from(action.port) else {
                return Outcome::Unknown("invalid port".to_owned());
            };
            return match grpc::check(&self.address, port, &service, limit).await {
                Ok(()) => Outcome::Success,
                Err(error) => Outcome::Failure(error),
            };
        }
        Outcome::Unknown("missing probe handler".to_owned())
    }

    async fn ask_exec(&self, command: &[String], limit: Duration) -> Outcome {
        match self.engine.exec(&self.id, command, limit).await {
            Ok(outcome) if outcome.code == 0 => Outcome::Success,
            Ok(outcome) => Outcome::Failure(outcome.output),
            Err(docker::Error::Timeout) => {
                let shown = command.join(" ");
                Outcome::Failure(format!("command timed out: {shown:?} timed out after {}s", limit.as_secs()))
            }
            // 409: the container ended meanwhile; its worker will see that.
            Err(error) if matches!(error.code(), Some(404 | 409)) => Outcome::Unknown(String::new()),
            Err(error) => Outcome::Unknown(error.to_string()),
        }
    }
}

async fn ask_tcp(address: &str, limit: Duration) -> Outcome {
    match tokio::time::timeout(limit, tokio::net::TcpStream::connect(address)).await {
        Ok(Ok(_)) => Outcome::Success,
        Ok(Err(error)) => Outcome::Failure(http::dial_error(address, &error)),
        Err(_) => Outcome::Failure(format!("dial tcp {address}: i/o timeout")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_change_at_the_thresholds() {
        let probe = Probe { success_threshold: Some(2), failure_threshold: Some(3), ..Default::default() };
        let mut tally = Tally::default();
        let seen: Vec<_> = [true, true, false, false, true, false, false, false, false]
            .into_iter()
            .map(|success| tally.count(success, &probe))
            .collect();
        assert_eq!(seen, [None, Some(true), None, None, None, None, None, Some(false), Some(false)]);
    }

    #[tokio::test]
    async fn tcp_probes_connect() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert_eq!(ask_tcp(&address, Duration::from_secs(5)).await, Outcome::Success);
        drop(listener);
        let expected = format!("dial tcp {address}: connect: connection refused");
        assert_eq!(ask_tcp(&address, Duration::from_secs(5)).await, Outcome::Failure(expected));
    }
}
