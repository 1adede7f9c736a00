//! For tests: databases of their own, on SQLite and on PostgreSQL. Only with the feature `testing`.

use std::sync::atomic::{AtomicU32, Ordering};

use sea_orm::ConnectionTrait;
use tempfile::TempDir;

use crate::database::Database;

/// A database that a test has for itself. SQLite's file goes with this value; PostgreSQL's goes with the server.
pub struct TestDatabase {
    /// `sqlite` or `postgres`, for messages.
    pub name: &'static str,
    /// For a second connection, as after a restart.
    pub url: String,
    folder: Option<TempDir>,
}

impl TestDatabase {
    /// A fresh SQLite file.
    pub fn sqlite() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let url = format!("sqlite:{}", folder.path().join("test.db").display());
        Self { name: "sqlite", url, folder: Some(folder) }
    }

    /// A fresh database on the server of `YIQIU_TEST_POSTGRES`; fails where that is missing.
    pub async fn postgres() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let server = std::env::var("YIQIU_TEST_POSTGRES")
            .expect("YIQIU_TEST_POSTGRES names no PostgreSQL server: run the tests by `make test`");
        let name = format!("t_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let maintenance = Database::connect(&server).await.expect("the PostgreSQL server of YIQIU_TEST_POSTGRES");
        let create = format!("CREATE DATABASE {name}");
        maintenance.schema().execute_unprepared(&create).await.expect("a user who may create databases");
        let (head, query) = server.split_once('?').map_or((server.as_str(), ""), |(h, q)| (h, q));
        let (base, _) = head.rsplit_once('/').expect("a URL with a database");
        let query = if query.is_empty() { String::new() } else { format!("?{query}") };
        Self { name: "postgres", url: format!("{base}/{name}{query}"), folder: None }
    }

    /// One of each.
    pub async fn both() -> [Self; 2] {
        [Self::sqlite(), Self::postgres().await]
    }

    /// A connection to it.
    pub async fn open(&self) -> Database {
        Database::connect(&self.url).await.expect("the test's database opens")
    }

    /// The folder of the SQLite file, for what else a test keeps.
    pub fn folder(&self) -> Option<&std::path::Path> {
        self.folder.as_ref().map(TempDir::path)
    }
}
