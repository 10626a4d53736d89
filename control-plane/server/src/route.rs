//! The way of a request: who -> may they -> what -> answer. Everything that is served passes here, from sockets and
//! from the controllers in this process alike.

use std::sync::Arc;

use bytes::Bytes;
use fairlead_api::{
    kind::{Act, Kind, Subresource},
    registry,
    status::{self, Status},
};
use futures::FutureExt as _;
use http::{HeaderMap, Method, Request, Response, header};

use crate::{
    accept::{self, Form, Offer},
    api::{Api, Call},
    body::Body,
    delete, discover, health,
    inflight::Seat,
    info::{Info, Params, Resource},
    ingest, kubelet, patch, proxy, read,
    reply::{self, Answer},
    secure::{Attributes, User},
    subresource::{binding, eviction, finalize, reviews, scale, token},
    watch,
    write::{self, Part},
};

/// Who the transport says is asking: the client certificate's user, or a component in this process. A request
/// extension.
#[derive(Clone)]
pub struct Peer(pub Option<Arc<User>>);

/// Answers one request, also one that panics: the router keeps no state that a panic could leave half-changed.
pub async fn handle_caught(api: Arc<Api>, request: Request<Body>) -> Response<Body> {
    let answer = std::panic::AssertUnwindSafe(handle(api, request)).catch_unwind().await;
    answer.unwrap_or_else(|_| reply::status(Form::JSON, &status::internal("the request panicked")))
}

/// Answers one request.
pub async fn handle(api: Arc<Api>, request: Request<Body>) -> Response<Body> {
    let params = Params::parse(request.uri().query());
    let info = Info::parse(request.method(), request.uri().path(), &params);
    let kind = info.resource.as_ref().and_then(|r| registry::find(&r.group, &r.version, &r.plural));
    let apply = ingest::media(request.headers()) == "application/apply-patch+yaml";
    let running = api.metrics.begin(&info, kind, &params, apply);
    let form = plain_form(request.headers());
    let mut seat = None;
    let served = serve(&api, info, params, request, &mut seat);
    let answer = if running.is_long() {
        served.await
    } else {
        let late = || status::timeout("request did not complete within the allotted timeout", 0);
        tokio::time::timeout(api.limits.request_timeout(), served).await.unwrap_or_else(|_| Err(late()))
    };
    let response = answer.unwrap_or_else(|refused| reply::status(form, &refused));
    running.answered(response.status().as_u16());
    if running.is_long() {
        // Counted as open until its body has been sent.
        return hold(response, running);
    }
    // What is sent in one piece is as good as sent; a stream holds its seat until it ends.
    if http_body::Body::size_hint(response.body()).exact().is_none() {
        hold(response, seat)
    } else {
        response
    }
}

/// Keeps a guard alive as long as the body.
fn hold(response: Response<Body>, guard: impl Send + 'static) -> Response<Body> {
    use http_body_util::BodyExt as _;
    response.map(|body| {
        body.map_frame(move |frame| {
            let _ = &guard;
            frame
        })
        .boxed_unsync()
    })
}

async fn serve(
    api: &Arc<Api>,
    info: Info,
    params: Params,
    request: Request<Body>,
    seat: &mut Option<Seat>,
) -> Answer {
    let peer = request.extensions().get::<Peer>().and_then(|peer| peer.0.as_ref());
    let user = api.authenticator.authenticate(peer, request.headers())?;
    *seat = match api.inflight.enter(&user, &info).await {
        Ok(seat) => seat,
        Err(refusal) => return Ok(*refusal),
    };
    may(api, &info, &params, &user)?;
    let Some(resource) = info.resource.clone() else { return path(api, &info, &params, request).await };
    let kind = registry::find(&resource.group, &resource.version, &resource.plural);
    let kind = kind.ok_or_else(status::no_such_resource)?;
    of_kind(api, kind, info, params, resource, user, request).await
}

/// The form of refusals.
fn plain_form(headers: &HeaderMap) -> Form {
    let negotiated = accept::negotiate(headers, Offer::Object);
    negotiated.map_or(Form::JSON, |form| Form { shape: accept::Shape::Object, ..form })
}

