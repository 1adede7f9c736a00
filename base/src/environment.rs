//! What a tier runs in.

use tokio_util::sync::CancellationToken;

use crate::{Clock, reconcile::Loops};

/// What every tier of a process shares.
#[derive(Clone, Debug)]
pub struct Environment {
    /// The time.
    pub clock: Clock,
    /// Where reconcile loops show themselves.
    pub loops: Loops,
    /// Ends every loop.
    pub stop: CancellationToken,
}
