//! What was asked of the server, what watchers saw, and whether the second follows from the first.

use std::collections::{BTreeMap, HashMap, HashSet};

pub type Revision = u64;

/// A resource's plural and an object's name.
pub type Key = (&'static str, String);

/// Tells one write from every other; it stands in the object.
pub type Token = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Put(Token),
    Delete,
}

/// On which state of the object a write was conditioned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    Any,
    /// The object at this revision; 0: no object.
    At(Revision),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No answer, or one that leaves it open.
    Unknown,
    Refused,
    /// Acknowledged; a deletion's answer does not say at which revision.
    Done(Option<Revision>),
}

/// One write that was sent.
#[derive(Clone, Debug)]
pub struct Sent {
    pub key: Key,
    pub effect: Effect,
    pub base: Base,
    /// The newest revision that anybody had been told when this was sent.
    pub after: Revision,
    pub outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    Added,
    Modified,
    Deleted,
}

/// One event of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub revision: Revision,
    pub key: Key,
    pub word: Word,
    /// The write whose object the event carries.
    pub token: Token,
}

/// Whether an object carries the label that the selecting watch asks for.
pub fn picked(token: Token) -> bool {
    token.is_multiple_of(3)
}

/// Objects with the revision and the write that made them what they are.
pub type State = BTreeMap<Key, (Revision, Token)>;

/// What the events of one complete watch prove or contradict.
pub struct Checked {
    pub state: State,
    pub faults: Vec<String>,
    /// Writes without an answer that took place after all.
    pub unanswered: usize,
}

/// Explains every event by exactly one write, and finds every acknowledged write among the events.
pub fn explain(sent: &[Sent], seen: &[Seen]) -> Checked {
    let mut checked = Checked { state: State::new(), faults: Vec::new(), unanswered: 0 };
    let by_token: HashMap<Token, &Sent> = sent
        .iter()
        .filter_map(|sent| match sent.effect {
            Effect::Put(token) => Some((token, sent)),
            Effect::Delete => None,
        })
        .collect();
    let mut deletes: HashMap<(&Key, Revision), Vec<&Sent>> = HashMap::new();
    for delete in sent.iter().filter(|sent| sent.effect == Effect::Delete && sent.outcome != Outcome::Refused)
    {
        if let Base::At(base) = delete.base {
            deletes.entry((&delete.key, base)).or_default().push(delete);
        }
    }
    let mut found = HashSet::new();
    let mut deleted = HashSet::new();
    let mut last = 0;
    for event in seen {
        if event.revision <= last {
            checked.fault(format!("{event:?} comes after revision {last}"));
        }
        last = event.revision;
        let before = checked.state.get(&event.key).copied();
        let base = before.map_or(0, |(revision, _)| revision);
        if event.word == Word::Deleted {
            if before.map(|(_, token)| token) != Some(event.token) {
                checked.fault(format!(
                    "{event:?} carries another object than the one that was there: {before:?}"
                ));
            }
            match deletes.get(&(&event.key, base)) {
                Some(asked) => {
                    checked.unanswered += usize::from(asked.iter().all(|s| s.outcome == Outcome::Unknown));
                }
                None => {
                    checked.fault(format!("{event:?}: nobody asked for this deletion of revision {base}"))
                }
            }
            deleted.insert((&event.key, base));
            checked.state.remove(&event.key);
            continue;
        }
        if (event.word == Word::Added) != before.is_none() {
            checked.fault(format!("{event:?} does not follow {before:?}"));
        }
        match by_token.get(&event.token) {
            None => checked.fault(format!("{event:?}: nobody wrote this")),
            Some(write) => checked.judge(write, event, base),
        }
        if !found.insert(event.token) {
            checked.fault(format!("{event:?}: this write took place twice"));
        }
        checked.state.insert(event.key.clone(), (event.revision, event.token));
    }
    for write in sent.iter().filter(|sent| matches!(sent.outcome, Outcome::Done(_))) {
        let there = match (write.effect, write.base) {
            (Effect::Put(token), _) => found.contains(&token),
            (Effect::Delete, Base::At(base)) => deleted.contains(&(&write.key, base)),
            (Effect::Delete, Base::Any) => true,
        };
        if !there {
            checked.fault(format!("{write:?} was acknowledged and is lost"));
        }
    }
    checked
}

