//! Containers: names, images, environment, ports, mounts, probes, hooks.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Field, names, resources, security};
use crate::field::{self, ErrorList};

const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const MESSAGE_POLICIES: &[&str] = &["File", "FallbackToLogsOnError"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const ENV_RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
/// Paths of a pod that the downward API can convert at all.
const DOWNWARD_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// What the checks of one pod's containers share.
pub struct Scope<'a> {
    /// Names of the pod's volumes.
    pub volumes: Vec<&'a str>,
    pub host_network: bool,
    /// The pod's grace in seconds.
    pub grace: i64,
    /// Names of the pod's resource claims.
    pub claims: BTreeSet<&'a str>,
}

/// All three lists of containers.
pub fn all(spec: &Field, scope: &Scope, errors: &mut ErrorList) {
    let mut seen: Vec<&str> = Vec::new();
    let containers = spec.get("containers");
    if containers.is_empty() {
        containers.required(errors, "");
    }
    for c in containers.items() {
        common(&c, scope, &mut seen, errors);
        restart_policy(&c, errors);
        hooks_and_probes(&c, scope, errors);
    }
    host_ports(containers.items(), errors);
    for c in spec.get("initContainers").items() {
        common(&c, scope, &mut seen, errors);
        restart_policy(&c, errors);
        if c.get("restartPolicy").str() == "Always" {
            hooks_and_probes(&c, scope, errors);
            continue;
        }
        for name in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if c.get(name).is_set() {
                c.get(name)
                    .forbidden(errors, "may not be set for init containers without restartPolicy=Always");
            }
        }
    }
    for c in spec.get("ephemeralContainers").items() {
        ephemeral(&c, spec, scope, &mut seen, errors);
    }
}

fn ephemeral<'a>(
    c: &Field<'a>,
    spec: &Field,
    scope: &Scope,
    seen: &mut Vec<&'a str>,
    errors: &mut ErrorList,
) {
    common(c, scope, seen, errors);
    let target = c.get("targetContainerName");
    let known = |list: &str| spec.get(list).items().any(|o| o.get("name").str() == target.str());
    if !target.is_empty() && !known("containers") && !known("initContainers") {
        target.not_found(errors);
    }
    const FORBIDDEN: &[&str] = &[
        "ports",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "lifecycle",
        "resizePolicy",
        "restartPolicy",
    ];
    for name in FORBIDDEN {
        if !c.get(name).is_empty() {
            c.get(name).forbidden(errors, "cannot be set for an Ephemeral Container");
        }
    }
    for list in ["limits", "requests"] {
        if !c.get("resources").get(list).is_empty() {
            c.get("resources").forbidden(errors, "cannot be set for an Ephemeral Container");
        }
    }
    for mount in c.get("volumeMounts").items() {
        for name in ["subPath", "subPathExpr"] {
            if !mount.get(name).is_empty() {
                mount.get(name).forbidden(errors, "cannot be set for an Ephemeral Container");
            }
        }
    }
}

fn restart_policy(c: &Field, errors: &mut ErrorList) {
    c.get("restartPolicy").one_of(errors, &["Always", "Never", "OnFailure"]);
}

fn common<'a>(c: &Field<'a>, scope: &Scope, seen: &mut Vec<&'a str>, errors: &mut ErrorList) {
    let name = c.get("name");
    if name.is_empty() {
        name.required(errors, "");
    } else {
        name.all(errors, names::dns_label(name.str()));
    }
    let image = c.get("image");
    if image.is_empty() {
        image.required(errors, "");
    } else if image.str().trim() != image.str() {
        image.invalid(errors, "must not have leading or trailing whitespace");
    }
    if !name.is_empty() && seen.contains(&name.str()) {
        name.duplicate(errors);
    }
    seen.push(name.str());
    let policy = c.get("terminationMessagePolicy");
    policy.required_one_of(errors, MESSAGE_POLICIES);
    ports(&c.get("ports"), scope, errors);
    env(&c.get("env"), errors);
    env_from(&c.get("envFrom"), errors);
    mounts(c, scope, errors);
    devices(c, scope, errors);
    c.get("imagePullPolicy").required_one_of(errors, PULL_POLICIES);
    resources::requirements(&c.get("resources"), &scope.claims, errors);
    resize_policies(&c.get("resizePolicy"), errors);
    security::container(&c.get("securityContext"), errors);
}

