//! policy/v1 PodDisruptionBudget.

use crate::kind::{Act, Kind, Subresource};

pub static KIND: Kind = Kind {
    group: "policy",
    kind: "PodDisruptionBudget",
    plural: "poddisruptionbudgets",
    singular: "poddisruptionbudget",
    short_names: &["pdb"],
    schema: "io.k8s.api.policy.v1.PodDisruptionBudget",
    message: "api.policy.v1.PodDisruptionBudget",
    storage: "poddisruptionbudgets",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    ..Kind::BASE
};
