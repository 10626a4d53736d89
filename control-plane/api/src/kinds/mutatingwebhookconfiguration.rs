//! admissionregistration.k8s.io/v1 MutatingWebhookConfiguration.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    group: "admissionregistration.k8s.io",
    kind: "MutatingWebhookConfiguration",
    plural: "mutatingwebhookconfigurations",
    singular: "mutatingwebhookconfiguration",
    categories: &["api-extensions"],
    namespaced: false,
    schema: "io.k8s.api.admissionregistration.v1.MutatingWebhookConfiguration",
    message: "api.admissionregistration.v1.MutatingWebhookConfiguration",
    storage: "mutatingwebhookconfigurations",
    ..Kind::BASE
};
