//! What the tests of this tier share: a database of each kind, and a small tier 1 beside it.

#![allow(dead_code, unreachable_pub)] // each test file uses its part

pub mod peer;

use std::{future::Future, num::NonZeroUsize, path::PathBuf, time::Duration};

use sea_orm::{ConnectionTrait, Database as Connect};
use tokio_util::sync::CancellationToken;
use yiqiu_base::{
    Clock, Environment, Id, Principal, Size,
    database::Database,
    principal::{Keyring, Role, Signer},
    reconcile::Loops,
};
use yiqiu_components::{
    Service, Settings,
    model::{ComponentType, Need, NewCContract, Spread},
};
use yiqiu_proto::{call, link};

use self::peer::Peer;

/// Where a test keeps its books. Goes away with it.
pub struct Books {
    pub url: String,
    folder: Option<tempfile::TempDir>,
}

impl Books {
    pub fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let file: PathBuf = folder.path().join("components.db");
        Self { url: format!("sqlite:{}", file.display()), folder: Some(folder) }
    }

    pub async fn postgres() -> Self {
        let server = std::env::var("YIQIU_TEST_POSTGRES").expect(
            "YIQIU_TEST_POSTGRES is not set: it names a PostgreSQL server whose user may create databases, such as \
             postgres://postgres@127.0.0.1:5432/postgres",
        );
        let name = format!("components_{}", uuid::Uuid::now_v7().simple());
        let connection = Connect::connect(&server).await.expect("the PostgreSQL server answers");
        connection.execute_unprepared(&format!("CREATE DATABASE {name}")).await.expect("a database for the test");
        connection.close().await.expect("closed");
        let (base, _) = server.rsplit_once('/').expect("the URL ends with /<database>");
        Self { url: format!("{base}/{name}"), folder: None }
    }

    pub async fn open(&self) -> Database {
        Database::connect(&self.url).await.expect("the database opens")
    }
}

/// A running tier with a tier 1 beside it.
pub struct World {
    pub service: Service,
    pub peer: Peer,
    pub books: Books,
    pub stop: CancellationToken,
    pub settings: Settings,
    pub loops: Loops,
    link: link::Link,
    caller: call::Caller,
}

pub fn quick() -> Settings {
    Settings {
        period: Duration::from_millis(50),
        patience: Duration::from_millis(100),
        events_wait: Duration::from_millis(300),
        sweep_period: Duration::from_millis(100),
        sweep_grace: Duration::from_secs(60),
        ledger_period: Duration::from_secs(3600),
        ledger_grace: Duration::from_millis(50),
        racing: Duration::from_millis(400),
        listed: NonZeroUsize::new(10).expect("not zero"),
    }
}

impl World {
    pub async fn new(books: Books) -> Self {
        Self::with(books, quick()).await
    }

    pub async fn with(books: Books, settings: Settings) -> Self {
        let clock = Clock::system();
        let (signer, _) = Signer::generate("components").expect("a key");
        let mut keyring = Keyring::default();
        keyring.trust("components", signer.public());
        let peer = Peer::default();
        let link = link::local(peer.server(call::Callee::new(keyring, clock.clone())));
        let caller = call::Caller::new(signer, clock);
        let stop = CancellationToken::new();
        let loops = Loops::default();
        let service = start(&books, &stop, &settings, &loops, &link, &caller).await;
        Self { service, peer, books, stop, settings, loops, link, caller }
    }

    /// Stops the tier, and starts another on the same books.
    pub async fn restart(&mut self) {
        self.stop.cancel();
        self.stop = CancellationToken::new();
        self.loops = Loops::default();
        let Self { books, stop, settings, loops, link, caller, .. } = self;
        self.service = start(books, stop, settings, loops, link, caller).await;
    }

    /// Another process of the same tier, on the same books.
    pub async fn beside(&self) -> Service {
        start(&self.books, &self.stop, &self.settings, &Loops::default(), &self.link, &self.caller).await
    }

    /// Stops the tier, and starts another on books that are empty, as when they were lost or another's were named.
    pub async fn restart_on(&mut self, books: Books) {
        self.books = books;
        self.restart().await;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn start(
    books: &Books,
    stop: &CancellationToken,
    settings: &Settings,
    loops: &Loops,
    link: &link::Link,
    caller: &call::Caller,
) -> Service {
    let environment = Environment { clock: Clock::system(), loops: loops.clone(), stop: stop.clone() };
    yiqiu_components::start(books.open().await, environment, settings.clone(), link.clone(), caller.clone())
        .await
        .expect("the tier starts")
}

pub fn tenant(project: &str) -> Principal {
    Principal {
        subject: "user:t".into(),
        role: Role::Tenant,
        owner: format!("project:{project}"),
        expires_ms: i64::MAX,
        token: None,
    }
}

pub fn ops() -> Principal {
    Principal { subject: "user:o".into(), role: Role::Ops, owner: String::new(), expires_ms: i64::MAX, token: None }
}

pub const MIB: i64 = 1 << 20;

pub fn size(cpu: i64, mib: i64) -> Size {
    Size { cpu_millicores: cpu, memory_bytes: mib * MIB, ..Size::ZERO }
}

/// A contract of `count` components of 100 millicores and 100 MiB.
pub fn ask(name: &str, count: u32) -> NewCContract {
    NewCContract {
        id: None,
        name: name.into(),
        component_type: ComponentType::Container,
        count,
        need: Need {
            size: size(100, 100),
            image: "busybox".into(),
            command: vec!["httpd".into()],
            environment: Vec::new(),
            ports: Vec::new(),
            min_clock_mhz: None,
        },
        region: None,
        zone: None,
        spread: Spread::default(),
    }
}

pub fn with_id(id: Id<yiqiu_base::id::CContract>, ask: NewCContract) -> NewCContract {
    NewCContract { id: Some(id), ..ask }
}

/// Looks until there is something; fails after ten seconds.
pub async fn eventually<T, Fut: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> Fut) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A test on both databases.
#[macro_export]
macro_rules! on_both {
    ($($(#[$doc:meta])* async fn $name:ident($books:ident: Books) $body:block)*) => {
        $($(#[$doc])* mod $name {
            use super::*;

            async fn run($books: Books) $body

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                run(Books::sqlite()).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                run(Books::postgres().await).await;
            }
        })*
    };
}
