//! storage.k8s.io/v1 VolumeAttachment.

use super::{cells as c, strategy};
use crate::field::ErrorList;
use crate::kind::Printing;
use crate::kind::{Act, Kind, Subresource};
use crate::validate::{Field, names, volume};
use serde_json::{Value, json};

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
    prepare_create: |v| strategy::create(v, json!({"attached": false})),
    prepare_update: strategy::update,
    prepare_status: strategy::status_only,
    validate,
    validate_status: |new, _| status(new),
    validate_update: |new, old| strategy::immutable(new, old, &["spec"]),
    cells,
    ..Kind::BASE
};

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let s = Field::root(v).get("spec");
    volume::csi_driver(&s.get("attacher"), &mut e);
    let (name, inline) =
        (s.get("source").get("persistentVolumeName"), s.get("source").get("inlineVolumeSpec"));
    match (name.is_set(), inline.is_set()) {
        (false, false) => s
            .get("source")
            .required(&mut e, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
        (true, true) => s
            .get("source")
            .forbidden(&mut e, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
        (true, false) => {
            if name.is_empty() {
                name.required(&mut e, "must specify non empty persistentVolumeName");
            } else {
                name.all(&mut e, names::dns_subdomain(name.str()));
            }
        }
        (false, true) => {}
    }
    s.get("nodeName").all(&mut e, names::dns_subdomain(s.get("nodeName").str()));
    e
}

/// What attaching said: bounded metadata and messages.
fn status(v: &Value) -> ErrorList {
    const METADATA_MAX: usize = 256 * 1024;
    const MESSAGE_MAX: usize = 1024;
    let mut e = ErrorList::new();
    let s = Field::root(v).get("status");
    let metadata = s.get("attachmentMetadata");
    if metadata.entries().map(|(key, value)| key.len() + value.len()).sum::<usize>() > METADATA_MAX {
        metadata.too_long(&mut e, METADATA_MAX);
    }
    for name in ["attachError", "detachError"] {
        let (message, code) = (s.get(name).get("message"), s.get(name).get("errorCode"));
        if message.len() > MESSAGE_MAX {
            message.too_long(&mut e, MESSAGE_MAX);
        }
        if code.num() < 0 {
            code.invalid(&mut e, "must be between 0 and 2147483647, inclusive");
        }
    }
    e
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    let s = &o["spec"];
    vec![
        c::name(o),
        c::text(&s["attacher"]),
        c::text(&s["source"]["persistentVolumeName"]),
        c::text(&s["nodeName"]),
        json!(o["status"]["attached"] == true),
        c::age(o, p),
    ]
}
