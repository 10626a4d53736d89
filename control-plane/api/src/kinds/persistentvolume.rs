//! v1 PersistentVolume.

use super::{cells as c, persistentvolumeclaim as claim, strategy};
use crate::kind::Printing;
use crate::kind::{Act, Kind, Subresource};
use crate::validate::{
    Field, names,
    quantity::{self, Quantity},
    same, scheduling, volume,
};
use crate::{field::ErrorList, pod::defaults as d};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    kind: "PersistentVolume",
    plural: "persistentvolumes",
    singular: "persistentvolume",
    short_names: &["pv"],
    namespaced: false,
    schema: "io.k8s.api.core.v1.PersistentVolume",
    message: "api.core.v1.PersistentVolume",
    storage: "persistentvolumes",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    default,
    prepare_create,
    prepare_update: strategy::update,
    prepare_status,
    validate,
    validate_update,
    cells,
    ..Kind::BASE
};

const SOURCES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
    "flexVolume",
];

fn default(v: &mut Value) {
    if let Some(spec) = d::object(v, "spec") {
        d::zero(spec, "persistentVolumeReclaimPolicy", json!("Retain"));
        d::unset(spec, "volumeMode", json!("Filesystem"));
        d::volume_source(spec);
        d::with(spec, "capacity", d::whole_milli);
    }
    if let Some(status) = d::object(v, "status") {
        d::zero(status, "phase", json!("Pending"));
    }
}

fn prepare_create(v: &mut Value) {
    let now = v["metadata"]["creationTimestamp"].clone();
    strategy::create(v, json!({"phase": "Pending", "lastPhaseTransitionTime": now}));
}

/// The time of the last change of phase is kept by whoever changes it, or follows the write of a managed field.
fn prepare_status(new: &mut Value, old: &Value) {
    strategy::status(new, old);
    let unchanged = same(&new["status"]["phase"], &old["status"]["phase"]);
    if new["status"]["lastPhaseTransitionTime"].is_null() || unchanged {
        let was = old["status"]["lastPhaseTransitionTime"].clone();
        if !was.is_null() && new["status"].is_object() {
            d::unset(&mut new["status"], "lastPhaseTransitionTime", was);
        }
    }
}

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let s = Field::root(v).get("spec");
    claim::access_modes(&s.get("accessModes"), &mut e);
    let capacity = s.get("capacity");
    if capacity.is_empty() {
        capacity.required(&mut e, "");
    } else if capacity.len() > 1 || !capacity.get("storage").is_set() {
        capacity.not_supported(&mut e, &["storage"]);
    }
    for (_, amount) in capacity.entries() {
        quantity::non_negative(&amount, &mut e);
        if Quantity::of(amount.value).is_some_and(|q| q.0 == 0) {
            amount.invalid(&mut e, "must be greater than zero");
        }
    }
    let policy = s.get("persistentVolumeReclaimPolicy");
    policy.one_of(&mut e, &["Delete", "Recycle", "Retain"]);
    affinity(&s, &mut e);
    source(&s, &mut e);
    let root = s.get("hostPath").get("path").str() == "/";
    if root && policy.str() == "Recycle" {
        s.get("hostPath.path").forbidden(&mut e, "may not be 'recycle' for a hostPath mount of '/'");
    }
    let class = s.get("storageClassName");
    if !class.is_empty() {
        class.all(&mut e, names::dns_subdomain(class.str()));
    }
    s.get("volumeMode").one_of(&mut e, &["Block", "Filesystem"]);
    let attributes = s.get("volumeAttributesClassName");
    if attributes.is_set() {
        attributes.all(&mut e, names::dns_subdomain(attributes.str()));
        if !s.get("csi").is_set() {
            s.get("csi").required(&mut e, "has to be specified when using volumeAttributesClassName");
        }
    }
    e
}

fn affinity(s: &Field, e: &mut ErrorList) {
    let f = s.get("nodeAffinity");
    if f.is_set() {
        if f.get("required").is_set() {
            scheduling::node_selector(&f.get("required"), e);
        } else {
            f.get("required").required(e, "must specify required node constraints");
        }
    } else if s.get("local").is_set() {
        f.required(e, "Local volume requires node affinity");
    }
}

fn source(s: &Field, e: &mut ErrorList) {
    let mut found = 0;
    for name in SOURCES {
        let at = s.get(name);
        if !at.is_set() {
            continue;
        }
        found += 1;
        if found > 1 {
            at.forbidden(e, "may not specify more than 1 volume type");
            continue;
        }
        match *name {
            "hostPath" => volume::host_path(&at, e),
            "nfs" => volume::nfs(&at, e),
            "iscsi" => volume::iscsi(&at, e),
            "local" if at.get("path").present(e) => {
                crate::validate::container::no_backsteps(&at.get("path"), e);
            }
            "csi" => {
                volume::csi_driver(&at.get("driver"), e);
                at.get("volumeHandle").present(e);
            }
            _ => {}
        }
    }
    if found == 0 {
        s.required(e, "must specify a volume type");
    }
}

fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let mut e = strategy::immutable(new, old, &["spec.volumeMode"]);
    let s = Field::root(new).get("spec");
    let changed = SOURCES.iter().any(|n| {
        let mut now = new["spec"][*n].clone();
        let was = &old["spec"][*n];
        for secret in ["controllerExpandSecretRef", "nodeExpandSecretRef"] {
            if now.is_object() && was[secret].is_null() {
                now[secret] = Value::Null;
            }
        }
        !same(&now, was)
    });
    if changed {
        let at = Field::at(s.value, s.path.child("persistentvolumesource"));
        at.forbidden(&mut e, "spec.persistentvolumesource is immutable after creation");
    }
    let (now, was) = (s.get("nodeAffinity"), &old["spec"]["nodeAffinity"]);
    if !was.is_null() && !same(now.value, was) {
        now.invalid(&mut e, crate::validate::IMMUTABLE);
    }
    e
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    let (spec, status) = (&o["spec"], &o["status"]);
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let claimed = &spec["claimRef"];
    let by = if claimed.is_object() {
        format!("{}/{}", text(&claimed["namespace"]), text(&claimed["name"]))
    } else {
        String::new()
    };
    let phase = if o["metadata"]["deletionTimestamp"].is_null() {
        c::text(&status["phase"])
    } else {
        json!("Terminating")
    };
    vec![
        c::name(o),
        c::text(&spec["capacity"]["storage"]),
        json!(claim::mode_words(&spec["accessModes"])),
        c::text(&spec["persistentVolumeReclaimPolicy"]),
        phase,
        json!(by),
        c::text(&spec["storageClassName"]),
        c::text_or(&spec["volumeAttributesClassName"], "<unset>"),
        c::text(&status["reason"]),
        c::age(o, p),
        c::text_or(&spec["volumeMode"], "<unset>"),
    ]
}
