//! rbac.authorization.k8s.io/v1 RoleBinding.

use super::rbac;
use crate::kind::Kind;
use crate::kind::NameRule;

pub static KIND: Kind = Kind {
    group: "rbac.authorization.k8s.io",
    kind: "RoleBinding",
    plural: "rolebindings",
    singular: "rolebinding",
    schema: "io.k8s.api.rbac.v1.RoleBinding",
    message: "api.rbac.v1.RoleBinding",
    storage: "rolebindings",
    name: NameRule::PathSegment,
    default: rbac::binding_default,
    validate: |v| rbac::binding(v, true),
    validate_update: rbac::binding_update,
    cells: rbac::binding_cells,
    create_on_update: true,
    ..Kind::BASE
};
