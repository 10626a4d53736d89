//! healthCheckNodePort: load balancers ask each node whether it has backends of a Service with
//! `externalTrafficPolicy: Local`. Answers are kube-proxy's (pkg/proxy/healthcheck/service_health.go).

use std::{
    collections::{BTreeMap, HashMap},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use crate::{model::Key, status::Status};

/// The Service behind a health check port, and how many of its backends are ready on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The Service.
    pub service: Key,
    /// Ready backends here.
    pub local: usize,
}

/// Every health check port of the node.
pub type Checks = BTreeMap<u16, Health>;

/// How long until a port that somebody else has is tried again.
const AGAIN: Duration = Duration::from_secs(5);

struct Port {
    number: u16,
    checks: watch::Receiver<Checks>,
    status: Arc<Status>,
}

/// Serves every port of `checks`, as they come and go, until `shutdown` is cancelled.
pub async fn serve(mut checks: watch::Receiver<Checks>, status: Arc<Status>, shutdown: CancellationToken) {
    let mut serving: HashMap<u16, CancellationToken> = HashMap::new();
    loop {
        let wanted: Vec<u16> = checks.borrow_and_update().keys().copied().collect();
        serving.retain(|port, stop| {
            let stays = wanted.contains(port) && !stop.is_cancelled();
            if !stays {
                stop.cancel();
            }
            stays
        });
        for number in wanted {
            serving.entry(number).or_insert_with(|| {
                let stop = shutdown.child_token();
                let port = Port { number, checks: checks.clone(), status: status.clone() };
                tokio::spawn(serve_port(port, stop.clone()));
                stop
            });
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = checks.changed() => if changed.is_err() { return },
        }
    }
}

async fn serve_port(port: Port, stop: CancellationToken) {
    let number = port.number;
    let router = Router::new().fallback(answer).with_state(Arc::new(port));
    loop {
        match listen(number).await {
            Ok(listener) => {
                let served = axum::serve(listener, router.clone())
                    .with_graceful_shutdown(stop.clone().cancelled_owned());
                if let Err(error) = served.await {
                    tracing::warn!(%error, port = number, "a health check port is not served");
                }
            }
            Err(error) => tracing::warn!(%error, port = number, "a health check port is not free"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

/// Both families by one socket, whatever the namespace's default is, or IPv4 where the kernel has nothing else.
async fn listen(port: u16) -> std::io::Result<TcpListener> {
    const BACKLOG: u32 = 64;
    match TcpSocket::new_v6() {
        Ok(socket) => {
            rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
            socket.set_reuseaddr(true)?;
            socket.bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
            socket.listen(BACKLOG)
        }
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await
        }
        Err(error) => Err(error),
    }
}

async fn answer(State(port): State<Arc<Port>>) -> impl IntoResponse {
    let health = port.checks.borrow().get(&port.number).cloned();
    let Some(health) = health else { return StatusCode::NOT_FOUND.into_response() };
    let proxy = port.status.is_ready();
    let code = if health.local > 0 && proxy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = [
        ("content-type", "application/json".to_owned()),
        ("x-content-type-options", "nosniff".to_owned()),
        ("x-load-balancing-endpoint-weight", health.local.to_string()),
    ];
    (code, headers, body(&health, proxy)).into_response()
}

/// In kube-proxy's own layout, since some load balancers look for the text.
fn body(health: &Health, proxy: bool) -> String {
    let Key { namespace, name } = &health.service;
    let local = health.local;
    format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\t\"localEndpoints\": \
         {local},\n\t\"serviceProxyHealthy\": {proxy}\n}}"
    )
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn ask(port: u16) -> Option<String> {
        let mut stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text)
    }

    async fn until(port: u16, expected: impl Fn(Option<&str>) -> bool) -> Option<String> {
        for _ in 0..200 {
            let answer = ask(port).await;
            if expected(answer.as_deref()) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("port {port} never answered as expected")
    }

    #[tokio::test]
    async fn ports_come_and_go_and_answer_as_kube_proxy_does() {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = free.local_addr().expect("its address").port();
        drop(free);
        let checks = |local| Checks::from([(port, Health { service: Key::new("shop", "web"), local })]);
        let (sender, receiver) = watch::channel(Checks::new());
        let (status, stop) = (Arc::new(Status::default()), CancellationToken::new());
        status.ready();
        let server = tokio::spawn(serve(receiver, status, stop.clone()));
        sender.send(checks(2)).expect("a server");
        let answer = until(port, |answer| answer.is_some()).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains("x-load-balancing-endpoint-weight: 2\r\n"), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        let json: serde_json::Value = serde_json::from_str(body).expect("JSON");
        let service = serde_json::json!({"namespace": "shop", "name": "web"});
        assert_eq!(
            json,
            serde_json::json!({"service": service, "localEndpoints": 2, "serviceProxyHealthy": true})
        );
        sender.send(checks(0)).expect("a server");
        until(port, |answer| answer.is_some_and(|text| text.starts_with("HTTP/1.1 503 "))).await;
        sender.send(Checks::new()).expect("a server");
        until(port, |answer| answer.is_none()).await;
        stop.cancel();
        server.await.expect("a clean end");
    }
}
