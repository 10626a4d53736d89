//! Exec and attach over WebSocket: `v5.channel.k8s.io` and `v4.channel.k8s.io`, in binary and base64.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bollard::models::ExecConfig;
use bytes::Bytes;
use futures::stream::SplitSink;
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::answer::{self, Body};
use super::route;
use crate::docker::raw::{Channel, Demux};
use crate::docker::state::Instance;
use crate::docker::{Engine, Error};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Version 5's "this channel is over", followed by the channel's number.
const CLOSE: u8 = 255;
/// Largest message that is taken.
const MAX_MESSAGE: usize = 4 << 20;
/// Quiet streams are kept alive.
const PING: Duration = Duration::from_secs(10);

/// Which of the two it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A new process.
    Exec,
    /// The container's own.
    Attach,
}

/// A protocol both sides know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Protocol {
    name: &'static str,
    base64: bool,
    close_signal: bool,
}

/// In order of preference.
const PROTOCOLS: [Protocol; 4] = [
    Protocol { name: "v5.channel.k8s.io", base64: false, close_signal: true },
    Protocol { name: "v4.channel.k8s.io", base64: false, close_signal: false },
    Protocol { name: "v5.base64.channel.k8s.io", base64: true, close_signal: true },
    Protocol { name: "v4.base64.channel.k8s.io", base64: true, close_signal: false },
];

fn choose(headers: &HeaderMap) -> Option<Protocol> {
    let offered: Vec<String> = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(|name| name.trim().to_owned()))
        .collect();
    PROTOCOLS.into_iter().find(|protocol| offered.iter().any(|name| name == protocol.name))
}

/// What the client asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Options {
    command: Vec<String>,
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

/// Both the kubelet's names (`input`, `output`, `error`) and the API's are understood.
fn options(query: &[(String, String)]) -> Options {
    let mut out = Options::default();
    for (name, value) in query {
        let on = route::flag(value);
        match name.as_str() {
            "command" => out.command.push(value.clone()),
            "input" | "stdin" => out.stdin = on,
            "output" | "stdout" => out.stdout = on,
            "error" | "stderr" => out.stderr = on,
            "tty" => out.tty = on,
            _ => {}
        }
    }
    // A terminal has one output.
    out.stderr &= !out.tty;
    out
}

/// Takes over the connection, or says why not.
pub async fn start(
    mut request: Request<Incoming>,
    engine: Engine,
    instance: Instance,
    kind: Kind,
) -> Response<Body> {
    let mut options = options(&route::query(&request));
    if kind == Kind::Exec && options.command.is_empty() {
        return answer::text(StatusCode::BAD_REQUEST, "you must specify at least 1 command for exec");
    }
    if kind == Kind::Attach {
        options.tty = instance.tty;
    }
    if !options.stdin && !options.stdout && !options.stderr {
        return answer::text(StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr");
    }
    let upgrade =
        request.headers().get(header::UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if upgrade.to_ascii_lowercase().contains("spdy") {
        return answer::not_implemented(
            "SPDY is not supported by this kubelet; use WebSocket (v5.channel.k8s.io)",
        );
    }
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).cloned();
    let (true, Some(key)) = (upgrade.eq_ignore_ascii_case("websocket"), key) else {
        return answer::text(StatusCode::BAD_REQUEST, "a WebSocket upgrade is required\n");
    };
    let Some(protocol) = choose(request.headers()) else {
        return answer::text(
            StatusCode::BAD_REQUEST,
            "none of the offered WebSocket subprotocols is supported\n",
        );
    };
    let taken = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match taken.await {
            Ok(stream) => serve(stream, engine, instance, kind, options, protocol).await,
            Err(error) => tracing::debug!(%error, "upgrade failed"),
        }
    });
    let mut response = Response::new(route::boxed(http_body_util::Empty::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol.name));
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// The sending side, in the chosen encoding.
struct Outgoing {
    sink: SplitSink<Socket, Message>,
    protocol: Protocol,
}

impl Outgoing {
    async fn send(&mut self, channel: u8, data: &[u8]) -> bool {
        let message = if self.protocol.base64 {
            Message::Text(format!("{channel}{}", BASE64.encode(data)).into())
        } else {
            let mut frame = Vec::with_capacity(data.len() + 1);
            frame.push(channel);
            frame.extend_from_slice(data);
            Message::Binary(Bytes::from(frame))
        };
        self.sink.send(message).await.is_ok()
    }

    async fn finish(mut self, status: &Value) {
        self.send(ERROR, status.to_string().as_bytes()).await;
        // Clients take an end without a code for a failure.
        let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let _ = self.sink.send(Message::Close(Some(frame))).await;
        let _ = self.sink.close().await;
    }
}

