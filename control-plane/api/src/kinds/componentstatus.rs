//! v1 ComponentStatus.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    kind: "ComponentStatus",
    plural: "componentstatuses",
    singular: "componentstatus",
    short_names: &["cs"],
    namespaced: false,
    verbs: &["get", "list"],
    schema: "io.k8s.api.core.v1.ComponentStatus",
    message: "api.core.v1.ComponentStatus",
    storage: "componentstatuses",
    ..Kind::BASE
};
