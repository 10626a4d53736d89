//! flowcontrol.apiserver.k8s.io/v1 PriorityLevelConfiguration.

use crate::kind::{Act, Kind, Subresource};

pub static KIND: Kind = Kind {
    group: "flowcontrol.apiserver.k8s.io",
    kind: "PriorityLevelConfiguration",
    plural: "prioritylevelconfigurations",
    singular: "prioritylevelconfiguration",
    namespaced: false,
    schema: "io.k8s.api.flowcontrol.v1.PriorityLevelConfiguration",
    message: "api.flowcontrol.v1.PriorityLevelConfiguration",
    storage: "prioritylevelconfigurations",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    ..Kind::BASE
};
