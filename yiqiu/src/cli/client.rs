//! The way from a command to the platform: finds the tier, signs in, retries what is safe to retry.

use std::time::Duration;

use reqwest::{Method, StatusCode, Url, header};
use serde_json::Value;
use tokio::{net::TcpStream, sync::OnceCell};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Error as SocketError, client::IntoClientRequest},
};
use yiqiu_base::{Id, id::Command, secret::Secret};

use super::failure::{Failure, Outcome};

/// Which tier answers for a noun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Tier {
    /// Places, hosts, images, exact contracts.
    Resources,
    /// Contracts by need.
    Components,
    /// People, projects, usage.
    Projects,
}

impl Tier {
    /// Its name in `/v1/endpoints`.
    pub fn as_str(self) -> &'static str {
        match self {
            Tier::Resources => "resources",
            Tier::Components => "components",
            Tier::Projects => "projects",
        }
    }
}

/// How often a request is tried, and how long the first pause is; each further one is twice as long.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(150);
/// The longest that `Retry-After` is obeyed.
const PAUSE_MOST: Duration = Duration::from_secs(30);

/// A connection to the platform.
pub struct Client {
    http: reqwest::Client,
    server: Url,
    token: Option<Secret>,
    idempotency_key: Option<String>,
    endpoints: OnceCell<Value>,
}

/// One request before it is sent.
struct Ask<'a> {
    method: Method,
    url: Url,
    body: Option<&'a Value>,
    idempotency_key: Option<String>,
    /// The generation that the caller has seen.
    if_match: Option<i64>,
    patience: Duration,
}

