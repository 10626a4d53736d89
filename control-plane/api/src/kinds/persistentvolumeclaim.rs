//! v1 PersistentVolumeClaim.

use super::{cells as c, strategy};
use crate::kind::Printing;
use crate::kind::{Act, Kind, Subresource};
use crate::validate::{Field, names, quantity::Quantity, same, selector};
use crate::{
    field::{self, ErrorList},
    pod::defaults as d,
};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    kind: "PersistentVolumeClaim",
    plural: "persistentvolumeclaims",
    singular: "persistentvolumeclaim",
    short_names: &["pvc"],
    schema: "io.k8s.api.core.v1.PersistentVolumeClaim",
    message: "api.core.v1.PersistentVolumeClaim",
    storage: "persistentvolumeclaims",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    default,
    prepare_create,
    prepare_update: strategy::update,
    prepare_status: strategy::status,
    validate,
    validate_update,
    warnings,
    cells,
    ..Kind::BASE
};

const MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

fn default(v: &mut Value) {
    if let Some(status) = d::object(v, "status") {
        d::zero(status, "phase", json!("Pending"));
    }
    if let Some(spec) = d::object(v, "spec") {
        d::unset(spec, "volumeMode", json!("Filesystem"));
        d::object(spec, "resources");
        d::with(spec, "resources", d::resource_lists);
    }
}

fn is_known(source: &Value) -> bool {
    let group = source["apiGroup"].as_str().unwrap_or_default();
    (group.is_empty() && source["kind"] == "PersistentVolumeClaim")
        || (group == "snapshot.storage.k8s.io" && source["kind"] == "VolumeSnapshot")
}

/// `dataSource` and `dataSourceRef` say the same within one namespace; the former is dropped when it names what
/// only the latter can.
fn sources(spec: &mut Value) {
    let (old, new) = (spec["dataSource"].clone(), spec["dataSourceRef"].clone());
    if old.is_object() && new.is_null() {
        if is_known(&old) {
            spec["dataSourceRef"] = old;
        } else if let Some(map) = spec.as_object_mut() {
            map.remove("dataSource");
            map.remove("dataSourceRef");
        }
    } else if old.is_null() && new.is_object() && new["namespace"].as_str().is_none_or(str::is_empty) {
        spec["dataSource"] = new;
    } else if let Some(map) = spec.as_object_mut() {
        map.retain(|_, v| !v.is_null());
    }
}

fn prepare_create(v: &mut Value) {
    strategy::create(v, json!({"phase": "Pending"}));
    if v["spec"].is_object() {
        sources(&mut v["spec"]);
    }
}

fn validate(v: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    claim_spec(&Field::root(v).get("spec"), &mut errors);
    errors
}

/// Access modes of a claim or volume.
pub(super) fn access_modes(f: &Field, errors: &mut ErrorList) {
    if f.is_empty() {
        f.required(errors, "at least 1 access mode is required");
    }
    let mut single = false;
    for mode in f.items() {
        // Upstream's path leaves the index out.
        Field::at(mode.value, f.path.clone()).one_of(errors, MODES);
        single |= mode.str() == "ReadWriteOncePod";
    }
    if single && f.len() > 1 {
        f.forbidden(errors, "may not use ReadWriteOncePod with other access modes");
    }
}

/// The spec of a claim, alone or in a template.
pub(crate) fn claim_spec(f: &Field, errors: &mut ErrorList) {
    access_modes(&f.get("accessModes"), errors);
    selector::label_selector(&f.get("selector"), errors);
    let asked = f.get("resources").get("requests").get("storage");
    // Upstream's path leaves `requests` out.
    let at = Field::at(asked.value, f.get("resources").path.key("storage"));
    match Quantity::of(asked.value) {
        None => at.required(errors, ""),
        Some(q) if q.0 <= 0 => at.invalid(errors, "must be greater than zero"),
        Some(_) => {}
    }
    let class = f.get("storageClassName");
    if !class.is_empty() {
        class.all(errors, names::dns_subdomain(class.str()));
    }
    f.get("volumeMode").one_of(errors, &["Block", "Filesystem"]);
    for name in ["dataSource", "dataSourceRef"] {
        source(&f.get(name), errors);
    }
    let attributes = f.get("volumeAttributesClassName");
    if !attributes.is_empty() {
        attributes.all(errors, names::dns_subdomain(attributes.str()));
    }
}

