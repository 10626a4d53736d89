//! v1 ServiceAccount.

use super::cells as c;
use crate::kind::Printing;
use crate::kind::{Act, Kind, Subresource};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    schema: "io.k8s.api.core.v1.ServiceAccount",
    message: "api.core.v1.ServiceAccount",
    storage: "serviceaccounts",
    subresources: &[Subresource { name: "token", verbs: &["create"], act: Act::Token }],
    prepare_create: |v| only_names(v),
    prepare_update: |new, _| only_names(new),
    cells,
    ..Kind::BASE
};

/// Secrets are referred to by name alone.
fn only_names(v: &mut Value) {
    crate::pod::defaults::each(v, "secrets", |s| *s = json!({"name": s["name"]}));
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    vec![c::name(o), c::age(o, p)]
}
