//! resource.k8s.io/v1 DeviceClass.

use super::{cells as c, devices, strategy};
use crate::kind::Kind;
use crate::validate::Field;
use crate::{field::ErrorList, pod::defaults as d};

pub static KIND: Kind = Kind {
    group: "resource.k8s.io",
    kind: "DeviceClass",
    plural: "deviceclasses",
    singular: "deviceclass",
    namespaced: false,
    schema: "io.k8s.api.resource.v1.DeviceClass",
    message: "api.resource.v1.DeviceClass",
    storage: "deviceclasses",
    default: |v| {
        d::object(v, "spec");
    },
    prepare_create: strategy::first_generation,
    prepare_update: |new, old| strategy::count(new, old, |v| v["spec"].clone()),
    validate: |v| {
        let mut e = ErrorList::new();
        devices::selectors(&Field::root(v).get("spec").get("selectors"), &mut e);
        e
    },
    cells: |o, p| vec![c::name(o), c::age(o, p)],
    generation: true,
    ..Kind::BASE
};
