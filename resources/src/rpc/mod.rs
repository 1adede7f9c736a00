//! gRPC: the same service for the tiers above, and the agents' protocol.

mod agents;
mod tiers;
mod wire;

pub use agents::agents_server;
pub use tiers::server;
