//! rbac.authorization.k8s.io/v1 ClusterRole.

use super::{cells as c, rbac};
use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::NameRule;
use crate::validate::{Field, selector};
use serde_json::Value;

pub static KIND: Kind = Kind {
    group: "rbac.authorization.k8s.io",
    kind: "ClusterRole",
    plural: "clusterroles",
    singular: "clusterrole",
    namespaced: false,
    schema: "io.k8s.api.rbac.v1.ClusterRole",
    message: "api.rbac.v1.ClusterRole",
    storage: "clusterroles",
    name: NameRule::PathSegment,
    default: rbac::rules_default,
    validate: check,
    cells: c::name_and_created,
    create_on_update: true,
    ..Kind::BASE
};

fn check(v: &Value) -> ErrorList {
    let mut e = rbac::rules(v, false);
    let aggregation = Field::root(v).get("aggregationRule");
    if aggregation.is_set() {
        let list = aggregation.get("clusterRoleSelectors");
        if list.is_empty() {
            let words = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            list.required(&mut e, words);
        }
        for choice in list.items() {
            selector::label_selector(&choice, &mut e);
        }
    }
    e
}
