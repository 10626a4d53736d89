//! v1 PersistentVolume.

use crate::kind::{Act, Kind, Subresource};

pub static KIND: Kind = Kind {
    kind: "PersistentVolume",
    plural: "persistentvolumes",
    singular: "persistentvolume",
    short_names: &["pv"],
    namespaced: false,
    schema: "io.k8s.api.core.v1.PersistentVolume",
    message: "api.core.v1.PersistentVolume",
    storage: "persistentvolumes",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    ..Kind::BASE
};
