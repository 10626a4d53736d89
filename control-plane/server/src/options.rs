//! The query parameters of reads, checked as upstream checks ListOptions.

use std::num::{IntErrorKind, ParseIntError};

use base64::{
    DecodeError, Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use fairlead_api::{
    decode,
    field::{ErrorList, Path, forbidden, not_supported},
    status::{self, Status},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::info::Params;

/// Which revision a read may be served from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// As new as the store is now.
    Fresh,
    /// Whatever the cache has.
    Any,
    NotOlderThan(u64),
    Exactly(u64),
}

/// A LIST.
#[derive(Clone, Debug)]
pub struct ListOptions {
    pub at: At,
    pub limit: usize,
    pub after: Option<String>,
}

/// A WATCH.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// `None`: start with what is there.
    pub from: Option<u64>,
    pub at: At,
    pub initial: bool,
    /// Whether a bookmark ends the initial events.
    pub initial_end: bool,
    pub bookmarks: bool,
    pub timeout: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct Token {
    v: String,
    rv: i64,
    start: String,
}

/// A continue token: the revision of the first page and the last key.
pub fn token(revision: Option<u64>, last: &str) -> String {
    let rv = revision.and_then(|rv| i64::try_from(rv).ok()).unwrap_or(-1);
    let token = Token { v: "meta.k8s.io/v1".into(), rv, start: format!("{last}\0") };
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
}

/// Go's raw URL encoding: it overlooks bits that are left over.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

fn untoken(text: &str) -> Result<Token, Status> {
    let bad = |why: &str| status::bad_request(format!("continue key is not valid: {why}"));
    let bytes = LENIENT.decode(text).map_err(|error| {
        let at = match error {
            DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _) => at,
            // A group that breaks off: Go names the end.
            _ => text.len(),
        };
        bad(&format!("illegal base64 data at input byte {at}"))
    })?;
    if let Some(words) = decode::json_syntax_error(&bytes) {
        return Err(bad(&words));
    }
    let token: Token = serde_json::from_slice(&bytes).map_err(|error| bad(&error.to_string()))?;
    if token.v != "meta.k8s.io/v1" {
        return Err(bad(&format!("server does not recognize this encoded version {:?}", token.v)));
    }
    if token.rv == 0 {
        return Err(bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
    }
    Ok(token)
}

fn number(text: &str) -> Result<u64, Status> {
    text.parse().map_err(|error| {
        let why = format!("strconv.ParseUint: parsing {}: {}", status::quoted(text), unread(&error));
        let errors = vec![fairlead_api::field::invalid_str(&Path::new("resourceVersion"), text, why)];
        status::invalid("", "", "", &errors)
    })
}

/// What Go says of a text that is no number of the type: `syntax` where it is none at all.
fn unread(error: &ParseIntError) -> &'static str {
    match error.kind() {
        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
        _ => "invalid syntax",
    }
}

/// Go's conversion of an int64 parameter.
pub fn integer(params: &Params, name: &str) -> Result<Option<i64>, Status> {
    let Some(text) = params.set(name) else { return Ok(None) };
    text.parse().map(Some).map_err(|error| {
        let text = status::quoted(text);
        status::bad_request(format!("strconv.ParseInt: parsing {text}: {}", unread(&error)))
    })
}