fn success() -> Value {
    json!({"metadata": {}, "status": "Success"})
}

fn exited(code: i64) -> Value {
    if code == 0 {
        return success();
    }
    json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}})
}

fn failure(message: &str) -> Value {
    json!({"metadata": {}, "status": "Failure", "reason": "InternalError",
        "message": format!("Internal error occurred: {message}"), "code": 500,
        "details": {"causes": [{"message": message}]}})
}

/// What is driven: an exec or a container.
enum Target {
    Exec(String),
    Container(String),
}

async fn open(
    engine: &Engine,
    instance: &Instance,
    kind: Kind,
    options: &Options,
) -> Result<(TokioIo<Upgraded>, Target), Error> {
    match kind {
        Kind::Exec => {
            let config = ExecConfig {
                attach_stdin: Some(options.stdin),
                attach_stdout: Some(options.stdout),
                attach_stderr: Some(options.stderr),
                tty: Some(options.tty),
                cmd: Some(options.command.clone()),
                ..Default::default()
            };
            let exec = engine.prepare_exec(&instance.id, config).await?;
            let body = json!({"Detach": false, "Tty": options.tty}).to_string();
            let stream = engine.raw().hijack(&format!("/exec/{exec}/start"), body).await?;
            Ok((stream, Target::Exec(exec)))
        }
        Kind::Attach => {
            let flag = u8::from;
            let path = format!(
                "/containers/{}/attach?stream=1&stdin={}&stdout={}&stderr={}",
                instance.id,
                flag(options.stdin),
                flag(options.stdout),
                flag(options.stderr)
            );
            let stream = engine.raw().hijack(&path, String::new()).await?;
            Ok((stream, Target::Container(instance.id.clone())))
        }
    }
}

async fn serve(
    stream: Upgraded,
    engine: Engine,
    instance: Instance,
    kind: Kind,
    options: Options,
    protocol: Protocol,
) {
    let config =
        WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(stream), Role::Server, Some(config)).await;
    let (sink, mut incoming) = socket.split();
    let mut outgoing = Outgoing { sink, protocol };
    // Every channel is announced by an empty frame, as upstream's server does.
    for (channel, used) in [(STDOUT, options.stdout), (STDERR, options.stderr), (ERROR, true)] {
        if used {
            outgoing.send(channel, &[]).await;
        }
    }
    let (docker, target) = match open(&engine, &instance, kind, &options).await {
        Ok(opened) => opened,
        Err(error) => return outgoing.finish(&failure(&error.to_string())).await,
    };
    let (mut output, mut input) = tokio::io::split(docker);
    let talked = {
        let send = pump_output(&mut output, &mut outgoing, options.tty);
        let receive = pump_input(&engine, &target, &options, protocol, &mut incoming, &mut input);
        tokio::select! {
            () = send => true,
            () = receive => false,
        }
    };
    if !talked {
        // The client is gone; closing Docker's stream ends the process's input.
        return;
    }
    let status = match &target {
        Target::Exec(exec) => match engine.wait_exec(exec).await {
            Ok(code) => exited(code),
            Err(error) => failure(&error.to_string()),
        },
        Target::Container(_) => success(),
    };
    outgoing.finish(&status).await;
}

/// Passes output on until the process's end.
async fn pump_output(output: &mut ReadHalf<TokioIo<Upgraded>>, outgoing: &mut Outgoing, tty: bool) {
    let mut demux = Demux::new(tty);
    let mut buffer = vec![0_u8; 16 * 1024];
    let mut ping = tokio::time::interval(PING);
    loop {
        let read = tokio::select! {
            read = output.read(&mut buffer) => read.unwrap_or(0),
            _ = ping.tick() => {
                if outgoing.sink.send(Message::Ping(Bytes::new())).await.is_err() {
                    return;
                }
                continue;
            }
        };
        if read == 0 {
            return;
        }
        demux.push(buffer.get(..read).unwrap_or_default());
        while let Some((channel, piece)) = demux.next_piece() {
            let channel = if channel == Channel::Stderr { STDERR } else { STDOUT };
            if !outgoing.send(channel, &piece).await {
                return;
            }
        }
    }
}

/// A terminal's size as clients send it.
#[derive(Debug, Deserialize)]
struct Size {
    #[serde(rename = "Width")]
    width: u16,
    #[serde(rename = "Height")]
    height: u16,
}

/// One message of a client.
#[derive(Debug, PartialEq, Eq)]
enum Input {
    Data(Vec<u8>),
    Resize(u16, u16),
    CloseStdin,
    Nothing,
}

