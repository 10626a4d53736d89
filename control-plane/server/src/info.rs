//! What a request asks for, read from its method, path and query
//! (`k8s.io/apiserver/pkg/endpoints/request.RequestInfo`).

use std::borrow::Cow;

use http::Method;

/// The parts of a request that authorization, routing and metrics need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for other paths the method
    /// in lower case.
    pub verb: &'static str,
    pub path: String,
    /// `None` for paths that name no resource.
    pub resource: Option<Resource>,
}

/// The resource that a path names.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Resource {
    pub group: String,
    pub version: String,
    pub plural: String,
    /// Empty for the whole cluster.
    pub namespace: String,
    /// Empty for collections.
    pub name: String,
    /// Empty for the main resource.
    pub subresource: String,
    /// What follows the subresource in the path.
    pub rest: String,
    /// The path has the form `/api/v1/watch/…`.
    pub legacy_watch: bool,
}

/// The decoded pairs of a query string, in order.
#[derive(Clone, Debug, Default)]
pub struct Params(Vec<(String, String)>);

impl Params {
    pub fn parse(query: Option<&str>) -> Self {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Params(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(key, true).into_owned(), decode(value, true).into_owned())
                })
                .collect(),
        )
    }

    /// The first value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// The first value of `key` unless it is empty.
    pub fn set(&self, key: &str) -> Option<&str> {
        self.get(key).filter(|value| !value.is_empty())
    }

    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// A boolean as Go's conversion reads it: present and neither `0` nor `false`, in whatever case.
    pub fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }
}

/// Undoes percent encoding; in queries `+` is a space.
pub fn decode(text: &str, query: bool) -> Cow<'_, str> {
    let encoded = text.contains('%') || (query && text.contains('+'));
    if !encoded {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' if query => out.push(b' '),
            b'%' => {
                let mut ahead = bytes.clone();
                let digit = |b: Option<u8>| b.and_then(|b| (b as char).to_digit(16));
                match (digit(ahead.next()), digit(ahead.next())) {
                    (Some(high), Some(low)) => {
                        out.push((high * 16 + low) as u8);
                        bytes = ahead;
                    }
                    _ => out.push(b'%'),
                }
            }
            other => out.push(other),
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl Info {
    /// Reads a request line.
    pub fn parse(method: &Method, path: &str, params: &Params) -> Info {
        let plain = || Info { verb: lower(method), path: path.to_owned(), resource: None };
        let parts: Vec<Cow<'_, str>> =
            path.split('/').filter(|part| !part.is_empty()).map(|part| decode(part, false)).collect();
        let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
        let (group, version, mut rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return plain(),
        };
        let mut resource = Resource { group: group.into(), version: version.into(), ..Resource::default() };
        if let ["watch", more @ ..] = rest
            && !more.is_empty()
        {
            resource.legacy_watch = true;
            rest = more;
        }
        if rest.is_empty() {
            return plain();
        }
        if let ["namespaces", namespace, more @ ..] = rest {
            resource.namespace = (*namespace).into();
            let own = more.first().is_none_or(|next| NAMESPACE_SUBRESOURCES.contains(next));
            if !own {
                rest = more;
            }
        }
        let [plural, after @ ..] = rest else { return plain() };
        resource.plural = (*plural).into();
        resource.name = after.first().copied().unwrap_or_default().into();
        resource.subresource = after.get(1).copied().unwrap_or_default().into();
        resource.rest = after.get(2..).unwrap_or_default().join("/");
        if path.ends_with('/') && !resource.rest.is_empty() {
            resource.rest.push('/');
        }
        let verb = verb(method, &resource, params);
        if resource.name.is_empty()
            && matches!(verb, "list" | "watch" | "deletecollection")
            && let Some(name) = params.set("fieldSelector").and_then(named)
        {
            // Upstream authorizes a list of one name as that name; the router still sees a collection.
            resource.name = String::new();
            return Info {
                verb,
                path: path.to_owned(),
                resource: Some(Resource { rest: name.into(), ..resource }),
            };
        }
        Info { verb, path: path.to_owned(), resource: Some(resource) }
    }

    /// The name that authorization sees.
    pub fn authorized_name(&self) -> &str {
        match &self.resource {
            Some(r) if r.name.is_empty() && r.subresource.is_empty() => &r.rest,
            Some(r) => &r.name,
            None => "",
        }
    }

    /// Whether the request may last for as long as the client likes.
    pub fn long_running(&self) -> bool {
        let streams = ["log", "exec", "attach", "portforward", "proxy"];
        self.verb == "watch"
            || self.resource.as_ref().is_some_and(|r| streams.contains(&r.subresource.as_str()))
    }
}

fn named(selector: &str) -> Option<&str> {
    let (key, value) = selector.split_once('=')?;
    let value = value.strip_prefix('=').unwrap_or(value);
    (key == "metadata.name" && !value.contains(',')).then_some(value)
}

fn verb(method: &Method, resource: &Resource, params: &Params) -> &'static str {
    let collection = resource.name.is_empty();
    match method.as_str() {
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" if collection => "deletecollection",
        "DELETE" => "delete",
        "GET" | "HEAD" if resource.legacy_watch => "watch",
        "GET" | "HEAD" if collection && params.flag("watch") => "watch",
        "GET" | "HEAD" if collection => "list",
        "GET" | "HEAD" => "get",
        _ => lower(method),
    }
}

