//! Identities: each node numbers the sets of peers that its policies can tell apart.
//!
//! A number is drawn from the content it stands for, so that a restarted agent, or another version of it, gives the
//! same number to the same content and finds the pinned tables right. Numbers of different content never collide
//! within one node: the table below keeps the whole content and moves on to the next free number.

use std::{collections::HashMap, fmt::Write as _, hash::Hash, sync::Arc};

use sha2::{Digest, Sha256};

use super::spec::{Peer, canonical_selector};
use crate::model::NamedPort;

/// What the policies of this node can tell about an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// The peers it is one of (sorted).
    pub peers: Vec<Arc<Peer>>,
    /// Its named ports that egress rules ask for (sorted).
    pub ports: Vec<NamedPort>,
}

impl Identity {
    /// Whether it is one of the peers meant.
    #[must_use]
    pub fn is_one_of(&self, peer: &Arc<Peer>) -> bool {
        **peer != Peer::Nobody && self.peers.contains(peer)
    }
}

/// Content that can be numbered: a text that is the same on every node and in every version.
pub trait Canonical {
    /// Writes the text.
    fn canonical(&self, out: &mut String);
}

impl Canonical for Peer {
    fn canonical(&self, out: &mut String) {
        match self {
            Peer::Pods { namespace, namespaces, pods } => {
                let _ = write!(out, "pods[{}][", namespace.as_deref().unwrap_or("*"));
                canonical_selector(out, namespaces);
                out.push_str("][");
                canonical_selector(out, pods);
                out.push(']');
            }
            Peer::Block { cidr, except } => {
                let _ = write!(out, "block[{cidr}");
                for part in except {
                    let _ = write!(out, "-{part}");
                }
                out.push(']');
            }
            // The word is that of layout 1, so that numbers stay the same.
            Peer::Nobody => out.push_str("other"),
        }
    }
}

impl Canonical for Identity {
    fn canonical(&self, out: &mut String) {
        for peer in &self.peers {
            peer.canonical(out);
        }
        for port in &self.ports {
            let _ = write!(out, "port[{}/{}={}]", port.name, port.protocol.number(), port.port);
        }
    }
}

/// Numbers for contents, counted by use.
#[derive(Debug)]
pub struct Numbers<T> {
    by_content: HashMap<Arc<T>, (u32, usize)>,
    taken: HashMap<u32, Arc<T>>,
}

impl<T> Default for Numbers<T> {
    fn default() -> Self {
        Numbers { by_content: HashMap::new(), taken: HashMap::new() }
    }
}

impl<T: Canonical + Eq + Hash> Numbers<T> {
    /// Gives the number of `content` and counts one more use; true when it is the first.
    pub fn acquire(&mut self, content: &Arc<T>) -> (u32, bool) {
        if let Some((number, uses)) = self.by_content.get_mut(content) {
            *uses += 1;
            return (*number, false);
        }
        let mut text = String::new();
        content.canonical(&mut text);
        let mut number = hashed(&text);
        while number == 0 || self.taken.contains_key(&number) {
            number = number.wrapping_add(1);
        }
        self.by_content.insert(content.clone(), (number, 1));
        self.taken.insert(number, content.clone());
        (number, true)
    }

    /// Counts one use less; gives the number when it was the last and the number is free again.
    pub fn release(&mut self, content: &Arc<T>) -> Option<u32> {
        let (number, uses) = self.by_content.get_mut(content)?;
        *uses -= 1;
        if *uses > 0 {
            return None;
        }
        let number = *number;
        self.by_content.remove(content);
        self.taken.remove(&number);
        Some(number)
    }

    /// The number of `content`, if it is in use.
    #[must_use]
    pub fn number(&self, content: &T) -> Option<u32> {
        self.by_content.get(content).map(|(number, _)| *number)
    }

    /// What a number stands for, if it is in use.
    #[must_use]
    pub fn content(&self, number: u32) -> Option<&Arc<T>> {
        self.taken.get(&number)
    }

    /// Everything in use with its number.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<T>, u32)> {
        self.by_content.iter().map(|(content, (number, _))| (content, *number))
    }

    /// How many are in use.
    #[must_use]
    pub fn len(&self) -> usize {
        self.taken.len()
    }

    /// Whether none is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }
}

/// First four bytes of the SHA-256 of a text. A cryptographic hash, since who writes policies must not be able to
/// choose which numbers meet.
#[must_use]
pub fn hashed(text: &str) -> u32 {
    let digest = Sha256::digest(text.as_bytes());
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}
