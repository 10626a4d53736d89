//! Starting one container: image, environment, mounts, then Docker.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::Mount;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::decide::Start;
use super::hook;
use super::qos::Qos;
use super::sandbox;
use super::status::Problem;
use super::stop;
use crate::docker::body::{self, ContainerParts};
use crate::docker::labels::docker_name;
use crate::docker::state::Instance;
use crate::docker::{oom, security};
use crate::env::build::{self, Fetched};
use crate::env::expand::expand;
use crate::env::fields::Surroundings;
use crate::events::{Level, field_path};
use crate::image::Pulls;
use crate::shared::Shared;
use crate::volume::{self, ReadyVolumes};

/// Longest time a postStart hook may take.
const HOOK_LIMIT: Duration = Duration::from_secs(3600);

/// Everything around a start.
pub struct Starting<'a> {
    /// Handles.
    pub shared: &'a Shared,
    /// The pod.
    pub pod: &'a Arc<Pod>,
    /// The container's spec.
    pub container: &'a Container,
    /// What was decided.
    pub start: &'a Start,
    /// The sandbox in use.
    pub sandbox: &'a Instance,
    /// The pod's volumes.
    pub volumes: &'a ReadyVolumes,
    /// The pod's addresses.
    pub addresses: &'a [String],
}

fn problem(reason: &'static str, message: impl ToString) -> Problem {
    Problem { reason, message: message.to_string() }
}

