//! storage.k8s.io/v1 CSINode.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    group: "storage.k8s.io",
    kind: "CSINode",
    plural: "csinodes",
    singular: "csinode",
    namespaced: false,
    schema: "io.k8s.api.storage.v1.CSINode",
    message: "api.storage.v1.CSINode",
    storage: "csinodes",
    ..Kind::BASE
};
