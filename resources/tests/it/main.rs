//! Resources as its callers see it, on SQLite and on PostgreSQL.

mod agents;
mod amend;
mod audits;
mod contracts;
mod drains;
mod histories;
mod host_lists;
mod hosts;
mod images;
mod meters;
mod migrations;
mod outbox;
mod parks;
mod places;
mod power;
mod support;
mod terms;
