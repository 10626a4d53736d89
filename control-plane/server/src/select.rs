//! Label and field selectors over the cache's index.

use std::sync::Arc;

use fairlead_api::{
    kind::Kind,
    selector::{FieldSelector, LabelSelector},
    status::{self, Status},
};
use serde_json::Value;

use crate::{cache::Item, info::Params};

/// What a LIST, WATCH or DELETE of a collection is limited to.
pub struct Selector {
    labels: LabelSelector,
    fields: Option<FieldSelector>,
    /// Only the object of this name (`/api/v1/watch/…/name`).
    name: Option<String>,
    kind: &'static Kind,
}

impl Selector {
    /// Reads `labelSelector` and `fieldSelector`.
    ///
    /// # Errors
    /// 400 with upstream's words.
    pub fn parse(kind: &'static Kind, params: &Params) -> Result<Selector, Status> {
        let labels = params.get("labelSelector").unwrap_or_default();
        let labels = LabelSelector::parse(labels).map_err(status::bad_request)?;
        let fields = match params.set("fieldSelector") {
            Some(text) => Some(FieldSelector::parse(kind, text).map_err(status::bad_request)?),
            None => None,
        };
        Ok(Selector { labels, fields, name: None, kind })
    }

    /// Limits to one name as well.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = (!name.is_empty()).then(|| name.to_owned());
        self
    }

    /// Whether everything is selected.
    pub fn is_all(&self) -> bool {
        self.labels.is_empty()
            && self.fields.as_ref().is_none_or(FieldSelector::is_empty)
            && self.name.is_none()
    }

    /// Whether an item of `stored` is selected.
    pub fn matches(&self, stored: &Kind, item: &Item) -> bool {
        if self.name.as_deref().is_some_and(|name| item.name() != name) {
            return false;
        }
        let fields = self.fields.as_ref().is_none_or(|fields| {
            if std::ptr::eq(self.kind, stored) {
                fields.matches_with(|label| item.field(stored, label))
            } else {
                fields.matches(self.kind, &converted(self.kind, item.value(stored)))
            }
        });
        fields && (self.labels.is_empty() || self.labels.matches_with(|key| item.label(key)))
    }

    /// The one name that is selected, if the fields say so.
    pub fn only_name(&self) -> Option<&str> {
        self.name.as_deref().or_else(|| self.fields.as_ref().and_then(FieldSelector::name))
    }
}

/// An object of the stored version as the served kind shows it.
pub fn converted(kind: &Kind, mut object: Value) -> Value {
    if let Some(conversion) = &kind.convert {
        (conversion.from_storage)(&mut object);
        object["apiVersion"] = kind.api_version().into();
        object["kind"] = kind.kind.into();
    }
    object
}

/// Whether the item was and is selected.
pub fn transition(
    selector: &Selector,
    stored: &Kind,
    old: Option<&Arc<Item>>,
    new: Option<&Arc<Item>>,
) -> (bool, bool) {
    let seen = |item: Option<&Arc<Item>>| item.is_some_and(|item| selector.matches(stored, item));
    (seen(old), seen(new))
}
