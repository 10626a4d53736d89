//! authorization.k8s.io/v1 LocalSubjectAccessReview.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    group: "authorization.k8s.io",
    kind: "LocalSubjectAccessReview",
    plural: "localsubjectaccessreviews",
    singular: "localsubjectaccessreview",
    verbs: &["create"],
    schema: "io.k8s.api.authorization.v1.LocalSubjectAccessReview",
    message: "api.authorization.v1.LocalSubjectAccessReview",
    storage: "localsubjectaccessreviews",
    ..Kind::BASE
};
