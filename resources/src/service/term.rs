//! The term of contracts: renewed by who holds them, carried out by time; and the history of their changes.

use std::time::Duration;

use yiqiu_base::{
    Principal, Problem,
    clock::Ms,
    http::{Page, Paging},
    idempotency::Key,
    reconcile::Next,
};

use super::{Service, contract::check_reason};
use crate::{
    model::{By, ContractModel, Entry, NodeModel},
    store::Renewal,
};

/// How many contracts one look takes.
const AT_ONCE: i64 = 200;

impl Service {
    /// Moves the end of a contract, or takes it away. In its grace its nodes are powered on again.
    pub async fn contract_renew(
        &self,
        who: &Principal,
        name_or_id: &str,
        ends_ms: Option<Ms>,
        reason: &str,
        if_generation: Option<i64>,
        key: Option<&str>,
    ) -> Result<(ContractModel, Vec<NodeModel>), Problem> {
        check_reason(reason)?;
        let contract = self.contract_find(who, name_or_id).await?;
        let scope = format!("{} {}", who.subject, who.owner);
        let asked = (contract.id, ends_ms, reason, if_generation);
        let key = key.map(|key| Key::new(&scope, "renewal", key, &asked)).transpose()?;
        let by = By { who: &who.subject, reason };
        let renewal = Renewal { id: contract.id, ends_ms, if_generation, key: key.as_ref(), by };
        let nodes = self.store().contract_renew(&renewal, self.now()).await?;
        self.push(&nodes);
        self.0.terms.wake();
        self.contract_get(who, &contract.id.to_string()).await
    }

    /// The changes of a contract, oldest first.
    pub async fn contract_history(
        &self,
        who: &Principal,
        name_or_id: &str,
        paging: &Paging,
    ) -> Result<Page<Entry>, Problem> {
        let contract = self.contract_find(who, name_or_id).await?;
        Ok(Page::of(self.store().history_list(&contract, paging).await?, paging, |e| e.generation.to_string()))
    }

    /// Starts, ends and releases what is due by now. Everything it goes by is in the rows: a pass may be cut off
    /// anywhere, and made twice.
    pub async fn terms(&self) -> Result<Next, Problem> {
        let due_by = || self.environment().clock.due_by();
        loop {
            let due = self.store().contract_due(due_by(), AT_ONCE).await?;
            if due.is_empty() {
                break;
            }
            for contract in due {
                let nodes = self.store().contract_turn(contract, due_by(), self.now()).await?;
                self.push(&nodes);
            }
        }
        Ok(match self.store().contract_due_next().await? {
            None => Next::Done,
            // Looked at in between as well: another process may have changed what is due.
            Some(due) => {
                let wait = u64::try_from(due.saturating_sub(due_by())).unwrap_or(0).clamp(1, 30_000);
                Next::Requeue(Duration::from_millis(wait))
            }
        })
    }
}
