//! Security contexts.

use super::{Field, names};
use crate::field::{self, ErrorList};

const ID_RANGE: &str = "must be between 0 and 2147483647, inclusive";
const PROFILE_TYPES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];

fn id(f: &Field, errors: &mut ErrorList) {
    if f.int().is_some_and(|n| !(0..=2_147_483_647).contains(&n)) {
        f.invalid(errors, ID_RANGE);
    }
}

/// A container's security context.
pub fn container(f: &Field, errors: &mut ErrorList) {
    if !f.is_set() {
        return;
    }
    id(&f.get("runAsUser"), errors);
    id(&f.get("runAsGroup"), errors);
    f.get("procMount").one_of(errors, &["Default", "Unmasked"]);
    profiles(f, errors);
    let escalation = f.get("allowPrivilegeEscalation");
    if escalation.is_set() && !escalation.is_true() {
        if f.get("privileged").is_true() {
            f.invalid(errors, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
        }
        let admin = f.get("capabilities").get("add").items().any(|c| c.str() == "CAP_SYS_ADMIN");
        if admin {
            f.invalid(
                errors,
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            );
        }
    }
}

fn profiles(f: &Field, errors: &mut ErrorList) {
    for name in ["seccompProfile", "appArmorProfile"] {
        let at = f.get(name);
        if !at.is_set() {
            continue;
        }
        let (kind, local) = (at.get("type"), at.get("localhostProfile"));
        if kind.is_empty() {
            kind.required(errors, "type is required when `seccompProfile` is set");
            continue;
        }
        kind.one_of(errors, PROFILE_TYPES);
        if kind.str() == "Localhost" {
            if local.is_empty() {
                local.required(errors, "must be set when seccomp type is Localhost");
            } else if name == "seccompProfile" {
                super::container::descending_path(&local, errors);
            }
        } else if local.is_set() {
            local.invalid(errors, "can only be set when seccomp type is Localhost");
        }
    }
}

/// A pod's security context. `spec` is the pod's spec: the host's namespaces are asked for there.
pub fn pod(spec: &Field, errors: &mut ErrorList) {
    let f = spec.get("securityContext");
    let share = spec.get("shareProcessNamespace");
    if share.is_true() && spec.get("hostPID").is_true() {
        share.invalid(errors, "ShareProcessNamespace and HostPID cannot both be enabled");
    }
    let users = spec.get("hostUsers");
    if users.is_set() && !users.is_true() {
        for name in ["hostNetwork", "hostPID", "hostIPC"] {
            if spec.get(name).is_true() {
                spec.get(name).forbidden(errors, "when `hostUsers` is false");
            }
        }
    }
    if !f.is_set() {
        return;
    }
    for name in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(&f.get(name), errors);
    }
    for group in f.get("supplementalGroups").items() {
        id(&group, errors);
    }
    f.get("supplementalGroupsPolicy").one_of(errors, &["Merge", "Strict"]);
    f.get("fsGroupChangePolicy").one_of(errors, &["Always", "OnRootMismatch"]);
    f.get("seLinuxChangePolicy").one_of(errors, &["MountOption", "Recursive"]);
    sysctls(&f.get("sysctls"), errors);
    profiles(&f, errors);
}

fn sysctls(f: &Field, errors: &mut ErrorList) {
    let mut seen = Vec::new();
    for s in f.items() {
        let name = s.get("name");
        let part = |p: &str| {
            let b = p.as_bytes();
            let edge = |c: Option<&u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
            edge(b.first())
                && edge(b.last())
                && b.iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-_".contains(c))
        };
        if name.is_empty() {
            name.required(errors, "");
        } else if name.len() > 253 || !name.str().split(['.', '/']).all(part) {
            name.invalid(errors, "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$");
        } else if seen.contains(&name.str()) {
            name.duplicate(errors);
        }
        seen.push(name.str());
    }
}

/// Names that other objects are found by: empty is refused, the rest must be a subdomain.
pub fn reference(f: &Field, errors: &mut ErrorList) {
    if f.is_empty() {
        errors.push(field::required(&f.path, ""));
    } else {
        f.all(errors, names::dns_subdomain(f.str()));
    }
}
