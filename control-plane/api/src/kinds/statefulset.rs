//! apps/v1 StatefulSet.

use crate::kind::{Act, Kind, Subresource};

pub static KIND: Kind = Kind {
    group: "apps",
    kind: "StatefulSet",
    plural: "statefulsets",
    singular: "statefulset",
    short_names: &["sts"],
    categories: &["all"],
    schema: "io.k8s.api.apps.v1.StatefulSet",
    message: "api.apps.v1.StatefulSet",
    storage: "statefulsets",
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
