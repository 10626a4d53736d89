//! scheduling.k8s.io/v1 PriorityClass.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    group: "scheduling.k8s.io",
    kind: "PriorityClass",
    plural: "priorityclasses",
    singular: "priorityclass",
    short_names: &["pc"],
    namespaced: false,
    schema: "io.k8s.api.scheduling.v1.PriorityClass",
    message: "api.scheduling.v1.PriorityClass",
    storage: "priorityclasses",
    ..Kind::BASE
};
