//! The API as a run uses it: one connection, one request after the other, nothing sent twice.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use bytes::Bytes;
use hyper::Method;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::client::{Connection, Target};

pub struct Api {
    runtime: Runtime,
    directory: PathBuf,
    port: u16,
    connection: Option<Connection>,
}

impl Api {
    pub fn new(directory: PathBuf, port: u16) -> anyhow::Result<Api> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Api { runtime, directory, port, connection: None })
    }

    /// Waits until the server takes requests, over a new connection.
    pub fn ready(&mut self, deadline: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + deadline;
        loop {
            let connected = Target::new(&self.directory, self.port).and_then(|target| {
                self.runtime.block_on(async {
                    let mut connection = target.connect().await?;
                    let (code, _) = connection.get("/readyz").await?;
                    ensure!(code == 200, "/readyz answers {code}");
                    Ok(connection)
                })
            });
            match connected {
                Ok(connection) => {
                    self.connection = Some(connection);
                    return Ok(());
                }
                Err(error) => ensure!(Instant::now() < end, "the server is not ready: {error:#}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends one request, whatever is answered.
    pub fn ask(&mut self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<(u16, Value)> {
        let media = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let body = Bytes::from(body.map(Value::to_string).unwrap_or_default());
        let Some(connection) = &mut self.connection else { bail!("there is no connection") };
        self.runtime.block_on(connection.send(method, path, media, body))
    }

    fn done(&mut self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let (code, answer) = self.ask(method.clone(), path, body)?;
        ensure!(
            (200..300).contains(&code),
            "{method} {path} was answered with {code}: {}",
            answer["message"]
        );
        Ok(answer)
    }

    pub fn get(&mut self, path: &str) -> anyhow::Result<Value> {
        self.done(Method::GET, path, None)
    }

    pub fn create(&mut self, collection: &str, object: &Value) -> anyhow::Result<Value> {
        self.done(Method::POST, collection, Some(object))
    }

    pub fn patch(&mut self, path: &str, patch: &Value) -> anyhow::Result<Value> {
        self.done(Method::PATCH, path, Some(patch))
    }

    pub fn delete(&mut self, path: &str) -> anyhow::Result<Value> {
        self.done(Method::DELETE, &format!("{path}?gracePeriodSeconds=0"), None)
    }
}
