//! apps/v1 ControllerRevision.

use super::{cells as c, strategy};
use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::Printing;
use crate::validate::Field;
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    group: "apps",
    kind: "ControllerRevision",
    plural: "controllerrevisions",
    singular: "controllerrevision",
    schema: "io.k8s.api.apps.v1.ControllerRevision",
    message: "api.apps.v1.ControllerRevision",
    storage: "controllerrevisions",
    validate,
    validate_update: |new, old| strategy::immutable(new, old, &["data"]),
    verbatim: Some("data"),
    cells,
    ..Kind::BASE
};

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let f = Field::root(v);
    if !f.get("data").is_set() {
        f.get("data").required(&mut e, "data is mandatory");
    }
    f.get("revision").non_negative(&mut e);
    e
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    let owner =
        o["metadata"]["ownerReferences"].as_array().into_iter().flatten().find(|r| r["controller"] == true);
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let controller = owner.map_or_else(
        || "<none>".to_owned(),
        |r| {
            let group = text(&r["apiVersion"]);
            let kind = text(&r["kind"]).to_lowercase();
            match group.split_once('/') {
                Some((group, _)) => format!("{kind}.{group}/{}", text(&r["name"])),
                None => format!("{kind}/{}", text(&r["name"])),
            }
        },
    );
    vec![c::name(o), json!(controller), c::int(&o["revision"]), c::age(o, p)]
}
