//! node.k8s.io/v1 RuntimeClass.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    group: "node.k8s.io",
    kind: "RuntimeClass",
    plural: "runtimeclasses",
    singular: "runtimeclass",
    namespaced: false,
    schema: "io.k8s.api.node.v1.RuntimeClass",
    message: "api.node.v1.RuntimeClass",
    storage: "runtimeclasses",
    ..Kind::BASE
};
