//! A server of a test's own over its real TLS listener, with the admin's certificate that it made itself.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use fairlead_server::{ServeArgs, Server};
use futures::StreamExt;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// A directory that goes when the test ends.
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("fairlead-api-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running server and a client with the admin's certificate.
pub struct Running {
    pub client: kube::Client,
    stop: CancellationToken,
    done: tokio::task::JoinHandle<Result<(), fairlead_server::Error>>,
}

impl Running {
    pub async fn start(directory: &Path) -> Running {
        let args = ServeArgs {
            data_dir: directory.to_owned(),
            bind_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            secure_port: 0,
            advertise_address: None,
            tls_san: Vec::new(),
            cluster_cidr: vec!["10.244.0.0/16".parse().unwrap()],
            service_cluster_ip_range: vec!["10.96.0.0/24".parse().unwrap()],
            node_cidr_mask_size: None,
            node_cidr_mask_size_ipv4: None,
            node_cidr_mask_size_ipv6: None,
            load_balancer_pool: Vec::new(),
            service_node_port_range: 30000..=30100,
            etcd_servers: Vec::new(),
            etcd_cafile: None,
            etcd_certfile: None,
            etcd_keyfile: None,
            etcd_prefix: "/registry".into(),
            etcd_compaction_interval: Duration::from_secs(300),
            event_ttl: Duration::from_secs(3600),
            controllers: "none".into(),
            scheduler: false,
            node_monitor_grace_seconds: 40,
            limits: fairlead_server::Limits::default(),
        };
        let stop = CancellationToken::new();
        let server: Server = fairlead_server::start(args, stop.clone()).await.unwrap();
        let address = server.address;
        let done = tokio::spawn(server.wait());
        let file = kube::config::Kubeconfig::read_from(directory.join("admin.kubeconfig")).unwrap();
        let mut config =
            kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default())
                .await
                .unwrap();
        config.cluster_url = format!("https://{address}").parse().unwrap();
        let client = kube::Client::try_from(config).unwrap();
        Running { client, stop, done }
    }

    pub async fn stop(self) {
        self.stop.cancel();
        drop(self.client);
        self.done.await.unwrap().unwrap();
    }

    pub async fn send(&self, method: Method, path: &str, media: &str, body: Vec<u8>) -> http::Response<Body> {
        let request = Request::builder().method(method).uri(path).header("content-type", media);
        self.client.send(request.body(Body::from(body)).unwrap()).await.unwrap()
    }

    pub async fn call(&self, method: Method, path: &str, body: &Value) -> (StatusCode, Value) {
        let media = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let response = self.send(method, path, media, bytes).await;
        let code = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    #[track_caller]
    pub fn expect(answer: (StatusCode, Value), code: u16) -> Value {
        assert_eq!(answer.0, code, "{}", answer.1);
        answer.1
    }

    pub async fn get(&self, path: &str, code: u16) -> Value {
        Self::expect(self.call(Method::GET, path, &Value::Null).await, code)
    }

    pub async fn post(&self, path: &str, body: &Value, code: u16) -> Value {
        Self::expect(self.call(Method::POST, path, body).await, code)
    }

    /// The next `count` events of a watch.
    pub async fn watch(&self, path: &str, count: usize) -> Vec<Value> {
        let response = self.send(Method::GET, path, "application/json", Vec::new()).await;
        assert_eq!(response.status(), 200);
        let mut chunks = response.into_body().into_data_stream();
        let mut text = Vec::new();
        let mut events = Vec::new();
        while events.len() < count {
            let chunk =
                tokio::time::timeout(Duration::from_secs(20), chunks.next()).await.expect("an event in time");
            let Some(chunk) = chunk else { break };
            text.extend_from_slice(&chunk.unwrap());
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                events.push(serde_json::from_slice(&line).unwrap());
            }
        }
        events
    }
}
