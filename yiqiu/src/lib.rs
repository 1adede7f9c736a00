//! The program `yiqiu`: every role of the platform behind one port, and the command line that talks to it.
//!
//! *Invariants*: [`roles`] is the only place where tiers are wired to one another; a process holds the private keys of
//! its own roles only; the command line uses the public HTTP API and nothing else.
//!
//! *Does not*: hold any logic of a tier.

pub mod cli;
pub mod exchange;
pub mod keys;
pub mod openapi;
pub mod restored;
pub mod roles;
pub mod serve;
pub mod server;
pub mod up;
