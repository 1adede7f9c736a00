//! The HTTP edge that every tier shares: who asks, request ids, limits, problems, pages, generations.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    Json, Router,
    extract::{
        FromRequest, FromRequestParts, OptionalFromRequestParts, Query, Request, State, rejection::JsonRejection,
    },
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock as _};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    Clock, Code, Principal, Problem,
    principal::Keyring,
    secret::Secret,
    telemetry::{REQUEST_ID_HEADER, request_id_or_new, with_request_id},
};

/// The largest JSON body, in bytes.
pub const BODY_MOST: usize = 1 << 20;

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut body = serde_json::json!({
            "type": format!("/docs/problems#{}", self.code),
            "title": self.code.meaning(),
            "status": self.code.http(),
            "code": self.code,
            "detail": self.detail,
            "request_id": crate::telemetry::request_id(),
        });
        if let (Some(data), Some(object)) = (self.data, body.as_object_mut()) {
            object.insert("data".into(), data);
        }
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.code == Code::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Trades an API token for a signed principal: Projects, wherever it runs.
#[async_trait]
pub trait TokenExchange: Send + Sync {
    /// The signed principal; `unauthenticated` for a token that is unknown, expired or revoked.
    async fn exchange(&self, token: &Secret) -> Result<String, Problem>;
}

/// Finds out who asks, and how much they may ask.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    keyring: Keyring,
    clock: Clock,
    tokens: Arc<dyn TokenExchange>,
    known: Mutex<HashMap<String, (Principal, i64)>>,
    limits: DefaultKeyedRateLimiter<String>,
    failures: DefaultKeyedRateLimiter<()>,
    streams: Mutex<HashMap<String, u32>>,
}

/// How long the answer of [`TokenExchange`] is used again: so long a revoked token may still work at this edge.
const KNOWN_MS: i64 = 5_000;
/// How many principals are kept at once.
const KNOWN_MOST: usize = 10_000;
/// How many streams a principal may have open at once. A reader that takes nothing costs one of them, and one batch.
const STREAMS_MOST: u32 = 32;

impl Gate {
    /// A gate that lets each principal make `per_second` requests, and twice as many at once.
    pub fn new(keyring: Keyring, clock: Clock, tokens: Arc<dyn TokenExchange>, per_second: NonZeroU32) -> Self {
        let burst = per_second.saturating_mul(NonZeroU32::MIN.saturating_add(1));
        Self(Arc::new(Inner {
            keyring,
            clock,
            tokens,
            known: Mutex::new(HashMap::new()),
            limits: RateLimiter::keyed(Quota::per_second(per_second).allow_burst(burst)),
            failures: RateLimiter::keyed(Quota::per_second(NonZeroU32::MIN.saturating_add(19))),
            streams: Mutex::default(),
        }))
    }

