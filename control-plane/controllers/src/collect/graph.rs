//! Who owns whom, by uid, and what a change makes worth looking at. Pure.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::ApiResource;

/// What names an object besides its uid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub group: Arc<str>,
    pub kind: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl Identity {
    /// The owner that a reference in `namespace` names.
    pub fn of(owner: &OwnerReference, namespace: &str) -> Self {
        let group = owner.api_version.rsplit_once('/').map_or("", |(group, _)| group);
        Self {
            group: group.into(),
            kind: owner.kind.as_str().into(),
            namespace: namespace.into(),
            name: owner.name.as_str().into(),
        }
    }

    /// Whether a reference that reads as `named` can mean this object: an owner without a namespace owns anywhere.
    pub fn is(&self, named: &Self) -> bool {
        self.group == named.group
            && self.kind == named.kind
            && self.name == named.name
            && (self.namespace.is_empty() || self.namespace == named.namespace)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} {}/{}", self.kind, self.group, self.namespace, self.name)
    }
}

/// What a watch says about an object.
#[derive(Clone, Debug)]
pub struct Owned {
    pub identity: Identity,
    pub owners: Vec<OwnerReference>,
    /// It has a deletion timestamp.
    pub deleting: bool,
    /// It has the finalizer that waits for dependents.
    pub foreground: bool,
    /// It has the finalizer that lets dependents be.
    pub orphans: bool,
}

/// A copy of what the graph knows.
#[derive(Clone, Debug)]
pub struct Known {
    pub identity: Identity,
    pub deleting: bool,
    pub foreground: bool,
    /// Only named by a dependent, never seen.
    pub is_virtual: bool,
}

struct Node {
    identity: Identity,
    owners: Vec<OwnerReference>,
    dependents: HashSet<Arc<str>>,
    deleting: bool,
    foreground: bool,
    orphans: bool,
    is_virtual: bool,
}

/// What to look at after a change.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Todo {
    /// Objects whose owners may have changed, or that may have become free to go.
    pub judge: Vec<Arc<str>>,
    /// Objects whose dependents are to be let go.
    pub orphan: Vec<Arc<str>>,
}

/// All followed objects.
#[derive(Default)]
pub struct Graph {
    nodes: HashMap<Arc<str>, Node>,
}

impl Graph {
    /// Takes in what a watch said.
    pub fn put(&mut self, uid: &str, owned: Owned) -> Todo {
        let uid: Arc<str> =
            self.nodes.get_key_value(uid).map_or_else(|| uid.into(), |(known, _)| known.clone());
        let mut todo = Todo::default();
        let old = self.nodes.get(&uid);
        let first = old.is_none_or(|old| old.is_virtual);
        let (was_leaving, was_orphaning) =
            old.map_or((false, false), |old| (old.deleting && old.foreground, old.deleting && old.orphans));
        let old_owners = old.map(|old| old.owners.clone()).unwrap_or_default();
        let owners_changed = old_owners != owned.owners;
        if owners_changed {
            self.relink(&uid, &old_owners, &owned, &mut todo);
        }
        if owned.deleting && owned.orphans && !was_orphaning {
            todo.orphan.push(uid.clone());
        }
        let leaves = owned.deleting && owned.foreground;
        if leaves && !was_leaving {
            todo.judge.push(uid.clone());
            todo.judge
                .extend(self.nodes.get(&uid).into_iter().flat_map(|node| node.dependents.iter().cloned()));
        } else if !owned.owners.is_empty() && (first || owners_changed) {
            // Its owners may be gone since before it was seen.
            todo.judge.push(uid.clone());
        }
        let dependents = self.nodes.remove(&uid).map(|node| node.dependents).unwrap_or_default();
        if first {
            // They named an owner that was not known; now it can be compared with what they named.
            todo.judge.extend(dependents.iter().cloned());
        }
        let node = Node {
            identity: owned.identity,
            owners: owned.owners,
            dependents,
            deleting: owned.deleting,
            foreground: owned.foreground,
            orphans: owned.orphans,
            is_virtual: false,
        };
        self.nodes.insert(uid, node);
        todo
    }

