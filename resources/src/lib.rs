//! Tier 1: what the data centre has, and the exact leases of it.
//!
//! It maps Region, Zone, Rack, Host and Image, cuts nodes from hosts under RContracts, and keeps two books with every
//! commit: claims never exceed a host's capacity, and every claim has exactly one open meter segment.
//!
//! *Invariants* ([`store::books`] checks them on demand):
//! 1. on every host and in every dimension, claims and overhead together stay within capacity;
//! 2. contract line = claim = open segment;
//! 3. segments of a line follow each other without a gap or an overlap;
//! 4. only reports of a host's own agent change what is observed of its nodes.
//!
//! *Does not*: choose hosts, keep anything running that died, or know users. A node that died is shown dead until
//! someone starts it.
//!
//! Read on in [`model`], [`lifecycle`], [`service`], [`store`], [`reconcile`], [`http`] and [`rpc`].

pub mod http;
pub mod lifecycle;
pub mod model;
mod reconcile;
pub mod rpc;
pub mod service;
pub mod store;

pub use service::{Service, Settings, start};
