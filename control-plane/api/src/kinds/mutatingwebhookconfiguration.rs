//! admissionregistration.k8s.io/v1 MutatingWebhookConfiguration.

use super::{strategy, webhooks};
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
    default: webhooks::default_mutating,
    prepare_create: strategy::first_generation,
    prepare_update: |new, old| strategy::count(new, old, |v| v["webhooks"].clone()),
    validate: webhooks::validate,
    cells: webhooks::cells,
    generation: true,
    ..Kind::BASE
};
