//! Content negotiation: which form of an answer the client asked for.

use fairlead_api::discovery::Aggregated;
use http::HeaderMap;

/// The encoding of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    Json,
    Yaml,
    Protobuf,
}

impl Media {
    pub fn content_type(self) -> &'static str {
        match self {
            Media::Json => "application/json",
            Media::Yaml => "application/yaml",
            Media::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// What an object is turned into before it is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Object,
    /// `as=Table`, of this meta.k8s.io version.
    Table(&'static str),
    /// `as=PartialObjectMetadata`, or `…List`.
    Partial(&'static str),
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    pub media: Media,
    pub shape: Shape,
    pub pretty: bool,
}

impl Form {
    pub const JSON: Form = Form { media: Media::Json, shape: Shape::Object, pretty: false };
}

/// One clause of an Accept header.
struct Clause<'a> {
    media: &'a str,
    params: Vec<(&'a str, &'a str)>,
    quality: f32,
}

/// The clauses of an Accept header, best first.
fn clauses(header: &str) -> Vec<Clause<'_>> {
    let mut clauses: Vec<Clause<'_>> = header
        .split(',')
        .map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let params: Vec<_> =
                parts.filter_map(|p| p.split_once('=')).map(|(k, v)| (k.trim(), v.trim())).collect();
            let quality =
                params.iter().find(|(k, _)| *k == "q").and_then(|(_, v)| v.parse().ok()).unwrap_or(1.0);
            Clause { media, params, quality }
        })
        .filter(|clause| clause.quality > 0.0)
        .collect();
    clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    clauses
}

/// Which shapes an endpoint can give.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offer {
    /// Objects, tables and partial metadata.
    Object,
    /// The same as a collection, which can be watched.
    Collection,
    /// Plain documents without transformation (discovery, version).
    Document,
}

/// Picks the form; `None` is 406.
pub fn negotiate(headers: &HeaderMap, offer: Offer) -> Option<Form> {
    let header = header(headers);
    if header.is_empty() {
        return Some(Form::JSON);
    }
    clauses(&header).iter().find_map(|clause| form(clause, offer))
}

/// All Accept headers as one.
pub fn header(headers: &HeaderMap) -> String {
    let values: Vec<&str> =
        headers.get_all(http::header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    values.join(",")
}

fn form(clause: &Clause<'_>, offer: Offer) -> Option<Form> {
    let media = match clause.media {
        "application/json" | "*/*" => Media::Json,
        "application/yaml" => Media::Yaml,
        "application/vnd.kubernetes.protobuf" => Media::Protobuf,
        _ => return None,
    };
    let param = |name: &str| clause.params.iter().find(|(k, _)| *k == name).map(|(_, v)| *v);
    let version = match param("v") {
        None | Some("v1") => "meta.k8s.io/v1",
        Some("v1beta1") => "meta.k8s.io/v1beta1",
        Some(_) => return None,
    };
    let shape = match param("as") {
        None => Shape::Object,
        Some(_) if offer == Offer::Document || param("g").is_some_and(|g| g != "meta.k8s.io") => return None,
        Some("Table") => Shape::Table(version),
        Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Shape::Partial(version),
        Some(_) => return None,
    };
    if media == Media::Protobuf && matches!(shape, Shape::Table(_)) {
        return None;
    }
    Some(Form { media, shape, pretty: param("pretty").is_some_and(|p| p != "0" && p != "false") })
}

/// The text of a 406.
pub fn not_acceptable(offer: Offer) -> String {
    let mut kinds = String::from("application/json, application/yaml, application/vnd.kubernetes.protobuf");
    if offer == Offer::Collection {
        kinds.push_str(", application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch");
    }
    format!("406: Not Acceptable\n\nAvailable representations: {kinds}")
}

/// Which version of aggregated discovery the client prefers to plain discovery, if any.
pub fn aggregated(headers: &HeaderMap) -> Option<Aggregated> {
    for clause in clauses(&header(headers)) {
        let param = |name: &str| clause.params.iter().find(|(k, _)| *k == name).map(|(_, v)| *v);
        let wanted =
            param("as") == Some("APIGroupDiscoveryList") && param("g") == Some("apidiscovery.k8s.io");
        match (clause.media, wanted, param("v")) {
            ("application/json", true, Some("v2")) => return Some(Aggregated::V2),
            ("application/json", true, Some("v2beta1")) => return Some(Aggregated::V2Beta1),
            ("application/json" | "*/*", false, _) => return None,
            _ => {}
        }
    }
    None
}

/// Which of these media types, each given with its spelling in answers, the client prefers; `None` is 406.
pub fn first(headers: &HeaderMap, offers: &[(&str, &'static str)]) -> Option<&'static str> {
    let header = header(headers);
    if header.is_empty() {
        return offers.first().map(|(_, answer)| *answer);
    }
    let fits = |clause: &Clause<'_>, offer: &str| match clause.media.split_once('/') {
        Some(("*", "*")) => true,
        Some((kind, "*")) => offer.split_once('/').is_some_and(|(own, _)| own == kind),
        _ => clause.media == offer,
    };
    clauses(&header)
        .iter()
        .find_map(|clause| offers.iter().find(|(offer, _)| fits(clause, offer)).map(|(_, answer)| *answer))
}

/// Whether the client takes gzip.
pub fn gzip(headers: &HeaderMap) -> bool {
    headers.get(http::header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).is_some_and(|value| {
        value.split(',').any(|one| one.split(';').next().is_some_and(|e| e.trim() == "gzip"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(accept: &str, want: Option<(Media, Shape)>) {
        let mut headers = HeaderMap::new();
        headers.insert("accept", accept.parse().unwrap());
        let got = negotiate(&headers, Offer::Collection).map(|form| (form.media, form.shape));
        assert_eq!(got, want, "{accept}");
    }

    #[test]
    fn the_first_clause_that_can_be_met_wins() {
        let table = Shape::Table("meta.k8s.io/v1");
        check("text/html", None);
        check("application/*", None);
        check("application/cbor", None);
        check("*/*", Some((Media::Json, Shape::Object)));
        check("text/html,application/json;q=0.1", Some((Media::Json, Shape::Object)));
        check("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Some((Media::Json, table)));
        check(
            "application/json;as=Table;v=v9;g=meta.k8s.io,application/json",
            Some((Media::Json, Shape::Object)),
        );
        check("application/vnd.kubernetes.protobuf,application/json", Some((Media::Protobuf, Shape::Object)));
        check("application/json;q=0.1,application/yaml", Some((Media::Yaml, Shape::Object)));
    }
}
