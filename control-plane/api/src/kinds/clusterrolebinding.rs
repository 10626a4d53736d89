//! rbac.authorization.k8s.io/v1 ClusterRoleBinding.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    group: "rbac.authorization.k8s.io",
    kind: "ClusterRoleBinding",
    plural: "clusterrolebindings",
    singular: "clusterrolebinding",
    namespaced: false,
    schema: "io.k8s.api.rbac.v1.ClusterRoleBinding",
    message: "api.rbac.v1.ClusterRoleBinding",
    storage: "clusterrolebindings",
    ..Kind::BASE
};