    /// The principal behind the `Authorization: Bearer …` header.
    pub async fn principal(&self, headers: &HeaderMap) -> Result<Principal, Problem> {
        let bearer = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.strip_prefix("Bearer "))
            .ok_or_else(|| {
                Problem::new(Code::Unauthenticated, "no credential: send `Authorization: Bearer <token>`")
            })?;
        let secret = Secret::from_text(bearer.trim());
        let hash = secret.hash();
        let now = self.0.clock.now();
        if let Some((principal, until)) = self.known().get(&hash)
            && *until > now
        {
            return Ok(principal.clone());
        }
        let verified = match Keyring::is_principal(secret.reveal()) {
            true => self.0.keyring.verify(secret.reveal(), now),
            false => match self.0.tokens.exchange(&secret).await {
                Ok(signed) => self.0.keyring.verify(&signed, now),
                Err(problem) => Err(problem),
            },
        };
        match verified {
            Ok(principal) => {
                let mut known = self.known();
                if known.len() >= KNOWN_MOST {
                    known.retain(|_, (_, until)| *until > now);
                    if known.len() >= KNOWN_MOST {
                        known.clear();
                    }
                }
                known.insert(hash, (principal.clone(), principal.expires_ms.min(now + KNOWN_MS)));
                Ok(principal)
            }
            // Guessing has its own limit, for all who guess together.
            Err(problem) if problem.code == Code::Unauthenticated => match self.0.failures.check_key(&()) {
                Ok(()) => Err(problem),
                Err(_) => Err(rate_limited(1)),
            },
            Err(problem) => Err(problem),
        }
    }

    fn limit(&self, principal: &Principal) -> Result<(), Problem> {
        // One limit a principal and project: a busy tenant slows nobody else.
        self.0.limits.check_key(&key_of(principal)).map_err(|not_until| {
            let wait = not_until.wait_time_from(governor::clock::DefaultClock::default().now());
            rate_limited(wait.as_secs() + 1)
        })
    }

    /// Takes one of the streams that a principal may have; it is given back when the answer is dropped.
    pub(crate) fn stream(&self, principal: &Principal) -> Result<StreamPermit, Problem> {
        let key = key_of(principal);
        let mut streams = self.0.streams.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let open = streams.entry(key.clone()).or_default();
        if *open >= STREAMS_MOST {
            return Err(Problem {
                retry_after_s: Some(5),
                ..Problem::new(Code::RateLimited, format!("{STREAMS_MOST} streams are open already: close one first"))
            });
        }
        *open += 1;
        metrics::gauge!("yiqiu_event_streams").increment(1);
        Ok(StreamPermit { gate: self.clone(), key })
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Principal, i64)>> {
        self.0.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn key_of(principal: &Principal) -> String {
    format!("{} {}", principal.subject, principal.owner)
}

/// One open stream of a principal.
pub(crate) struct StreamPermit {
    gate: Gate,
    key: String,
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let mut streams = self.gate.0.streams.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(open) = streams.get_mut(&self.key) {
            *open -= 1;
            if *open == 0 {
                streams.remove(&self.key);
            }
        }
        metrics::gauge!("yiqiu_event_streams").decrement(1);
    }
}

fn rate_limited(seconds: u64) -> Problem {
    Problem {
        retry_after_s: Some(seconds),
        ..Problem::new(Code::RateLimited, format!("too many requests: try again in {seconds} s"))
    }
}

/// The layers of every API router: request id and span, then who asks and their limit. Routes merged later have none.
pub fn edge(router: Router, gate: Gate) -> Router {
    router
        .layer(axum::extract::DefaultBodyLimit::max(BODY_MOST))
        .layer(axum::middleware::from_fn_with_state(gate, authenticate))
        .layer(axum::middleware::from_fn(request_id))
}

/// Gives the request its id, and puts it on the answer. Public for routes that need nobody's credential.
pub async fn request_id(request: Request, next: Next) -> Response {
    let given = request.headers().get(REQUEST_ID_HEADER).and_then(|v| v.to_str().ok());
    let id = request_id_or_new(given);
    let started = std::time::Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    with_request_id(id.clone(), async move {
        let mut response = next.run(request).await;
        let status = response.status().as_u16();
        let elapsed = started.elapsed();
        metrics::histogram!("yiqiu_http_seconds", "method" => method.to_string()).record(elapsed.as_secs_f64());
        metrics::counter!("yiqiu_http_requests_total", "status" => status.to_string()).increment(1);
        tracing::debug!(%method, path, status, ms = elapsed.as_millis() as u64, request_id = id, "request");
        if let Ok(value) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(REQUEST_ID_HEADER, value);
        }
        response
    })
    .await
}

async fn authenticate(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let principal = match gate.principal(request.headers()).await {
        Ok(principal) => principal,
        Err(problem) => return problem.into_response(),
    };
    if let Err(problem) = gate.limit(&principal) {
        return problem.into_response();
    }
    request.extensions_mut().insert(principal);
    request.extensions_mut().insert(gate);
    next.run(request).await
}

