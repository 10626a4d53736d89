//! Images: there already, pulled when the policy says so, with upstream's words when not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bollard::auth::DockerCredentials;
use bollard::models::ImageInspect;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::sync::Semaphore;

use crate::clock;
use crate::docker::Engine;
use crate::events::{Level, Recorder};
use crate::objects::{Kind, Objects};
use crate::pod::backoff::{self, Retry};
use crate::pod::status::Problem;

/// Images pulled at the same time.
const PARALLEL_PULLS: usize = 3;

/// Gets images for pods.
#[derive(Clone)]
pub struct Images {
    engine: Engine,
    events: Recorder,
    objects: Objects,
    pulls: Arc<Semaphore>,
}

/// How an image's earlier pulls of one pod went.
#[derive(Debug, Default)]
pub struct Pulls {
    failed: BTreeMap<String, (Retry, String)>,
}

impl Pulls {
    /// When the next pull of an image that failed is due.
    #[must_use]
    pub fn due(&self, image: &str) -> Option<k8s_openapi::jiff::Timestamp> {
        self.failed.get(image).and_then(|(retry, _)| retry.waits_until(clock::now()))
    }
}

/// The policy of a container; the API defaults it, static manifests may lack it.
fn policy(container: &Container) -> &str {
    match container.image_pull_policy.as_deref() {
        Some(policy) if !policy.is_empty() => policy,
        _ => {
            let image = container.image.as_deref().unwrap_or_default();
            if image.contains('@') || !with_tag(image).ends_with(":latest") {
                "IfNotPresent"
            } else {
                "Always"
            }
        }
    }
}

/// The name with `:latest` where neither tag nor digest is said: Docker would pull all tags otherwise.
#[must_use]
pub fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if image.contains('@') || last.contains(':') { image.to_owned() } else { format!("{image}:latest") }
}

/// Whether Docker could take this as a name.
#[must_use]
pub fn is_valid_name(image: &str) -> bool {
    let (path, _) = image.split_once('@').unwrap_or((image, ""));
    let tag_at = path.rfind(':').filter(|colon| !path.get(*colon..).unwrap_or_default().contains('/'));
    let (name, tag) = path.split_at(tag_at.unwrap_or(path.len()));
    let tag_fine = tag.strip_prefix(':').is_none_or(|tag| {
        !tag.is_empty()
            && tag.len() <= 128
            && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
    });
    let mut parts = name.split('/');
    let host_like = name.contains('/');
    let first = parts.next().unwrap_or_default();
    let plain = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-')
            })
            && !part.starts_with(['.', '-', '_'])
            && !part.ends_with(['.', '-', '_'])
    };
    let host = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']'))
    };
    let first_fine = plain(first) || (host_like && host(first));
    tag_fine && first_fine && parts.all(plain)
}

/// How an image is reported in `imageID`.
#[must_use]
pub fn reported_id(image: &ImageInspect) -> String {
    let digest = image.repo_digests.iter().flatten().next();
    match digest {
        Some(digest) => format!("docker-pullable://{digest}"),
        None => format!("docker://{}", image.id.clone().unwrap_or_default()),
    }
}

impl Images {
    /// Over one Docker Engine.
    #[must_use]
    pub fn new(engine: Engine, events: Recorder, objects: Objects) -> Self {
        Self { engine, events, objects, pulls: Arc::new(Semaphore::new(PARALLEL_PULLS)) }
    }

    /// Makes sure of a container's image.
    ///
    /// # Errors
    /// The problem that the container's status then shows; events have been sent.
    pub async fn ensure(
        &self,
        pod: &Pod,
        container: &Container,
        field_path: &str,
        pulls: &mut Pulls,
    ) -> Result<ImageInspect, Problem> {
        let name = container.image.clone().unwrap_or_default();
        let tell = |level, reason, message: String| {
            self.events.container(pod, field_path.to_owned(), level, reason, message);
        };
        if !is_valid_name(&name) {
            let message = format!(
                "Failed to apply default image tag {name:?}: couldn't parse image name {name:?}: invalid reference format"
            );
            tell(Level::Warning, "InspectFailed", message.clone());
            tell(Level::Warning, "Failed", "Error: InvalidImageName".to_owned());
            return Err(Problem { reason: "InvalidImageName", message });
        }
        let policy = policy(container);
        let present = self.engine.image(&name).await.map_err(|error| Problem {
            reason: "ImageInspectError",
            message: format!("Failed to inspect image {name:?}: {error}"),
        })?;
        match present {
            Some(image) if policy != "Always" => {
                let message = format!(
                    "Container image {name:?} already present on machine and can be accessed by the pod"
                );
                tell(Level::Normal, "Pulled", message);
                return Ok(image);
            }
            None if policy == "Never" => {
                let message = format!("Container image {name:?} is not present with pull policy of Never");
                tell(Level::Warning, "ErrImageNeverPull", message.clone());
                tell(Level::Warning, "Failed", "Error: ErrImageNeverPull".to_owned());
                return Err(Problem { reason: "ErrImageNeverPull", message });
            }
            _ => {}
        }
        if let Some((_, error)) =
            pulls.failed.get(&name).filter(|(retry, _)| retry.waits_until(clock::now()).is_some())
        {
            let message = format!("Back-off pulling image {name:?}");
            tell(Level::Normal, "BackOff", message.clone());
            tell(Level::Warning, "Failed", "Error: ImagePullBackOff".to_owned());
            return Err(Problem {
                reason: "ImagePullBackOff",
                message: format!("{message}: ErrImagePull: {error}"),
            });
        }
        tell(Level::Normal, "Pulling", format!("Pulling image {name:?}"));
        let begun = Instant::now();
        match self.pull(pod, &name).await {
            Ok(image) => {
                pulls.failed.remove(&name);
                let (took, size) = (begun.elapsed(), image.size.unwrap_or_default());
                let message = format!(
                    "Successfully pulled image {name:?} in {took:.3?} ({took:.3?} including waiting). Image size: {size} bytes."
                );
                tell(Level::Normal, "Pulled", message);
                Ok(image)
            }
            Err(error) => {
                let entry = pulls.failed.entry(name.clone()).or_default();
                entry.0.failed(clock::now(), backoff::FIRST_SECONDS, backoff::MAX_SECONDS);
                entry.1.clone_from(&error);
                tell(Level::Warning, "Failed", format!("Failed to pull image {name:?}: {error}"));
                tell(Level::Warning, "Failed", "Error: ErrImagePull".to_owned());
                Err(Problem { reason: "ErrImagePull", message: error })
            }
        }
    }

