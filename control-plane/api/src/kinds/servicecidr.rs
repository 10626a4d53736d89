//! networking.k8s.io/v1 ServiceCIDR.

use crate::kind::{Act, Kind, Subresource};

pub static KIND: Kind = Kind {
    group: "networking.k8s.io",
    kind: "ServiceCIDR",
    plural: "servicecidrs",
    singular: "servicecidr",
    namespaced: false,
    schema: "io.k8s.api.networking.v1.ServiceCIDR",
    message: "api.networking.v1.ServiceCIDR",
    storage: "servicecidrs",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    ..Kind::BASE
};