/// Authorization.
fn may(api: &Api, info: &Info, params: &Params, user: &User) -> Result<(), Status> {
    let attributes = match &info.resource {
        None => Attributes::path(user, info.verb, &info.path),
        Some(resource) => Attributes {
            group: &resource.group,
            version: &resource.version,
            resource: &resource.plural,
            subresource: &resource.subresource,
            namespace: &resource.namespace,
            name: info.authorized_name(),
            field_selector: params.get("fieldSelector").unwrap_or_default(),
            ..Attributes::new(user, info.verb)
        },
    };
    api.authorizer.check(&attributes)
}

/// Paths that name no resource.
async fn path(api: &Arc<Api>, info: &Info, params: &Params, request: Request<Body>) -> Answer {
    if health::is_health(&info.path) {
        let read = matches!(*request.method(), Method::GET | Method::HEAD);
        let answer = if read { health::answer(api, &info.path, params).await } else { None };
        return Ok(answer.unwrap_or_else(|| reply::text(404, "404 page not found\n")));
    }
    let (parts, _) = request.into_parts();
    discover::answer(api, &info.path, params, &parts).await
}

async fn of_kind(
    api: &Arc<Api>,
    kind: &'static Kind,
    info: Info,
    params: Params,
    mut resource: Resource,
    user: Arc<User>,
    request: Request<Body>,
) -> Answer {
    let act = scoped(kind, &info, &mut resource, request.method())?;
    let offer = match info.verb {
        "get" | "list" | "watch" => Offer::Collection,
        _ => Offer::Object,
    };
    let headers = request.headers();
    let streams = matches!(act, Some(Act::Log | Act::Exec | Act::Attach | Act::PortForward | Act::Proxy));
    let form = match accept::negotiate(headers, offer) {
        Some(form) => form,
        None if streams => Form::JSON,
        None => {
            return Err(status::failure(
                406,
                "NotAcceptable",
                accept::not_acceptable(offer),
                Some(serde_json::json!({})),
            ));
        }
    };
    let call = Call {
        kind,
        info,
        resource,
        params,
        form,
        gzip: accept::gzip(headers),
        user,
        warnings: parking_lot::Mutex::default(),
        agent: agent(headers),
    };
    let form = plain_form(headers);
    let answer = dispatch(api, &call, act, request).await;
    let mut response = answer.unwrap_or_else(|refused| reply::status(form, &refused));
    let warnings: Vec<String> =
        kind.deprecated.iter().map(|text| (*text).to_owned()).chain(call.warnings.lock().drain(..)).collect();
    reply::warn(&mut response, &warnings);
    Ok(response)
}

async fn dispatch(api: &Arc<Api>, call: &Call, act: Option<Act>, request: Request<Body>) -> Answer {
    match act {
        Some(Act::Log) => kubelet::log(api, call).await,
        Some(Act::Exec) => kubelet::stream(api, call, "exec", request).await,
        Some(Act::Attach) => kubelet::stream(api, call, "attach", request).await,
        Some(Act::PortForward) => kubelet::stream(api, call, "portForward", request).await,
        Some(Act::Proxy) => proxy::proxy(api, call, request).await,
        Some(act) => {
            let (parts, body) = request.into_parts();
            let body = if call.info.verb == "get" { Bytes::new() } else { ingest::bytes(body).await? };
            of_subresource(api, call, act, &parts.headers, body).await
        }
        None => {
            let (parts, body) = request.into_parts();
            let body = if matches!(call.info.verb, "get" | "list" | "watch") {
                Bytes::new()
            } else {
                ingest::bytes(body).await?
            };
            of_object(api, call, &parts.headers, body).await
        }
    }
}