/// The protocol alone says how a message is encoded: some clients send text in text frames where others send binary.
fn read_message(message: Message, protocol: Protocol) -> Option<Input> {
    if !matches!(message, Message::Binary(_) | Message::Text(_)) {
        return None;
    }
    let bytes = message.into_data();
    let (first, rest) = bytes.split_first()?;
    let (channel, data) = if protocol.base64 {
        (first.checked_sub(b'0')?, BASE64.decode(rest).ok()?)
    } else {
        (*first, rest.to_vec())
    };
    Some(match channel {
        STDIN => Input::Data(data),
        RESIZE => match serde_json::from_slice::<Size>(&data) {
            Ok(size) => Input::Resize(size.width, size.height),
            Err(_) => Input::Nothing,
        },
        CLOSE if protocol.close_signal && data.first() == Some(&STDIN) => Input::CloseStdin,
        _ => Input::Nothing,
    })
}

/// Passes input on until the client is gone. A client that only ends its input is still listened to.
async fn pump_input(
    engine: &Engine,
    target: &Target,
    options: &Options,
    protocol: Protocol,
    incoming: &mut futures::stream::SplitStream<Socket>,
    input: &mut WriteHalf<TokioIo<Upgraded>>,
) {
    let mut open = options.stdin;
    while let Some(Ok(message)) = incoming.next().await {
        if matches!(message, Message::Close(_)) {
            return;
        }
        match read_message(message, protocol) {
            Some(Input::Data(data)) if open => {
                open = input.write_all(&data).await.is_ok() && input.flush().await.is_ok();
            }
            Some(Input::CloseStdin) if open => {
                open = false;
                let _ = input.shutdown().await;
            }
            Some(Input::Resize(width, height)) if options.tty => {
                let resized = match target {
                    Target::Exec(exec) => engine.resize_exec(exec, width, height).await,
                    Target::Container(id) => engine.resize(id, width, height).await,
                };
                if let Err(error) = resized {
                    tracing::debug!(%error, "cannot resize a terminal");
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_protocol_both_know_is_chosen() {
        for (offered, expected) in [
            (vec!["v5.channel.k8s.io, v4.channel.k8s.io"], Some("v5.channel.k8s.io")),
            (vec!["v4.channel.k8s.io", "v5.channel.k8s.io"], Some("v5.channel.k8s.io")),
            (vec!["v4.base64.channel.k8s.io"], Some("v4.base64.channel.k8s.io")),
            (vec!["channel.k8s.io"], None),
            (vec![], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in &offered {
                headers.append(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(value));
            }
            assert_eq!(choose(&headers).map(|protocol| protocol.name), expected, "{offered:?}");
        }
    }

    #[test]
    fn messages_are_read_by_channel() {
        let [v5, v4, _, v4_base64] = PROTOCOLS;
        let binary = |bytes: &'static [u8]| Message::Binary(Bytes::from_static(bytes));
        for (message, protocol, expected) in [
            (binary(b"\0hi"), v5, Some(Input::Data(b"hi".to_vec()))),
            (binary(b"\x04{\"Width\":80,\"Height\":24}"), v5, Some(Input::Resize(80, 24))),
            (binary(b"\x04nonsense"), v5, Some(Input::Nothing)),
            (binary(b"\xff\0"), v5, Some(Input::CloseStdin)),
            (binary(b"\xff\0"), v4, Some(Input::Nothing)),
            (binary(b"\x09x"), v5, Some(Input::Nothing)),
            (binary(b""), v5, None),
            (Message::Text("0aGk=".into()), v4_base64, Some(Input::Data(b"hi".to_vec()))),
            (Message::Text("0***".into()), v4_base64, None),
            (binary(b"0aGk="), v4_base64, Some(Input::Data(b"hi".to_vec()))),
            (Message::Text("\0hi".into()), v4, Some(Input::Data(b"hi".to_vec()))),
            (Message::Ping(Bytes::from_static(b"\0hi")), v4, None),
        ] {
            assert_eq!(read_message(message, protocol), expected);
        }
    }

    #[test]
    fn both_sets_of_names_are_understood() {
        let pairs = |text: &[(&str, &str)]| {
            text.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
        };
        let kubelet = options(&pairs(&[
            ("command", "a"),
            ("command", "b"),
            ("input", "1"),
            ("output", "1"),
            ("error", "1"),
        ]));
        let api = options(&pairs(&[
            ("command", "a"),
            ("command", "b"),
            ("stdin", "true"),
            ("stdout", "True"),
            ("stderr", ""),
            ("tty", "False"),
        ]));
        assert_eq!(kubelet, api);
        assert_eq!(kubelet.command, ["a", "b"]);
        assert!(!options(&pairs(&[("stderr", "1"), ("tty", "1")])).stderr);
    }
}
