//! Docker Engine as the kubelet uses it.

pub mod body;
pub mod labels;
pub mod oom;
pub mod raw;
pub mod security;
pub mod state;

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use bollard::Docker;
use bollard::models::{
    ContainerCreateBody, EventMessage, ExecConfig, ImageInspect, ImageSummary, SystemInfo,
};
use bollard::query_parameters as query;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use k8s_openapi::jiff::Timestamp;

use self::labels::Owner;
use self::raw::{Demux, Raw};
use self::state::{Instance, PodRuntime};

/// Why something asked of Docker did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The flag names something other than a unix socket.
    #[error("--docker-host must be unix:///path, not {0:?}")]
    Host(String),
    /// The socket cannot be reached.
    #[error("cannot connect to {path}: {source}")]
    Connect {
        /// The socket.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The client library failed, or Docker refused.
    #[error("Error response from daemon: {}", message(.0))]
    Api(#[from] bollard::errors::Error),
    /// A streaming request failed.
    #[error("docker stream: {0}")]
    Stream(#[from] hyper::Error),
    /// A request could not be written.
    #[error("docker request: {0}")]
    Request(String),
    /// Docker refused a streaming request.
    #[error("Error response from daemon: {message}")]
    Status {
        /// HTTP code.
        code: u16,
        /// Docker's words.
        message: String,
    },
    /// Docker's answer lacks what it must have.
    #[error("docker answered without {0}")]
    Incomplete(&'static str),
    /// Something did not end in time.
    #[error("timed out")]
    Timeout,
}

fn message(error: &bollard::errors::Error) -> String {
    match error {
        bollard::errors::Error::DockerResponseServerError { message, .. } => message.clone(),
        other => other.to_string(),
    }
}

impl Error {
    /// HTTP code of Docker's refusal.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Api(bollard::errors::Error::DockerResponseServerError { status_code, .. }) => {
                Some(*status_code)
            }
            Self::Status { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether Docker says that the thing is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }
}

/// A container of ours as a list shows it.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Docker's id.
    pub id: String,
    /// Whose it is.
    pub owner: Owner,
    /// Its labels.
    pub labels: HashMap<String, String>,
    /// Whether its process runs.
    pub running: bool,
}

/// What an exec left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutcome {
    /// Exit code.
    pub code: i64,
    /// Output of both streams, bounded.
    pub output: String,
}

/// A client of one Docker Engine, seeing one node of one cluster.
#[derive(Debug, Clone)]
pub struct Engine {
    docker: Docker,
    raw: Raw,
    cluster: String,
    node: String,
}

/// Longest output of a probe or hook that is kept.
const MAX_EXEC_OUTPUT: usize = 10 * 1024;

impl Engine {
    /// Connects to `host` (`unix:///path`); agrees on the API version when Docker answers.
    ///
    /// # Errors
    /// Fails when `host` is not a unix socket or Docker does not answer.
    pub async fn connect(host: &str, cluster: &str, node: &str) -> Result<Self, Error> {
        let path = host.strip_prefix("unix://").filter(|path| path.starts_with('/'));
        let path = path.ok_or_else(|| Error::Host(host.to_owned()))?;
        // Creating a container with a large image on a slow disk may take minutes.
        let docker = Docker::connect_with_unix(path, 240, bollard::API_DEFAULT_VERSION)?;
        let docker = docker.negotiate_version().await?;
        Ok(Self {
            docker,
            raw: Raw::new(Path::new(path)),
            cluster: cluster.to_owned(),
            node: node.to_owned(),
        })
    }

    /// The streaming client of the same socket.
    #[must_use]
    pub fn raw(&self) -> &Raw {
        &self.raw
    }

    /// Labels that say whose node this is.
    #[must_use]
    pub fn node_labels(&self) -> HashMap<String, String> {
        HashMap::from([
            (labels::CLUSTER.to_owned(), self.cluster.clone()),
            (labels::NODE.to_owned(), self.node.clone()),
        ])
    }

    fn filters(&self, uid: Option<&str>) -> HashMap<String, Vec<String>> {
        let mut wanted =
            vec![format!("{}={}", labels::CLUSTER, self.cluster), format!("{}={}", labels::NODE, self.node)];
        wanted.extend(uid.map(|uid| format!("{}={uid}", labels::POD_UID)));
        HashMap::from([("label".to_owned(), wanted)])
    }

    /// Lists this node's containers, or those of one pod.
    ///
    /// # Errors
    /// Fails when Docker does.
    pub async fn list(&self, uid: Option<&str>) -> Result<Vec<Listed>, Error> {
        let options = query::ListContainersOptions {
            all: true,
            filters: Some(self.filters(uid)),
            ..Default::default()
        };
        let containers = self.docker.list_containers(Some(options)).await?;
        Ok(containers
            .into_iter()
            .filter_map(|summary| {
                let labels = summary.labels?;
                let running = summary.state.is_some_and(|state| {
                    matches!(
                        state,
                        bollard::models::ContainerSummaryStateEnum::RUNNING
                            | bollard::models::ContainerSummaryStateEnum::PAUSED
                    )
                });
                Some(Listed { id: summary.id?, owner: labels::owner(&labels)?, labels, running })
            })
            .collect())
    }