    async fn pull(&self, pod: &Pod, name: &str) -> Result<ImageInspect, String> {
        let _turn = self.pulls.acquire().await.map_err(|error| error.to_string())?;
        let mut candidates: Vec<Option<DockerCredentials>> =
            self.credentials(pod, name).await.into_iter().map(Some).collect();
        candidates.push(None);
        let mut last = String::new();
        for credentials in candidates {
            match self.engine.pull(&with_tag(name), credentials).await {
                Ok(()) => {
                    let image = self.engine.image(name).await.map_err(|error| error.to_string())?;
                    return image.ok_or_else(|| "the image is gone right after its pull".to_owned());
                }
                Err(error) => last = error.to_string(),
            }
        }
        Err(last)
    }

    /// Credentials of the pod's pull secrets that fit the image's registry.
    async fn credentials(&self, pod: &Pod, image: &str) -> Vec<DockerCredentials> {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let wanted = registry(image);
        let mut out = Vec::new();
        for reference in pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten()) {
            match self.objects.get(Kind::Secret, &namespace, &reference.name).await {
                Ok(Some(content)) => {
                    let text =
                        content.data.get(".dockerconfigjson").or_else(|| content.data.get(".dockercfg"));
                    out.extend(text.into_iter().flat_map(|text| read_config(text, &wanted)));
                }
                Ok(None) => {
                    let name = &reference.name;
                    let message = format!(
                        "Unable to retrieve some image pull secrets ({name}); attempting to pull the image may not succeed."
                    );
                    self.events.pod(pod, Level::Warning, "FailedToRetrieveImagePullSecret", message);
                }
                Err(error) => tracing::warn!(%error, "cannot read a pull secret"),
            }
        }
        out
    }
}

/// The registry that an image name means.
fn registry(image: &str) -> String {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host.to_owned(),
        _ => "docker.io".to_owned(),
    }
}

/// Credentials for `wanted` in a Docker configuration file.
fn read_config(text: &[u8], wanted: &str) -> Vec<DockerCredentials> {
    use base64::Engine as _;
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(text) else { return Vec::new() };
    let auths = value.get("auths").unwrap_or(&value);
    let mut out = Vec::new();
    for (server, entry) in auths.as_object().into_iter().flatten() {
        let host = server.trim_start_matches("https://").trim_start_matches("http://");
        let host = host.split('/').next().unwrap_or(host);
        let hub = wanted == "docker.io" && matches!(host, "index.docker.io" | "docker.io");
        if host != wanted && !hub {
            continue;
        }
        let field = |name: &str| entry.get(name).and_then(serde_json::Value::as_str).map(str::to_owned);
        let decoded = field("auth")
            .and_then(|auth| base64::engine::general_purpose::STANDARD.decode(auth).ok())
            .and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
        out.push(DockerCredentials {
            username: field("username").or_else(|| pair.map(|(user, _)| user.to_owned())),
            password: field("password").or_else(|| pair.map(|(_, password)| password.to_owned())),
            serveraddress: Some(server.clone()),
            ..Default::default()
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_are_checked_and_completed() {
        for (name, valid, full) in [
            ("nginx", true, "nginx:latest"),
            ("fairlead/node:latest", true, "fairlead/node:latest"),
            ("registry.local:5000/a/b", true, "registry.local:5000/a/b:latest"),
            ("a@sha256:00", true, "a@sha256:00"),
            ("", false, ":latest"),
            ("Nginx", false, "Nginx:latest"),
            ("a b", false, "a b:latest"),
            ("a:", false, "a:"),
            ("a//b", false, "a//b:latest"),
            ("-a", false, "-a:latest"),
        ] {
            assert_eq!(is_valid_name(name), valid, "{name:?}");
            assert_eq!(with_tag(name), full, "{name:?}");
        }
    }

    #[test]
    fn policies_default_by_tag() {
        for (container, expected) in [
            (json!({"name": "c", "image": "a"}), "Always"),
            (json!({"name": "c", "image": "a:1"}), "IfNotPresent"),
            (json!({"name": "c", "image": "a@sha256:0"}), "IfNotPresent"),
            (json!({"name": "c", "image": "a", "imagePullPolicy": "Never"}), "Never"),
        ] {
            assert_eq!(policy(&serde_json::from_value(container).unwrap()), expected);
        }
    }

    #[test]
    fn credentials_are_taken_for_the_right_registry_only() {
        let config = br#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"}, "r.example:5000": {"username": "x", "password": "y"}}}"#;
        let hub = read_config(config, &registry("library/nginx"));
        assert_eq!(
            (hub.len(), hub[0].username.as_deref(), hub[0].password.as_deref()),
            (1, Some("u"), Some("p"))
        );
        let own = read_config(config, &registry("r.example:5000/a"));
        assert_eq!((own.len(), own[0].username.as_deref()), (1, Some("x")));
        assert!(read_config(config, &registry("other.example/a")).is_empty());
    }
}
