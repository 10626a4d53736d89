//! discovery.k8s.io/v1 EndpointSlice.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    schema: "io.k8s.api.discovery.v1.EndpointSlice",
    message: "api.discovery.v1.EndpointSlice",
    storage: "endpointslices",
    ..Kind::BASE
};
