//! What a pod that names its operating system leaves to the other one.

use super::Field;
use crate::field::ErrorList;

/// Fields of a pod, below its spec, that nothing on Windows answers to.
const POD: &[&str] = &[
    "securityContext.appArmorProfile",
    "securityContext.seLinuxOptions",
    "hostUsers",
    "hostPID",
    "hostIPC",
    "securityContext.seccompProfile",
    "securityContext.fsGroup",
    "securityContext.fsGroupChangePolicy",
    "securityContext.sysctls",
    "shareProcessNamespace",
    "securityContext.runAsUser",
    "securityContext.runAsGroup",
    "securityContext.supplementalGroups",
    "securityContext.supplementalGroupsPolicy",
];
/// The same of a container's security context.
const CONTAINER: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

/// `spec.os` and the rest of the spec.
pub fn spec(f: &Field, errors: &mut ErrorList) {
    let os = f.get("os");
    if !os.is_set() {
        return;
    }
    os.get("name").required_one_of(errors, &["linux", "windows"]);
    let contexts = ["initContainers", "containers", "ephemeralContainers"];
    let contexts = contexts.iter().flat_map(|list| f.get(list).items()).map(|c| c.get("securityContext"));
    match os.get("name").str() {
        "windows" => {
            for path in POD {
                foreign(&path.split('.').fold(f.clone(), |f, step| f.get(step)), errors);
            }
            for context in contexts {
                CONTAINER.iter().for_each(|name| foreign(&context.get(name), errors));
            }
        }
        "linux" => {
            for context in std::iter::once(f.get("securityContext")).chain(contexts) {
                let options = context.get("windowsOptions");
                if options.is_set() {
                    options.forbidden(errors, "windows options cannot be set for a linux pod");
                }
            }
        }
        _ => {}
    }
}

/// Upstream has two of these as plain booleans: false is as good as absent.
fn foreign(f: &Field, errors: &mut ErrorList) {
    let plain = f.path.to_string().ends_with(".hostPID") || f.path.to_string().ends_with(".hostIPC");
    let list = f.value.is_array() && f.is_empty();
    if f.is_set() && !list && (!plain || f.is_true()) {
        f.forbidden(errors, "cannot be set for a windows pod");
    }
}