    fn relink(&mut self, uid: &Arc<str>, old: &[OwnerReference], new: &Owned, todo: &mut Todo) {
        for owner in old.iter().filter(|owner| !new.owners.iter().any(|kept| kept.uid == owner.uid)) {
            self.unlink(uid, &owner.uid, todo);
        }
        // An owner that waits may be waiting for a reference that blocks no more.
        for owner in &new.owners {
            let waits =
                self.nodes.get(owner.uid.as_str()).is_some_and(|node| node.deleting && node.foreground);
            if waits {
                todo.judge.extend(self.nodes.get_key_value(owner.uid.as_str()).map(|(uid, _)| uid.clone()));
            }
        }
        for owner in &new.owners {
            let owner_uid: Arc<str> = owner.uid.as_str().into();
            let node = self.nodes.entry(owner_uid.clone()).or_insert_with(|| {
                todo.judge.push(owner_uid.clone());
                Node {
                    identity: Identity::of(owner, &new.identity.namespace),
                    owners: Vec::new(),
                    dependents: HashSet::new(),
                    deleting: false,
                    foreground: false,
                    orphans: false,
                    is_virtual: true,
                }
            });
            node.dependents.insert(uid.clone());
        }
    }

    fn unlink(&mut self, uid: &Arc<str>, owner: &str, todo: &mut Todo) {
        let Some((owner, _)) = self.nodes.get_key_value(owner) else { return };
        let owner = owner.clone();
        let Some(node) = self.nodes.get_mut(&owner) else { return };
        node.dependents.remove(uid);
        if node.deleting && node.foreground {
            todo.judge.push(owner);
        } else if node.is_virtual && node.dependents.is_empty() {
            self.nodes.remove(&owner);
        }
    }

    /// An object is gone: its dependents are to be judged, and owners that waited for it.
    pub fn remove(&mut self, uid: &str) -> Todo {
        let mut todo = Todo::default();
        let Some((uid, node)) = self.nodes.remove_entry(uid) else { return todo };
        for owner in &node.owners {
            self.unlink(&uid, &owner.uid, &mut todo);
        }
        todo.judge.extend(node.dependents.iter().cloned());
        todo
    }

    /// Objects of a kind that are in the graph and not in `listed`.
    pub fn missing(&self, resource: &ApiResource, listed: &HashSet<Arc<str>>) -> Vec<Arc<str>> {
        let of_kind =
            |node: &Node| *node.identity.group == *resource.group && *node.identity.kind == *resource.kind;
        let gone = self
            .nodes
            .iter()
            .filter(|(uid, node)| !node.is_virtual && of_kind(node) && !listed.contains(*uid));
        gone.map(|(uid, _)| uid.clone()).collect()
    }

    /// What is known of an object.
    pub fn get(&self, uid: &str) -> Option<Known> {
        self.nodes.get(uid).map(|node| Known {
            identity: node.identity.clone(),
            deleting: node.deleting,
            foreground: node.foreground,
            is_virtual: node.is_virtual,
        })
    }

    /// Whether every owner of the object was seen and stays, so that there is nothing to decide.
    pub fn is_kept(&self, uid: &str) -> bool {
        let Some(node) = self.nodes.get(uid).filter(|node| !node.is_virtual && !node.deleting) else {
            return false;
        };
        node.owners.iter().all(|owner| {
            let named = Identity::of(owner, &node.identity.namespace);
            self.nodes.get(owner.uid.as_str()).is_some_and(|known| {
                !known.is_virtual && known.identity.is(&named) && !(known.deleting && known.foreground)
            })
        })
    }

    /// The objects that name this one as an owner.
    pub fn dependents(&self, uid: &str) -> Vec<(Arc<str>, Identity)> {
        let dependents = self.nodes.get(uid).into_iter().flat_map(|node| &node.dependents);
        dependents.filter_map(|uid| Some((uid.clone(), self.nodes.get(uid)?.identity.clone()))).collect()
    }

