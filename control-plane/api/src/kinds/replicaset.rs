//! apps/v1 ReplicaSet.

use crate::kind::{Act, Kind, Subresource};

pub static KIND: Kind = Kind {
    group: "apps",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    short_names: &["rs"],
    categories: &["all"],
    schema: "io.k8s.api.apps.v1.ReplicaSet",
    message: "api.apps.v1.ReplicaSet",
    storage: "replicasets",
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
