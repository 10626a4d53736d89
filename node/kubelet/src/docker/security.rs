//! Security contexts in Docker's terms.

use bollard::models::HostConfig;
use k8s_openapi::api::core::v1::{Container, PodSecurityContext, PodSpec, SecurityContext};

use crate::settings::Args;

/// Why a container must not be made as its spec asks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// `runAsNonRoot` with user 0.
    #[error("container's runAsUser breaks non-root policy (container: {0})")]
    RunAsUserIsRoot(String),
    /// `runAsNonRoot` with an image whose user is root.
    #[error("container has runAsNonRoot and image will run as root (container: {0})")]
    ImageRunsAsRoot(String),
    /// `runAsNonRoot` with an image whose user is a name.
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (container: {container})"
    )]
    ImageUserIsName {
        /// The image's user.
        user: String,
        /// The container.
        container: String,
    },
    /// A seccomp profile that cannot be read.
    #[error("cannot load seccomp profile {path:?}: {message}")]
    Seccomp {
        /// Its path.
        path: String,
        /// Why.
        message: String,
    },
    /// A sysctl that reaches beyond the pod.
    #[error("forbidden sysctl: {0:?} not allowlisted")]
    Sysctl(String),
    /// Something this kubelet does not do.
    #[error("{0} is not supported by this node")]
    Unsupported(String),
}

/// Sysctls that are namespaced and harmless to neighbours.
const SAFE_SYSCTLS: [&str; 14] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_notsent_lowat",
];

/// The sysctls a pod's sandbox is made with.
///
/// # Errors
/// [`Refused::Sysctl`] names one that is not known to be safe.
pub fn sysctls(spec: &PodSpec) -> Result<Vec<(String, String)>, Refused> {
    let wanted =
        spec.security_context.as_ref().and_then(|context| context.sysctls.as_deref()).unwrap_or_default();
    wanted
        .iter()
        .map(|sysctl| {
            let name = sysctl.name.replace('/', ".");
            if SAFE_SYSCTLS.contains(&name.as_str()) {
                Ok((name, sysctl.value.clone()))
            } else {
                Err(Refused::Sysctl(sysctl.name.clone()))
            }
        })
        .collect()
}

/// `user[:group]` as Docker takes it; `None` leaves the image's.
#[must_use]
pub fn user(pod: Option<&PodSecurityContext>, own: Option<&SecurityContext>) -> Option<String> {
    let user = own.and_then(|own| own.run_as_user).or_else(|| pod?.run_as_user);
    let group = own.and_then(|own| own.run_as_group).or_else(|| pod?.run_as_group);
    match (user, group) {
        (None, None) => None,
        (Some(user), None) => Some(user.to_string()),
        (user, Some(group)) => Some(format!("{}:{group}", user.unwrap_or(0))),
    }
}

/// Holds a container to `runAsNonRoot`.
///
/// # Errors
/// Says who would run as root.
pub fn check_non_root(spec: &PodSpec, container: &Container, image_user: &str) -> Result<(), Refused> {
    let pod = spec.security_context.as_ref();
    let own = container.security_context.as_ref();
    let wanted = own.and_then(|own| own.run_as_non_root).or_else(|| pod?.run_as_non_root);
    if wanted != Some(true) {
        return Ok(());
    }
    match own.and_then(|own| own.run_as_user).or_else(|| pod?.run_as_user) {
        Some(0) => return Err(Refused::RunAsUserIsRoot(container.name.clone())),
        Some(_) => return Ok(()),
        None => {}
    }
    let user = image_user.split(':').next().unwrap_or_default();
    match user.parse::<u32>() {
        Ok(0) => Err(Refused::ImageRunsAsRoot(container.name.clone())),
        Ok(_) => Ok(()),
        Err(_) if user.is_empty() || user == "root" => Err(Refused::ImageRunsAsRoot(container.name.clone())),
        Err(_) => Err(Refused::ImageUserIsName { user: user.to_owned(), container: container.name.clone() }),
    }
}

/// Writes a container's security context into Docker's host configuration.
///
/// # Errors
/// Says what cannot be honoured; nothing is left out silently.
pub fn apply(
    args: &Args,
    spec: &PodSpec,
    container: &Container,
    host: &mut HostConfig,
) -> Result<(), Refused> {
    let pod = spec.security_context.as_ref();
    let own = container.security_context.as_ref();
    let privileged = own.and_then(|own| own.privileged).unwrap_or(false);
    host.privileged = Some(privileged);
    host.readonly_rootfs = own.and_then(|own| own.read_only_root_filesystem);
    if let Some(capabilities) = own.and_then(|own| own.capabilities.as_ref()) {
        host.cap_add.clone_from(&capabilities.add);
        host.cap_drop.clone_from(&capabilities.drop);
    }
    let mut groups: Vec<i64> = pod.and_then(|pod| pod.supplemental_groups.clone()).unwrap_or_default();
    groups.extend(pod.and_then(|pod| pod.fs_group));
    if !groups.is_empty() {
        host.group_add = Some(groups.iter().map(ToString::to_string).collect());
    }
    let mut options = Vec::new();
    if own.and_then(|own| own.allow_privilege_escalation) == Some(false) {
        options.push("no-new-privileges".to_owned());
    }
    options.extend(seccomp(args, pod, own, privileged)?);
    options.extend(apparmor(pod, own)?);
    host.security_opt = Some(options);
    if own.and_then(|own| own.proc_mount.as_deref()) == Some("Unmasked") {
        host.masked_paths = Some(Vec::new());
        host.readonly_paths = Some(Vec::new());
    }
    if own.and_then(|own| own.windows_options.as_ref()).is_some() {
        return Err(Refused::Unsupported("securityContext.windowsOptions".to_owned()));
    }
    Ok(())
}

