//! v1 Pod.

use crate::kind::{Act, Kind, Subresource};

pub static KIND: Kind = Kind {
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    schema: "io.k8s.api.core.v1.Pod",
    message: "api.core.v1.Pod",
    storage: "pods",
    subresources: &[
        Subresource { name: "attach", verbs: &["create", "get"], act: Act::Attach },
        Subresource { name: "binding", verbs: &["create"], act: Act::Binding },
        Subresource {
            name: "ephemeralcontainers",
            verbs: &["get", "patch", "update"],
            act: Act::EphemeralContainers,
        },
        Subresource { name: "eviction", verbs: &["create"], act: Act::Eviction },
        Subresource { name: "exec", verbs: &["create", "get"], act: Act::Exec },
        Subresource { name: "log", verbs: &["get"], act: Act::Log },
        Subresource { name: "portforward", verbs: &["create", "get"], act: Act::PortForward },
        Subresource {
            name: "proxy",
            verbs: &["create", "delete", "get", "patch", "update"],
            act: Act::Proxy,
        },
        Subresource { name: "resize", verbs: &["get", "patch", "update"], act: Act::Resize },
        Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status },
    ],
    ..Kind::BASE
};
