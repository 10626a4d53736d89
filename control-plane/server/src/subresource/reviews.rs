//! Kinds that are only ever created, and whose answer is the point: reviews and the older form of bindings.

use std::sync::Arc;

use bytes::Bytes;
use fairlead_api::kind::Kind;
use futures::{FutureExt, future::BoxFuture};
use http::HeaderMap;
use serde_json::Value;

use super::binding;
use crate::{
    api::{Api, Call, behind},
    ingest::{self, Verb, WriteOptions},
    reply::Answer,
    secure::review::{self, Access},
    write::now,
};

/// What answers a POST of such a kind.
pub type Review = for<'a> fn(&'a Arc<Api>, &'a Call, &'a HeaderMap, &'a Bytes) -> BoxFuture<'a, Answer>;

static REVIEWS: &[(&str, &str, Review)] = &[
    ("", "bindings", |api, call, headers, body| binding::bind(api, call, headers, body).boxed()),
    ("authentication.k8s.io", "tokenreviews", |api, call, headers, body| {
        answer(api, call, headers, body, |api, _, object| api.tokens.review(&*api.caches, object))
    }),
    ("authentication.k8s.io", "selfsubjectreviews", |api, call, headers, body| {
        answer(api, call, headers, body, |_, call, _| Ok(review::who_am_i(&call.user, &now())))
    }),
    ("authorization.k8s.io", "selfsubjectaccessreviews", |api, call, headers, body| {
        answer(api, call, headers, body, |api, call, object| {
            review::access(&api.authorizer, Access::Own(&call.user), object)
        })
    }),
    ("authorization.k8s.io", "subjectaccessreviews", |api, call, headers, body| {
        answer(api, call, headers, body, |api, _, object| {
            review::access(&api.authorizer, Access::Any, object)
        })
    }),
    ("authorization.k8s.io", "localsubjectaccessreviews", |api, call, headers, body| {
        answer(api, call, headers, body, |api, call, object| {
            review::access(&api.authorizer, Access::Local(&call.resource.namespace), object)
        })
    }),
    ("authorization.k8s.io", "selfsubjectrulesreviews", |api, call, headers, body| {
        answer(api, call, headers, body, |api, call, object| {
            review::rules(&api.authorizer, &call.user, object)
        })
    }),
];

/// The review that answers for a kind, if it is one.
pub fn of(kind: &Kind) -> Option<Review> {
    let found = REVIEWS.iter().find(|(group, plural, _)| (*group, *plural) == (kind.group, kind.plural));
    found.map(|(.., review)| *review)
}

type Evaluate = fn(&Api, &Call, &Value) -> Result<Value, fairlead_api::status::Status>;

fn answer<'a>(
    api: &'a Arc<Api>,
    call: &'a Call,
    headers: &'a HeaderMap,
    body: &'a Bytes,
    evaluate: Evaluate,
) -> BoxFuture<'a, Answer> {
    async move {
        let options = WriteOptions::parse(Verb::Create, &call.params)?;
        let (object, warnings) = ingest::object(call.kind, ingest::media(headers), body, options.validation)?;
        // The answer counts what was granted just before.
        api.caches.fresh().await.map_err(behind)?;
        let reviewed = evaluate(api, call, &object)?;
        call.warnings.lock().extend(warnings);
        Ok(super::reviewed(call, &reviewed))
    }
    .boxed()
}
