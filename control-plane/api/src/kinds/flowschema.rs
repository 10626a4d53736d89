//! flowcontrol.apiserver.k8s.io/v1 FlowSchema.

use crate::kind::{Act, Kind, Subresource};

pub static KIND: Kind = Kind {
    group: "flowcontrol.apiserver.k8s.io",
    kind: "FlowSchema",
    plural: "flowschemas",
    singular: "flowschema",
    namespaced: false,
    schema: "io.k8s.api.flowcontrol.v1.FlowSchema",
    message: "api.flowcontrol.v1.FlowSchema",
    storage: "flowschemas",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    ..Kind::BASE
};
