//! Lines, for the tiers above.

use yiqiu_base::{Id, Principal, Problem, id::Line};

use super::Service;
use crate::model::HeldLine;

/// The most lines of one answer.
const PAGE: u32 = 1000;

impl Service {
    /// What is held under an owner label, or under every one, in the order of lines. For tiers: each compares its own
    /// ledger with it, and what is told here is in the events that they read anyway.
    pub async fn line_list(
        &self,
        who: &Principal,
        owner: Option<&str>,
        after: Option<Id<Line>>,
        limit: u32,
    ) -> Result<Vec<HeldLine>, Problem> {
        who.require_service()?;
        let limit = if limit == 0 { PAGE } else { limit.min(PAGE) };
        self.store().line_list(owner, after, limit.into()).await
    }
}
