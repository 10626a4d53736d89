//! resource.k8s.io/v1 ResourceSlice.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    group: "resource.k8s.io",
    kind: "ResourceSlice",
    plural: "resourceslices",
    singular: "resourceslice",
    namespaced: false,
    schema: "io.k8s.api.resource.v1.ResourceSlice",
    message: "api.resource.v1.ResourceSlice",
    storage: "resourceslices",
    ..Kind::BASE
};
