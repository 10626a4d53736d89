//! resource.k8s.io/v1 DeviceClass.

use super::{cells as c, devices, strategy};
use crate::kind::Kind;
use crate::validate::{Field, resources};
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
        let s = Field::root(v).get("spec");
        devices::selectors(&s.get("selectors"), &mut e);
        devices::slice(&s.get("config"), devices::DEVICES_MAX, &mut e, devices::configuration);
        let extended = s.get("extendedResourceName");
        if extended.is_set() && !resources::is_extended(extended.str()) {
            extended.invalid(&mut e, "must be a valid extended resource name");
        }
        e
    },
    cells: |o, p| vec![c::name(o), c::age(o, p)],
    generation: true,
    ..Kind::BASE
};
