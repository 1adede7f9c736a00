//! What people and tiers see: contracts, components and events, each only their own.

use std::{collections::HashMap, time::Duration};

use yiqiu_base::{
    Id, Principal, Problem,
    clock::Ms,
    http::{Page, Paging},
    id::CContract,
    outbox::{self, Reading},
    principal::Role,
};

use super::Service;
use crate::model::{CContractModel, ComponentModel, Whole};

impl Service {
    /// A contract by name or id; `not_found` also where it is another owner's.
    pub async fn find(&self, who: &Principal, name_or_id: &str) -> Result<Whole, Problem> {
        let missing = || Problem::not_found("ccontract", name_or_id);
        let mut found = match Id::parse(name_or_id) {
            Ok(id) => self.store().whole_get(id).await?.into_iter().collect(),
            Err(_) => self.store().whole_named(only(who)?, name_or_id).await?,
        };
        found.retain(|whole| who.may_touch(&whole.contract.owner));
        if found.len() > 1 {
            return Err(Problem::invalid(format!(
                "{} projects have a ccontract `{}`: name it by its id",
                found.len(),
                yiqiu_base::name::shown(name_or_id)
            )));
        }
        found.pop().ok_or_else(missing)
    }

    /// A page of the contracts that are not released: one's own, or every owner's for ops.
    pub async fn list(&self, who: &Principal, paging: &Paging) -> Result<Page<CContractModel>, Problem> {
        let rows = self.store().contract_list(only(who)?, after(paging)?, paging.limit()).await?;
        Ok(Page::of(rows, paging, |c| format!("{}/{}", c.name, c.id)))
    }

    /// Contracts of every owner that are not released, oldest ids first: for whoever sweeps what nobody holds.
    pub async fn list_all(
        &self,
        who: &Principal,
        created_before: Option<Ms>,
        after: Option<Id<CContract>>,
        limit: u32,
        owner: Option<&str>,
    ) -> Result<Vec<CContractModel>, Problem> {
        who.require_service()?;
        let before = created_before.unwrap_or(Ms::MAX);
        self.store().contract_list_by_id(owner, before, after, limit.clamp(1, 1000)).await
    }

    /// A component by name or id, with its contract.
    pub async fn component(&self, who: &Principal, name_or_id: &str) -> Result<(Whole, ComponentModel), Problem> {
        let missing = || Problem::not_found("component", name_or_id);
        let mut found = self.store().component_find(only(who)?, name_or_id).await?;
        found.retain(|component| who.may_touch(&component.owner));
        if found.len() > 1 {
            return Err(Problem::invalid(format!(
                "{} projects have a component `{}`: name it by its id",
                found.len(),
                yiqiu_base::name::shown(name_or_id)
            )));
        }
        let component = found.pop().ok_or_else(missing)?;
        let whole = self.store().whole_get(component.ccontract_id).await?.ok_or_else(missing)?;
        // As it is in the whole: the two were read at different times.
        let component = whole.components.iter().find(|c| c.id == component.id).cloned().ok_or_else(missing)?;
        Ok((whole, component))
    }

    /// A page of components, of one contract or of all, each with its contract.
    pub async fn components(
        &self,
        who: &Principal,
        contract: Option<&str>,
        paging: &Paging,
    ) -> Result<Page<(CContractModel, ComponentModel)>, Problem> {
        let of = match contract {
            Some(name_or_id) => Some(self.find(who, name_or_id).await?.contract.id),
            None => None,
        };
        let rows = self.store().component_list(only(who)?, of, after(paging)?, paging.limit()).await?;
        let page = Page::of(rows, paging, |c| format!("{}/{}", c.name, c.id));
        let mut contracts = HashMap::new();
        for component in &page.items {
            let id = component.ccontract_id;
            if !contracts.contains_key(&id)
                && let Some(whole) = self.store().whole_get(id).await?
            {
                contracts.insert(id, whole.contract);
            }
        }
        let Page { items, next } = page;
        let items = items.into_iter().filter_map(|c| Some((contracts.get(&c.ccontract_id)?.clone(), c))).collect();
        Ok(Page { items, next })
    }

    /// Events after a position: one's own, or every owner's for ops and tiers.
    pub async fn events(&self, who: &Principal, after: i64, limit: u32, wait: Duration) -> Result<Reading, Problem> {
        outbox::read_as(self.store().database(), who, after, limit, wait).await
    }
}

/// Whose things someone sees: `None` is everyone's.
fn only(who: &Principal) -> Result<Option<&str>, Problem> {
    match who.role {
        Role::Ops => Ok(None),
        Role::Tenant | Role::Service => who.owner().map(Some),
    }
}

/// The cursor `<name>/<id>` of a page.
fn after<K: yiqiu_base::id::Kind>(paging: &Paging) -> Result<Option<(String, Id<K>)>, Problem> {
    let Some(cursor) = &paging.cursor else { return Ok(None) };
    let (name, id) =
        cursor.split_once('/').ok_or_else(|| Problem::invalid("the cursor is not one that a page gave"))?;
    Ok(Some((name.to_owned(), Id::parse(id)?)))
}