    /// Everything Docker has of a pod. `known` keeps what cannot change any more (ended containers) between calls.
    ///
    /// # Errors
    /// Fails when Docker does.
    pub async fn pod(&self, uid: &str, known: &mut HashMap<String, Instance>) -> Result<PodRuntime, Error> {
        let listed = self.list(Some(uid)).await?;
        known.retain(|id, _| listed.iter().any(|entry| entry.id == *id && !entry.running));
        let mut instances = Vec::with_capacity(listed.len());
        for entry in &listed {
            if let Some(instance) = known.get(&entry.id) {
                instances.push(instance.clone());
                continue;
            }
            let Some(instance) = self.inspect(&entry.id).await? else { continue };
            if instance.phase == state::Phase::Exited {
                known.insert(entry.id.clone(), instance.clone());
            }
            instances.push(instance);
        }
        Ok(PodRuntime::new(instances))
    }

    /// One container; `None` when it is gone or not ours.
    ///
    /// # Errors
    /// Fails when Docker does.
    pub async fn inspect(&self, id: &str) -> Result<Option<Instance>, Error> {
        match self.docker.inspect_container(id, None).await.map_err(Error::from) {
            Ok(answer) => Ok(state::instance(answer)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a container and returns its id.
    ///
    /// # Errors
    /// Fails when Docker does; a taken name is such a failure.
    pub async fn create(&self, name: &str, body: ContainerCreateBody) -> Result<String, Error> {
        let options = query::CreateContainerOptions { name: Some(name.to_owned()), ..Default::default() };
        Ok(self.docker.create_container(Some(options), body).await?.id)
    }

    /// Starts a container; one that runs already is fine.
    ///
    /// # Errors
    /// Fails when Docker does.
    pub async fn start(&self, id: &str) -> Result<(), Error> {
        Ok(self.docker.start_container(id, None).await?)
    }

    /// Sends a signal; a container that does not run is fine.
    ///
    /// # Errors
    /// Fails when Docker does.
    pub async fn signal(&self, id: &str, signal: &str) -> Result<(), Error> {
        let options = query::KillContainerOptions { signal: signal.to_owned() };
        match self.docker.kill_container(id, Some(options)).await.map_err(Error::from) {
            Err(error) if matches!(error.code(), Some(404 | 409)) => Ok(()),
            other => other,
        }
    }

    /// Removes a container with its anonymous volumes, killing it if need be; one that is gone is fine.
    ///
    /// # Errors
    /// Fails when Docker does.
    pub async fn remove(&self, id: &str) -> Result<(), Error> {
        let options = query::RemoveContainerOptions { v: true, force: true, ..Default::default() };
        match self.docker.remove_container(id, Some(options)).await.map_err(Error::from) {
            // 409: its removal is already under way.
            Err(error) if matches!(error.code(), Some(404 | 409)) => Ok(()),
            other => other,
        }
    }

    /// An image, if Docker has it.
    ///
    /// # Errors
    /// Fails when Docker does.
    pub async fn image(&self, name: &str) -> Result<Option<ImageInspect>, Error> {
        match self.docker.inspect_image(name).await.map_err(Error::from) {
            Ok(image) => Ok(Some(image)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All images that have a name.
    ///
    /// # Errors
    /// Fails when Docker does.
    pub async fn images(&self) -> Result<Vec<ImageSummary>, Error> {
        Ok(self.docker.list_images(None::<query::ListImagesOptions>).await?)
    }

    /// Pulls an image and waits for its end.
    ///
    /// # Errors
    /// Fails when the registry or Docker does.
    pub async fn pull(
        &self,
        name: &str,
        credentials: Option<bollard::auth::DockerCredentials>,
    ) -> Result<(), Error> {
        let options = query::CreateImageOptions { from_image: Some(name.to_owned()), ..Default::default() };
        let mut progress = self.docker.create_image(Some(options), None, credentials);
        while progress.try_next().await?.is_some() {}
        Ok(())
    }

    /// What Docker says about itself and the machine.
    ///
    /// # Errors
    /// Fails when Docker does.
    pub async fn info(&self) -> Result<SystemInfo, Error> {
        Ok(self.docker.info().await?)
    }

    /// Whether Docker answers.
    ///
    /// # Errors
    /// Fails when it does not.
    pub async fn ping(&self) -> Result<(), Error> {
        match tokio::time::timeout(Duration::from_secs(5), self.docker.ping()).await {
            Ok(answer) => answer.map(|_| ()).map_err(Error::from),
            Err(_) => Err(Error::Timeout),
        }
    }

    /// Events of this node's containers from `since` on.
    pub fn events(
        &self,
        since: Timestamp,
    ) -> impl Stream<Item = Result<EventMessage, bollard::errors::Error>> + use<> {
        let mut filters = self.filters(None);
        filters.insert("type".to_owned(), vec!["container".to_owned()]);
        filters.insert("event".to_owned(), ["start", "die", "oom", "destroy"].map(str::to_owned).to_vec());
        let options = query::EventsOptions {
            since: Some(since.as_second().to_string()),
            filters: Some(filters),
            ..Default::default()
        };
        self.docker.events(Some(options))
    }

    /// Prepares a command in a container and returns the exec's id.
    ///
    /// # Errors
    /// Fails when Docker does.
    pub async fn prepare_exec(&self, id: &str, config: ExecConfig) -> Result<String, Error> {
        Ok(self.docker.create_exec(id, config).await?.id)
    }

    /// Exit code of an exec that has ended; `None` while it runs.
    ///
    /// # Errors
    /// Fails when Docker does.
    pub async fn exec_code(&self, exec: &str) -> Result<Option<i64>, Error> {
        let answer = self.docker.inspect_exec(exec).await?;
        Ok(if answer.running == Some(true) { None } else { answer.exit_code })
    }

    /// Changes the size of an exec's terminal.
    ///
    /// # Errors
    /// Fails when Docker does.
    pub async fn resize_exec(&self, exec: &str, width: u16, height: u16) -> Result<(), Error> {
        let options = query::ResizeExecOptions { h: i32::from(height), w: i32::from(width) };
        Ok(self.docker.resize_exec(exec, options).await?)
    }

    /// Changes the size of a container's terminal.
    ///
    /// # Errors
    /// Fails when Docker does.
    pub async fn resize(&self, id: &str, width: u16, height: u16) -> Result<(), Error> {
        let options = query::ResizeContainerTTYOptions { h: i32::from(height), w: i32::from(width) };
        Ok(self.docker.resize_container_tty(id, options).await?)
    }

    /// Runs a command to its end and keeps the beginning of its output.
    ///
    /// # Errors
    /// Fails when Docker does, or with [`Error::Timeout`].
    pub async fn exec(&self, id: &str, command: &[String], limit: Duration) -> Result<ExecOutcome, Error> {
        tokio::time::timeout(limit, self.exec_unbounded(id, command)).await.map_err(|_| Error::Timeout)?
    }

    async fn exec_unbounded(&self, id: &str, command: &[String]) -> Result<ExecOutcome, Error> {
        use tokio::io::AsyncReadExt as _;
        let config = ExecConfig {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(command.to_vec()),
            ..Default::default()
        };
        let exec = self.prepare_exec(id, config).await?;
        let start = r#"{"Detach":false,"Tty":false}"#.to_owned();
        let mut stream = self.raw.hijack(&format!("/exec/{exec}/start"), start).await?;
        let mut demux = Demux::new(false);
        let mut output = Vec::new();
        let mut buffer = [0_u8; 4096];
        while let Ok(read) = stream.read(&mut buffer).await
            && read > 0
        {
            demux.push(buffer.get(..read).unwrap_or_default());
            while let Some((_, bytes)) = demux.next_piece() {
                let room = MAX_EXEC_OUTPUT.saturating_sub(output.len());
                output.extend_from_slice(bytes.get(..bytes.len().min(room)).unwrap_or_default());
            }
        }
        let code = self.wait_exec(&exec).await?;
        Ok(ExecOutcome { code, output: String::from_utf8_lossy(&output).into_owned() })
    }

    /// Waits until an exec whose stream has ended has its exit code.
    ///
    /// # Errors
    /// Fails when Docker does.
    pub async fn wait_exec(&self, exec: &str) -> Result<i64, Error> {
        // The stream can end a moment before Docker records the exit.
        for attempt in 0_u64.. {
            if let Some(code) = self.exec_code(exec).await? {
                return Ok(code);
            }
            tokio::time::sleep(Duration::from_millis((10 * (attempt + 1)).min(200))).await;
        }
        Err(Error::Timeout)
    }

    /// One reading of a container's resource use, without waiting for a second one.
    ///
    /// # Errors
    /// Fails when Docker does.
    pub async fn stats(&self, id: &str) -> Result<bollard::models::ContainerStatsResponse, Error> {
        let options = query::StatsOptions { stream: false, one_shot: true };
        let mut stream = std::pin::pin!(self.docker.stats(id, Some(options)));
        stream.next().await.ok_or(Error::Incomplete("statistics"))?.map_err(Error::from)
    }
}
