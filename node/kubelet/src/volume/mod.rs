//! Volumes of pods, and how containers see them.

pub mod atomic;
pub mod hostpath;
pub mod mounts;
pub mod payload;
pub mod subpath;
pub mod token;

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bollard::models::{Mount, MountBindOptions, MountBindOptionsPropagationEnum, MountType};
use k8s_openapi::api::core::v1::{Container, EmptyDirVolumeSource, Pod, Volume, VolumeMount};
use kube::Client;

use self::payload::ObjectSource;
use self::token::Tokens;
use crate::clock;
use crate::env::build::Fetched;
use crate::env::expand::expand;
use crate::env::fields::Surroundings;
use crate::objects::{Kind, Objects};
use crate::quantity;
use crate::settings::Args;

/// Why a volume is not there.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {volume:?} : {reason}")]
pub struct Error {
    /// Its name.
    pub volume: String,
    /// What failed.
    pub reason: Reason,
}

/// What failed for a volume.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// A kind that this node does not do.
    #[error("volume kind {0} is not supported by this node")]
    Unsupported(String),
    /// Its content cannot be put together.
    #[error(transparent)]
    Payload(#[from] payload::Error),
    /// The API refused or did not answer.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// The file system refused.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// A `hostPath` is not what it promises.
    #[error("{0}")]
    HostPath(String),
}

/// Why a container cannot be given its mounts.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A mount of a volume that the pod does not have.
    #[error("cannot find volume {volume:?} to mount into container {container:?}")]
    NoVolume {
        /// The volume.
        volume: String,
        /// The container.
        container: String,
    },
    /// A `subPath` that cannot be used.
    #[error("failed to prepare subPath for volumeMount {volume:?} of container {container:?}: {source}")]
    SubPath {
        /// The volume.
        volume: String,
        /// The container.
        container: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Raw block devices.
    #[error("volumeDevices are not supported by this node")]
    Devices,
}

/// A volume that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// Where, on the machine.
    pub path: PathBuf,
    /// Whether containers must not write to it.
    pub read_only: bool,
}

/// Volumes by name.
pub type ReadyVolumes = BTreeMap<String, Ready>;

/// Sets volumes up.
#[derive(Clone)]
pub struct Volumes {
    args: Arc<Args>,
    client: Client,
    objects: Objects,
}

