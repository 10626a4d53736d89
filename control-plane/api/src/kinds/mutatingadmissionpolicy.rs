//! admissionregistration.k8s.io/v1 MutatingAdmissionPolicy.

use super::{policies, strategy};
use crate::kind::Kind;

pub static KIND: Kind = Kind {
    group: "admissionregistration.k8s.io",
    kind: "MutatingAdmissionPolicy",
    plural: "mutatingadmissionpolicies",
    singular: "mutatingadmissionpolicy",
    categories: &["api-extensions"],
    namespaced: false,
    schema: "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicy",
    message: "api.admissionregistration.v1.MutatingAdmissionPolicy",
    storage: "mutatingadmissionpolicies",
    default: policies::default,
    prepare_create: strategy::first_generation,
    prepare_update: |new, old| strategy::count(new, old, |v| v["spec"].clone()),

    validate: policies::mutating,
    cells: policies::mutating_cells,
    generation: true,
    ..Kind::BASE
};
