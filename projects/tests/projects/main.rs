//! Projects on both databases, with tiers beside it that serve scripted events.
//!
//! `YIQIU_TEST_POSTGRES` is the URL of a PostgreSQL server whose user may create databases.
#![allow(clippy::unwrap_used)]

mod ledgers;
mod metering;
mod peers;
mod people;
mod sweeping;
mod tokens;
mod world;

/// Runs each test on SQLite and on PostgreSQL.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test] async fn $name() { super::$name(crate::world::Place::sqlite()).await })*
        }
        mod postgres {
            $(#[tokio::test] async fn $name() { super::$name(crate::world::Place::postgres().await).await })*
        }
    };
}
pub(crate) use on_both;