/// A pod's group, if its files are to belong to one.
fn fs_group(pod: &Pod) -> Option<u32> {
    let group = pod.spec.as_ref()?.security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

/// Objects that a volume reads.
fn objects_of(volume: &Volume) -> Vec<ObjectSource> {
    if let Some(source) = &volume.config_map {
        return vec![ObjectSource {
            kind: Kind::ConfigMap,
            name: source.name.clone(),
            items: source.items.clone().unwrap_or_default(),
            optional: source.optional == Some(true),
        }];
    }
    if let Some(source) = &volume.secret {
        return vec![ObjectSource {
            kind: Kind::Secret,
            name: source.secret_name.clone().unwrap_or_default(),
            items: source.items.clone().unwrap_or_default(),
            optional: source.optional == Some(true),
        }];
    }
    volume.projected.as_ref().map(payload::projected_objects).unwrap_or_default()
}

/// The API's name of a volume's kind.
fn kind_of(volume: &Volume) -> String {
    let value = serde_json::to_value(volume).unwrap_or_default();
    let mut keys = value.as_object().into_iter().flatten().map(|(key, _)| key.clone());
    keys.find(|key| key != "name").unwrap_or_else(|| "none".to_owned())
}

impl Volumes {
    /// For one node.
    #[must_use]
    pub fn new(args: Arc<Args>, client: Client, objects: Objects) -> Self {
        Self { args, client, objects }
    }

    fn directory(&self, uid: &str, kind: &str, name: &str) -> PathBuf {
        self.args.pod_dir(uid).join("volumes").join(format!("kubernetes.io~{kind}")).join(name)
    }

    /// Makes all volumes of a pod, or brings their content up to date; what is there already stays as it is.
    ///
    /// # Errors
    /// Fails with the first volume that does.
    pub async fn set_up(
        &self,
        pod: &Pod,
        around: &Surroundings,
        tokens: &mut Tokens,
    ) -> Result<ReadyVolumes, Error> {
        let mut out = ReadyVolumes::new();
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let ready = self
                .set_up_one(pod, volume, around, tokens)
                .await
                .map_err(|reason| Error { volume: volume.name.clone(), reason })?;
            out.insert(volume.name.clone(), ready);
        }
        Ok(out)
    }

    async fn set_up_one(
        &self,
        pod: &Pod,
        volume: &Volume,
        around: &Surroundings,
        tokens: &mut Tokens,
    ) -> Result<Ready, Reason> {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if let Some(source) = &volume.empty_dir {
            let path = self.directory(&uid, "empty-dir", &volume.name);
            empty_dir(&path, source, fs_group(pod))?;
            return Ok(Ready { path, read_only: false });
        }
        if let Some(source) = &volume.host_path {
            let path = self.args.on_machine(Path::new(&source.path));
            let kind = source.type_.as_deref().unwrap_or_default();
            hostpath::prepare(&path, &source.path, kind).map_err(Reason::HostPath)?;
            return Ok(Ready { path, read_only: false });
        }
        let (kind, secret) = match volume {
            Volume { config_map: Some(_), .. } => ("configmap", false),
            Volume { secret: Some(_), .. } => ("secret", true),
            Volume { downward_api: Some(_), .. } => ("downward-api", false),
            Volume { projected: Some(_), .. } => ("projected", true),
            other => return Err(Reason::Unsupported(kind_of(other))),
        };
        let files = self.files(pod, volume, around, tokens).await?;
        let path = self.directory(&uid, kind, &volume.name);
        std::fs::create_dir_all(&path)?;
        // Secrets and tokens never touch the disk.
        if secret && !mounts::is_mounted(&path) {
            mounts::tmpfs(&path, 0, 0o755)?;
        }
        atomic::write(&path, &files, fs_group(pod), clock::now())?;
        Ok(Ready { path, read_only: true })
    }

    async fn files(
        &self,
        pod: &Pod,
        volume: &Volume,
        around: &Surroundings,
        tokens: &mut Tokens,
    ) -> Result<atomic::Payload, Reason> {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let sources = objects_of(volume);
        let fetch = async |source: &ObjectSource| {
            let content = self.objects.get(source.kind, &namespace, &source.name).await?;
            Ok::<_, Reason>(((source.kind, source.name.clone()), content))
        };
        let fetched: Fetched =
            futures::future::try_join_all(sources.iter().map(fetch)).await?.into_iter().collect();
        if let Some(source) = &volume.downward_api {
            let items = source.items.as_deref().unwrap_or_default();
            return Ok(payload::downward(pod, items, source.default_mode, around)?);
        }
        if let Some(source) = &volume.projected {
            let wanted =
                source.sources.iter().flatten().filter_map(|source| source.service_account_token.as_ref());
            let keys: Vec<_> = wanted.map(payload::token_key).collect();
            let tokens = tokens.get(&self.client, pod, &keys, clock::now()).await?;
            return Ok(payload::projected(pod, source, &fetched, &tokens, around)?);
        }
        let mode = match (&volume.config_map, &volume.secret) {
            (Some(source), _) => source.default_mode,
            (None, Some(source)) => source.default_mode,
            (None, None) => None,
        };
        let mut out = atomic::Payload::new();
        for source in &sources {
            out.extend(payload::object(source, mode, &fetched)?);
        }
        Ok(out)
    }

    /// Mounts of one container: its volumes, without the kubelet's own files.
    ///
    /// # Errors
    /// Says which mount cannot be made.
    pub fn container_mounts(
        &self,
        pod: &Pod,
        container: &Container,
        volumes: &ReadyVolumes,
        env: &BTreeMap<String, String>,
    ) -> Result<Vec<Mount>, MountError> {
        if container.volume_devices.as_ref().is_some_and(|devices| !devices.is_empty()) {
            return Err(MountError::Devices);
        }
        let wanted = container.volume_mounts.iter().flatten().enumerate();
        wanted.map(|(index, mount)| self.one_mount(pod, container, volumes, env, index, mount)).collect()
    }

    fn one_mount(
        &self,
        pod: &Pod,
        container: &Container,
        volumes: &ReadyVolumes,
        env: &BTreeMap<String, String>,
        index: usize,
        mount: &VolumeMount,
    ) -> Result<Mount, MountError> {
        let ready = volumes.get(&mount.name).ok_or_else(|| MountError::NoVolume {
            volume: mount.name.clone(),
            container: container.name.clone(),
        })?;
        let sub = match (&mount.sub_path_expr, &mount.sub_path) {
            (Some(expression), _) if !expression.is_empty() => {
                expand(expression, |name| env.get(name).cloned())
            }
            (_, Some(path)) => path.clone(),
            _ => String::new(),
        };
        let source = if sub.is_empty() {
            ready.path.clone()
        } else {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            let target = self
                .args
                .pod_dir(uid)
                .join("volume-subpaths")
                .join(&mount.name)
                .join(&container.name)
                .join(index.to_string());
            subpath::bind(&ready.path, Path::new(&sub), &target).map_err(|source| MountError::SubPath {
                volume: mount.name.clone(),
                container: container.name.clone(),
                source,
            })?;
            target
        };
        let read_only = ready.read_only || mount.read_only == Some(true);
        Ok(bind(&source, &mount.mount_path, read_only, mount.mount_propagation.as_deref()))
    }
}

