//! authentication.k8s.io/v1 SelfSubjectReview.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    group: "authentication.k8s.io",
    kind: "SelfSubjectReview",
    plural: "selfsubjectreviews",
    singular: "selfsubjectreview",
    namespaced: false,
    verbs: &["create"],
    schema: "io.k8s.api.authentication.v1.SelfSubjectReview",
    message: "api.authentication.v1.SelfSubjectReview",
    storage: "selfsubjectreviews",
    ..Kind::BASE
};
