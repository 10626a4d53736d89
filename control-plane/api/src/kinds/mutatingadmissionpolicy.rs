//! admissionregistration.k8s.io/v1 MutatingAdmissionPolicy.

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
    ..Kind::BASE
};
