//! The tables of each tier, as migrations that run up and down on SQLite and PostgreSQL.
//!
//! *Invariants*: one migrator a tier, each with a migration table of its own, so that tiers never share a history;
//! `up` then `down` leaves nothing behind.
//!
//! *Does not*: read or write rows; the stores of the tiers do.

pub use sea_orm_migration::{MigratorTrait, sea_orm::DbErr};

pub mod components;
pub mod projects;
pub mod resources;
mod shared;
