//! admissionregistration.k8s.io/v1 ValidatingAdmissionPolicyBinding.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    group: "admissionregistration.k8s.io",
    kind: "ValidatingAdmissionPolicyBinding",
    plural: "validatingadmissionpolicybindings",
    singular: "validatingadmissionpolicybinding",
    categories: &["api-extensions"],
    namespaced: false,
    schema: "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBinding",
    message: "api.admissionregistration.v1.ValidatingAdmissionPolicyBinding",
    storage: "validatingadmissionpolicybindings",
    ..Kind::BASE
};
