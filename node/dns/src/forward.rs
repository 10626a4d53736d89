//! Questions about names outside the cluster: sent to upstream servers over UDP, over TCP when the answer is cut
//! short, one after the other until one answers. Equal questions asked at once are sent once.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use hickory_proto::op::{Message, MessageType, ResponseCode};
use parking_lot::{Mutex, RwLock};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use crate::cache::{Cache, Kept, Key, KeyBytes, MAX_ENTRIES, MAX_OCTETS};
use crate::config::Routes;
use crate::message::{HEADER, Rcode, TCP_PAYLOAD, UDP_PAYLOAD, query_octets, u16_at};
use crate::name::Asked;

/// Questions under way at once; further ones are answered SERVFAIL.
pub const MAX_IN_FLIGHT: usize = 1000;
/// How long one server has for its first try.
const FIRST_PATIENCE: Duration = Duration::from_millis(1000);
/// How long all servers have together: less than the 5 s after which resolvers ask again.
const DEADLINE: Duration = Duration::from_millis(4500);
/// A server that did not answer is asked after the others for so long.
const SHUNNED: Duration = Duration::from_secs(10);

/// Why there is no answer from upstream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// There is nobody to ask.
    #[error(
        "no upstream server: the node's resolv.conf names none; give --upstream or set upstreamNameservers in ConfigMap kube-system/fairlead-dns"
    )]
    NoServer,
    /// Too many questions are under way.
    #[error("{MAX_IN_FLIGHT} questions are under way already")]
    Busy,
    /// None of the servers answered.
    #[error("no answer from any of the servers; the last one, {server}: {reason}")]
    Silent {
        /// The last one.
        server: SocketAddr,
        /// What happened there.
        reason: String,
    },
}

type Flight = Shared<BoxFuture<'static, Result<Arc<Kept>, ForwardError>>>;

/// What one server was asked and how often it failed.
#[derive(Debug, Default, Clone)]
pub struct ServerCount {
    /// Questions sent.
    pub requests: u64,
    /// Of these, without a usable answer.
    pub failures: u64,
    shunned_until: Option<Instant>,
}

/// Asks upstream servers and keeps what they say.
pub struct Forwarder {
    routes: RwLock<Arc<Routes>>,
    /// The answers that are kept.
    pub cache: Cache,
    flights: Mutex<HashMap<Key, Flight>>,
    in_flight: Semaphore,
    servers: Mutex<HashMap<SocketAddr, ServerCount>>,
    /// Questions that were refused because too many were under way.
    pub refused: AtomicU64,
}

/// A question to ask upstream.
#[derive(Clone)]
pub struct Question {
    /// Lower case.
    pub name: Asked,
    /// Its type.
    pub kind: u16,
    /// The CD flag.
    pub checking_disabled: bool,
    /// The DO flag.
    pub dnssec: bool,
}

impl Question {
    fn key(&self) -> KeyBytes {
        KeyBytes::new(self.name.wire(), self.kind, self.checking_disabled, self.dnssec)
    }
}

impl Forwarder {
    /// Asks the servers of `routes`.
    #[must_use]
    pub fn new(routes: Routes) -> Forwarder {
        Forwarder {
            routes: RwLock::new(Arc::new(routes)),
            cache: Cache::new(MAX_ENTRIES, MAX_OCTETS, Instant::now()),
            flights: Mutex::default(),
            in_flight: Semaphore::new(MAX_IN_FLIGHT),
            servers: Mutex::default(),
            refused: AtomicU64::new(0),
        }
    }

    /// Asks other servers from now on. What the ones before said is forgotten.
    pub fn set_routes(&self, routes: Routes) {
        let mut current = self.routes.write();
        if **current != routes {
            *current = Arc::new(routes);
            self.cache.clear();
            self.servers.lock().clear();
        }
    }

    /// What each server was asked.
    #[must_use]
    pub fn counts(&self) -> Vec<(SocketAddr, ServerCount)> {
        let servers = self.servers.lock();
        servers.iter().map(|(server, count)| (*server, count.clone())).collect()
    }

