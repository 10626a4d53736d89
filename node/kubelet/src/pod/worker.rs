//! One pod's worker: looks at the pod, at Docker and at its probes, takes the next steps, reports, and waits.
//!
//! It keeps nothing that could not be found again: it may be killed between any two steps.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use tokio::sync::{Notify, watch};
use tokio::time::Instant as Moment;

use super::backoff::{self, Retry};
use super::decide::{self, Health, Kill, Plan, Waiting};
use super::sandbox;
use super::start::Starting;
use super::status::{self, Problem, Readiness, Verdict};
use super::{report, stop};
use crate::clock;
use crate::docker::body::owner_of;
use crate::docker::security;
use crate::docker::state::{Instance, Phase, PodRuntime};
use crate::events::{Level, field_path};
use crate::image::{self, Pulls};
use crate::probe::{Probed, Probes, Standing};
use crate::shared::Shared;
use crate::volume::token::Tokens;
use crate::volume::{ReadyVolumes, mounts};

/// A look at every pod even when nothing was heard.
const RESYNC: Duration = Duration::from_secs(60);
/// How often the content of volumes is brought up to date.
const REFRESH_SECONDS: f64 = 60.0;
/// How long writing a status may hold up the rest.
const REPORT_LIMIT: Duration = Duration::from_secs(5);
/// Bytes of last words that are kept.
const MAX_WORDS: u64 = 4096;
/// Bytes and lines of a log that stand in for them.
const MAX_LOG_WORDS: usize = 2048;
const MAX_LOG_LINES: usize = 80;

/// What the manager wants of a worker.
#[derive(Debug, Clone)]
pub struct Order {
    /// The pod as last seen.
    pub pod: Arc<Pod>,
    /// Its object is gone from the API.
    pub removed: bool,
}

impl Order {
    fn ends(&self) -> bool {
        self.removed || self.pod.metadata.deletion_timestamp.is_some()
    }
}

/// What a worker shows to the kubelet's own API.
pub struct Worker {
    shared: Arc<Shared>,
    orders: watch::Receiver<Order>,
    wake: Arc<Notify>,
    pod: Arc<Pod>,
    uid: String,
    known: HashMap<String, Instance>,
    probes: Probes,
    problems: BTreeMap<String, Problem>,
    words: BTreeMap<String, String>,
    images: BTreeMap<String, String>,
    volumes: Option<ReadyVolumes>,
    refreshed: Option<Timestamp>,
    tokens: Tokens,
    pulls: Pulls,
    volume_retry: Retry,
    sandbox_retry: Retry,
    addresses: Vec<String>,
    adopted: Option<HashSet<String>>,
    verdict: Option<Verdict>,
    finished: bool,
    wound_up: bool,
    unreported: bool,
}

/// How winding up went.
enum Ended {
    /// Nothing is left; the worker is done.
    Gone,
    /// Look again after this.
    After(Duration),
}

impl Worker {
    /// A worker for the pod of the first order.
    #[must_use]
    pub fn new(shared: Arc<Shared>, orders: watch::Receiver<Order>, wake: Arc<Notify>) -> Self {
        let pod = orders.borrow().pod.clone();
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let probes = Probes::new(shared.engine.clone(), shared.events.clone(), wake.clone());
        shared.metrics.started_pods.inc();
        Self {
            shared,
            orders,
            wake,
            pod,
            uid,
            known: HashMap::new(),
            probes,
            problems: BTreeMap::new(),
            words: BTreeMap::new(),
            images: BTreeMap::new(),
            volumes: None,
            refreshed: None,
            tokens: Tokens::default(),
            pulls: Pulls::default(),
            volume_retry: Retry::default(),
            sandbox_retry: Retry::default(),
            addresses: Vec::new(),
            adopted: None,
            verdict: None,
            finished: false,
            wound_up: false,
            unreported: false,
        }
    }

    fn shown(&self) -> String {
        let owner = owner_of(&self.pod);
        format!("{}_{}({})", owner.name, owner.namespace, owner.uid)
    }

