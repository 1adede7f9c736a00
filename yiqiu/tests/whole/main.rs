//! The whole system as its users meet it: real processes, real databases, real containers, over HTTP and the command
//! line. `make test` gives them Docker and PostgreSQL.

mod bad_input;
mod crashes;
mod durability;
mod faults;
mod golden;
mod main_job;
mod metering;
mod nodes;
mod platform;
mod truth;
mod watch;
mod without_docker;
