//! Logs of containers, from Docker's own.

use bytes::{Bytes, BytesMut};
use futures::Stream;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::route;
use crate::docker::raw::Demux;
use crate::docker::{Engine, Error};

/// What of a log is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Wait for more.
    pub follow: bool,
    /// Put each line's time in front.
    pub timestamps: bool,
    /// Only so many lines from the end.
    pub tail: Option<u64>,
    /// Only lines from here on.
    pub since: Option<Timestamp>,
    /// Only so many bytes.
    pub limit: Option<u64>,
    /// The instance before.
    pub previous: bool,
}

/// Reads the query of `containerLogs`, which has `PodLogOptions`' names.
///
/// # Errors
/// Says which parameter is not one.
pub fn wanted(query: &[(String, String)], now: Timestamp) -> Result<Wanted, String> {
    let mut out = Wanted::default();
    for (name, value) in query {
        let bad = || format!("invalid value {value:?} for {name}");
        let number = || value.parse::<u64>().map_err(|_| bad());
        match name.as_str() {
            "follow" => out.follow = route::flag(value),
            "timestamps" => out.timestamps = route::flag(value),
            "previous" => out.previous = route::flag(value),
            "tailLines" => out.tail = Some(number()?),
            "limitBytes" => out.limit = Some(number()?).filter(|limit| *limit > 0),
            "sinceTime" => out.since = Some(value.parse().map_err(|_| bad())?),
            "sinceSeconds" => {
                let seconds = i64::try_from(number()?).map_err(|_| bad())?;
                out.since = now.checked_sub(SignedDuration::from_secs(seconds)).ok();
            }
            _ => {}
        }
    }
    Ok(out)
}

fn path(id: &str, wanted: &Wanted) -> String {
    let tail = wanted.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
    let since = wanted.since.map_or_else(String::new, |since| {
        // Docker takes seconds with a fraction, so nothing has to be filtered here.
        format!("&since={}.{:09}", since.as_second(), since.subsec_nanosecond().max(0))
    });
    format!(
        "/containers/{id}/logs?stdout=1&stderr=1&follow={}&timestamps={}&tail={tail}{since}",
        u8::from(wanted.follow),
        u8::from(wanted.timestamps)
    )
}

struct State {
    body: Incoming,
    demux: Demux,
    left: Option<u64>,
}

/// The log as it comes.
///
/// # Errors
/// Fails when Docker does not have the container.
pub async fn stream(
    engine: &Engine,
    id: &str,
    tty: bool,
    wanted: &Wanted,
) -> Result<impl Stream<Item = Result<Bytes, hyper::Error>> + Send + use<>, Error> {
    let body = engine.raw().get(&path(id, wanted)).await?;
    let state = State { body, demux: Demux::new(tty), left: wanted.limit };
    Ok(futures::stream::unfold(state, |mut state| async move {
        loop {
            if state.left == Some(0) {
                return None;
            }
            if let Some((_, mut piece)) = state.demux.next_piece() {
                if let Some(left) = state.left {
                    piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                    state.left = Some(left.saturating_sub(piece.len() as u64));
                }
                return Some((Ok(piece), state));
            }
            match state.body.frame().await {
                None => return None,
                Some(Err(error)) => {
                    state.left = Some(0);
                    return Some((Err(error), state));
                }
                Some(Ok(frame)) => state.demux.push(frame.data_ref().map(Bytes::as_ref).unwrap_or_default()),
            }
        }
    }))
}

/// The last lines of a log, as one piece.
///
/// # Errors
/// Fails when Docker does not have the container.
pub async fn tail(engine: &Engine, id: &str, tty: bool, lines: usize) -> Result<Vec<u8>, Error> {
    use futures::TryStreamExt as _;
    let wanted = Wanted { tail: Some(lines as u64), limit: Some(1 << 20), ..Default::default() };
    let mut pieces = std::pin::pin!(stream(engine, id, tty, &wanted).await?);
    let mut out = BytesMut::new();
    while let Some(piece) = pieces.try_next().await? {
        out.extend_from_slice(&piece);
    }
    Ok(out.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_with_the_apis_names() {
        let now = Timestamp::from_second(1000).unwrap();
        let query = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
        };
        let seen = wanted(
            &query(&[("follow", "true"), ("tailLines", "5"), ("sinceSeconds", "10"), ("x", "y")]),
            now,
        );
        let seen = seen.unwrap();
        assert_eq!(
            (seen.follow, seen.tail, seen.since.map(Timestamp::as_second)),
            (true, Some(5), Some(990))
        );
        assert_eq!(
            path("abc", &seen),
            "/containers/abc/logs?stdout=1&stderr=1&follow=1&timestamps=0&tail=5&since=990.000000000"
        );
        for (value, expected) in [("", true), ("1", true), ("True", true), ("0", false), ("False", false)] {
            assert_eq!(wanted(&query(&[("follow", value)]), now).unwrap().follow, expected, "{value:?}");
        }
        for bad in [("tailLines", "-1"), ("sinceTime", "yesterday"), ("limitBytes", "x")] {
            assert!(wanted(&query(&[bad]), now).is_err(), "{bad:?}");
        }
    }
}