    /// Works until the pod is gone and nothing of it is left.
    pub async fn run(mut self) {
        let mut network = self.shared.network.clone();
        loop {
            let order = self.orders.borrow_and_update().clone();
            self.take(&order);
            let begun = Instant::now();
            let pause = if order.ends() || self.finished || self.verdict.is_some() {
                match self.wind_up(&order).await {
                    Ended::Gone => return,
                    Ended::After(pause) => pause,
                }
            } else {
                let mut orders = self.orders.clone();
                tokio::select! {
                    biased;
                    _ = orders.wait_for(Order::ends) => Duration::ZERO,
                    pause = self.step() => pause,
                }
            };
            self.shared.metrics.sync_seconds.observe(begun.elapsed().as_secs_f64());
            if pause.is_zero() {
                continue;
            }
            tokio::select! {
                changed = self.orders.changed() => if changed.is_err() { return },
                () = self.wake.notified() => {}
                Ok(()) = network.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Takes the newest object; what this worker wrote itself may be newer than what the watch has brought.
    fn take(&mut self, order: &Order) {
        let version = |pod: &Pod| {
            pod.metadata
                .resource_version
                .as_ref()
                .and_then(|version| version.parse::<u64>().ok())
                .unwrap_or(u64::MAX)
        };
        if version(&order.pod) >= version(&self.pod) || order.removed {
            self.pod = order.pod.clone();
        }
    }

    /// One look and what follows from it; returns how long to wait for the next.
    async fn step(&mut self) -> Duration {
        let mut next = match self.sync().await {
            Ok(next) => next,
            Err(error) => {
                tracing::warn!(pod = %self.shown(), %error, "cannot sync");
                self.shared.metrics.failed("sync_pod");
                Duration::from_secs(2)
            }
        };
        if self.unreported {
            next = next.min(Duration::from_secs(2));
        }
        next
    }

    async fn runtime(&mut self) -> Result<PodRuntime, crate::docker::Error> {
        let runtime = self.shared.engine.pod(&self.uid, &mut self.known).await?;
        if self.adopted.is_none() {
            let running = runtime.containers.iter().filter(|one| one.is_running()).map(|one| one.id.clone());
            self.adopted = Some(running.collect());
            self.check_network(&runtime);
        }
        for instance in &runtime.containers {
            self.learn(instance).await;
        }
        Ok(runtime)
    }

    /// Asks the plugins about a sandbox that was found, without holding the pod up.
    fn check_network(&self, runtime: &PodRuntime) {
        let Some(found) = runtime.sandbox().filter(|found| !found.host_network).cloned() else { return };
        let (cni, pod) = (self.shared.cni.clone(), self.shown());
        tokio::spawn(async move {
            if let Err(error) = cni.check(&found.id, &sandbox::netns(&found)).await {
                tracing::warn!(%pod, %error, "the network of an adopted sandbox is not as it was");
            }
        });
    }

    /// Looks up what Docker's state does not say: how the image is reported, and last words.
    async fn learn(&mut self, instance: &Instance) {
        if !self.images.contains_key(&instance.image_id) {
            let reported = match self.shared.engine.image(&instance.image_id).await {
                Ok(Some(image)) => image::reported_id(&image),
                _ => format!("docker://{}", instance.image_id),
            };
            self.images.insert(instance.image_id.clone(), reported);
        }
        if instance.phase == Phase::Exited && !self.words.contains_key(&instance.id) {
            let words = self.last_words(instance).await;
            self.words.insert(instance.id.clone(), words);
        }
    }

    async fn last_words(&self, instance: &Instance) -> String {
        use std::io::Read as _;
        let mut text = Vec::new();
        if let Ok(file) = std::fs::File::open(&instance.termination_file) {
            let _ = file.take(MAX_WORDS).read_to_end(&mut text);
        }
        let fallback = self.container(&instance.container).is_some_and(|(container, _)| {
            container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError")
        });
        if text.is_empty() && fallback && instance.exit_code != 0 {
            let log =
                crate::server::logs::tail(&self.shared.engine, &instance.id, instance.tty, MAX_LOG_LINES)
                    .await;
            let log = log.unwrap_or_default();
            text = log.get(log.len().saturating_sub(MAX_LOG_WORDS)..).unwrap_or_default().to_vec();
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    fn container(&self, name: &str) -> Option<(Container, bool)> {
        let spec = self.pod.spec.as_ref()?;
        let main = spec.containers.iter().find(|one| one.name == name).map(|one| (one.clone(), false));
        main.or_else(|| {
            spec.init_containers.iter().flatten().find(|one| one.name == name).map(|one| (one.clone(), true))
        })
    }

    async fn sync(&mut self) -> Result<Duration, crate::docker::Error> {
        let mut runtime = self.runtime().await?;
        if self.must_not_run(&runtime) {
            return Ok(Duration::ZERO);
        }
        self.problems.clear();
        let mut plan = self.plan(&runtime);
        if plan.finished {
            self.finished = true;
            return Ok(Duration::ZERO);
        }
        if self.pod.status.as_ref().is_none_or(|status| status.start_time.is_none()) {
            self.report(&runtime, false).await;
        }
        let starts = plan.new_sandbox || !plan.start.is_empty();
        let there = if starts || self.refresh_due() { self.set_up_volumes().await } else { true };
        // What runs already goes on without its volumes' news; only a start has to wait for them.
        if starts && !there {
            self.align_probes(&runtime);
            self.report(&runtime, false).await;
            return Ok(self.until(&[self.volume_retry.due]));
        }
        if !self.ensure_sandbox(&mut runtime, &mut plan).await? {
            self.report(&runtime, false).await;
            return Ok(self.until(&[self.sandbox_retry.due]).min(Duration::from_secs(30)));
        }
        for kill in std::mem::take(&mut plan.kill) {
            self.kill(&runtime, &kill).await;
            plan.start.clear();
            runtime = self.runtime().await?;
        }
        self.hold_back(&plan);
        let began = !plan.start.is_empty();
        for start in &plan.start {
            self.start(&runtime, start).await;
        }
        if began {
            runtime = self.runtime().await?;
            self.trim(&runtime).await;
        }
        self.align_probes(&runtime);
        self.report(&runtime, false).await;
        Ok(self.next_look(&runtime, &plan, began))
    }

    /// Whether the pod has to end now for a reason of the node.
    fn must_not_run(&mut self, runtime: &PodRuntime) -> bool {
        let Some(spec) = &self.pod.spec else { return false };
        let status = self.pod.status.as_ref();
        // A pod whose end was reported ended, even if this kubelet knows nothing of it.
        if let Some("Succeeded" | "Failed") = status.and_then(|status| status.phase.as_deref()) {
            self.finished = true;
            return true;
        }
        let started = status.and_then(|status| status.start_time.as_ref());
        if let (Some(seconds), Some(started)) = (spec.active_deadline_seconds, started) {
            let limit = SignedDuration::from_secs(seconds);
            if clock::now().duration_since(started.0) >= limit && !decide_finished(self, runtime) {
                let message = "Pod was active on the node longer than the specified deadline".to_owned();
                self.shared.events.pod(&self.pod, Level::Normal, "DeadlineExceeded", message.clone());
                self.verdict =
                    Some(Verdict { phase: "Failed", reason: "DeadlineExceeded".to_owned(), message });
                return true;
            }
        }
        if let Err(error) = security::sysctls(spec) {
            let message = error.to_string();
            self.shared.events.pod(&self.pod, Level::Warning, "SysctlForbidden", message.clone());
            self.verdict = Some(Verdict { phase: "Failed", reason: "SysctlForbidden".to_owned(), message });
            return true;
        }
        false
    }

    fn plan(&self, runtime: &PodRuntime) -> Plan {
        let health = |name: &str| {
            let standing = self.standing(runtime, name);
            Health { started: standing.started, doomed: standing.doomed }
        };
        let known = |name: &str| {
            let status = self.pod.status.as_ref()?;
            let mut all = status
                .container_statuses
                .iter()
                .flatten()
                .chain(status.init_container_statuses.iter().flatten());
            let known = all.find(|known| known.name == name)?;
            // Only a container that was once made has a count to go on from.
            known.container_id.as_ref().filter(|id| !id.is_empty())?;
            u32::try_from(known.restart_count).ok()
        };
        decide::plan(&decide::View {
            pod: &self.pod,
            runtime,
            health: &health,
            known_restarts: &known,
            now: clock::now(),
        })
    }

    fn standing(&self, runtime: &PodRuntime, name: &str) -> Standing {
        match (self.container(name), runtime.latest(name)) {
            (Some((container, _)), Some(instance)) => self.probes.standing(&container, &instance.id),
            _ => Standing::default(),
        }
    }

    fn refresh_due(&self) -> bool {
        self.refreshed.is_none_or(|last| clock::seconds_between(last, clock::now()) > REFRESH_SECONDS)
    }

    /// Makes the volumes or brings them up to date; returns whether they are all there.
    async fn set_up_volumes(&mut self) -> bool {
        if self.volumes.is_some() && !self.refresh_due() {
            return true;
        }
        let now = clock::now();
        if self.volume_retry.waits_until(now).is_some() {
            return self.volumes.is_some();
        }
        let around = self.shared.surroundings.clone();
        match self.shared.volumes.set_up(&self.pod, &around, &mut self.tokens).await {
            Ok(volumes) => {
                self.volumes = Some(volumes);
                self.refreshed = Some(now);
                self.volume_retry = Retry::default();
            }
            Err(error) => {
                self.volume_retry.failed(now, 1, 60);
                self.shared.metrics.failed("set_up_volumes");
                self.shared.events.pod(&self.pod, Level::Warning, "FailedMount", error.to_string());
            }
        }
        self.volumes.is_some()
    }

    /// Has a sandbox with a network; returns whether there is one.
    async fn ensure_sandbox(
        &mut self,
        runtime: &mut PodRuntime,
        plan: &mut Plan,
    ) -> Result<bool, crate::docker::Error> {
        if plan.new_sandbox {
            if !self.may_have_sandbox() {
                return Ok(false);
            }
            if let Err(error) = self.new_sandbox(runtime).await {
                self.sandbox_failed(&error);
                return Ok(false);
            }
            *runtime = self.runtime().await?;
            *plan = self.plan(runtime);
        }
        let Some(found) = runtime.sandbox().cloned() else { return Ok(false) };
        if !self.addresses.is_empty() {
            return Ok(true);
        }
        if self.sandbox_retry.waits_until(clock::now()).is_some() {
            return Ok(false);
        }
        let attached = match sandbox::attach(&self.shared, &self.pod, &found).await {
            Ok(addresses) => sandbox::write_files(&self.shared, &self.pod, &addresses).map(|()| addresses),
            Err(error) => Err(error),
        };
        match attached {
            Ok(addresses) => {
                self.addresses = addresses.iter().map(ToString::to_string).collect();
                self.sandbox_retry = Retry::default();
                Ok(true)
            }
            Err(error) => {
                self.sandbox_failed(&error);
                Ok(false)
            }
        }
    }

    /// Whether the network is there for pods that need one, and no failure is too recent.
    fn may_have_sandbox(&mut self) -> bool {
        let reason = self.shared.network.borrow().clone();
        if let Some(reason) = reason.filter(|_| !sandbox::on_host_network(&self.pod)) {
            let message = format!("network is not ready: {reason}");
            self.shared.events.pod(&self.pod, Level::Warning, "NetworkNotReady", message);
            self.sandbox_retry.due = clock::now().checked_add(SignedDuration::from_secs(10)).ok();
            return false;
        }
        if self.sandbox_retry.failures == 0 {
            self.sandbox_retry.due = None;
        }
        self.sandbox_retry.waits_until(clock::now()).is_none()
    }

    fn sandbox_failed(&mut self, error: &sandbox::Error) {
        self.sandbox_retry.failed(clock::now(), 1, 30);
        self.shared.metrics.failed("run_podsandbox");
        let message = format!("Failed to create pod sandbox: {error}");
        self.shared.events.pod(&self.pod, Level::Warning, "FailedCreatePodSandBox", message);
    }

    async fn new_sandbox(&mut self, runtime: &PodRuntime) -> Result<(), sandbox::Error> {
        if !runtime.sandboxes.is_empty() {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            self.shared.events.pod(&self.pod, Level::Normal, "SandboxChanged", message);
        }
        self.addresses.clear();
        let address = String::new();
        stop::all(&self.shared, &self.pod, runtime, &address, &self.orders, None).await?;
        let shown = self.shown();
        for old in &runtime.sandboxes {
            sandbox::remove(&self.shared, old, &shown).await?;
        }
        let attempt = runtime.sandboxes.first().map_or(0, |last| last.restart_count + 1);
        sandbox::create(&self.shared, &self.pod, attempt).await?;
        Ok(())
    }

    async fn kill(&mut self, runtime: &PodRuntime, kill: &Kill) {
        let Some(instance) = runtime.containers.iter().find(|one| one.id == kill.id) else { return };
        let found = self.container(&kill.name);
        let probe_grace = found.as_ref().and_then(|(container, _)| {
            let probe = match kill.doom? {
                decide::Doom::Liveness => container.liveness_probe.as_ref(),
                decide::Doom::Startup => container.startup_probe.as_ref(),
            };
            probe?.termination_grace_period_seconds
        });
        let grace = probe_grace.unwrap_or_else(|| stop::grace_seconds(&self.pod));
        let until = Moment::now() + Duration::from_secs(u64::try_from(grace).unwrap_or(1).min(1 << 32));
        let address = self.addresses.first().cloned().unwrap_or_default();
        let stop = stop::Stop {
            shared: &self.shared,
            pod: &self.pod,
            spec: found.as_ref().map(|(container, _)| container),
            init: found.as_ref().is_some_and(|(_, init)| *init),
            instance,
            address: &address,
            message: kill.message.clone(),
        };
        if let Err(error) = stop.run(&|| until.saturating_duration_since(Moment::now())).await {
            tracing::warn!(pod = %self.shown(), container = %kill.name, %error, "cannot end a container");
        }
    }

    /// Notes containers that wait for their next start.
    fn hold_back(&mut self, plan: &Plan) {
        for Waiting { name, init, seconds, .. } in &plan.waiting {
            let pod = self.shown();
            let message = format!("Back-off restarting failed container {name} in pod {pod}");
            self.shared.events.container(
                &self.pod,
                field_path(*init, name),
                Level::Warning,
                "BackOff",
                message,
            );
            let shown = backoff::shown(*seconds);
            let message = format!("back-off {shown} restarting failed container={name} pod={pod}");
            self.problems.insert(name.clone(), Problem { reason: "CrashLoopBackOff", message });
        }
    }

    async fn start(&mut self, runtime: &PodRuntime, start: &decide::Start) {
        let (Some((container, _)), Some(found), Some(volumes)) =
            (self.container(&start.name), runtime.sandbox(), self.volumes.as_ref())
        else {
            return;
        };
        let starting = Starting {
            shared: &self.shared,
            pod: &self.pod,
            container: &container,
            start,
            sandbox: found,
            volumes,
            addresses: &self.addresses,
        };
        if let Err(problem) = starting.run(&mut self.pulls).await {
            self.problems.insert(start.name.clone(), problem);
        }
    }

    /// Keeps, of each container, the newest instance and the one before; removes older ones with their last words.
    async fn trim(&mut self, runtime: &PodRuntime) {
        let names: HashSet<&str> =
            runtime.containers.iter().map(|instance| instance.container.as_str()).collect();
        for name in names {
            for old in runtime.instances(name).skip(2).filter(|old| !old.is_running()) {
                if let Err(error) = self.shared.engine.remove(&old.id).await {
                    tracing::warn!(pod = %self.shown(), container = %name, %error, "cannot remove an old instance");
                    continue;
                }
                let _ = std::fs::remove_file(&old.termination_file);
                self.words.remove(&old.id);
            }
        }
    }

    fn align_probes(&mut self, runtime: &PodRuntime) {
        let pod = self.pod.clone();
        let spec = pod.spec.clone().unwrap_or_default();
        let sidecars =
            spec.init_containers.iter().flatten().filter(|container| decide::is_sidecar(container));
        let all = spec.containers.iter().map(|one| (one, false)).chain(sidecars.map(|one| (one, true)));
        let probed = all.filter_map(|(container, init)| {
            let instance = runtime.latest(&container.name).filter(|latest| latest.is_running())?;
            Some(Probed {
                container,
                field_path: field_path(init, &container.name),
                id: instance.id.clone(),
                started: instance.started.unwrap_or_else(clock::now),
                adopted: self.adopted_standing(instance),
            })
        });
        let probed: Vec<_> = probed.collect();
        let address = self.addresses.first().cloned().unwrap_or_default();
        self.probes.align(&pod, &address, probed);
    }

    /// What the API last said of an instance that ran before this kubelet did.
    fn adopted_standing(&self, instance: &Instance) -> Option<Standing> {
        self.adopted.as_ref().filter(|adopted| adopted.contains(&instance.id))?;
        let status = self.pod.status.as_ref()?;
        let id = format!("docker://{}", instance.id);
        let mut all =
            status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
        let known = all.find(|known| known.container_id.as_deref() == Some(id.as_str()))?;
        Some(Standing { started: known.started == Some(true), ready: known.ready, doomed: None })
    }

    /// Writes the status, if it differs; returns whether the API has it.
    async fn report(&mut self, runtime: &PodRuntime, ending: bool) -> bool {
        let readiness = |name: &str| {
            let standing = self.standing(runtime, name);
            Readiness { started: standing.started, ready: standing.ready }
        };
        let known = self.pod.status.as_ref();
        let addresses = if self.addresses.is_empty() && ending {
            known
                .map(|status| status.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect())
                .unwrap_or_default()
        } else {
            self.addresses.clone()
        };
        let hosts = self.shared.args.host_ips();
        let status = status::compute(&status::View {
            pod: &self.pod,
            runtime,
            readiness: &readiness,
            problems: &self.problems,
            messages: &self.words,
            images: &self.images,
            addresses: &addresses,
            host_addresses: &hosts,
            sandbox_ready: runtime.sandbox().is_some() && !self.addresses.is_empty() && !ending,
            verdict: self.verdict.as_ref(),
            ending,
            now: clock::now(),
        });
        let write = report::write(&self.shared.client, &self.pod, &status);
        let outcome = tokio::time::timeout(REPORT_LIMIT, write).await;
        self.unreported = false;
        match outcome {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(pod))) => self.pod = Arc::new(pod),
            // Gone or replaced: the watch will say so.
            Ok(Err(kube::Error::Api(answer))) if matches!(answer.code, 404 | 409) => {}
            Ok(Err(error)) => {
                tracing::warn!(pod = %self.shown(), %error, "cannot write the status");
                self.unreported = true;
            }
            Err(_) => {
                tracing::warn!(pod = %self.shown(), "writing the status takes too long");
                self.unreported = true;
            }
        }
        !self.unreported
    }

    /// How long until the earliest of some times.
    fn until(&self, times: &[Option<Timestamp>]) -> Duration {
        let now = clock::now();
        let waits = times
            .iter()
            .flatten()
            .map(|time| Duration::try_from(time.duration_since(now)).unwrap_or_default());
        waits.min().unwrap_or(RESYNC).clamp(Duration::from_millis(50), RESYNC)
    }

    fn next_look(&self, runtime: &PodRuntime, plan: &Plan, began: bool) -> Duration {
        let mut times: Vec<Option<Timestamp>> = plan.waiting.iter().map(|wait| Some(wait.until)).collect();
        let spec = self.pod.spec.clone().unwrap_or_default();
        for name in self.problems.keys() {
            let image = self.container(name).and_then(|(container, _)| container.image).unwrap_or_default();
            let retry = clock::now().checked_add(SignedDuration::from_secs(10)).ok();
            times.push(self.pulls.due(&image).or(retry));
        }
        if let (Some(seconds), Some(start)) = (
            spec.active_deadline_seconds,
            self.pod.status.as_ref().and_then(|status| status.start_time.as_ref()),
        ) {
            times.push(start.0.checked_add(SignedDuration::from_secs(seconds)).ok());
        }
        let again = self.plan(runtime);
        // What has just been started may already call for a next step (an init container that is over).
        if began && self.problems.is_empty() && (!again.start.is_empty() || again.finished) {
            return Duration::ZERO;
        }
        self.until(&times)
    }

    /// Ends everything; the last state is reported before anything is taken away.
    async fn wind_up(&mut self, order: &Order) -> Ended {
        let retry = Ended::After(Duration::from_secs(2));
        if self.wound_up && !order.ends() {
            return Ended::After(Duration::from_secs(600));
        }
        match self.try_wind_up(order).await {
            Ok(ended) => ended,
            Err(error) => {
                tracing::warn!(pod = %self.shown(), %error, "cannot end the pod yet");
                self.shared.metrics.failed("end_pod");
                retry
            }
        }
    }

    async fn try_wind_up(&mut self, order: &Order) -> Result<Ended, sandbox::Error> {
        let mut runtime = self.runtime().await?;
        if self.addresses.is_empty() {
            let found = runtime
                .sandbox()
                .and_then(|found| sandbox::attached(&self.shared, found))
                .unwrap_or_default();
            self.addresses = found.iter().map(ToString::to_string).collect();
        }
        self.probes.only_readiness();
        let address = self.addresses.first().cloned().unwrap_or_default();
        let orphan_grace = self.pod.spec.is_none().then(|| {
            runtime
                .sandboxes
                .iter()
                .chain(&runtime.containers)
                .find_map(|one| one.grace_seconds)
                .unwrap_or(stop::DEFAULT_GRACE)
        });
        stop::all(&self.shared, &self.pod, &runtime, &address, &self.orders, orphan_grace).await?;
        runtime = self.runtime().await?;
        self.problems.clear();
        if !order.removed && !self.wound_up && !self.report(&runtime, true).await {
            return Ok(Ended::After(Duration::from_secs(2)));
        }
        self.probes.align(&self.pod.clone(), &address, Vec::new());
        let shown = self.shown();
        for old in &runtime.sandboxes {
            sandbox::remove(&self.shared, old, &shown).await?;
        }
        let directory = self.shared.args.pod_dir(&self.uid);
        for part in ["volume-subpaths", "volumes"] {
            remove_tree(&directory.join(part))?;
        }
        self.volumes = None;
        self.wound_up = true;
        if !self.orders.borrow().ends() {
            return Ok(Ended::After(Duration::from_secs(600)));
        }
        for instance in &runtime.containers {
            self.shared.engine.remove(&instance.id).await?;
        }
        remove_tree(&directory)?;
        if self.orders.borrow().removed || self.delete_object().await {
            return Ok(Ended::Gone);
        }
        Ok(Ended::After(Duration::from_secs(2)))
    }

    /// Lets go of the object; returns whether it is gone.
    async fn delete_object(&self) -> bool {
        let api = Api::<Pod>::namespaced(self.shared.client.clone(), &owner_of(&self.pod).namespace);
        let parameters = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: self.pod.metadata.uid.clone(), ..Default::default() }),
            ..Default::default()
        };
        match api.delete(&owner_of(&self.pod).name, &parameters).await {
            Ok(_) => true,
            Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => true,
            Err(error) => {
                tracing::warn!(pod = %self.shown(), %error, "cannot delete the pod's object");
                false
            }
        }
    }
}

fn decide_finished(worker: &Worker, runtime: &PodRuntime) -> bool {
    worker.plan(runtime).finished
}

fn remove_tree(path: &std::path::Path) -> Result<(), sandbox::Error> {
    mounts::remove_tree(path)
        .map_err(|source| sandbox::Error::File { path: path.display().to_string(), source })
}
