//! What may change in a pod once it exists.

use serde_json::{Value, json};

use super::dump;

use crate::{
    field::{self, ErrorList, Path},
    validate::{Field, same},
};

const SPEC_CHANGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Update of the pod itself.
pub fn spec(new: &Value, old: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let f = Field::root(new).get("spec");
    for list in ["containers", "initContainers"] {
        let was = old["spec"][list].as_array().map_or(0, Vec::len);
        if f.get(list).len() != was {
            f.get(list).forbidden(&mut e, "pod updates may not add or remove containers");
        }
    }
    if !e.is_empty() {
        return e;
    }
    deadline(&f, old, &mut e);
    gates(&f, old, &mut e);
    tolerations(&f, old, &mut e);
    let mut munged = new["spec"].clone();
    for list in ["containers", "initContainers"] {
        for (i, c) in munged[list].as_array_mut().into_iter().flatten().enumerate() {
            c["image"] = old["spec"][list][i]["image"].clone();
        }
    }
    for name in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        munged[name] = old["spec"][name].clone();
    }
    let grace = "terminationGracePeriodSeconds";
    if old["spec"][grace].as_i64().is_some_and(|n| n < 0) && munged[grace] == 1 {
        munged[grace] = old["spec"][grace].clone();
    }
    if old["spec"]["schedulingGates"].as_array().is_some_and(|g| !g.is_empty()) {
        gated(&mut munged, old);
    }
    if !same(&munged, &old["spec"]) {
        let shown = dump::spec(&old["spec"], &munged);
        f.forbidden(&mut e, format!("{SPEC_CHANGE}\n{shown}"));
    }
    e
}

/// A pod that waits at a gate may still be narrowed in where it runs.
fn gated(munged: &mut Value, old: &Value) {
    let was = &old["spec"]["nodeSelector"];
    let kept = was.as_object().into_iter().flatten().all(|(k, v)| munged["nodeSelector"].get(k) == Some(v));
    if kept {
        munged["nodeSelector"] = was.clone();
    }
    let narrow = |spec: &Value| spec["affinity"]["nodeAffinity"].clone();
    if !same(&narrow(munged), &narrow(&old["spec"])) && narrowed(&narrow(munged), &narrow(&old["spec"])) {
        munged["affinity"]["nodeAffinity"] = narrow(&old["spec"]);
        if same(&munged["affinity"], &json!({"nodeAffinity": null})) {
            munged["affinity"] = Value::Null;
        }
    }
}

/// Every required term still holds what it held, and may hold more.
fn narrowed(new: &Value, old: &Value) -> bool {
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let terms = |v: &Value| v[required]["nodeSelectorTerms"].as_array().cloned().unwrap_or_default();
    let (now, was) = (terms(new), terms(old));
    was.is_empty()
        || (now.len() == was.len()
            && now.iter().zip(&was).all(|(n, o)| {
                ["matchExpressions", "matchFields"].iter().all(|list| {
                    let all = |v: &Value| v[*list].as_array().cloned().unwrap_or_default();
                    all(o).iter().all(|r| all(n).contains(r))
                })
            }))
}

fn deadline(f: &Field, old: &Value, e: &mut ErrorList) {
    let now = f.get("activeDeadlineSeconds");
    let Some(was) = old["spec"]["activeDeadlineSeconds"].as_i64() else { return };
    match now.int() {
        Some(n) if n > was => now.invalid(e, "must be less than or equal to previous value"),
        None => now.invalid(e, "must not update from a positive integer to nil value"),
        _ => {}
    }
}

fn gates(f: &Field, old: &Value, e: &mut ErrorList) {
    let was = old["spec"]["schedulingGates"].as_array().cloned().unwrap_or_default();
    for gate in f.get("schedulingGates").items() {
        if !was.iter().any(|g| g["name"] == *gate.get("name").value) {
            let name = gate.get("name");
            let words = format!("only deletion is allowed, but found new scheduling gate '{}'", name.str());
            name.forbidden(e, words);
        }
    }
}

/// Tolerations may be added; of those that were there only the seconds may change.
fn tolerations(f: &Field, old: &Value, e: &mut ErrorList) {
    let bare = |t: &Value| {
        let mut t = t.clone();
        if let Some(map) = t.as_object_mut() {
            map.remove("tolerationSeconds");
        }
        t
    };
    let now: Vec<Value> = f.get("tolerations").items().map(|t| bare(t.value)).collect();
    for was in old["spec"]["tolerations"].as_array().into_iter().flatten() {
        if !now.iter().any(|n| same(n, &bare(was))) {
            let at = f.get("tolerations");
            at.forbidden(e, "existing toleration can not be modified except its tolerationSeconds");
            return;
        }
    }
}

