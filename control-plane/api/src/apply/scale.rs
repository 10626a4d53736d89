//! Who owns the replicas: managed fields between an object and its Scale.

use serde_json::Value;

use super::{
    Set,
    managers::{Entry, Managers},
    set::{Element, field},
};

const SCALE: &str = "autoscaling/v1";

/// One kind's replicas: the version that a request is in, the versions that are served, and the place.
#[derive(Clone, Debug)]
pub struct Replicas<'a> {
    pub api_version: &'a str,
    pub versions: &'a [String],
    /// JSON pointer.
    pub place: &'a str,
}

impl Replicas<'_> {
    fn path(&self) -> Vec<Element> {
        self.place.split('/').skip(1).map(field).collect()
    }

    fn set(path: &[Element]) -> Set {
        let mut set = Set::default();
        set.insert(path);
        set
    }

    fn in_scale() -> Set {
        Self::set(&[field("spec"), field("replicas")])
    }

    /// The managed fields of an object's Scale.
    pub fn to_scale(&self, managed: &Value) -> Value {
        let path = self.path();
        let mut managers = Managers::read(managed).unwrap_or_default();
        managers
            .0
            .retain(|_, entry| self.versions.contains(&entry.api_version) && entry.fields.contains(&path));
        for entry in managers.0.values_mut() {
            entry.fields = Self::in_scale();
            entry.api_version = SCALE.into();
        }
        managers.write()
    }

    /// The managed fields of an object after a write of its Scale. `scale` are those of the Scale.
    pub fn to_object(&self, managed: &Value, scale: &Value) -> Value {
        let path = self.path();
        let mut managers = Managers::read(managed).unwrap_or_default();
        let mut of_scale = Managers::read(scale).unwrap_or_default();
        managers.0.retain(|_, entry| self.versions.contains(&entry.api_version));
        for (id, entry) in &mut managers.0 {
            // Updaters are told apart by version too, so that theirs always moves to the entry of the Scale.
            if entry.fields.contains(&path) && of_scale.0.remove(id).is_none() {
                entry.fields = entry.fields.difference(&Self::set(&path));
            }
        }
        managers.drop_empty();
        let replicas = [field("spec"), field("replicas")];
        for (id, _) in of_scale.0.into_iter().filter(|(_, entry)| entry.fields.contains(&replicas)) {
            // The entry keeps the time that the object knew for it: none where it is new.
            let time = managers.0.get(&id).and_then(|known| known.time.clone());
            managers
                .0
                .insert(id, Entry { fields: Self::set(&path), api_version: self.api_version.into(), time });
        }
        managers.write()
    }
}
