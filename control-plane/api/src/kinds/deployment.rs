//! apps/v1 Deployment.

use crate::kind::{Act, Kind, Subresource};

pub static KIND: Kind = Kind {
    group: "apps",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    schema: "io.k8s.api.apps.v1.Deployment",
    message: "api.apps.v1.Deployment",
    storage: "deployments",
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
