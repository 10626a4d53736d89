//! A `kube::Client` whose service is the router itself: controllers in this process take the same way as everybody,
//! without a socket.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{FutureExt, future::BoxFuture};
use http::{Request, Response};
use tower::Service;

use crate::{
    api::Api,
    body::{self, Body},
    route::{self, Peer},
    secure::User,
};

/// The router as a service, for one user.
#[derive(Clone)]
pub struct InProcess {
    api: Arc<Api>,
    user: Arc<User>,
}

impl Service<Request<kube::client::Body>> for InProcess {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        let mut request = request.map(body::wrap);
        request.extensions_mut().insert(Peer(Some(self.user.clone())));
        route::handle_caught(self.api.clone(), request).map(Ok).boxed()
    }
}

/// A client that acts as the user `name`.
pub fn client(api: Arc<Api>, name: &str, agent: &'static str) -> kube::Client {
    let service = InProcess { api, user: Arc::new(User::component(name)) };
    let named = tower::util::MapRequest::new(service, move |mut request: Request<kube::client::Body>| {
        let agent = http::HeaderValue::from_static(agent);
        request.headers_mut().entry(http::header::USER_AGENT).or_insert(agent);
        request
    });
    kube::Client::new(named, "default")
}