fn lower(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "get",
        "HEAD" => "head",
        "POST" => "post",
        "PUT" => "put",
        "PATCH" => "patch",
        "DELETE" => "delete",
        "OPTIONS" => "options",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: &str, uri: &str, verb: &str, resource: Option<[&str; 6]>) {
        let (path, query) = uri.split_once('?').map_or((uri, None), |(p, q)| (p, Some(q)));
        let info = Info::parse(&method.parse().unwrap(), path, &Params::parse(query));
        let seen = info.resource.as_ref().map(|r| {
            [&r.group, &r.version, &r.namespace, &r.plural, &r.name, &r.subresource].map(|part| part.as_str())
        });
        assert_eq!((info.verb, seen), (verb, resource), "{method} {uri}");
    }

    #[test]
    fn paths_and_methods_give_upstreams_request_info() {
        check("GET", "/api/v1/namespaces", "list", Some(["", "v1", "", "namespaces", "", ""]));
        check("GET", "/api/v1/namespaces/a", "get", Some(["", "v1", "a", "namespaces", "a", ""]));
        check(
            "PUT",
            "/api/v1/namespaces/a/finalize",
            "update",
            Some(["", "v1", "a", "namespaces", "a", "finalize"]),
        );
        check("GET", "/api/v1/namespaces/a/pods", "list", Some(["", "v1", "a", "pods", "", ""]));
        check("GET", "/api/v1/namespaces/a/pods?watch=1", "watch", Some(["", "v1", "a", "pods", "", ""]));
        check("GET", "/api/v1/namespaces/a/pods?watch=0", "list", Some(["", "v1", "a", "pods", "", ""]));
        check("GET", "/api/v1/namespaces/a/pods?watch=False", "list", Some(["", "v1", "a", "pods", "", ""]));
        check("GET", "/api/v1/watch/namespaces/a/pods/p", "watch", Some(["", "v1", "a", "pods", "p", ""]));
        check("GET", "/api/v1/namespaces/a/pods/p/log", "get", Some(["", "v1", "a", "pods", "p", "log"]));
        check(
            "DELETE",
            "/apis/apps/v1/deployments",
            "deletecollection",
            Some(["apps", "v1", "", "deployments", "", ""]),
        );
        check("GET", "/apis/apps/v1", "get", None);
        check("GET", "/healthz", "get", None);
        check("GET", "/api/v1/nodes/a%2Fb", "get", Some(["", "v1", "", "nodes", "a/b", ""]));
    }

    #[test]
    fn a_list_of_one_name_is_authorized_as_that_name() {
        let params = Params::parse(Some("fieldSelector=metadata.name%3Dx"));
        let info = Info::parse(&Method::GET, "/api/v1/namespaces/a/secrets", &params);
        assert_eq!((info.verb, info.authorized_name()), ("list", "x"));
    }

    #[test]
    fn broken_percent_signs_stay_as_they_are() {
        assert_eq!(decode("a%2", false), "a%2");
        assert_eq!(decode("%zz+", true), "%zz ");
    }
}