/// Update of `/status`.
pub fn status(new: &Value, old: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let f = Field::root(new);
    let nominated = f.get("status").get("nominatedNodeName");
    if !nominated.is_empty() {
        nominated.all(&mut e, crate::validate::names::dns_subdomain(nominated.str()));
    }
    if !same(&new["spec"]["nodeName"], &old["spec"]["nodeName"]) {
        f.get("spec").get("nodeName").forbidden(&mut e, "may not be changed directly");
    }
    let qos = f.get("status").get("qosClass");
    let was = &old["status"]["qosClass"];
    if was.as_str().is_some_and(|q| !q.is_empty()) && !same(qos.value, was) {
        qos.invalid_text(&mut e, crate::validate::IMMUTABLE);
    }
    for ip in f.get("status").get("podIPs").items() {
        crate::validate::net::ip(&Field::at(ip.get("ip").value, ip.path.clone()), &mut e);
    }
    let restart = new["spec"]["restartPolicy"].as_str().unwrap_or_default();
    if restart == "Never" {
        transitions(&f, old, "containerStatuses", &mut e);
    }
    e
}

/// A container that has ended and may not be restarted stays so.
fn transitions(f: &Field, old: &Value, list: &str, e: &mut ErrorList) {
    for status in f.get("status").get(list).items() {
        let was = old["status"][list]
            .as_array()
            .into_iter()
            .flatten()
            .find(|s| s["name"] == *status.get("name").value);
        let over = was.is_some_and(|w| !w["state"]["terminated"].is_null());
        if over && !status.get("state").get("terminated").is_set() {
            let at = status.get("state");
            at.forbidden(e, "may not be transitioned to non-terminated state");
        }
    }
}

/// Update of `/ephemeralcontainers`: they may only be added.
pub fn ephemeral_containers(new: &Value, old: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("spec").child("ephemeralContainers");
    let now = new["spec"]["ephemeralContainers"].as_array().cloned().unwrap_or_default();
    for was in old["spec"]["ephemeralContainers"].as_array().into_iter().flatten() {
        let name = was["name"].as_str().unwrap_or_default();
        match now.iter().find(|c| c["name"] == was["name"]) {
            None => e.push(field::forbidden(
                &path,
                format!("existing ephemeral containers {name:?} may not be removed\n"),
            )),
            Some(c) if !same(c, was) => e.push(field::forbidden(
                &path,
                format!(
                    "existing ephemeral containers {name:?} may not be changed\n{}",
                    dump::ephemeral(was, c)
                ),
            )),
            Some(_) => {}
        }
    }
    e
}

/// What an update of `/ephemeralcontainers` takes from the old object: everything but those containers.
pub fn prepare_ephemeral_containers(new: &mut Value, old: &Value) {
    let containers = new["spec"]["ephemeralContainers"].take();
    let mut kept = old.clone();
    if let Some(spec) = kept["spec"].as_object_mut() {
        if containers.is_null() {
            spec.remove("ephemeralContainers");
        } else {
            spec.insert("ephemeralContainers".into(), containers);
        }
    }
    finish(new, kept, old);
}

/// The kept object takes the place of the new one; a changed spec is a new generation.
fn finish(new: &mut Value, mut kept: Value, old: &Value) {
    kept["metadata"]["resourceVersion"] = new["metadata"]["resourceVersion"].clone();
    if !same(&kept["spec"], &old["spec"]) {
        kept["metadata"]["generation"] =
            json!(old["metadata"]["generation"].as_i64().unwrap_or_default() + 1);
    }
    *new = kept;
}

/// What an update of `/resize` takes from the old object: everything but the containers' resources and policies.
pub fn prepare_resize(new: &mut Value, old: &Value) {
    let mut kept = old.clone();
    for list in ["containers", "initContainers"] {
        for c in kept["spec"][list].as_array_mut().into_iter().flatten() {
            let asked = new["spec"][list].as_array().into_iter().flatten().find(|n| n["name"] == c["name"]);
            if let Some(asked) = asked {
                c["resources"] = asked["resources"].clone();
                if !asked["resizePolicy"].is_null() {
                    c["resizePolicy"] = asked["resizePolicy"].clone();
                }
            }
        }
    }
    finish(new, kept, old);
}

/// Update of `/resize`: the quality of service stays, and only processor and memory change.
pub fn resize(new: &Value, old: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let spec = Field::root(new).get("spec");
    if super::qos::class(new) != super::qos::class(old) {
        spec.invalid(&mut e, "Pod QOS Class may not change as a result of resizing");
    }
    for c in spec.get("containers").items() {
        let was = old["spec"]["containers"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|o| o["name"] == *c.get("name").value);
        let Some(was) = was else { continue };
        for list in ["limits", "requests"] {
            let at = c.get("resources").get(list);
            for (name, amount) in at.entries() {
                let changed = !same(amount.value, &was["resources"][list][name]);
                if changed && name != "cpu" && name != "memory" {
                    spec.forbidden(&mut e, "only cpu and memory resources are mutable");
                }
            }
            for name in ["cpu", "memory"] {
                if !was["resources"][list][name].is_null() && at.value.get(name).is_none() {
                    at.forbidden(&mut e, format!("resource {list} cannot be removed"));
                }
            }
        }
    }
    e
}
