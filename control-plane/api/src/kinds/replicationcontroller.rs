//! v1 ReplicationController.

use crate::kind::{Act, Kind, Subresource};

pub static KIND: Kind = Kind {
    kind: "ReplicationController",
    plural: "replicationcontrollers",
    singular: "replicationcontroller",
    short_names: &["rc"],
    categories: &["all"],
    schema: "io.k8s.api.core.v1.ReplicationController",
    message: "api.core.v1.ReplicationController",
    storage: "replicationcontrollers",
    subresources: &[
        Subresource {
            name: "scale",
            verbs: &["get", "patch", "update"],
            act: Act::Scale {
                spec: "/spec/replicas",
                status: "/status/replicas",
                selector: "/spec/selector",
            },
        },
        Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status },
    ],
    ..Kind::BASE
};
