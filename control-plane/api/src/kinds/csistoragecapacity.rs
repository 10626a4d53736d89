//! storage.k8s.io/v1 CSIStorageCapacity.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    group: "storage.k8s.io",
    kind: "CSIStorageCapacity",
    plural: "csistoragecapacities",
    singular: "csistoragecapacity",
    schema: "io.k8s.api.storage.v1.CSIStorageCapacity",
    message: "api.storage.v1.CSIStorageCapacity",
    storage: "csistoragecapacities",
    ..Kind::BASE
};