fn resize_policies(f: &Field, errors: &mut ErrorList) {
    let mut seen = Vec::new();
    for p in f.items() {
        let name = p.get("resourceName");
        if seen.contains(&name.str()) {
            errors.push(field::duplicate(&f.path, name.value));
        }
        seen.push(name.str());
        name.one_of(errors, &["cpu", "memory"]);
        p.get("restartPolicy").required_one_of(errors, &["NotRequired", "RestartContainer"]);
    }
}

fn ports(f: &Field, scope: &Scope, errors: &mut ErrorList) {
    let mut seen = Vec::new();
    for p in f.items() {
        let name = p.get("name");
        if !name.is_empty() {
            let wrong = names::port_name(name.str());
            if wrong.is_empty() && seen.contains(&name.str()) {
                name.duplicate(errors);
            }
            seen.push(name.str());
            name.all(errors, wrong);
        }
        let port = p.get("containerPort");
        if port.num() == 0 {
            port.required(errors, "");
        } else {
            port.port(errors);
        }
        let host = p.get("hostPort");
        if host.num() != 0 {
            host.port(errors);
            if scope.host_network && host.num() != port.num() {
                host.invalid(errors, "must match `containerPort` when `hostNetwork` is true");
            }
        }
        p.get("protocol").required_one_of(errors, PROTOCOLS);
    }
}

/// No two containers of a pod may ask for the same port of the node.
fn host_ports<'a>(containers: impl Iterator<Item = Field<'a>>, errors: &mut ErrorList) {
    let mut seen: Vec<String> = Vec::new();
    for c in containers {
        for p in c.get("ports").items() {
            let host = p.get("hostPort");
            if host.num() == 0 {
                continue;
            }
            let key = format!("{}/{}/{}", p.get("protocol").str(), p.get("hostIP").str(), host.num());
            if seen.contains(&key) {
                errors.push(field::duplicate(&host.path, &Value::from(key.as_str())));
            }
            seen.push(key);
        }
    }
}

fn env(f: &Field, errors: &mut ErrorList) {
    for e in f.items() {
        let name = e.get("name");
        if name.present(errors) {
            name.all(errors, names::env_name(name.str()));
        }
        let from = e.get("valueFrom");
        if from.is_set() {
            value_from(&e, &from, errors);
        }
    }
}

fn value_from(e: &Field, from: &Field, errors: &mut ErrorList) {
    let mut sources = 0;
    for name in ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"] {
        let source = from.get(name);
        if !source.is_set() {
            continue;
        }
        sources += 1;
        match name {
            "fieldRef" => field_ref(&source, ENV_FIELDS, true, errors),
            "resourceFieldRef" => resource_field_ref(&source, false, errors),
            "fileKeyRef" => {
                for part in ["volumeName", "path", "key"] {
                    source.get(part).present(errors);
                }
            }
            _ => {
                source.get("name").all(errors, names::dns_subdomain(source.get("name").str()));
                if source.get("key").present(errors) {
                    source.get("key").all(errors, names::config_key(source.get("key").str()));
                }
            }
        }
    }
    let blank = |detail: &str| field::invalid_str(&from.path, "", detail);
    if sources == 0 {
        errors.push(blank("must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"));
    } else if !e.get("value").is_empty() {
        errors.push(blank("may not be specified when `value` is not empty"));
    } else if sources > 1 {
        errors.push(blank("may not have more than one field specified at a time"));
    }
}

