//! A Projects that runs: a database of its own, a clock that the test moves, and the HTTP edge in front.

use std::{
    io::Write,
    num::NonZeroU32,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use axum::{Router, body::Body, http::Request};
use http_body_util::BodyExt;
use sea_orm::ConnectionTrait;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use yiqiu_base::{
    Clock, Environment, Problem,
    database::Database,
    http::{Gate, TokenExchange},
    outbox,
    principal::{Keyring, Signer},
    reconcile::Loops,
    secret::Secret,
};
use yiqiu_projects::{Service, Settings};
use yiqiu_proto::{
    call::{Callee, Caller},
    components::components_server::ComponentsServer,
    link,
    resources::resources_server::ResourcesServer,
};

use crate::peers::Peer;

/// Everything that this process has logged, of every test.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What was logged so far, down to the finest level.
pub(crate) fn logged() -> String {
    String::from_utf8_lossy(&LOG.lock().unwrap()).into_owned()
}

/// Where a database is.
pub(crate) struct Place {
    pub(crate) url: String,
    _folder: Option<tempfile::TempDir>,
}

impl Place {
    pub(crate) fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { url: format!("sqlite:{}", folder.path().join("projects.db").display()), _folder: Some(folder) }
    }

    pub(crate) async fn postgres() -> Self {
        let server = std::env::var("YIQIU_TEST_POSTGRES")
            .expect("YIQIU_TEST_POSTGRES is not set: give the URL of a PostgreSQL whose user may create databases");
        let name = format!("projects_{}", uuid::Uuid::new_v4().simple());
        let admin = Database::connect(&server).await.unwrap();
        admin.read().execute_unprepared(&format!("CREATE DATABASE {name}")).await.unwrap();
        let (head, _) = server.rsplit_once('/').expect("the URL ends in /<database>");
        Self { url: format!("{head}/{name}"), _folder: None }
    }
}

impl Place {
    /// A database that is there already, and that someone else minds.
    pub(crate) fn at(url: String) -> Self {
        Self { url, _folder: None }
    }

    /// Another new database of the same kind.
    pub(crate) async fn sibling(&self) -> Self {
        if self.url.starts_with("sqlite:") { Self::sqlite() } else { Self::postgres().await }
    }
}

/// When every test begins: 20 s into a minute.
pub(crate) const START: i64 = 1_700_000_000_000;
/// The first millisecond of that minute.
pub(crate) const MINUTE: i64 = START - 20_000;

pub(crate) struct World {
    pub(crate) place: Place,
    pub(crate) clock: Clock,
    pub(crate) database: Database,
    pub(crate) service: Service,
    pub(crate) loops: Loops,
    pub(crate) resources: Peer,
    pub(crate) components: Peer,
    pub(crate) router: Router,
    pub(crate) root: String,
    pub(crate) keyring: Keyring,
    stop: CancellationToken,
}

pub(crate) fn settings() -> Settings {
    Settings {
        poll: Duration::from_millis(50),
        batch: 3,
        meter_period: Duration::from_millis(50),
        sweep_period: Duration::from_millis(20),
        sweep_grace: Duration::from_secs(60),
        ledger_period: Duration::from_secs(3600),
        ledger_grace: Duration::from_millis(50),
    }
}

struct Exchange(Service);

#[async_trait]
impl TokenExchange for Exchange {
    async fn exchange(&self, token: &Secret) -> Result<String, Problem> {
        self.0.authenticate(token).await
    }
}

impl World {
    pub(crate) async fn new(place: Place) -> Self {
        Self::with(place, settings(), |_, _| {}).await
    }

    /// `prepare` may write down events before anything reads them.
    pub(crate) async fn with(place: Place, settings: Settings, prepare: impl FnOnce(&Peer, &Peer)) -> Self {
        // The first test installs it for all.
        let _ = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(|| Log).try_init();
        let clock = Clock::manual(START);
        let (signer, _) = Signer::generate("projects").unwrap();
        let mut keyring = Keyring::default();
        keyring.trust("projects", signer.public());
        let callee = Callee::new(keyring.clone(), clock.clone());
        let (resources, components) = (Peer::new(callee.clone()), Peer::new(callee));
        prepare(&resources, &components);
        let (loops, stop) = (Loops::default(), CancellationToken::new());
        let database = Database::connect(&place.url).await.unwrap();
        let service = yiqiu_projects::start(
            database.clone(),
            Environment { clock: clock.clone(), loops: loops.clone(), stop: stop.clone() },
            settings,
            signer.clone(),
            link::local(ResourcesServer::new(resources.clone())),
            link::local(ComponentsServer::new(components.clone())),
            Caller::new(signer, clock.clone()),
        )
        .await
        .unwrap();
        let root = "yqt_the-first-token-of-a-test".to_owned();
        service.bootstrap(Some(Secret::from_text(root.clone()))).await.unwrap();
        let (routes, _) = yiqiu_projects::http::router(service.clone()).split_for_parts();
        let many = NonZeroU32::new(100_000).unwrap();
        let gate = Gate::new(keyring.clone(), clock.clone(), Arc::new(Exchange(service.clone())), many);
        let router = yiqiu_base::http::edge(routes, gate);
        Self { place, clock, database, service, loops, resources, components, router, root, keyring, stop }
    }

    /// Stops everything and begins again on the same database.
    pub(crate) async fn again(mut self) -> Self {
        self.stop.cancel();
        let place = std::mem::replace(&mut self.place, Place { url: String::new(), _folder: None });
        drop(self);
        Self::new(place).await
    }

    pub(crate) fn advance(&self, ms: u64) {
        self.clock.advance(Duration::from_millis(ms));
    }

    /// Waits until both outboxes are consumed.
    pub(crate) async fn metered(&self) {
        for _ in 0..2_000 {
            let resources = outbox::cursor(&self.database, "resources").await.unwrap();
            let components = outbox::cursor(&self.database, "components").await.unwrap();
            if (resources, components) == (self.resources.newest(), self.components.newest()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the events were not consumed: {:?}", self.loops.status());
    }

    /// Waits until a loop shows an error with these words in it.
    pub(crate) async fn error_of(&self, name: &str, words: &str) -> String {
        for _ in 0..2_000 {
            if let Some(status) = self.loops.status().get(name)
                && status.error.contains(words)
            {
                return status.error.clone();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{name} does not show `{words}`: {:?}", self.loops.status());
    }

    /// One request; the status, and the body as JSON or as a string.
    pub(crate) async fn ask(&self, token: &str, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        self.ask_with(token, method, path, body, &[]).await
    }

    pub(crate) async fn ask_with(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Option<Value>,
        headers: &[(&str, &str)],
    ) -> (u16, Value) {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let response = self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// A request of ops that must succeed.
    pub(crate) async fn root(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.ask(&self.root, method, path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// A user in a project of its own, with a token; returns the project's id and the secret.
    pub(crate) async fn tenant(&self, user: &str, project: &str) -> (String, String) {
        self.root("POST", "/v1/users", Some(serde_json::json!({"name": user}))).await;
        let made = self.root("POST", "/v1/projects", Some(serde_json::json!({"name": project}))).await;
        let members = format!("/v1/projects/{project}/members");
        self.root("POST", &members, Some(serde_json::json!({"user": user}))).await;
        let body = serde_json::json!({"user": user, "project": project});
        let token = self.root("POST", "/v1/tokens", Some(body)).await;
        (made["id"].as_str().unwrap().to_owned(), token["secret"].as_str().unwrap().to_owned())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
