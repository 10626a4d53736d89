//! v1 PersistentVolumeClaim.

use crate::kind::{Act, Kind, Subresource};

pub static KIND: Kind = Kind {
    kind: "PersistentVolumeClaim",
    plural: "persistentvolumeclaims",
    singular: "persistentvolumeclaim",
    short_names: &["pvc"],
    schema: "io.k8s.api.core.v1.PersistentVolumeClaim",
    message: "api.core.v1.PersistentVolumeClaim",
    storage: "persistentvolumeclaims",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    ..Kind::BASE
};
