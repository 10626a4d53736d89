//! v1 PodTemplate.

use super::{cells as c, strategy};
use crate::kind::Kind;
use crate::kind::Printing;
use crate::validate::{Field, template};
use crate::{field::ErrorList, pod::defaults as d};
use serde_json::Value;

pub static KIND: Kind = Kind {
    kind: "PodTemplate",
    plural: "podtemplates",
    singular: "podtemplate",
    schema: "io.k8s.api.core.v1.PodTemplate",
    message: "api.core.v1.PodTemplate",
    storage: "podtemplates",
    default: |v| {
        if let Some(template) = d::object(v, "template") {
            d::template(template);
        }
    },
    prepare_create: strategy::first_generation,
    prepare_update: |new, old| strategy::count(new, old, |v| v["template"].clone()),
    validate: |v| {
        let mut e = ErrorList::new();
        template::template(&Field::root(v).get("template"), &mut e);
        e
    },
    warnings: |new, old| super::warnings::template(new, old, &["template"]),
    cells,
    create_on_update: true,
    generation: true,
    ..Kind::BASE
};

fn cells(o: &Value, _: &Printing) -> Vec<Value> {
    let [names, images] = c::containers(&o["template"]);
    vec![c::name(o), names, images, c::labels(&o["template"]["metadata"]["labels"])]
}