/// A field of the pod. `allowed` are the paths this place can hold, `subscripts` whether `metadata.labels['x']` may.
pub fn field_ref(f: &Field, allowed: &[&str], subscripts: bool, errors: &mut ErrorList) {
    if !f.get("apiVersion").present(errors) || !f.get("fieldPath").present(errors) {
        return;
    }
    let at = f.get("fieldPath");
    let path = at.str();
    if let Some((base, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        match base {
            "metadata.annotations" => at.all(errors, names::qualified(&key.to_lowercase())),
            "metadata.labels" => at.all(errors, names::qualified(key)),
            _ => at.invalid(
                errors,
                format!("error converting fieldPath: field label does not support subscript: {path}"),
            ),
        }
        if !subscripts {
            at.not_supported(errors, allowed);
        }
        return;
    }
    if !DOWNWARD_FIELDS.contains(&path) {
        at.invalid(errors, format!("error converting fieldPath: field label not supported: {path}"));
    } else if !allowed.contains(&path) {
        at.not_supported(errors, allowed);
    }
}

/// A resource of a container; in a volume the container must be named.
pub fn resource_field_ref(f: &Field, volume: bool, errors: &mut ErrorList) {
    if volume && !f.get("containerName").present(errors) {
        return;
    }
    let resource = f.get("resource");
    if !resource.present(errors) {
        return;
    }
    let huge = ["limits.hugepages-", "requests.hugepages-"].iter().any(|p| resource.str().starts_with(p));
    if !huge && !ENV_RESOURCES.contains(&resource.str()) {
        resource.not_supported(errors, ENV_RESOURCES);
    }
}

fn env_from(f: &Field, errors: &mut ErrorList) {
    for e in f.items() {
        let prefix = e.get("prefix");
        if !prefix.is_empty() {
            prefix.all(errors, names::env_name(prefix.str()));
        }
        let mut sources = 0;
        for name in ["configMapRef", "secretRef"] {
            let source = e.get(name);
            if source.is_set() {
                sources += 1;
                let target = source.get("name");
                if target.present(errors) {
                    target.all(errors, names::dns_subdomain(target.str()));
                }
            }
        }
        let blank = |detail: &str| field::invalid_str(&e.path, "", detail);
        match sources {
            0 => errors.push(blank("must specify one of: `configMapRef` or `secretRef`")),
            1 => {}
            _ => errors.push(blank("may not have more than one field specified at a time")),
        }
    }
}

/// A relative path that does not lead upwards.
pub fn descending_path(f: &Field, errors: &mut ErrorList) {
    if f.str().starts_with('/') {
        f.invalid_text(errors, "must be a relative path");
    }
    no_backsteps(f, errors);
}

pub fn no_backsteps(f: &Field, errors: &mut ErrorList) {
    if f.str().split('/').any(|part| part == "..") {
        f.invalid_text(errors, "must not contain '..'");
    }
}

fn mounts(c: &Field, scope: &Scope, errors: &mut ErrorList) {
    let list = c.get("volumeMounts");
    let mut seen = Vec::new();
    let devices: Vec<&str> = c.get("volumeDevices").items().map(|d| d.get("devicePath").str()).collect();
    for m in list.items() {
        let (name, path) = (m.get("name"), m.get("mountPath"));
        if name.present(errors) && !scope.volumes.contains(&name.str()) {
            name.not_found(errors);
        }
        path.present(errors);
        if seen.contains(&path.str()) {
            path.invalid_text(errors, "must be unique");
        }
        seen.push(path.str());
        if devices.contains(&path.str()) {
            path.invalid_text(errors, "must not already exist as a path in volumeDevices");
        }
        let sub = m.get("subPath");
        if !sub.is_empty() {
            // Upstream's path leaves the index out.
            descending_path(&Field::at(sub.value, list.path.child("subPath")), errors);
        }
        let expression = m.get("subPathExpr");
        if !expression.is_empty() {
            if !sub.is_empty() {
                expression.invalid(errors, "subPathExpr and subPath are mutually exclusive");
            }
            descending_path(&Field::at(expression.value, list.path.child("subPathExpr")), errors);
        }
        propagation(c, &m, errors);
    }
}

fn propagation(c: &Field, m: &Field, errors: &mut ErrorList) {
    let mode = m.get("mountPropagation");
    if !mode.one_of(errors, &["Bidirectional", "HostToContainer", "None"]) {
        return;
    }
    let privileged = c.get("securityContext").get("privileged").is_true();
    if mode.str() == "Bidirectional" && !privileged {
        mode.forbidden(errors, "Bidirectional mount propagation is available only to privileged containers");
    }
    let recursive = m.get("recursiveReadOnly");
    if recursive.one_of(errors, &["Disabled", "Enabled", "IfPossible"])
        && ["Enabled", "IfPossible"].contains(&recursive.str())
    {
        if !m.get("readOnly").is_true() {
            recursive.forbidden(errors, "may only be specified when readOnly is true");
        }
        if !["", "None"].contains(&mode.str()) {
            recursive
                .forbidden(errors, "may only be specified when mountPropagation is None or not specified");
        }
    }
}

fn devices(c: &Field, scope: &Scope, errors: &mut ErrorList) {
    let mut seen: Vec<&str> = Vec::new();
    for d in c.get("volumeDevices").items() {
        let (name, path) = (d.get("name"), d.get("devicePath"));
        if name.present(errors) && !scope.volumes.contains(&name.str()) {
            name.not_found(errors);
        }
        if path.present(errors) {
            if seen.contains(&path.str()) {
                path.invalid(errors, "must be unique");
            }
            no_backsteps(&path, errors);
        }
        seen.push(path.str());
    }
}

fn hooks_and_probes(c: &Field, scope: &Scope, errors: &mut ErrorList) {
    for hook in ["postStart", "preStop"] {
        let at = c.get("lifecycle").get(hook);
        if at.is_set() {
            handler(&at, &["exec", "httpGet", "tcpSocket", "sleep"], scope, errors);
        }
    }
    let stop = c.get("lifecycle").get("stopSignal");
    if !stop.is_empty() && !stop.str().starts_with("SIG") {
        stop.invalid(errors, "must be a signal name");
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let at = c.get(name);
        if at.is_set() {
            probe(&at, scope, errors);
            let grace = at.get("terminationGracePeriodSeconds");
            let threshold = at.get("successThreshold");
            if name == "readinessProbe" {
                if grace.is_set() {
                    grace.invalid(errors, "must not be set for readinessProbes");
                }
            } else if threshold.num() != 1 {
                threshold.invalid(errors, "must be 1");
            }
        }
    }
}

fn probe(p: &Field, scope: &Scope, errors: &mut ErrorList) {
    handler(p, &["exec", "httpGet", "tcpSocket", "grpc"], scope, errors);
    p.non_negatives(
        errors,
        &["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"],
    );
    let grace = p.get("terminationGracePeriodSeconds");
    if grace.int().is_some_and(|n| n <= 0) {
        grace.invalid(errors, super::GREATER_THAN_ZERO);
    }
}

/// Exactly one way to act on a container.
fn handler(f: &Field, kinds: &[&str], scope: &Scope, errors: &mut ErrorList) {
    let mut found = 0;
    for kind in kinds {
        let at = f.get(kind);
        if !at.is_set() {
            continue;
        }
        found += 1;
        if found > 1 {
            at.forbidden(errors, "may not specify more than 1 handler type");
            continue;
        }
        match *kind {
            "exec" => {
                at.get("command").present(errors);
            }
            "httpGet" => http_get(&at, errors),
            "tcpSocket" => at.get("port").port_or_name(errors),
            "grpc" => at.get("port").port(errors),
            _ => {
                let seconds = at.get("seconds");
                if seconds.num() < 0 || seconds.num() > scope.grace {
                    let words = format!(
                        "must be non-negative and less than terminationGracePeriodSeconds ({})",
                        scope.grace
                    );
                    seconds.invalid(errors, words);
                }
            }
        }
    }
    if found == 0 {
        f.required(errors, "must specify a handler type");
    }
}

fn http_get(f: &Field, errors: &mut ErrorList) {
    f.get("path").present(errors);
    f.get("port").port_or_name(errors);
    f.get("scheme").one_of(errors, &["HTTP", "HTTPS"]);
    for header in f.get("httpHeaders").items() {
        header.get("name").all(errors, names::http_header(header.get("name").str()));
    }
}
