//! coordination.k8s.io/v1 Lease.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    group: "coordination.k8s.io",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    schema: "io.k8s.api.coordination.v1.Lease",
    message: "api.coordination.v1.Lease",
    storage: "leases",
    ..Kind::BASE
};