fn source(f: &Field, errors: &mut ErrorList) {
    if !f.is_set() {
        return;
    }
    f.get("name").present(errors);
    f.get("kind").present(errors);
    let (group, kind) = (f.get("apiGroup"), f.get("kind").str());
    if group.is_empty() && !kind.is_empty() && kind != "PersistentVolumeClaim" {
        f.invalid(errors, "must be 'PersistentVolumeClaim' when referencing the default apiGroup");
    }
}

/// A bound claim may only ask for more; an unbound one may still be bound.
fn validate_update(new: &Value, old: &Value) -> ErrorList {
    const WORDS: &str = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
    let mut e = ErrorList::new();
    let f = Field::root(new).get("spec");
    let (mut now, was) = (new["spec"].clone(), &old["spec"]);
    if was["volumeName"].as_str().is_none_or(str::is_empty) {
        now["volumeName"] = was["volumeName"].clone();
    }
    if was["storageClassName"].is_null() {
        now["storageClassName"] = Value::Null;
    }
    now["volumeAttributesClassName"] = was["volumeAttributesClassName"].clone();
    if old["status"]["phase"] == "Bound" {
        let (asked, had) =
            (&now["resources"]["requests"]["storage"], &was["resources"]["requests"]["storage"]);
        let capacity = Quantity::of(&old["status"]["capacity"]["storage"]);
        let less = Quantity::of(asked) < Quantity::of(had) && Quantity::of(asked) <= capacity;
        if less {
            let at = f.get("resources").get("requests").get("storage");
            let at = Field::at(at.value, f.path.child("resources").child("requests").child("storage"));
            at.forbidden(&mut e, "field can not be less than status.capacity");
        }
        now["resources"]["requests"] = was["resources"]["requests"].clone();
    }
    if !same(&now, was) {
        f.forbidden(&mut e, WORDS);
    }
    e
}

fn warnings(new: &Value, _: Option<&Value>) -> Vec<String> {
    let mut out = Vec::new();
    let notes = Field::root(new).get("metadata").get("annotations");
    let old = "volume.beta.kubernetes.io/storage-class";
    if notes.get(old).is_set() {
        out.push(format!(
            "{}: deprecated since v1.8; use \"storageClassName\" attribute instead",
            notes.path.key(old)
        ));
    }
    let asked = Field::root(new).get("spec").get("resources").get("requests").get("storage");
    if Quantity::of(asked.value).is_some_and(|q| !q.is_integer()) {
        let at = field::Path::new("spec").child("resources").child("requests").key("storage");
        out.push(format!("{at}: fractional byte value {:?} is invalid, must be an integer", asked.str()));
    }
    out
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    let (spec, status) = (&o["spec"], &o["status"]);
    let bound = spec["volumeName"].as_str().is_some_and(|n| !n.is_empty());
    let phase = if o["metadata"]["deletionTimestamp"].is_null() {
        c::text(&status["phase"])
    } else {
        json!("Terminating")
    };
    let (capacity, modes) = if bound {
        (c::text(&status["capacity"]["storage"]), json!(mode_words(&status["accessModes"])))
    } else {
        (json!(""), json!(""))
    };
    vec![
        c::name(o),
        phase,
        c::text(&spec["volumeName"]),
        capacity,
        modes,
        c::text(&spec["storageClassName"]),
        c::text_or(&spec["volumeAttributesClassName"], "<unset>"),
        c::age(o, p),
        c::text_or(&spec["volumeMode"], "<unset>"),
    ]
}

/// `RWO,ROX`.
pub(super) fn mode_words(modes: &Value) -> String {
    const SHORT: &[(&str, &str)] = &[
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let has = |m: &str| modes.as_array().is_some_and(|l| l.iter().any(|x| x == m));
    let words: Vec<&str> = SHORT.iter().filter(|(m, _)| has(m)).map(|(_, s)| *s).collect();
    words.join(",")
}
