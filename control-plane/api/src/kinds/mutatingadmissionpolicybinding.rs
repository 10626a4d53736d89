//! admissionregistration.k8s.io/v1 MutatingAdmissionPolicyBinding.

use super::{policies, strategy};
use crate::kind::Kind;

pub static KIND: Kind = Kind {
    group: "admissionregistration.k8s.io",
    kind: "MutatingAdmissionPolicyBinding",
    plural: "mutatingadmissionpolicybindings",
    singular: "mutatingadmissionpolicybinding",
    categories: &["api-extensions"],
    namespaced: false,
    schema: "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicyBinding",
    message: "api.admissionregistration.v1.MutatingAdmissionPolicyBinding",
    storage: "mutatingadmissionpolicybindings",
    default: policies::default_binding,
    prepare_create: strategy::first_generation,
    prepare_update: |new, old| strategy::count(new, old, |v| v["spec"].clone()),
    validate: policies::mutating_binding,
    cells: policies::binding_cells,
    generation: true,
    ..Kind::BASE
};
