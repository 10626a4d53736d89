//! Who a request comes from: client certificate, then bearer token, else anonymous; then impersonation.
//!
//! Anonymous requests are a user too (`system:anonymous`): the default roles let it read health and version, and it
//! gets 403 for everything else. A token that proves nothing is 401.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fairlead_api::status::{self, Status, quoted};
use http::{HeaderMap, header};

use super::authorize::{Attributes, Authorizer};
use super::rules::quoted_list;
use super::tokens::{Tokens, service_account_groups};
use super::{ANONYMOUS, AUTHENTICATED, Objects, UNAUTHENTICATED, User, service_account};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// A token in the list of WebSocket subprotocols, for browsers, which cannot set headers.
const SUBPROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// Finds out who asks.
pub struct Authenticator {
    tokens: Arc<Tokens>,
    authorizer: Arc<Authorizer>,
    objects: Arc<dyn Objects>,
}

impl Authenticator {
    pub fn new(tokens: Arc<Tokens>, authorizer: Arc<Authorizer>, objects: Arc<dyn Objects>) -> Self {
        Authenticator { tokens, authorizer, objects }
    }

    /// The user of a request; `peer` is what [`super::tls::peer_user`] gave for its connection, or the identity of a
    /// component inside the process.
    ///
    /// # Errors
    /// 401 for a token that proves nothing; 400 and 403 for impersonation.
    pub fn authenticate(&self, peer: Option<&Arc<User>>, headers: &HeaderMap) -> Result<Arc<User>, Status> {
        let user = match (peer, bearer(headers)) {
            (Some(user), _) => user.clone(),
            (None, Some(token)) => {
                let proven = self.tokens.verify(&token, &[], self.objects.as_ref());
                Arc::new(proven.map_err(|_| status::unauthorized())?.user)
            }
            (None, None) => Arc::new(anonymous()),
        };
        match Impersonation::read(headers)? {
            None => Ok(user),
            Some(wanted) => {
                wanted.check(&user, &self.authorizer)?;
                Ok(Arc::new(wanted.into_user()))
            }
        }
    }
}

/// The user of requests that prove nothing.
pub fn anonymous() -> User {
    User { name: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..User::default() }
}

/// Headers that must not go on to whom a request is proxied.
pub fn is_credential(name: &header::HeaderName) -> bool {
    name == header::AUTHORIZATION || name.as_str().starts_with("impersonate-")
}

fn bearer(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()) {
        let (scheme, token) = value.trim().split_once(' ')?;
        let token = token.trim();
        return (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned());
    }
    let protocols = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let mut protocols =
        protocols.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let encoded = protocols.find_map(|protocol| protocol.trim().strip_prefix(SUBPROTOCOL))?;
    String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()
}

/// What the `Impersonate-*` headers ask for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Impersonation {
    name: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

impl Impersonation {
    /// `None` if no header asks for it.
    fn read(headers: &HeaderMap) -> Result<Option<Impersonation>, Status> {
        let text = |value: &header::HeaderValue| {
            value
                .to_str()
                .map(str::to_owned)
                .map_err(|_| status::bad_request("an impersonation header is not text"))
        };
        let first = |name: &str| headers.get(name).map(text).transpose().map(Option::unwrap_or_default);
        let mut wanted = Impersonation { name: first(USER)?, uid: first(UID)?, ..Impersonation::default() };
        for group in headers.get_all(GROUP) {
            wanted.groups.push(text(group)?);
        }
        for (name, value) in headers {
            if let Some(key) = name.as_str().strip_prefix(EXTRA) {
                let key = crate::info::decode(key, false).into_owned();
                wanted.extra.entry(key).or_default().push(text(value)?);
            }
        }
        if !wanted.name.is_empty() {
            return Ok(Some(wanted));
        }
        if wanted == Impersonation::default() {
            return Ok(None);
        }
        Err(status::bad_request(format!("requested {} without impersonating a user name", wanted.shown())))
    }

    /// The request as Go prints it.
    fn shown(&self) -> String {
        let list = |values: &[String]| match values {
            [] => "[]string(nil)".to_owned(),
            values => {
                let quoted: Vec<String> = values.iter().map(|value| quoted(value)).collect();
                format!("[]string{{{}}}", quoted.join(", "))
            }
        };
        let extra = if self.extra.is_empty() {
            "map[string][]string(nil)".to_owned()
        } else {
            let entries: Vec<String> =
                self.extra.iter().map(|(key, values)| format!("{}:{}", quoted(key), list(values))).collect();
            format!("map[string][]string{{{}}}", entries.join(", "))
        };
        format!(
            "&user.DefaultInfo{{Name:{}, UID:{}, Groups:{}, Extra:{extra}}}",
            quoted(&self.name),
            quoted(&self.uid),
            list(&self.groups)
        )
    }

    /// Whether `user` may be all of this.
    fn check(&self, user: &User, authorizer: &Authorizer) -> Result<(), Status> {
        let base = Attributes { version: "v1", ..Attributes::new(user, "impersonate") };
        let of_user = match service_account(&self.name) {
            Some((namespace, name)) => Attributes { resource: "serviceaccounts", namespace, name, ..base },
            None => Attributes { resource: "users", name: &self.name, ..base },
        };
        authorizer.check(&of_user)?;
        for group in &self.groups {
            authorizer.check(&Attributes { resource: "groups", name: group, ..base })?;
        }
        let base = Attributes { group: "authentication.k8s.io", ..base };
        if !self.uid.is_empty() {
            authorizer.check(&Attributes { resource: "uids", name: &self.uid, ..base })?;
        }
        for (key, values) in &self.extra {
            for value in values {
                let of_extra = Attributes { resource: "userextras", subresource: key, name: value, ..base };
                authorizer.check(&of_extra)?;
            }
        }
        Ok(())
    }

    fn into_user(self) -> User {
        let mut groups = self.groups;
        if groups.is_empty()
            && let Some((namespace, _)) = service_account(&self.name)
        {
            groups = service_account_groups(namespace);
        }
        let told = groups.iter().any(|group| group == AUTHENTICATED || group == UNAUTHENTICATED);
        if !told {
            let group = if self.name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
            groups.push(group.to_owned());
        }
        User { name: self.name, uid: self.uid, groups, extra: self.extra }
    }
}

/// A user in words, for logs: name and groups, nothing secret.
pub fn described(user: &User) -> String {
    format!("{} (groups={})", quoted(&user.name), quoted_list(&user.groups))
}

#[cfg(test)]
#[path = "authenticate_tests.rs"]
mod tests;
