//! Metadata of embedded objects (pod templates and the like). The metadata of whole objects is checked in `crate::meta`.

use super::{Field, names, selector};
use crate::field::{self, ErrorList};

const ANNOTATIONS_MAX: usize = 256 * 1024;

/// Keys are qualified names (in any case), the whole is bounded.
pub fn annotations(f: &Field, errors: &mut ErrorList) {
    let mut total = 0;
    for (key, value) in f.entries() {
        let lower = key.to_lowercase();
        errors.extend(names::qualified(&lower).into_iter().map(|m| field::invalid_str(&f.path, key, m)));
        total += key.len() + value.str().len();
    }
    if total > ANNOTATIONS_MAX {
        f.too_long(errors, ANNOTATIONS_MAX);
    }
}

/// Labels and annotations of a template's `metadata`. Upstream's paths leave `metadata` out: `spec.template.labels`.
pub fn template(template: &Field, errors: &mut ErrorList) {
    let meta = template.get("metadata");
    let labels = Field::at(meta.get("labels").value, template.path.child("labels"));
    let annotated = Field::at(meta.get("annotations").value, template.path.child("annotations"));
    selector::labels(&labels, errors);
    annotations(&annotated, errors);
}
