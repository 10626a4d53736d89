//! storage.k8s.io/v1 CSIStorageCapacity.

use super::{cells as c, strategy};
use crate::field::ErrorList;
use crate::kind::Kind;
use crate::validate::{Field, names, quantity, selector};
use serde_json::Value;

pub static KIND: Kind = Kind {
    group: "storage.k8s.io",
    kind: "CSIStorageCapacity",
    plural: "csistoragecapacities",
    singular: "csistoragecapacity",
    schema: "io.k8s.api.storage.v1.CSIStorageCapacity",
    message: "api.storage.v1.CSIStorageCapacity",
    storage: "csistoragecapacities",
    validate,
    validate_update: |new, old| strategy::immutable(new, old, &["nodeTopology", "storageClassName"]),
    cells: c::name_and_created,
    ..Kind::BASE
};

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let f = Field::root(v);
    selector::label_selector(&f.get("nodeTopology"), &mut e);
    f.get("storageClassName").all(&mut e, names::dns_subdomain(f.get("storageClassName").str()));
    quantity::non_negative(&f.get("capacity"), &mut e);
    quantity::non_negative(&f.get("maximumVolumeSize"), &mut e);
    e
}
