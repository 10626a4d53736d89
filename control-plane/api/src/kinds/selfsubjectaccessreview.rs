//! authorization.k8s.io/v1 SelfSubjectAccessReview.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    group: "authorization.k8s.io",
    kind: "SelfSubjectAccessReview",
    plural: "selfsubjectaccessreviews",
    singular: "selfsubjectaccessreview",
    namespaced: false,
    verbs: &["create"],
    schema: "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
    message: "api.authorization.v1.SelfSubjectAccessReview",
    storage: "selfsubjectaccessreviews",
    ..Kind::BASE
};