impl Checked {
    fn fault(&mut self, text: String) {
        self.faults.push(text);
    }

    /// One event against the write that it shows.
    fn judge(&mut self, write: &Sent, event: &Seen, base: Revision) {
        if write.key != event.key {
            self.fault(format!("{event:?} shows {write:?}"));
        }
        if !matches!(write.base, Base::Any) && write.base != Base::At(base) {
            self.fault(format!("{event:?} of {write:?} was applied to revision {base}"));
        }
        if event.revision <= write.after {
            self.fault(format!("{event:?}: {write:?} was sent when a later revision had been told"));
        }
        match write.outcome {
            Outcome::Refused => {
                self.fault(format!("{event:?}: {write:?} took place although it was refused"))
            }
            Outcome::Done(Some(told)) if told != event.revision => {
                self.fault(format!("{event:?}: {write:?} was acknowledged at {told}"));
            }
            Outcome::Unknown => self.unanswered += 1,
            Outcome::Done(_) => {}
        }
    }
}

/// What a watch with the selector must see of what a watch without it saw.
pub fn select(seen: &[Seen]) -> Vec<Seen> {
    let mut tokens: HashMap<&Key, Token> = HashMap::new();
    let mut selected = Vec::new();
    for event in seen {
        let before = tokens.get(&event.key).copied();
        let was = before.is_some_and(picked);
        let gone = event.word == Word::Deleted;
        if gone {
            tokens.remove(&event.key);
        } else {
            tokens.insert(&event.key, event.token);
        }
        let word = match (was, !gone && picked(event.token)) {
            (false, true) => Word::Added,
            (true, true) => Word::Modified,
            (true, false) => Word::Deleted,
            (false, false) => continue,
        };
        // A deletion carries what the watcher saw last.
        let token = if word == Word::Deleted { before.unwrap_or(event.token) } else { event.token };
        selected.push(Seen { word, token, ..event.clone() });
    }
    selected
}

/// Proves that the checker finds what it is there to find, on a history that is made for it.
pub fn check_the_checker() -> Result<(), String> {
    let key = |name: &str| ("configmaps", name.to_owned());
    let put = |token, base, after, outcome| Sent {
        key: key("a"),
        effect: Effect::Put(token),
        base: Base::At(base),
        after,
        outcome,
    };
    let gone = |base, outcome| Sent { effect: Effect::Delete, ..put(0, base, base, outcome) };
    let seen = |revision, word, token| Seen { revision, key: key("a"), word, token };
    let sent = vec![
        put(1, 0, 0, Outcome::Done(Some(5))),
        put(2, 5, 5, Outcome::Unknown),
        put(3, 6, 6, Outcome::Refused),
        put(4, 6, 6, Outcome::Done(Some(8))),
        gone(8, Outcome::Done(None)),
    ];
    let good = vec![
        seen(5, Word::Added, 1),
        seen(6, Word::Modified, 2),
        seen(8, Word::Modified, 4),
        seen(9, Word::Deleted, 4),
    ];
    let faults = |sent: &[Sent], seen: &[Seen]| explain(sent, seen).faults.len();
    let broken = |change: &dyn Fn(&mut Vec<Seen>)| {
        let mut seen = good.clone();
        change(&mut seen);
        faults(&sent, &seen) > 0
    };
    let cases: [(&str, bool); 9] = [
        ("a true history is accepted", faults(&sent, &good) == 0),
        ("a lost acknowledged write", broken(&|s| s.truncate(2))),
        ("a lost unacknowledged write that others built on", broken(&|s| drop(s.remove(1)))),
        ("a lost deletion", broken(&|s| s.truncate(3))),
        ("an event that comes twice", broken(&|s| s.insert(2, s[1].clone()))),
        ("a revision that goes back", broken(&|s| s[2].revision = 6)),
        ("another revision than the acknowledged one", broken(&|s| s[0].revision = 4)),
        ("a refused write that took place", broken(&|s| s[2].token = 3)),
        ("a write that nobody sent", broken(&|s| s[2].token = 77)),
    ];
    match cases.iter().find(|(_, held)| !held) {
        None => Ok(()),
        Some((what, _)) => Err(format!("the checker is wrong about: {what}")),
    }
}
