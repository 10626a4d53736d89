//! rbac.authorization.k8s.io/v1 ClusterRole.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    group: "rbac.authorization.k8s.io",
    kind: "ClusterRole",
    plural: "clusterroles",
    singular: "clusterrole",
    namespaced: false,
    schema: "io.k8s.api.rbac.v1.ClusterRole",
    message: "api.rbac.v1.ClusterRole",
    storage: "clusterroles",
    ..Kind::BASE
};
