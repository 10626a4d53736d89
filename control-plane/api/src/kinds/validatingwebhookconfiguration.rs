//! admissionregistration.k8s.io/v1 ValidatingWebhookConfiguration.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    group: "admissionregistration.k8s.io",
    kind: "ValidatingWebhookConfiguration",
    plural: "validatingwebhookconfigurations",
    singular: "validatingwebhookconfiguration",
    categories: &["api-extensions"],
    namespaced: false,
    schema: "io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration",
    message: "api.admissionregistration.v1.ValidatingWebhookConfiguration",
    storage: "validatingwebhookconfigurations",
    ..Kind::BASE
};
