//! admissionregistration.k8s.io/v1 ValidatingWebhookConfiguration.

use super::{strategy, webhooks};
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
    default: webhooks::default,
    prepare_create: strategy::first_generation,
    prepare_update: |new, old| strategy::count(new, old, |v| v["webhooks"].clone()),
    validate: webhooks::validate,
    cells: webhooks::cells,
    generation: true,
    ..Kind::BASE
};
