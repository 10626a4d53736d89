//! admissionregistration.k8s.io/v1 MutatingAdmissionPolicyBinding.

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
    ..Kind::BASE
};
