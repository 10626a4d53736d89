//! authorization.k8s.io/v1 SelfSubjectRulesReview.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    group: "authorization.k8s.io",
    kind: "SelfSubjectRulesReview",
    plural: "selfsubjectrulesreviews",
    singular: "selfsubjectrulesreview",
    namespaced: false,
    verbs: &["create"],
    schema: "io.k8s.api.authorization.v1.SelfSubjectRulesReview",
    message: "api.authorization.v1.SelfSubjectRulesReview",
    storage: "selfsubjectrulesreviews",
    ..Kind::BASE
};
