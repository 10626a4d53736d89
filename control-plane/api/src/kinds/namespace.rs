//! v1 Namespace.

use crate::kind::{Act, Kind, Subresource};

pub static KIND: Kind = Kind {
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    namespaced: false,
    verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
    schema: "io.k8s.api.core.v1.Namespace",
    message: "api.core.v1.Namespace",
    storage: "namespaces",
    subresources: &[
        Subresource { name: "finalize", verbs: &["update"], act: Act::Finalize },
        Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status },
    ],
    ..Kind::BASE
};
