//! networking.k8s.io/v1 Ingress.

use crate::kind::{Act, Kind, Subresource};

pub static KIND: Kind = Kind {
    group: "networking.k8s.io",
    kind: "Ingress",
    plural: "ingresses",
    singular: "ingress",
    short_names: &["ing"],
    schema: "io.k8s.api.networking.v1.Ingress",
    message: "api.networking.v1.Ingress",
    storage: "ingresses",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    ..Kind::BASE
};
