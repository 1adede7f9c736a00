//! Watching a tier's outbox over HTTP: page by page with a long poll, or as server-sent events where the client asks
//! for `text/event-stream` (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
//!
//! A stream is the long poll, asked again and again on the server: who asks is checked anew each time, and a batch is
//! read only when the client took the one before. So a slow reader costs one batch, and no more.

use std::{convert::Infallible, future::Future, time::Duration};

use axum::{
    Json,
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, header, request::Parts},
    response::{
        IntoResponse, Response,
        sse::{Event as Told, Sse},
    },
};
use futures::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{
    Principal, Problem,
    http::{Gate, Params, StreamPermit, WAIT_MOST},
    outbox::{Event, Reading},
};

/// How long a stream is silent before a comment says that it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How many events are read at once for a stream.
const BATCH: u32 = 500;
/// After how many milliseconds a browser connects again.
const RETRY: Duration = Duration::from_secs(1);
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Which events to read.
#[derive(Debug, Clone, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// Read what follows this position; 0 from the beginning. A stream prefers the header `Last-Event-ID`.
    #[serde(default)]
    pub after: i64,
    /// At most so many in a page: 1 to 1000, 100 if not said. A stream has no end.
    pub limit: Option<u32>,
    /// Milliseconds to wait for a first one: at most 30000, none if not said. A stream waits always.
    #[serde(default)]
    pub wait_ms: u64,
    /// Only these kinds, with commas between them. A `*` at the end stands for any ending, such as `node.*`.
    pub kind: Option<String>,
    /// Only what is about the thing of this id.
    pub subject: Option<String>,
    /// Only what is about contracts with this owner label.
    pub owner: Option<String>,
    /// The history that the position is of, if that is known: in another one, reading begins anew.
    pub epoch: Option<i64>,
}

impl EventsQuery {
    fn limit(&self) -> u32 {
        self.limit.unwrap_or(100)
    }

    fn wait(&self) -> Duration {
        Duration::from_millis(self.wait_ms).min(WAIT_MOST)
    }

    fn wants(&self, event: &Event) -> bool {
        let is = |wished: &Option<String>, is: &str| wished.as_deref().is_none_or(|wished| wished == is);
        let kind = |pattern: &str| match pattern.trim().strip_suffix('*') {
            Some(beginning) => event.kind.starts_with(beginning),
            None => event.kind == pattern.trim(),
        };
        self.kind.as_deref().is_none_or(|kinds| kinds.split(',').any(kind))
            && is(&self.subject, &event.subject)
            && is(&self.owner, &event.owner)
    }
}

/// One event of a tier. Secrets are never in it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Event)]
pub struct EventView {
    /// Its place in the order of commits.
    position: i64,
    /// Milliseconds since 1970.
    at_ms: i64,
    /// What happened, such as `segment.opened`.
    kind: String,
    /// Whose contract it is about; empty where it is nobody's.
    owner: String,
    /// The id of what it is about.
    subject: String,
    /// The request that led to it.
    request_id: String,
    /// What happened, in the shape that `kind` names.
    payload: serde_json::Value,
}

impl From<Event> for EventView {
    fn from(event: Event) -> Self {
        let Event { position, at_ms, kind, owner, subject, request_id, payload } = event;
        let payload = serde_json::from_str(&payload).unwrap_or_default(); // it was written as JSON
        Self { position, at_ms, kind, owner, subject, request_id, payload }
    }
}

/// Events in the order of commits.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Events)]
pub struct EventPage {
    /// The events that were asked for, of those that the asker may see.
    items: Vec<EventView>,
    /// What to read after next; the same as before where there was nothing.
    next: String,
    /// Names this history; when it changes, begin anew.
    epoch: i64,
}

/// The first thing that a stream tells, and again when it changes: `event: epoch`.
#[derive(Debug, Serialize)]
struct Epoch {
    /// Names this history.
    epoch: i64,
    /// Its newest position.
    head: i64,
    /// What follows this position comes next. 0 where the client stood in another history: it begins anew.
    after: i64,
}

/// A question for events, as a page or as a stream.
pub struct Watch {
    query: EventsQuery,
    who: Principal,
    stream: Option<(Gate, HeaderMap)>,
}

impl<S: Send + Sync> FromRequestParts<S> for Watch {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let who = Principal::from_request_parts(parts, state).await?;
        let Params(mut query) = Params::<EventsQuery>::from_request_parts(parts, state).await?;
        let accepts = parts.headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let streams = accepts.flat_map(|list| list.split(',')).any(|kind| {
            kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
        });
        let gate = parts.extensions.get::<Gate>().cloned().filter(|_| streams);
        if let (true, Some(value)) = (streams, parts.headers.get(LAST_EVENT_ID)) {
            let position = value.to_str().ok().and_then(|text| text.trim().parse().ok());
            query.after = position.ok_or_else(|| {
                Problem::invalid("Last-Event-ID takes the position of an event, as the stream gave it")
            })?;
        }
        Ok(Self { query, who, stream: gate.map(|gate| (gate, parts.headers.clone())) })
    }
}

