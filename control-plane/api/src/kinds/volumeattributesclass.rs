//! storage.k8s.io/v1 VolumeAttributesClass.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    group: "storage.k8s.io",
    kind: "VolumeAttributesClass",
    plural: "volumeattributesclasses",
    singular: "volumeattributesclass",
    short_names: &["vac"],
    namespaced: false,
    schema: "io.k8s.api.storage.v1.VolumeAttributesClass",
    message: "api.storage.v1.VolumeAttributesClass",
    storage: "volumeattributesclasses",
    ..Kind::BASE
};
