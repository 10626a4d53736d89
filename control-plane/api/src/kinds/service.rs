//! v1 Service.

use crate::kind::{Act, Kind, Subresource};

pub static KIND: Kind = Kind {
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    schema: "io.k8s.api.core.v1.Service",
    message: "api.core.v1.Service",
    storage: "services",
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
