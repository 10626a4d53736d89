//! How many requests are worked on at once, as upstream's `--max-requests-inflight` bounds them.
//!
//! Reads and writes are counted apart, and so are nodes and the control plane's own components from everybody else: a
//! crowd of clients cannot keep a node from renewing its Lease. Watches and streams are not counted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{HeaderValue, Response, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{body::Body, config::Limits, info::Info, reply, secure::User};

/// How many requests may wait for each one that is worked on.
const QUEUE: usize = 4;
/// The longest wait for a seat.
const PATIENCE: Duration = Duration::from_secs(15);

/// The seat of a request that is worked on, until its answer has been sent.
pub type Seat = OwnedSemaphorePermit;

struct Room {
    seats: Arc<Semaphore>,
    size: usize,
    waiting: AtomicUsize,
}

impl Room {
    /// `None` for a bound of 0, which is none.
    fn new(size: usize) -> Option<Self> {
        let size = size.min(Semaphore::MAX_PERMITS);
        let seats = Arc::new(Semaphore::new(size));
        (size > 0).then(|| Room { seats, size, waiting: AtomicUsize::new(0) })
    }

    async fn enter(&self, patience: Duration) -> Option<Seat> {
        if let Ok(seat) = self.seats.clone().try_acquire_owned() {
            return Some(seat);
        }
        let queue = Queued::new(&self.waiting);
        if queue.before >= self.size.saturating_mul(QUEUE) {
            return None;
        }
        tokio::time::timeout(patience, self.seats.clone().acquire_owned()).await.ok()?.ok()
    }
}

/// One who waits, counted until it no longer does.
struct Queued<'r> {
    waiting: &'r AtomicUsize,
    before: usize,
}

impl<'r> Queued<'r> {
    fn new(waiting: &'r AtomicUsize) -> Self {
        Queued { waiting, before: waiting.fetch_add(1, Relaxed) }
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.waiting.fetch_sub(1, Relaxed);
    }
}

/// The bounds of one server.
pub struct InFlight {
    /// Reads and writes of everybody, then of the system.
    rooms: [Option<Room>; 4],
    patience: Duration,
}

impl InFlight {
    pub fn new(limits: &Limits) -> Self {
        let (reads, writes) = (limits.max_requests_inflight, limits.max_mutating_requests_inflight);
        InFlight {
            rooms: [reads, writes, reads, writes].map(Room::new),
            patience: PATIENCE.min(limits.request_timeout() / 4),
        }
    }

    /// A seat for the request, if it needs one.
    ///
    /// # Errors
    /// 429 when there is none in time.
    pub async fn enter(&self, user: &User, info: &Info) -> Result<Option<Seat>, Box<Response<Body>>> {
        let member = |group: &str| user.groups.iter().any(|g| g == group);
        if info.long_running() || member("system:masters") {
            return Ok(None);
        }
        let writes = !matches!(info.verb, "get" | "list" | "watch" | "head");
        let system = member("system:nodes")
            || matches!(user.name.as_str(), "system:kube-controller-manager" | "system:kube-scheduler");
        let room = self.rooms.get(usize::from(system) * 2 + usize::from(writes)).and_then(Option::as_ref);
        match room {
            None => Ok(None),
            Some(room) => room.enter(self.patience).await.map(Some).ok_or_else(|| Box::new(refusal())),
        }
    }
}

/// Upstream's words for a server that has too much to do: no Status, but text.
fn refusal() -> Response<Body> {
    let mut response = reply::text(429, "Too many requests, please try again later.\n");
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::info::Params;

    fn info(method: Method, path: &str) -> Info {
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        Info::parse(&method, path, &Params::parse(query))
    }

    fn user(name: &str, group: &str) -> User {
        User { name: name.into(), groups: vec![group.into()], ..User::default() }
    }

    #[tokio::test]
    async fn who_finds_no_seat_waits_and_is_then_told_to_come_back() {
        let limits = Limits {
            max_requests_inflight: 2,
            max_mutating_requests_inflight: 1,
            request_timeout_seconds: 1,
            ..Limits::default()
        };
        let flight = InFlight::new(&limits);
        let (list, create) =
            (info(Method::GET, "/api/v1/pods"), info(Method::POST, "/api/v1/namespaces/a/pods"));
        let some = user("u", "g");
        let first = flight.enter(&some, &create).await.unwrap();
        assert!(first.is_some());
        let refused = flight.enter(&some, &create).await.unwrap_err();
        assert_eq!(
            (refused.status().as_u16(), &refused.headers()["retry-after"]),
            (429, &"1".parse().unwrap())
        );
        assert!(flight.enter(&some, &list).await.unwrap().is_some(), "reads have seats of their own");
        assert!(flight.enter(&user("n", "system:nodes"), &create).await.unwrap().is_some());
        assert!(flight.enter(&user("root", "system:masters"), &create).await.unwrap().is_none());
        let watch = info(Method::GET, "/api/v1/pods?watch=1");
        assert!(flight.enter(&some, &watch).await.unwrap().is_none(), "watches are not counted");
        let waits = flight.enter(&some, &create);
        drop(first);
        assert!(waits.await.unwrap().is_some());
    }
}