/// A bind mount as Docker is asked for it.
#[must_use]
pub fn bind(source: &Path, target: &str, read_only: bool, propagation: Option<&str>) -> Mount {
    let propagation = match propagation {
        Some("HostToContainer") => MountBindOptionsPropagationEnum::RSLAVE,
        Some("Bidirectional") => MountBindOptionsPropagationEnum::RSHARED,
        _ => MountBindOptionsPropagationEnum::RPRIVATE,
    };
    // Mount paths may be relative to the container's root.
    let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
    Mount {
        target: Some(target),
        source: Some(source.to_string_lossy().into_owned()),
        typ: Some(MountType::BIND),
        read_only: Some(read_only),
        bind_options: Some(MountBindOptions { propagation: Some(propagation), ..Default::default() }),
        ..Default::default()
    }
}

fn empty_dir(path: &Path, source: &EmptyDirVolumeSource, group: Option<u32>) -> Result<(), Reason> {
    let medium = source.medium.as_deref().unwrap_or_default();
    if !matches!(medium, "" | "Memory") {
        return Err(Reason::Unsupported(format!("emptyDir with medium {medium:?}")));
    }
    let fresh = !path.exists();
    std::fs::create_dir_all(path)?;
    if medium == "Memory" && !mounts::is_mounted(path) {
        let size = source.size_limit.as_ref().and_then(quantity::units).unwrap_or(0);
        mounts::tmpfs(path, size, 0o777)?;
    } else if !fresh {
        return Ok(());
    }
    let mut mode = 0o777;
    if group.is_some() {
        chown(path, None, group)?;
        mode |= 0o2000;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn kinds_that_are_not_done_are_named() {
        for (volume, kind) in [
            (json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}}), "persistentVolumeClaim"),
            (json!({"name": "v", "csi": {"driver": "d"}}), "csi"),
            (json!({"name": "v", "nfs": {"path": "/", "server": "s"}}), "nfs"),
        ] {
            assert_eq!(kind_of(&serde_json::from_value(volume).unwrap()), kind);
        }
    }

    #[test]
    fn mounts_carry_access_and_propagation() {
        use MountBindOptionsPropagationEnum as P;
        for (propagation, expected) in [
            (None, P::RPRIVATE),
            (Some("None"), P::RPRIVATE),
            (Some("HostToContainer"), P::RSLAVE),
            (Some("Bidirectional"), P::RSHARED),
        ] {
            let mount = bind(Path::new("/a"), "b", true, propagation);
            assert_eq!(mount.target.as_deref(), Some("/b"));
            assert_eq!(mount.read_only, Some(true));
            assert_eq!(mount.bind_options.and_then(|options| options.propagation), Some(expected));
        }
    }

    #[test]
    fn an_empty_dir_keeps_its_content_and_mode() {
        let path = std::env::temp_dir().join(format!("emptydir-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        let source = EmptyDirVolumeSource::default();
        empty_dir(&path, &source, None).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o777);
        std::fs::write(path.join("x"), "1").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        empty_dir(&path, &source, None).unwrap();
        assert_eq!(std::fs::read_to_string(path.join("x")).unwrap(), "1");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o700);
        let huge = EmptyDirVolumeSource { medium: Some("HugePages".to_owned()), ..Default::default() };
        assert!(matches!(empty_dir(&path, &huge, None), Err(Reason::Unsupported(_))));
        std::fs::remove_dir_all(&path).unwrap();
    }
}
