//! v1 Node.

use crate::kind::{Act, Kind, Subresource};

pub static KIND: Kind = Kind {
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    namespaced: false,
    schema: "io.k8s.api.core.v1.Node",
    message: "api.core.v1.Node",
    storage: "nodes",
    subresources: &[
        Subresource {
            name: "proxy",
            verbs: &["create", "delete", "get", "patch", "update"],
            act: Act::Proxy,
        },
        Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status },
    ],
    ..Kind::BASE
};
