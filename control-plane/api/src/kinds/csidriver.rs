//! storage.k8s.io/v1 CSIDriver.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    group: "storage.k8s.io",
    kind: "CSIDriver",
    plural: "csidrivers",
    singular: "csidriver",
    namespaced: false,
    schema: "io.k8s.api.storage.v1.CSIDriver",
    message: "api.storage.v1.CSIDriver",
    storage: "csidrivers",
    ..Kind::BASE
};
