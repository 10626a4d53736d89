//! storage.k8s.io/v1 VolumeAttachment.

use crate::kind::{Act, Kind, Subresource};

pub static KIND: Kind = Kind {
    group: "storage.k8s.io",
    kind: "VolumeAttachment",
    plural: "volumeattachments",
    singular: "volumeattachment",
    namespaced: false,
    schema: "io.k8s.api.storage.v1.VolumeAttachment",
    message: "api.storage.v1.VolumeAttachment",
    storage: "volumeattachments",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    ..Kind::BASE
};
