//! rbac.authorization.k8s.io/v1 ClusterRoleBinding.

use super::rbac;
use crate::kind::Kind;
use crate::kind::NameRule;

pub static KIND: Kind = Kind {
    group: "rbac.authorization.k8s.io",
    kind: "ClusterRoleBinding",
    plural: "clusterrolebindings",
    singular: "clusterrolebinding",
    namespaced: false,
    schema: "io.k8s.api.rbac.v1.ClusterRoleBinding",
    message: "api.rbac.v1.ClusterRoleBinding",
    storage: "clusterrolebindings",
    name: NameRule::PathSegment,
    default: rbac::binding_default,
    validate: |v| rbac::binding(v, false),
    validate_update: rbac::binding_update,
    cells: rbac::binding_cells,
    create_on_update: true,
    ..Kind::BASE
};