fn seccomp(
    args: &Args,
    pod: Option<&PodSecurityContext>,
    own: Option<&SecurityContext>,
    privileged: bool,
) -> Result<Option<String>, Refused> {
    let unconfined = Some("seccomp=unconfined".to_owned());
    let profile = own.and_then(|own| own.seccomp_profile.as_ref()).or_else(|| pod?.seccomp_profile.as_ref());
    // Without a profile upstream's default is none at all (unless --seccomp-default).
    let Some(profile) = profile.filter(|_| !privileged) else { return Ok(unconfined) };
    match profile.type_.as_str() {
        "RuntimeDefault" => Ok(None),
        "Unconfined" => Ok(unconfined),
        "Localhost" => {
            let name = profile.localhost_profile.clone().unwrap_or_default();
            let failed = |message: String| Refused::Seccomp { path: name.clone(), message };
            if name.is_empty() || name.starts_with('/') || name.split('/').any(|part| part == "..") {
                return Err(failed("must be a relative path below the profile directory".to_owned()));
            }
            let text = std::fs::read_to_string(args.state_dir().join("seccomp").join(&name))
                .map_err(|error| failed(error.to_string()))?;
            Ok(Some(format!("seccomp={text}")))
        }
        other => Err(Refused::Unsupported(format!("seccomp profile type {other:?}"))),
    }
}

fn apparmor(
    pod: Option<&PodSecurityContext>,
    own: Option<&SecurityContext>,
) -> Result<Option<String>, Refused> {
    let profile =
        own.and_then(|own| own.app_armor_profile.as_ref()).or_else(|| pod?.app_armor_profile.as_ref());
    let Some(profile) = profile else { return Ok(None) };
    match profile.type_.as_str() {
        "RuntimeDefault" => Ok(None),
        "Unconfined" => Ok(Some("apparmor=unconfined".to_owned())),
        "Localhost" => Ok(profile.localhost_profile.as_ref().map(|name| format!("apparmor={name}"))),
        other => Err(Refused::Unsupported(format!("AppArmor profile type {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(value: serde_json::Value) -> PodSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn non_root_is_held_against_spec_and_image() {
        for (pod, own, image_user, fine) in [
            (json!({}), json!({}), "", true),
            (json!({"runAsNonRoot": true}), json!({}), "", false),
            (json!({"runAsNonRoot": true}), json!({}), "0:5", false),
            (json!({"runAsNonRoot": true}), json!({}), "root", false),
            (json!({"runAsNonRoot": true}), json!({}), "nobody", false),
            (json!({"runAsNonRoot": true}), json!({}), "65534", true),
            (json!({"runAsNonRoot": true}), json!({"runAsUser": 0}), "65534", false),
            (json!({"runAsNonRoot": true, "runAsUser": 5}), json!({}), "", true),
            (json!({"runAsNonRoot": true}), json!({"runAsNonRoot": false}), "", true),
        ] {
            let spec =
                spec(json!({"containers": [{"name": "c", "securityContext": own}], "securityContext": pod}));
            let seen = check_non_root(&spec, &spec.containers[0], image_user);
            assert_eq!(seen.is_ok(), fine, "{pod} {own} {image_user}: {seen:?}");
        }
    }

    #[test]
    fn users_and_groups_combine() {
        for (pod, own, expected) in [
            (json!({}), json!({}), None),
            (json!({"runAsUser": 7}), json!({}), Some("7")),
            (json!({"runAsUser": 7, "runAsGroup": 8}), json!({"runAsUser": 9}), Some("9:8")),
            (json!({"runAsGroup": 8}), json!({}), Some("0:8")),
        ] {
            let pod: PodSecurityContext = serde_json::from_value(pod).unwrap();
            let own: SecurityContext = serde_json::from_value(own).unwrap();
            assert_eq!(user(Some(&pod), Some(&own)).as_deref(), expected);
        }
    }

    #[test]
    fn only_safe_sysctls_pass() {
        let with = |name: &str| {
            spec(json!({"containers": [], "securityContext": {"sysctls": [{"name": name, "value": "1"}]}}))
        };
        assert_eq!(sysctls(&with("net.ipv4.tcp_syncookies")).unwrap().len(), 1);
        assert_eq!(sysctls(&with("net/ipv4/tcp_syncookies")).unwrap()[0].0, "net.ipv4.tcp_syncookies");
        assert_eq!(sysctls(&with("kernel.panic")), Err(Refused::Sysctl("kernel.panic".to_owned())));
    }
}
