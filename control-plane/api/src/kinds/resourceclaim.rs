//! resource.k8s.io/v1 ResourceClaim.

use crate::kind::{Act, Kind, Subresource};

pub static KIND: Kind = Kind {
    group: "resource.k8s.io",
    kind: "ResourceClaim",
    plural: "resourceclaims",
    singular: "resourceclaim",
    schema: "io.k8s.api.resource.v1.ResourceClaim",
    message: "api.resource.v1.ResourceClaim",
    storage: "resourceclaims",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    ..Kind::BASE
};