impl Client {
    /// A client of the server at this URL.
    pub fn new(server: &str, token: Option<Secret>, idempotency_key: Option<String>) -> Outcome<Self> {
        let url = Url::parse(server)
            .ok()
            .filter(|url| url.host_str().is_some())
            .ok_or_else(|| Failure::Usage(format!("`{server}` is not a server URL: expected http://HOST:PORT")))?;
        if url.scheme() != "http" {
            return Err(Failure::Usage(format!(
                "`{server}`: only http:// can be spoken; for TLS put a proxy beside the server, or forward the port"
            )));
        }
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .user_agent(concat!("yiqiu/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Failure::Failed(chain(&error)))?;
        Ok(Self { http, server: url, token, idempotency_key, endpoints: OnceCell::new() })
    }

    /// `GET`, with the answer as JSON.
    pub async fn get(&self, tier: Tier, path: &[&str], query: &[(&str, &str)]) -> Outcome<Value> {
        self.ask(Method::GET, tier, path, query, None).await
    }

    /// `GET` of a stream of server-sent events, tried once: the caller knows where to go on.
    pub async fn stream(&self, tier: Tier, path: &[&str], query: &[(&str, &str)]) -> Outcome<reqwest::Response> {
        let url = self.url(tier, path, query).await?;
        let request = self.authorized(self.http.get(url)).header(header::ACCEPT, "text/event-stream");
        let answer = match tokio::time::timeout(Duration::from_secs(30), request.send()).await {
            Ok(answer) => answer.map_err(|error| self.unreachable(&error))?,
            Err(_) => return Err(Failure::Unreachable(format!("{} does not answer within 30 s.", self.server))),
        };
        let status = answer.status();
        match status {
            // Too busy now, or a proxy says that nobody is behind it.
            StatusCode::TOO_MANY_REQUESTS => Err(Failure::Unreachable(format!("{} is busy.", self.server))),
            status if status.is_server_error() => {
                Err(Failure::Unreachable(format!("{} answers {status}.", self.server)))
            }
            _ => refused(answer).await,
        }
    }

    /// `POST`, safe to repeat: it carries an idempotency key.
    pub async fn post(&self, tier: Tier, path: &[&str], query: &[(&str, &str)], body: &Value) -> Outcome<Value> {
        self.ask(Method::POST, tier, path, query, Some(body)).await
    }

    /// `PATCH`: changes what the body names.
    pub async fn patch(&self, tier: Tier, path: &[&str], body: &Value) -> Outcome<Value> {
        self.ask(Method::PATCH, tier, path, &[], Some(body)).await
    }

    /// `PATCH`, safe to repeat, of what is still at this generation.
    pub async fn patch_seen(
        &self,
        tier: Tier,
        path: &[&str],
        query: &[(&str, &str)],
        body: &Value,
        generation: Option<i64>,
    ) -> Outcome<Value> {
        self.ask_seen(Method::PATCH, tier, path, query, Some(body), generation).await
    }

    /// `PUT` of JSON.
    pub async fn put(&self, tier: Tier, path: &[&str], body: &Value) -> Outcome<Value> {
        self.ask(Method::PUT, tier, path, &[], Some(body)).await
    }

    /// `DELETE`. What the server answers, `null` if that is nothing.
    pub async fn delete(&self, tier: Tier, path: &[&str], query: &[(&str, &str)]) -> Outcome<Value> {
        self.ask(Method::DELETE, tier, path, query, None).await
    }

    /// `GET` of what is not JSON.
    pub async fn get_text(&self, tier: Tier, path: &[&str], query: &[(&str, &str)]) -> Outcome<String> {
        let url = self.url(tier, path, query).await?;
        let ask = Ask {
            method: Method::GET,
            url,
            body: None,
            idempotency_key: None,
            if_match: None,
            patience: Duration::from_secs(60),
        };
        self.send(ask).await?.text().await.map_err(|error| Failure::Failed(chain(&error)))
    }

    /// `GET` whose answer goes on for as long as it takes.
    pub async fn open_ended(&self, tier: Tier, path: &[&str], query: &[(&str, &str)]) -> Outcome<reqwest::Response> {
        let url = self.url(tier, path, query).await?;
        let answer = self.authorized(self.http.get(url)).send().await.map_err(|error| self.unreachable(&error))?;
        refused(answer).await
    }

    /// A WebSocket.
    pub async fn socket(&self, tier: Tier, path: &[&str]) -> Outcome<WebSocketStream<MaybeTlsStream<TcpStream>>> {
        let mut url = self.url(tier, path, &[]).await?;
        if url.set_scheme("ws").is_err() {
            return Err(Failure::Usage(format!("`{url}` is not a server URL")));
        }
        let mut request =
            url.as_str().into_client_request().map_err(|error| Failure::Usage(format!("`{url}`: {error}")))?;
        if let Some(token) = &self.token
            && let Ok(value) = format!("Bearer {}", token.reveal()).parse()
        {
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        match tokio_tungstenite::connect_async(request).await {
            Ok((socket, _)) => Ok(socket),
            Err(SocketError::Http(answer)) => {
                let problem = answer.body().as_ref().and_then(|body| serde_json::from_slice::<Value>(body).ok());
                Err(match problem.filter(|p| p.get("code").is_some()) {
                    Some(problem) => Failure::Refused(problem),
                    None => Failure::Failed(format!("the server answered {} to a WebSocket", answer.status())),
                })
            }
            Err(error) => Err(Failure::Unreachable(format!("{} does not answer: {}", self.server, chain(&error)))),
        }
    }

    /// A path of the server itself that needs no credential, whatever its status.
    pub async fn open(&self, path: &str) -> Outcome<(StatusCode, String)> {
        let mut url = self.server.clone();
        url.set_path(path);
        let answer = self.http.get(url).timeout(Duration::from_secs(10)).send().await;
        let answer = answer.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        Ok((status, answer.text().await.map_err(|error| self.unreachable(&error))?))
    }

    /// Every item of a list, page after page.
    pub async fn all(&self, tier: Tier, path: &[&str], query: &[(&str, &str)]) -> Outcome<Vec<Value>> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut query = query.to_vec();
            query.push(("limit", "1000"));
            if let Some(cursor) = &cursor {
                query.push(("cursor", cursor));
            }
            let mut page = self.get(tier, path, &query).await?;
            if let Some(Value::Array(more)) = page.get_mut("items").map(Value::take) {
                items.extend(more);
            }
            match page.get("next").and_then(Value::as_str) {
                Some(next) if cursor.as_deref() != Some(next) => cursor = Some(next.to_owned()),
                _ => return Ok(items),
            }
        }
    }

    /// `PUT` of raw bytes, sent once: the caller knows how to begin again.
    pub async fn upload(&self, tier: Tier, path: &[&str], length: u64, body: reqwest::Body) -> Outcome<Value> {
        let url = self.url(tier, path, &[]).await?;
        let request = self
            .authorized(self.http.put(url))
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, length)
            .body(body);
        let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
        json(refused(answer).await?).await
    }