/// Checks that the path fits the kind and that the verb is served there; says what the subresource does.
fn scoped(
    kind: &'static Kind,
    info: &Info,
    resource: &mut Resource,
    method: &Method,
) -> Result<Option<Act>, Status> {
    if kind.storage == "namespaces" && resource.namespace == resource.name {
        // A Namespace is authorized as a part of itself, and of no other.
        resource.namespace.clear();
    }
    if !kind.namespaced && !resource.namespace.is_empty() {
        return Err(status::no_such_resource());
    }
    let named = !resource.name.is_empty();
    let everywhere = kind.namespaced && resource.namespace.is_empty();
    if everywhere && named {
        return Err(status::no_such_resource());
    }
    let sub = match resource.subresource.as_str() {
        "" => None,
        name => {
            let find = |sub: &&Subresource| sub.name == name;
            Some(kind.subresources.iter().find(find).ok_or_else(status::no_such_resource)?)
        }
    };
    let mut allowed = ["GET", "POST", "PUT", "PATCH", "DELETE"].contains(&method.as_str());
    if let Some(sub) = sub.filter(|sub| sub.act == Act::Proxy) {
        // What is proxied to may know any method.
        allowed |= matches!(*method, Method::HEAD | Method::OPTIONS);
        return if allowed { Ok(Some(sub.act)) } else { Err(status::method_not_allowed()) };
    }
    if !allowed || (everywhere && !matches!(info.verb, "list" | "watch")) {
        return Err(status::method_not_allowed());
    }
    if let Some(sub) = sub {
        if !resource.rest.is_empty() {
            return Err(status::no_such_resource());
        }
        if !sub.verbs.contains(&info.verb) {
            return Err(status::method_not_allowed());
        }
        return Ok(Some(sub.act));
    }
    let fits = match info.verb {
        "create" | "list" | "deletecollection" => !named,
        "watch" => !named || resource.legacy_watch,
        _ => named,
    };
    if !fits || !kind.verbs.contains(&info.verb) {
        return Err(status::method_not_allowed());
    }
    Ok(None)
}

/// The manager of writes that name none: what stands before the first `/` of the user agent.
fn agent(headers: &HeaderMap) -> String {
    let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let name = agent.split('/').next().unwrap_or_default();
    if name.is_empty() { "unknown".into() } else { name.chars().take(128).collect() }
}

async fn of_object(api: &Arc<Api>, call: &Call, headers: &HeaderMap, body: Bytes) -> Answer {
    let media = ingest::media(headers);
    match call.info.verb {
        "get" => read::get(api, call).await,
        "list" => read::list(api, call).await,
        "watch" => watch::watch(api, call).await,
        "create" => match reviews::of(call.kind) {
            Some(review) => review(api, call, headers, &body).await,
            None => write::create(api, call, media, &body).await,
        },
        "update" => write::update(api, call, Part::Main, media, &body).await,
        "patch" => patch::patch(api, call, Part::Main, headers, body).await,
        "delete" => delete::delete(api, call, media, &body).await,
        "deletecollection" => delete::collection(api, call, media, &body).await,
        _ => Err(status::method_not_allowed()),
    }
}

async fn of_subresource(api: &Arc<Api>, call: &Call, act: Act, headers: &HeaderMap, body: Bytes) -> Answer {
    let part = match act {
        Act::Status => Some(Part::Status),
        Act::EphemeralContainers => Some(Part::EphemeralContainers),
        Act::Resize => Some(Part::Resize),
        Act::Approval => Some(Part::Approval),
        _ => None,
    };
    let media = ingest::media(headers);
    match (act, part, call.info.verb) {
        (Act::Scale { .. }, _, "get") => scale::get(api, call, act).await,
        (Act::Scale { .. }, _, _) => scale::write(api, call, act, headers, body).await,
        (_, _, "get") => read::get(api, call).await,
        (_, Some(part), "update") => write::update(api, call, part, media, &body).await,
        (_, Some(part), "patch") => patch::patch(api, call, part, headers, body).await,
        (Act::Binding, ..) => binding::bind(api, call, headers, &body).await,
        (Act::Eviction, ..) => eviction::evict(api, call, headers, &body).await,
        (Act::Finalize, ..) => finalize::finalize(api, call, headers, &body).await,
        (Act::Token, ..) => token::request(api, call, headers, &body).await,
        _ => Err(status::method_not_allowed()),
    }
}