    /// The answer to a question, kept or asked for, and its age in seconds.
    ///
    /// # Errors
    /// [`ForwardError`] when nobody answered.
    pub async fn ask(self: &Arc<Self>, question: Question) -> Result<(Arc<Kept>, u32), ForwardError> {
        let key = question.key();
        if let Some(kept) = self.cache.get(&key, Instant::now()) {
            return Ok(kept);
        }
        let Ok(_permit) = self.in_flight.try_acquire() else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(ForwardError::Busy);
        };
        let flight = self.flights.lock().entry(key.to_key()).or_insert_with(|| self.depart(question)).clone();
        Ok((flight.await?, 0))
    }

    /// Starts asking. It runs on its own, so that it ends and is forgotten whoever waits for it.
    fn depart(self: &Arc<Self>, question: Question) -> Flight {
        let this = self.clone();
        let task = tokio::spawn(async move {
            let key = question.key().to_key();
            let routes = this.routes.read().clone();
            let outcome = this.exchange(&routes, &question).await;
            if let Ok(kept) = &outcome
                && Arc::ptr_eq(&routes, &this.routes.read())
            {
                this.cache.put(key.clone(), kept.clone(), Instant::now());
            }
            this.flights.lock().remove(&key);
            outcome
        });
        let ended = |joined: Result<_, tokio::task::JoinError>| joined.unwrap_or(Err(ForwardError::NoServer));
        task.map(ended).boxed().shared()
    }

    /// The servers, those that failed lately last.
    fn order(&self, servers: &[SocketAddr], now: Instant) -> Vec<SocketAddr> {
        let counts = self.servers.lock();
        let is_shunned = |server: &SocketAddr| {
            counts.get(server).and_then(|count| count.shunned_until).is_some_and(|until| until > now)
        };
        let mut order = servers.to_vec();
        order.sort_by_key(is_shunned);
        order
    }

    async fn exchange(&self, routes: &Routes, question: &Question) -> Result<Arc<Kept>, ForwardError> {
        let servers = self.order(routes.servers(&question.name), Instant::now());
        let deadline = tokio::time::Instant::now() + DEADLINE;
        let (mut patience, mut silent, mut unwilling) = (FIRST_PATIENCE, ForwardError::NoServer, None);
        while !servers.is_empty() {
            for server in &servers {
                let until = (tokio::time::Instant::now() + patience).min(deadline);
                let tried = ask_server(*server, question, until).await;
                let failed = match tried {
                    // Another server may know or be willing to tell.
                    Ok(kept) if matches!(kept.rcode(), Rcode::ServFail | Rcode::Refused | Rcode::NotImp) => {
                        unwilling = Some(kept);
                        false
                    }
                    Ok(kept) => {
                        self.count(*server, false);
                        return Ok(Arc::new(kept));
                    }
                    Err(error) => {
                        silent = ForwardError::Silent { server: *server, reason: error.to_string() };
                        true
                    }
                };
                self.count(*server, failed);
                if tokio::time::Instant::now() >= deadline {
                    break;
                }
            }
            if let Some(kept) = unwilling {
                return Ok(Arc::new(kept));
            }
            patience *= 2;
            // A server that refuses at once would be asked in a tight loop.
            let pause = tokio::time::Instant::now() + Duration::from_millis(200);
            if pause >= deadline {
                break;
            }
            tokio::time::sleep_until(pause).await;
        }
        tracing::debug!(error = %silent, "a question stays without an answer");
        Err(silent)
    }

    fn count(&self, server: SocketAddr, failed: bool) {
        let mut servers = self.servers.lock();
        let count = servers.entry(server).or_default();
        count.requests += 1;
        count.failures += u64::from(failed);
        count.shunned_until = failed.then(|| Instant::now() + SHUNNED);
    }
}

/// Asks one server once.
async fn ask_server(
    server: SocketAddr,
    question: &Question,
    until: tokio::time::Instant,
) -> io::Result<Kept> {
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let answer = tokio::time::timeout_at(until, over_udp(server, question)).await.map_err(late)??;
    let answer = if answer.metadata.truncation {
        // TCP gets as much time again: the server is there.
        let more = tokio::time::Instant::now() + FIRST_PATIENCE;
        tokio::time::timeout_at(more.max(until), over_tcp(server, question)).await.map_err(late)??
    } else {
        answer
    };
    kept(answer)
}

/// An answer without its OPT record, in octets.
fn kept(mut answer: Message) -> io::Result<Kept> {
    answer.edns = None;
    answer.signature = None;
    // Codes above 15 need an OPT record.
    if answer.metadata.response_code.high() > 0 {
        answer.metadata.response_code = ResponseCode::ServFail;
    }
    let octets = answer.to_vec().map_err(io::Error::other)?;
    let kept = Kept::new(octets, Instant::now());
    kept.ok_or_else(|| io::Error::other("the answer does not hold together"))
}

async fn over_udp(server: SocketAddr, question: &Question) -> io::Result<Message> {
    // A socket for each question: its port is as hard to guess as the number.
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    let query = octets(question);
    socket.send(&query).await?;
    let mut buffer = vec![0; 2 * UDP_PAYLOAD];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let Some(bytes) = buffer.get(..length) else { continue };
        // What does not answer this very question may be forged: the true answer may still come.
        if let Some(answer) = read_answer(bytes, &query, question) {
            return Ok(answer);
        }
    }
}

async fn over_tcp(server: SocketAddr, question: &Question) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let query = octets(question);
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], &query].concat()).await?;
    let length = usize::from(stream.read_u16().await?).min(TCP_PAYLOAD);
    let mut buffer = vec![0; length];
    stream.read_exact(&mut buffer).await?;
    read_answer(&buffer, &query, question)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "this is no answer to the question"))
}

fn octets(question: &Question) -> Vec<u8> {
    let name = question.name.wire();
    query_octets(rand::random(), name, question.kind, question.checking_disabled, question.dnssec)
}

/// The message, if it is the answer to this query.
fn read_answer(bytes: &[u8], query: &[u8], question: &Question) -> Option<Message> {
    if u16_at(bytes, 0)? != u16_at(query, 0)? || u16_at(bytes, 4)? != 1 {
        return None;
    }
    let name = Asked::read(bytes.get(HEADER..)?)?;
    let after = HEADER + name.wire().len();
    if name.wire() != question.name.wire() || bytes.get(after..after + 4)? != query.get(after..after + 4)? {
        return None;
    }
    let message = Message::from_vec(bytes).ok()?;
    (message.metadata.message_type == MessageType::Response).then_some(message)
}
