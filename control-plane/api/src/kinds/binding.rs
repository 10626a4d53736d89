//! v1 Binding.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    kind: "Binding",
    plural: "bindings",
    singular: "binding",
    verbs: &["create"],
    schema: "io.k8s.api.core.v1.Binding",
    message: "api.core.v1.Binding",
    storage: "bindings",
    ..Kind::BASE
};