impl<S: Sync> FromRequestParts<S> for Principal {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        // A route outside of [`edge`] has no principal, and must not be served as if it had.
        parts
            .extensions
            .get::<Principal>()
            .cloned()
            .ok_or_else(|| Problem::new(Code::Unauthenticated, "no credential: send `Authorization: Bearer <token>`"))
    }
}

/// The longest sentence about what cannot be read, in characters.
const SENTENCE_MOST: usize = 300;

/// A JSON body. What is wrong with it is told as a problem.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(value)) => Ok(Body(value)),
            Err(JsonRejection::BytesRejection(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Err(Problem::new(Code::BodyTooLarge, format!("the body is too large: at most {BODY_MOST} bytes")))
            }
            Err(JsonRejection::MissingJsonContentType(_)) => {
                Err(Problem::new(Code::MalformedBody, "expected the header `Content-Type: application/json`"))
            }
            Err(rejection) => {
                // A sentence of the reader: what it quotes of the body may be long, and the end says where it is.
                Err(Problem::new(Code::MalformedBody, crate::name::shown_to(SENTENCE_MOST, &rejection.body_text())))
            }
        }
    }
}

/// The `Idempotency-Key` header, if there is one.
pub struct IdempotencyKey(pub Option<String>);

impl<S: Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        match parts.headers.get("idempotency-key").map(HeaderValue::to_str) {
            None => Ok(Self(None)),
            Some(Ok(key)) => Ok(Self(Some(key.to_owned()))),
            Some(Err(_)) => Err(Problem::invalid("the Idempotency-Key is not printable ASCII")),
        }
    }
}

/// The generation in `If-Match: "<n>"`.
#[derive(Debug, Clone, Copy)]
pub struct IfMatch(pub i64);

impl<S: Sync> OptionalFromRequestParts<S> for IfMatch {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Option<Self>, Problem> {
        let Some(value) = parts.headers.get(header::IF_MATCH) else { return Ok(None) };
        let text = value.to_str().unwrap_or_default().trim_matches('"');
        text.parse()
            .map(|generation| Some(Self(generation)))
            .map_err(|_| Problem::invalid("If-Match takes one generation, such as \"3\""))
    }
}

/// A thing with its generation as `ETag`.
pub struct Tagged<T>(pub StatusCode, pub i64, pub T);

impl<T: Serialize> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        let mut response = (self.0, Json(self.2)).into_response();
        if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", self.1)) {
            response.headers_mut().insert(header::ETAG, tag);
        }
        response
    }
}

/// Which page of a list.
#[derive(Debug, Clone, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Paging {
    /// `next` of the page before; nothing for the first.
    pub cursor: Option<String>,
    /// How many at most: 1 to 1000, 100 if not said.
    pub limit: Option<u32>,
}

impl Paging {
    /// How many rows to read.
    pub fn limit(&self) -> u64 {
        self.limit.unwrap_or(100).clamp(1, 1000).into()
    }
}

/// A page of a list.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// The cursor of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// A page of rows that were read with [`Paging::limit`]; `key` is what the next page starts after.
    pub fn of(items: Vec<T>, paging: &Paging, key: impl Fn(&T) -> String) -> Self {
        let full = items.len() as u64 >= paging.limit();
        let next = if full { items.last().map(key) } else { None };
        Self { items, next }
    }

    /// The same page of another shape.
    pub fn map<U>(self, f: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(f).collect(), next: self.next }
    }
}

/// Query parameters; what is wrong with them is told as a problem.
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Params(value)),
            Err(rejection) => Err(Problem::invalid(crate::name::shown_to(SENTENCE_MOST, &rejection.body_text()))),
        }
    }
}

/// The longest that one request may wait for something.
pub const WAIT_MOST: Duration = Duration::from_secs(30);
