//! storage.k8s.io/v1 CSIDriver.

use super::{cells as c, strategy};
use crate::kind::Kind;
use crate::kind::Printing;
use crate::validate::{Field, Seen, volume};
use crate::{field::ErrorList, pod::defaults as d};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    group: "storage.k8s.io",
    kind: "CSIDriver",
    plural: "csidrivers",
    singular: "csidriver",
    namespaced: false,
    schema: "io.k8s.api.storage.v1.CSIDriver",
    message: "api.storage.v1.CSIDriver",
    storage: "csidrivers",
    default,
    prepare_update: |new, old| {
        strategy::count(new, old, |v| {
            let spec = &v["spec"];
            json!([spec["tokenRequests"], spec["requiresRepublish"], spec["seLinuxMount"]])
        });
    },
    validate,
    validate_update: |new, old| {
        let mut e = strategy::immutable(new, old, &["spec.attachRequired", "spec.volumeLifecycleModes"]);
        // Upstream's path has the word that the field once had.
        for error in e.iter_mut().filter(|error| error.path == "spec.attachRequired") {
            error.path = "spec.attachedRequired".into();
        }
        e
    },
    cells,
    ..Kind::BASE
};

fn default(v: &mut Value) {
    let Some(spec) = d::object(v, "spec") else { return };
    d::unset(spec, "attachRequired", json!(true));
    d::unset(spec, "fsGroupPolicy", json!("ReadWriteOnceWithFSType"));
    for name in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
        d::unset(spec, name, json!(false));
    }
    if spec["volumeLifecycleModes"].as_array().is_none_or(Vec::is_empty) {
        spec["volumeLifecycleModes"] = json!(["Persistent"]);
    }
}

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let s = Field::root(v).get("spec");
    volume::csi_driver(&Field::root(v).get("metadata").get("name"), &mut e);
    s.get("fsGroupPolicy").one_of(&mut e, &["File", "None", "ReadWriteOnceWithFSType"]);
    for mode in s.get("volumeLifecycleModes").items() {
        let at = Field::at(mode.value, s.get("volumeLifecycleModes").path);
        at.one_of(&mut e, &["Ephemeral", "Persistent"]);
    }
    let period = s.get("nodeAllocatableUpdatePeriodSeconds");
    if period.int().is_some_and(|n| n < 10) {
        period.invalid(&mut e, "must be greater than or equal to 10 seconds");
    }
    let mut seen = Seen::default();
    for token in s.get("tokenRequests").items() {
        let (audience, seconds) = (token.get("audience"), token.get("expirationSeconds"));
        seen.once(&audience, &mut e);
        if seconds.int().is_some_and(|n| n < 600) {
            seconds.invalid(&mut e, "may not specify a duration less than 10 minutes");
        }
        if seconds.int().is_some_and(|n| n > 1 << 32) {
            seconds.invalid(&mut e, "may not specify a duration larger than 2^32 seconds");
        }
    }
    e
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    let s = &o["spec"];
    let tokens: Vec<&str> =
        s["tokenRequests"].as_array().into_iter().flatten().filter_map(|t| t["audience"].as_str()).collect();
    vec![
        c::name(o),
        json!(s["attachRequired"] == true),
        json!(s["podInfoOnMount"] == true),
        json!(s["storageCapacity"] == true),
        if tokens.is_empty() { json!("<unset>") } else { json!(tokens.join(",")) },
        json!(s["requiresRepublish"] == true),
        json!(c::joined(&s["volumeLifecycleModes"], ",")),
        c::age(o, p),
    ]
}
