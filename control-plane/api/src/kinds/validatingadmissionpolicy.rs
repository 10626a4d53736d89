//! admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy.

use super::{policies, strategy};
use crate::kind::{Act, Kind, Subresource};

pub static KIND: Kind = Kind {
    group: "admissionregistration.k8s.io",
    kind: "ValidatingAdmissionPolicy",
    plural: "validatingadmissionpolicies",
    singular: "validatingadmissionpolicy",
    categories: &["api-extensions"],
    namespaced: false,
    schema: "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicy",
    message: "api.admissionregistration.v1.ValidatingAdmissionPolicy",
    storage: "validatingadmissionpolicies",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    default: policies::default,
    prepare_create: strategy::create_blank_counted,
    prepare_update: strategy::update_counted,
    prepare_status: strategy::status_only,
    validate: policies::validating,
    cells: policies::validating_cells,
    generation: true,
    ..Kind::BASE
};