    /// The dependents whose reference blocks this one's foreground deletion.
    pub fn blocking(&self, uid: &str) -> Vec<Arc<str>> {
        let dependents = self.nodes.get(uid).into_iter().flat_map(|node| &node.dependents);
        let blocks = |dependent: &&Arc<str>| {
            self.nodes.get(*dependent).is_some_and(|node| {
                node.owners.iter().any(|owner| owner.uid == uid && owner.block_owner_deletion == Some(true))
            })
        };
        dependents.filter(blocks).cloned().collect()
    }

    /// Whether anything names this one as an owner.
    pub fn has_dependents(&self, uid: &str) -> bool {
        self.nodes.get(uid).is_some_and(|node| !node.dependents.is_empty())
    }

    /// Whether one of the dependents itself waits for its dependents.
    pub fn has_waiting_dependents(&self, uid: &str) -> bool {
        let dependents = self.nodes.get(uid).into_iter().flat_map(|node| &node.dependents);
        dependents.filter_map(|uid| self.nodes.get(uid)).any(|node| node.deleting && node.foreground)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(name: &str, owner: Option<&str>) -> Owned {
        let owners = owner.map(|uid| OwnerReference {
            api_version: "v1".into(),
            kind: "ConfigMap".into(),
            name: uid.into(),
            uid: uid.into(),
            block_owner_deletion: Some(true),
            controller: None,
        });
        Owned {
            identity: Identity {
                group: "".into(),
                kind: "ConfigMap".into(),
                namespace: "d".into(),
                name: name.into(),
            },
            owners: owners.into_iter().collect(),
            deleting: false,
            foreground: false,
            orphans: false,
        }
    }

    fn names(mut uids: Vec<Arc<str>>) -> Vec<String> {
        uids.sort();
        uids.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn dependents_are_judged_when_their_owner_goes() {
        let mut graph = Graph::default();
        graph.put("a", owned("a", None));
        graph.put("b", owned("b", Some("a")));
        graph.put("c", owned("c", Some("a")));
        assert_eq!(names(graph.remove("a").judge), ["b", "c"]);
    }

    #[test]
    fn an_owner_that_was_never_seen_is_checked() {
        let mut graph = Graph::default();
        let todo = graph.put("b", owned("b", Some("a")));
        assert_eq!(names(todo.judge), ["a", "b"]);
        assert!(graph.get("a").unwrap().is_virtual);
        graph.put("a", owned("a", None));
        assert!(!graph.get("a").unwrap().is_virtual);
        assert!(graph.is_kept("b"));
        assert!(graph.has_dependents("a"));
    }

    #[test]
    fn foreground_deletion_judges_dependents_and_ends_with_the_last_blocking_one() {
        let mut graph = Graph::default();
        graph.put("a", owned("a", None));
        graph.put("b", owned("b", Some("a")));
        let leaving = Owned { deleting: true, foreground: true, ..owned("a", None) };
        assert_eq!(names(graph.put("a", leaving.clone()).judge), ["a", "b"]);
        assert_eq!(graph.put("a", leaving), Todo::default());
        assert_eq!(names(graph.blocking("a")), ["b"]);
        assert_eq!(names(graph.remove("b").judge), ["a"]);
        assert!(graph.blocking("a").is_empty());
    }

    #[test]
    fn orphaning_is_asked_for_once() {
        let mut graph = Graph::default();
        graph.put("a", owned("a", None));
        let leaving = Owned { deleting: true, orphans: true, ..owned("a", None) };
        assert_eq!(names(graph.put("a", leaving.clone()).orphan), ["a"]);
        assert!(graph.put("a", leaving).orphan.is_empty());
    }

    #[test]
    fn a_reference_from_another_namespace_does_not_mean_the_object() {
        let owner = owned("a", None).identity;
        assert!(owner.is(&owner.clone()));
        assert!(!owner.is(&Identity { namespace: "other".into(), ..owner.clone() }));
        let global = Identity { namespace: "".into(), ..owner.clone() };
        assert!(global.is(&owner));
    }
}