    async fn ask(
        &self,
        method: Method,
        tier: Tier,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Outcome<Value> {
        self.ask_seen(method, tier, path, query, body, None).await
    }

    async fn ask_seen(
        &self,
        method: Method,
        tier: Tier,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
        if_match: Option<i64>,
    ) -> Outcome<Value> {
        let url = self.url(tier, path, query).await?;
        let idempotency_key = matches!(method, Method::POST | Method::PATCH)
            .then(|| self.idempotency_key.clone().unwrap_or_else(|| Id::<Command>::new().to_string()));
        let ask = Ask { method, url, body, idempotency_key, if_match, patience: Duration::from_secs(60) };
        json(self.send(ask).await?).await
    }

    async fn send(&self, ask: Ask<'_>) -> Outcome<reqwest::Response> {
        let mut pause = PAUSE;
        let mut lost = false;
        for attempt in 1..=TRIES {
            let mut request = self.authorized(self.http.request(ask.method.clone(), ask.url.clone()));
            request = request.timeout(ask.patience);
            if let Some(body) = ask.body {
                request = request.json(body);
            }
            if let Some(key) = &ask.idempotency_key {
                request = request.header("Idempotency-Key", key);
            }
            if let Some(generation) = ask.if_match {
                request = request.header(header::IF_MATCH, format!("\"{generation}\""));
            }
            match request.send().await {
                Err(error) if attempt == TRIES => return Err(self.unreachable(&error)),
                Err(_) => lost = true,
                Ok(answer) => {
                    let status = answer.status();
                    // The answer to an earlier try got lost, and that try did it.
                    if lost && ask.method == Method::DELETE && status == StatusCode::NOT_FOUND {
                        return Ok(http::Response::new("").into());
                    }
                    let later = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
                    if !later || attempt == TRIES {
                        return refused(answer).await;
                    }
                    let told = answer.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok());
                    if let Some(seconds) = told.and_then(|v| v.parse().ok()) {
                        pause = Duration::from_secs(seconds).min(PAUSE_MOST);
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Err(Failure::Unreachable(format!("{} did not answer after {TRIES} tries", self.server)))
    }

    fn authorized(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.token {
            Some(token) => request.bearer_auth(token.reveal()),
            None => request,
        }
    }

    /// The URL of a path of a tier, which may be served elsewhere than at the server that was named.
    async fn url(&self, tier: Tier, path: &[&str], query: &[(&str, &str)]) -> Outcome<Url> {
        let mut url = self.base(tier).await?;
        for part in path {
            if matches!(*part, "" | "." | "..") {
                return Err(Failure::Usage(format!("`{part}` is not a name or an id")));
            }
        }
        url.path_segments_mut()
            .map_err(|()| Failure::Usage(format!("`{}` is not a server URL", self.server)))?
            .clear()
            .push("v1")
            .extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }

    /// Where a tier is served.
    pub async fn base(&self, tier: Tier) -> Outcome<Url> {
        let endpoints = self
            .endpoints
            .get_or_try_init(|| async {
                let mut url = self.server.clone();
                url.set_path("/v1/endpoints");
                let patience = Duration::from_secs(10);
                let ask = Ask { method: Method::GET, url, body: None, idempotency_key: None, if_match: None, patience };
                json(self.send(ask).await?).await
            })
            .await?;
        // No URL: the server itself. So a forwarded port works without being told of.
        match endpoints.get(tier.as_str()).and_then(Value::as_str) {
            None => Ok(self.server.clone()),
            Some(url) => Url::parse(url)
                .map_err(|_| Failure::Failed(format!("{} names `{url}` as the tier {}", self.server, tier.as_str()))),
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        Failure::Unreachable(format!(
            "{} does not answer: {}. Is it running (`yiqiu up`), and is --server or YIQIU_SERVER right?",
            self.server,
            chain(error)
        ))
    }
}

/// The answer if it is a success, else its problem.
async fn refused(answer: reqwest::Response) -> Outcome<reqwest::Response> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let body = answer.text().await.unwrap_or_default();
    let problem = serde_json::from_str::<Value>(&body).ok().filter(|p| p.get("code").is_some());
    Err(Failure::Refused(problem.unwrap_or_else(|| {
        serde_json::json!({
            "code": status.as_str(),
            "status": status.as_u16(),
            "detail": format!("the server answered {status} without saying why; is it a Yiqiu server?"),
        })
    })))
}

async fn json(answer: reqwest::Response) -> Outcome<Value> {
    let bytes = answer.bytes().await.map_err(|error| Failure::Unreachable(chain(&error)))?;
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| Failure::Failed(format!("the answer is not JSON ({error}); is it a Yiqiu server?")))
}

/// An error with what caused it, without the URL, which may be long.
fn chain(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}
