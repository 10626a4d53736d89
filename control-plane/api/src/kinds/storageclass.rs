//! storage.k8s.io/v1 StorageClass.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    group: "storage.k8s.io",
    kind: "StorageClass",
    plural: "storageclasses",
    singular: "storageclass",
    short_names: &["sc"],
    namespaced: false,
    schema: "io.k8s.api.storage.v1.StorageClass",
    message: "api.storage.v1.StorageClass",
    storage: "storageclasses",
    ..Kind::BASE
};
