//! Warnings that upstream gives for pods and templates: what is accepted and probably not meant.

use serde_json::Value;

use crate::validate::{Field, names, quantity::Quantity, same};

const NODE_LABELS: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
];
const SECCOMP: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
const APP_ARMOR: &str = "deprecated since v1.30; use the \"appArmorProfile\" field instead";

/// Of a pod. An update that leaves the spec alone warns of nothing.
pub fn pod(new: &Value, old: Option<&Value>) -> Vec<String> {
    if old.is_some_and(|o| o["spec"] == new["spec"]) {
        return Vec::new();
    }
    let f = Field::root(new);
    let mut out = Vec::new();
    if old.is_none() {
        let name = f.get("metadata").get("name");
        let wrong = names::dns_label(name.str());
        if !wrong.is_empty() {
            out.push(format!("metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{}]", wrong.join(" ")));
        }
    }
    spec(&f.get("metadata"), &f.get("spec"), &mut out);
    out
}

/// Of the template of a workload.
pub fn workload(new: &Value, old: Option<&Value>) -> Vec<String> {
    template(new, old, &["spec", "template"])
}

/// Of a template that lies at `path`.
pub fn template(new: &Value, old: Option<&Value>, path: &[&str]) -> Vec<String> {
    let f = path.iter().fold(Field::root(new), |f, step| f.get(step));
    let was = old.map(|o| path.iter().fold(Field::root(o), |f, step| f.get(step)));
    if was.is_some_and(|w| w.value == f.value) {
        return Vec::new();
    }
    let mut out = Vec::new();
    spec(&f.get("metadata"), &f.get("spec"), &mut out);
    out
}

fn spec(meta: &Field, spec: &Field, out: &mut Vec<String>) {
    node_labels(spec, out);
    for (key, _) in meta.get("annotations").entries() {
        let at = meta.get("annotations").path.key(key);
        if key == "seccomp.security.alpha.kubernetes.io/pod"
            || key.starts_with("container.seccomp.security.alpha.kubernetes.io/")
        {
            out.push(format!("{at}: {SECCOMP}"));
        } else if key.starts_with("container.apparmor.security.beta.kubernetes.io/") {
            out.push(format!("{at}: {APP_ARMOR}"));
        } else if key == "scheduler.alpha.kubernetes.io/critical-pod" {
            out.push(format!("{at}: non-functional in v1.16+; use the \"priorityClassName\" field instead"));
        }
    }
    volumes(spec, out);
    if spec.get("terminationGracePeriodSeconds").num() < 0 {
        let at = spec.get("terminationGracePeriodSeconds").path;
        out.push(format!("{at}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    for secret in spec.get("imagePullSecrets").items() {
        if secret.get("name").is_empty() {
            out.push(format!("{}: invalid empty name {:?}", secret.path, ""));
        }
    }
    let mut aliases: Vec<&str> = Vec::new();
    for alias in spec.get("hostAliases").items() {
        let ip = alias.get("ip");
        if aliases.contains(&ip.str()) {
            out.push(format!("{}: duplicate ip {:?}", ip.path, ip.str()));
        }
        aliases.push(ip.str());
    }
    for list in ["initContainers", "containers"] {
        for c in spec.get(list).items() {
            container(&c, out);
        }
    }
}

fn node_labels(spec: &Field, out: &mut Vec<String>) {
    let selector = spec.get("nodeSelector");
    for (label, words) in NODE_LABELS {
        if selector.value.get(label).is_some() {
            out.push(format!("{}: {words}", selector.path.key(label)));
        }
    }
    let affinity = spec.get("affinity").get("nodeAffinity");
    let required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution").get("nodeSelectorTerms");
    let preferred = affinity.get("preferredDuringSchedulingIgnoredDuringExecution");
    for term in required.items().chain(preferred.items().map(|p| p.get("preference"))) {
        for e in term.get("matchExpressions").items() {
            let key = e.get("key");
            if let Some((_, words)) = NODE_LABELS.iter().find(|(l, _)| *l == key.str()) {
                out.push(format!("{}: {} is {words}", key.path, key.str()));
            }
        }
    }
    for c in spec.get("topologySpreadConstraints").items() {
        let key = c.get("topologyKey");
        if let Some((_, words)) = NODE_LABELS.iter().find(|(l, _)| *l == key.str()) {
            out.push(format!("{}: {} is {words}", key.path, key.str()));
        }
        if !c.get("labelSelector").is_set() {
            out.push(format!(
                "{}: a null labelSelector results in matching no pod",
                c.get("labelSelector").path
            ));
        }
    }
}

fn volumes(spec: &Field, out: &mut Vec<String>) {
    const OLD: &[(&str, &str)] = &[
        ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
        ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
        ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
        ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
        ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
        ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
        ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
        ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
        ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ];
    for v in spec.get("volumes").items() {
        for (name, words) in OLD {
            if v.get(name).is_set() {
                out.push(format!("{}: {words}", v.get(name).path));
            }
        }
    }
}

fn container(c: &Field, out: &mut Vec<String>) {
    for list in ["limits", "requests"] {
        for (name, amount) in c.get("resources").get(list).entries() {
            let whole = Quantity::of(amount.value).is_none_or(Quantity::is_integer);
            if !whole && ["memory", "ephemeral-storage"].contains(&name) {
                let text = amount.str();
                out.push(format!(
                    "{}: fractional byte value {text:?} is invalid, must be an integer",
                    amount.path
                ));
            }
        }
    }
    let mut seen: Vec<&str> = Vec::new();
    for e in c.get("env").items() {
        let name = e.get("name").str();
        if seen.contains(&name) {
            // A definition that refers to an earlier one of the same name extends it.
            let refers = e.get("value").str().contains(&format!("$({name})"));
            if !refers {
                out.push(format!(
                    "{}: hides previous definition of {name:?}, which may be dropped when using apply",
                    e.path
                ));
            }
        }
        seen.push(name);
    }
    let ports: Vec<Field> = c.get("ports").items().collect();
    for (i, p) in ports.iter().enumerate() {
        let twin = |q: &&Field| {
            ["containerPort", "protocol", "hostPort", "hostIP"]
                .iter()
                .all(|k| same(q.get(k).value, p.get(k).value))
        };
        if let Some(first) = ports[..i].iter().find(twin) {
            out.push(format!("{}: duplicate port definition with {}", p.path, first.path));
        }
    }
}
