//! node.k8s.io/v1 RuntimeClass.

use super::{cells as c, strategy};
use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::Printing;
use crate::validate::{Field, names, resources, scheduling, selector};
use serde_json::Value;

pub static KIND: Kind = Kind {
    group: "node.k8s.io",
    kind: "RuntimeClass",
    plural: "runtimeclasses",
    singular: "runtimeclass",
    namespaced: false,
    schema: "io.k8s.api.node.v1.RuntimeClass",
    message: "api.node.v1.RuntimeClass",
    storage: "runtimeclasses",
    validate,
    validate_update: |new, old| strategy::immutable(new, old, &["handler"]),
    cells,
    ..Kind::BASE
};

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let f = Field::root(v);
    let handler = f.get("handler");
    if handler.present(&mut e) {
        handler.all(&mut e, names::dns_label(handler.str()));
    }
    let overhead = f.get("overhead");
    // Upstream checks it as the limits of a container.
    resources::list(&Field::at(overhead.get("podFixed").value, overhead.path.child("limits")), &mut e);
    let placed = f.get("scheduling");
    selector::labels(&placed.get("nodeSelector"), &mut e);
    let tolerations = placed.get("tolerations");
    scheduling::tolerations(&tolerations, &mut e);
    let all: Vec<Field> = tolerations.items().collect();
    for (i, toleration) in all.iter().enumerate() {
        if all.iter().take(i).any(|other| other.value == toleration.value) {
            toleration.duplicate(&mut e);
        }
    }
    e
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    vec![c::name(o), c::text(&o["handler"]), c::age(o, p)]
}
