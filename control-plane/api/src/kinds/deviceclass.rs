//! resource.k8s.io/v1 DeviceClass.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    group: "resource.k8s.io",
    kind: "DeviceClass",
    plural: "deviceclasses",
    singular: "deviceclass",
    namespaced: false,
    schema: "io.k8s.api.resource.v1.DeviceClass",
    message: "api.resource.v1.DeviceClass",
    storage: "deviceclasses",
    ..Kind::BASE
};