impl Starting<'_> {
    fn tell(&self, level: Level, reason: &'static str, message: String) {
        let path = field_path(self.start.init, &self.container.name);
        self.shared.events.container(self.pod, path, level, reason, message);
    }

    /// Tells about a failure and hands it on.
    fn failed(&self, problem: Problem) -> Problem {
        self.tell(Level::Warning, "Failed", format!("Error: {}", problem.message));
        problem
    }

    /// Starts the container.
    ///
    /// # Errors
    /// The problem that its status then shows; events have been sent.
    pub async fn run(&self, pulls: &mut Pulls) -> Result<(), Problem> {
        let id = match &self.start.made {
            Some(id) => id.clone(),
            None => self.make(pulls).await?,
        };
        let name = &self.container.name;
        let turn = self.shared.starts.acquire().await.map_err(|error| problem("RunContainerError", error))?;
        let started = self.shared.engine.start(&id).await;
        drop(turn);
        if let Err(error) = started {
            self.shared.metrics.failed("start_container");
            let message = format!("failed to start container {name:?}: {error}");
            return Err(self.failed(problem("RunContainerError", message)));
        }
        self.shared.metrics.started_containers.inc();
        self.tell(Level::Normal, "Started", "Container started".to_owned());
        self.post_start(&id).await
    }

    async fn make(&self, pulls: &mut Pulls) -> Result<String, Problem> {
        let path = field_path(self.start.init, &self.container.name);
        let image = self.shared.images.ensure(self.pod, self.container, &path, pulls).await?;
        let spec = self.pod.spec.clone().unwrap_or_default();
        let user = image.config.as_ref().and_then(|config| config.user.clone()).unwrap_or_default();
        security::check_non_root(&spec, self.container, &user)
            .map_err(|error| self.failed(problem("CreateContainerConfigError", error)))?;
        let parts = self.parts().await.map_err(|problem| self.failed(problem))?;
        let body = body::container(self.pod, self.container, parts)
            .map_err(|error| self.failed(problem("CreateContainerConfigError", error)))?;
        let name = docker_name(&self.container.name, &body::owner_of(self.pod), self.start.restart_count);
        let turn =
            self.shared.starts.acquire().await.map_err(|error| problem("CreateContainerError", error))?;
        let made = self.shared.engine.create(&name, body).await;
        drop(turn);
        let id = made.map_err(|error| {
            self.shared.metrics.failed("create_container");
            self.failed(problem("CreateContainerError", error))
        })?;
        self.tell(Level::Normal, "Created", "Container created".to_owned());
        Ok(id)
    }

    async fn parts(&self) -> Result<ContainerParts<'_>, Problem> {
        let config = |error: String| problem("CreateContainerConfigError", error);
        let env = self.environment().await?;
        let seen: BTreeMap<String, String> = env.iter().cloned().collect();
        let expanded = |words: &Option<Vec<String>>| {
            let one = |word: &String| expand(word, |name| seen.get(name).cloned());
            words
                .as_ref()
                .filter(|words| !words.is_empty())
                .map(|words| words.iter().map(one).collect::<Vec<_>>())
        };
        let shared = self.shared;
        let mut mounts = shared
            .volumes
            .container_mounts(self.pod, self.container, self.volumes, &seen)
            .map_err(|error| config(error.to_string()))?;
        let termination_file = self.own_files(&mut mounts).map_err(|error| config(error.to_string()))?;
        let score = oom::score(Qos::of(self.pod), self.container, shared.memory);
        Ok(ContainerParts {
            args: &shared.args,
            node_labels: shared.engine.node_labels(),
            sandbox_id: &self.sandbox.id,
            env: env.into_iter().map(|(name, value)| format!("{name}={value}")).collect(),
            command: expanded(&self.container.command),
            arguments: expanded(&self.container.args),
            mounts,
            restart_count: self.start.restart_count,
            backoff_seconds: self.start.backoff_seconds,
            grace: stop::grace_seconds(self.pod),
            termination_file: termination_file.to_string_lossy().into_owned(),
            oom_score: if shared.negative_oom { score } else { score.max(0) },
        })
    }

    async fn environment(&self) -> Result<Vec<(String, String)>, Problem> {
        let config = |error: String| problem("CreateContainerConfigError", error);
        let shared = self.shared;
        let namespace = self.pod.metadata.namespace.clone().unwrap_or_default();
        let links = self.pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
        if links && !shared.services.is_synced() {
            return Err(config(
                "services have not yet been read at least once, cannot construct envvars".to_owned(),
            ));
        }
        let mut fetched = Fetched::new();
        for (kind, name) in build::references(self.container) {
            let content = shared
                .objects
                .get(kind, &namespace, &name)
                .await
                .map_err(|error| config(error.to_string()))?;
            fetched.insert((kind, name), content);
        }
        let around = Surroundings { pod_ips: self.addresses.to_vec(), ..shared.surroundings.clone() };
        let services = shared.services.variables(&namespace, links);
        build::build(self.pod, self.container, services, &fetched, &around)
            .map_err(|error| config(error.to_string()))
    }

    /// Mounts the pod's own files where the container does not mount something itself; returns the file for its
    /// last words.
    fn own_files(&self, mounts: &mut Vec<Mount>) -> std::io::Result<PathBuf> {
        let uid = self.pod.metadata.uid.as_deref().unwrap_or_default();
        let directory = self.shared.args.pod_dir(uid);
        let words = directory.join("containers").join(&self.container.name);
        std::fs::create_dir_all(&words)?;
        let words = words.join(self.start.restart_count.to_string());
        if !words.exists() {
            std::fs::File::create(&words)?;
        }
        // Whatever user the container runs as may leave its last words.
        std::fs::set_permissions(&words, std::fs::Permissions::from_mode(0o666))?;
        let target = self.container.termination_message_path.clone().filter(|path| !path.is_empty());
        let target = target.unwrap_or_else(|| "/dev/termination-log".to_owned());
        let read_only_root =
            self.container.security_context.as_ref().and_then(|own| own.read_only_root_filesystem);
        for (name, target, read_only) in [
            (sandbox::HOSTS, "/etc/hosts", read_only_root == Some(true)),
            (sandbox::RESOLV, "/etc/resolv.conf", read_only_root == Some(true)),
            (sandbox::HOSTNAME, "/etc/hostname", read_only_root == Some(true)),
        ] {
            if !mounts.iter().any(|mount| mount.target.as_deref() == Some(target)) {
                mounts.push(volume::bind(&directory.join(name), target, read_only, None));
            }
        }
        if !mounts.iter().any(|mount| mount.target.as_deref() == Some(target.as_str())) {
            mounts.push(volume::bind(&words, &target, false, None));
        }
        Ok(words)
    }

    async fn post_start(&self, id: &str) -> Result<(), Problem> {
        let Some(action) =
            self.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref())
        else {
            return Ok(());
        };
        let address = self.addresses.first().map(String::as_str).unwrap_or_default();
        let outcome = hook::run(&self.shared.engine, id, self.container, action, address, HOOK_LIMIT).await;
        let Err(error) = outcome else { return Ok(()) };
        let message = format!("PostStartHook failed: {error}");
        self.tell(Level::Warning, "FailedPostStartHook", message);
        if let Ok(Some(instance)) = self.shared.engine.inspect(id).await {
            let begun = tokio::time::Instant::now();
            let grace = Duration::from_secs(u64::try_from(stop::grace_seconds(self.pod)).unwrap_or(1));
            let stop = stop::Stop {
                shared: self.shared,
                pod: self.pod,
                spec: None,
                init: self.start.init,
                instance: &instance,
                address,
                message: "FailedPostStartHook".to_owned(),
            };
            let left = || (begun + grace).saturating_duration_since(tokio::time::Instant::now());
            if let Err(error) = stop.run(&left).await {
                tracing::warn!(%error, container = %self.container.name, "cannot end a container whose postStart failed");
            }
        }
        Err(problem("PostStartHookError", format!("PostStartHook failed: {error}")))
    }
}