impl ListOptions {
    /// Reads and checks the parameters of a LIST.
    ///
    /// # Errors
    /// 422 and 400 with upstream's words.
    pub fn parse(params: &Params) -> Result<Self, Status> {
        check(params, false)?;
        integer(params, "timeoutSeconds")?;
        let limit = integer(params, "limit")?.unwrap_or(0);
        let limit = usize::try_from(limit).unwrap_or(0);
        let version = params.get("resourceVersion").unwrap_or_default();
        let exact = params.get("resourceVersionMatch") == Some("Exact");
        if let Some(text) = params.set("continue") {
            let token = untoken(text)?;
            if !matches!(version, "" | "0") {
                return Err(status::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            let at = u64::try_from(token.rv).map_or(At::Fresh, At::Exactly);
            return Ok(ListOptions { at, limit, after: Some(token.start.trim_end_matches('\0').to_owned()) });
        }
        let at = match version {
            "" => At::Fresh,
            // Upstream's cache ignores the limit of such lists, and clients rely on getting all.
            "0" => return Ok(ListOptions { at: At::Any, limit: 0, after: None }),
            text => {
                let revision = number(text)?;
                let legacy_exact = limit > 0 && params.set("resourceVersionMatch").is_none();
                if exact || legacy_exact { At::Exactly(revision) } else { At::NotOlderThan(revision) }
            }
        };
        Ok(ListOptions { at, limit, after: None })
    }
}

impl WatchOptions {
    /// Reads and checks the parameters of a WATCH.
    ///
    /// # Errors
    /// 422 and 400 with upstream's words.
    pub fn parse(params: &Params) -> Result<Self, Status> {
        check(params, true)?;
        let version = params.get("resourceVersion").unwrap_or_default();
        let bookmarks = params.flag("allowWatchBookmarks");
        let legacy = matches!(version, "" | "0");
        let initial = match params.set("sendInitialEvents") {
            Some(_) => params.flag("sendInitialEvents"),
            None => legacy,
        };
        let at = match version {
            "" => At::Fresh,
            "0" => At::Any,
            text => At::NotOlderThan(number(text)?),
        };
        let from = match at {
            At::NotOlderThan(revision) if !initial => Some(revision),
            _ => None,
        };
        let timeout =
            integer(params, "timeoutSeconds")?.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0);
        Ok(WatchOptions { from, at, initial, initial_end: initial && bookmarks, bookmarks, timeout })
    }
}

fn check(params: &Params, watch: bool) -> Result<(), Status> {
    let path = Path::new("resourceVersionMatch");
    let (version, matching) = (
        params.get("resourceVersion").unwrap_or_default(),
        params.get("resourceVersionMatch").unwrap_or_default(),
    );
    let initial = params.set("sendInitialEvents").is_some();
    let mut errors = ErrorList::new();
    if watch {
        if !matching.is_empty() && !initial {
            errors.push(forbidden(
                &path,
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ));
        }
        if initial {
            if matching != "NotOlderThan" {
                errors.push(forbidden(
                    &path,
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                ));
            }
            if !matches!(matching, "NotOlderThan" | "") {
                errors.push(not_supported(&path, &json!(matching), &["NotOlderThan"]));
            }
        }
    } else {
        if initial {
            errors
                .push(forbidden(&Path::new("sendInitialEvents"), "sendInitialEvents is forbidden for list"));
        }
        if !matching.is_empty() {
            if version.is_empty() {
                errors.push(forbidden(
                    &path,
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            if params.set("continue").is_some() {
                errors.push(forbidden(&path, "resourceVersionMatch is forbidden when continue is provided"));
            }
            if !matches!(matching, "Exact" | "NotOlderThan") {
                errors.push(not_supported(&path, &json!(matching), &["Exact", "NotOlderThan", ""]));
            } else if matching == "Exact" && version == "0" {
                errors.push(forbidden(
                    &path,
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                ));
            }
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(status::invalid("meta.k8s.io", "ListOptions", "", &errors)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_continue_token_says_where_and_when_to_go_on() {
        let text = token(Some(42), "ns/b");
        let params = Params::parse(Some(&format!("limit=3&continue={text}")));
        let options = ListOptions::parse(&params).unwrap();
        assert_eq!((options.at, options.limit, options.after.as_deref()), (At::Exactly(42), 3, Some("ns/b")));
    }

    #[track_caller]
    fn list_at(query: &str, at: At) {
        assert_eq!(ListOptions::parse(&Params::parse(Some(query))).unwrap().at, at, "{query}");
    }

    #[test]
    fn resource_versions_of_lists_mean_what_upstream_documents() {
        list_at("", At::Fresh);
        list_at("resourceVersion=0", At::Any);
        list_at("resourceVersion=7", At::NotOlderThan(7));
        list_at("resourceVersion=7&limit=2", At::Exactly(7));
        list_at("resourceVersion=7&limit=2&resourceVersionMatch=NotOlderThan", At::NotOlderThan(7));
        list_at("resourceVersion=7&resourceVersionMatch=Exact", At::Exactly(7));
    }

    #[test]
    fn contradicting_parameters_are_refused() {
        for query in [
            "resourceVersionMatch=Exact",
            "resourceVersion=0&resourceVersionMatch=Exact",
            "sendInitialEvents=true",
        ] {
            assert_eq!(ListOptions::parse(&Params::parse(Some(query))).unwrap_err().code(), 422, "{query}");
        }
    }

    #[test]
    fn parameters_that_do_not_parse_are_refused_in_gos_words() {
        for (query, words) in [
            ("limit=abc", "strconv.ParseInt: parsing \"abc\": invalid syntax"),
            (
                "limit=99999999999999999999",
                "strconv.ParseInt: parsing \"99999999999999999999\": value out of range",
            ),
            ("timeoutSeconds=x", "strconv.ParseInt: parsing \"x\": invalid syntax"),
            ("continue=a.b", "continue key is not valid: illegal base64 data at input byte 1"),
            (
                "continue=eA",
                "continue key is not valid: invalid character 'x' looking for beginning of value",
            ),
            (
                "continue=eyJ2Ijoib2xkIiwicnYiOjEsInN0YXJ0IjoiYSJ9",
                "continue key is not valid: server does not recognize this encoded version \"old\"",
            ),
        ] {
            let refused = ListOptions::parse(&Params::parse(Some(query))).unwrap_err();
            assert_eq!((refused.code(), refused.message()), (400, words), "{query}");
        }
    }
}
