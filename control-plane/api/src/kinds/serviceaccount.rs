//! v1 ServiceAccount.

use crate::kind::{Act, Kind, Subresource};

pub static KIND: Kind = Kind {
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    schema: "io.k8s.api.core.v1.ServiceAccount",
    message: "api.core.v1.ServiceAccount",
    storage: "serviceaccounts",
    subresources: &[Subresource { name: "token", verbs: &["create"], act: Act::Token }],
    ..Kind::BASE
};
