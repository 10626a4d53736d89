//! A writer: creates, updates, patches and deletes objects of its own, and patches some that it shares.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;
use hyper::Method;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::RESOURCES;
use crate::client::{Connection, Target, revision};
use crate::model::{Base, Effect, Key, Outcome, Revision, Sent, Token, picked};

/// Objects of its own that a writer has.
const OWN: usize = 6;
/// Objects that all writers share.
pub const SHARED: u64 = 4;

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";

/// What all writers and watchers know.
pub struct World {
    /// Where the server is, as long as it is not known to be down.
    pub target: watch::Receiver<Option<Target>>,
    pub stop: AtomicBool,
    /// The newest revision that anybody was told.
    pub newest: AtomicU64,
    pub tokens: AtomicU64,
}

impl World {
    /// Waits for a server.
    pub async fn connect(&self) -> Option<Connection> {
        let mut target = self.target.clone();
        let found = target.wait_for(Option::is_some).await.ok()?.clone()?;
        found.connect().await.ok()
    }

    pub fn token(&self) -> Token {
        self.tokens.fetch_add(1, Ordering::Relaxed)
    }
}

pub fn collection(resource: &str) -> String {
    format!("/api/v1/namespaces/default/{resource}")
}

/// What the writer knows of one of its objects.
#[derive(Clone, Copy, PartialEq)]
enum Known {
    /// At this revision; 0: not there.
    At(Revision),
    Unsure,
}

pub struct Writer {
    world: Arc<World>,
    random: StdRng,
    own: Vec<(Key, Known)>,
    connection: Option<Connection>,
    sent: Vec<Sent>,
}

impl Writer {
    pub fn new(world: Arc<World>, number: usize, seed: u64) -> Writer {
        let own = (0..OWN)
            .map(|n| ((RESOURCES[n % RESOURCES.len()], format!("own-{number}-{n}")), Known::At(0)))
            .collect();
        let random = StdRng::seed_from_u64(seed + number as u64);
        Writer { world, random, own, connection: None, sent: Vec::new() }
    }

    /// Writes until told to stop; gives what was sent.
    pub async fn run(mut self) -> anyhow::Result<Vec<Sent>> {
        while !self.world.stop.load(Ordering::Relaxed) {
            if self.connection.is_none() {
                self.connection = self.world.connect().await;
                if self.connection.is_none() {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    continue;
                }
            }
            let place = self.random.random_range(0..OWN);
            let (key, known) = self.own[place].clone();
            match known {
                Known::Unsure => self.look(place, None).await?,
                Known::At(at) => match self.random.random_range(0..20) {
                    0..3 => self.patch_shared().await?,
                    3..6 => self.look(place, Some(at)).await?,
                    choice => {
                        let outcome = self.write(&key, at, choice).await?;
                        self.own[place].1 = match outcome {
                            Outcome::Done(at) => Known::At(at.unwrap_or(0)),
                            _ => Known::Unsure,
                        };
                    }
                },
            }
            let pause = self.random.random_range(0..12);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        Ok(self.sent)
    }

    /// Reads one of its own objects, which nobody else writes.
    async fn look(&mut self, place: usize, expected: Option<Revision>) -> anyhow::Result<()> {
        let (resource, name) = self.own[place].0.clone();
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let found = match connection.get(&format!("{}/{name}", collection(resource))).await {
            Ok((200, object)) => revision(&object)?,
            Ok((404, _)) => 0,
            Ok((500.., _)) => return Ok(()),
            Ok((code, body)) => bail!("a read of {name} was answered with {code}: {body}"),
            Err(_) => {
                self.connection = None;
                return Ok(());
            }
        };
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            bail!("{resource}/{name} was left at revision {expected} and is read at {found}");
        }
        self.own[place].1 = Known::At(found);
        Ok(())
    }

    async fn write(&mut self, key: &Key, at: Revision, choice: u32) -> anyhow::Result<Outcome> {
        let path = format!("{}/{}", collection(key.0), key.1);
        let token = self.world.token();
        let pad = self.random.random_range(0..1500);
        let mut object = body(&key.1, token, pad);
        let (method, path, media, effect) = match (at, choice) {
            (0, _) => (Method::POST, collection(key.0), JSON, Effect::Put(token)),
            (_, 6..9) => {
                object = json!({"preconditions": {"resourceVersion": at.to_string()}});
                (Method::DELETE, path, JSON, Effect::Delete)
            }
            (_, 9..14) => (Method::PATCH, path, MERGE, Effect::Put(token)),
            _ => (Method::PUT, path, JSON, Effect::Put(token)),
        };
        if at > 0 && effect != Effect::Delete {
            object["metadata"]["resourceVersion"] = at.to_string().into();
        }
        let sent = Sent { key: key.clone(), effect, base: Base::At(at), after: 0, outcome: Outcome::Unknown };
        self.send(sent, method, &path, media, object).await
    }

    /// A patch without a condition: the server itself tries again when another writer was faster.
    async fn patch_shared(&mut self) -> anyhow::Result<()> {
        let token = self.world.token();
        let key = (RESOURCES[0], format!("shared-{}", self.random.random_range(0..SHARED)));
        let path = format!("{}/{}", collection(key.0), key.1);
        let object = body(&key.1, token, 10);
        let sent =
            Sent { key, effect: Effect::Put(token), base: Base::Any, after: 0, outcome: Outcome::Unknown };
        self.send(sent, Method::PATCH, &path, MERGE, object).await.map(drop)
    }

    async fn send(
        &mut self,
        mut sent: Sent,
        method: Method,
        path: &str,
        media: &str,
        body: Value,
    ) -> anyhow::Result<Outcome> {
        let Some(connection) = &mut self.connection else { return Ok(Outcome::Unknown) };
        sent.after = self.world.newest.load(Ordering::SeqCst);
        let answer = connection.send(method, path, media, Bytes::from(body.to_string())).await;
        sent.outcome = match answer {
            Ok((200..300, _)) if sent.effect == Effect::Delete => Outcome::Done(None),
            Ok((200..300, object)) => {
                let told = revision(&object)?;
                self.world.newest.fetch_max(told, Ordering::SeqCst);
                Outcome::Done(Some(told))
            }
            Ok((404 | 409 | 429, _)) => Outcome::Refused,
            Ok((400..500, body)) => bail!("{path} was answered with {body}"),
            Ok(_) => Outcome::Unknown,
            Err(_) => {
                self.connection = None;
                Outcome::Unknown
            }
        };
        self.sent.push(sent.clone());
        Ok(sent.outcome)
    }
}

/// The object that a write puts.
pub fn body(name: &str, token: Token, pad: usize) -> Value {
    let picked = if picked(token) { "yes" } else { "no" };
    json!({
        "metadata": {"name": name, "labels": {"picked": picked}, "annotations": {"token": token.to_string()}},
        // The name of the field is legal in the data of ConfigMaps and (as base64) of Secrets.
        "data": {"pad": "eHh4".repeat(pad / 4)},
    })
}