impl Watch {
    /// Answers it. `read` asks the tier for what follows a position, at most so many, waiting so long for a first one.
    /// A stream ends when the client goes, when who asks may not any more, or at `stop`.
    pub async fn answer<F, Fut>(self, stop: CancellationToken, read: F) -> Result<Response, Problem>
    where
        F: Fn(Principal, i64, u32, Duration) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Reading, Problem>> + Send + 'static,
    {
        let Self { query, who, stream } = self;
        let Some((gate, headers)) = stream else {
            let Reading { events, next, head: _, epoch } = read(who, query.after, query.limit(), query.wait()).await?;
            let items = events.into_iter().filter(|event| query.wants(event)).map(Into::into).collect();
            return Ok(Json(EventPage { items, next: next.to_string(), epoch }).into_response());
        };
        let permit = gate.stream(&who)?;
        // Asked once before the answer begins, so that a refusal is a refusal and not a stream that ends.
        read(who, query.after, 1, Duration::ZERO).await?;
        let follower = Follower {
            after: query.after.max(0),
            told: query.after.max(0),
            epoch: query.epoch,
            begun: false,
            query,
            gate,
            headers,
            stop,
            read,
            _permit: permit,
        };
        let mut answer = Sse::new(follower.stream()).into_response();
        // For proxies that would gather before they pass on.
        answer.headers_mut().insert("x-accel-buffering", header::HeaderValue::from_static("no"));
        Ok(answer)
    }
}

/// Where a stream stands.
struct Follower<F> {
    /// What follows is read next.
    after: i64,
    /// The last position that the client was told.
    told: i64,
    /// The history that the client knows of, if any.
    epoch: Option<i64>,
    begun: bool,
    query: EventsQuery,
    gate: Gate,
    headers: HeaderMap,
    stop: CancellationToken,
    read: F,
    _permit: StreamPermit,
}

impl<F, Fut> Follower<F>
where
    F: Fn(Principal, i64, u32, Duration) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Reading, Problem>> + Send + 'static,
{
    fn stream(self) -> impl Stream<Item = Result<Told, Infallible>> + Send {
        stream::unfold(self, |mut follower| async move {
            let stop = follower.stop.clone();
            let batch = stop.run_until_cancelled(follower.batch()).await??;
            Some((stream::iter(batch), follower))
        })
        .flatten()
        .map(Ok)
    }

    /// What comes next; `None` ends the stream: the client connects again from where it stands.
    async fn batch(&mut self) -> Option<Vec<Told>> {
        let who = self.gate.principal(&self.headers).await.ok()?;
        let wait = if self.begun { KEEP_ALIVE } else { Duration::ZERO };
        let reading = (self.read)(who, self.after, BATCH, wait).await;
        let Reading { events, next, head, epoch } = match reading {
            Ok(reading) => reading,
            Err(problem) => {
                tracing::debug!(%problem, "a stream of events ends");
                return None;
            }
        };
        let mut batch = Vec::with_capacity(events.len() + 1);
        let another = self.epoch.is_some_and(|known| known != epoch) || self.after > head;
        if another {
            (self.after, self.told) = (0, 0);
        }
        if another || !self.begun {
            let told = Epoch { epoch, head, after: self.after };
            // Beginning anew, the last position that a browser knows is of no use.
            let event = Told::default().event("epoch").retry(RETRY).json_data(told).ok()?;
            batch.push(if another { event.id("0") } else { event });
            (self.epoch, self.begun) = (Some(epoch), true);
        }
        if another {
            return Some(batch);
        }
        for event in events.into_iter().filter(|event| self.query.wants(event)) {
            let (position, kind) = (event.position, event.kind.clone());
            let view = EventView::from(event);
            batch.push(Told::default().id(position.to_string()).event(kind).json_data(view).ok()?);
            self.told = position;
        }
        self.after = next;
        if batch.is_empty() {
            // Without data it is no event, but moves on where the client begins after a break, past events of others.
            let alive = Told::default().comment("keep-alive");
            batch.push(if self.told < next { alive.id(next.to_string()) } else { alive });
            self.told = next;
        }
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_filtered_by_kind_subject_and_owner() {
        let event = Event {
            position: 1,
            at_ms: 0,
            kind: "node.changed".into(),
            owner: "project:a".into(),
            subject: "n".into(),
            request_id: String::new(),
            payload: "{}".into(),
        };
        for (kind, subject, owner, wanted) in [
            (None, None, None, true),
            (Some("node.changed"), None, None, true),
            (Some("host.changed,node.*"), None, None, true),
            (Some("host.changed, node.changed"), None, None, true),
            (Some("node.change"), None, None, false),
            (Some("*"), None, None, true),
            (Some(""), None, None, false),
            (None, Some("n"), Some("project:a"), true),
            (None, Some("m"), None, false),
            (None, None, Some("project:b"), false),
        ] {
            let query = EventsQuery {
                after: 0,
                limit: None,
                wait_ms: 0,
                kind: kind.map(str::to_owned),
                subject: subject.map(str::to_owned),
                owner: owner.map(str::to_owned),
                epoch: None,
            };
            assert_eq!(query.wants(&event), wanted, "{query:?}");
        }
    }
}
