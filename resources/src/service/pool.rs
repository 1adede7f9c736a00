//! Pools: groups of hosts that ops name. A pool reserves nothing; it says which hosts belong together.

use std::collections::HashMap;

use yiqiu_base::{
    Id, Principal, Problem,
    http::{Page, Paging},
    id::Pool,
    idempotency::Key,
    name,
};

use super::Service;
use crate::{model::PoolModel, store::PoolSum};

/// The longest description.
const DESCRIPTION_MOST: usize = 200;

fn description_check(description: &str) -> Result<(), Problem> {
    if description.chars().count() > DESCRIPTION_MOST || description.chars().any(char::is_control) {
        return Err(Problem::invalid(format!(
            "a description has at most {DESCRIPTION_MOST} characters, and no control characters"
        )));
    }
    Ok(())
}

impl Service {
    /// Adds a pool without hosts.
    pub async fn pool_create(
        &self,
        who: &Principal,
        name: &str,
        description: &str,
        key: Option<&str>,
    ) -> Result<PoolModel, Problem> {
        who.require_ops()?;
        name::check("pool", name)?;
        description_check(description)?;
        let key = key.map(|key| Key::new(&who.subject, "pool", key, &(name, description))).transpose()?;
        let (name, description) = (name.to_owned(), description.to_owned());
        let new = PoolModel { id: Id::new(), name, description, generation: 1, created_ms: self.now() };
        self.store().pool_insert(&new, key.as_ref()).await
    }

    /// By name or id.
    pub async fn pool_get(&self, who: &Principal, name_or_id: &str) -> Result<PoolModel, Problem> {
        who.require_service()?;
        self.store().pool_get(name_or_id).await
    }

    /// In the order of names.
    pub async fn pool_list(&self, who: &Principal, paging: &Paging) -> Result<Page<PoolModel>, Problem> {
        who.require_service()?;
        Ok(Page::of(self.store().pool_list(paging).await?, paging, |p| p.name.clone()))
    }

    /// What the hosts of these pools have together; a pool without hosts is left out.
    pub async fn pool_sums(&self, who: &Principal, pools: &[Id<Pool>]) -> Result<HashMap<Id<Pool>, PoolSum>, Problem> {
        who.require_service()?;
        self.store().pool_sums(pools).await
    }

    /// Gives a pool another name or description.
    pub async fn pool_change(
        &self,
        who: &Principal,
        name_or_id: &str,
        name: Option<String>,
        description: Option<String>,
        if_generation: Option<i64>,
    ) -> Result<PoolModel, Problem> {
        who.require_ops()?;
        let mut pool = self.store().pool_get(name_or_id).await?;
        if let Some(name) = name {
            name::check("pool", &name)?;
            pool.name = name;
        }
        if let Some(description) = description {
            description_check(&description)?;
            pool.description = description;
        }
        pool.generation = if_generation.unwrap_or(pool.generation); // the statement compares it with what is
        self.store().pool_change(pool, self.now()).await
    }

    /// Takes a pool away that has no hosts.
    pub async fn pool_delete(&self, who: &Principal, name_or_id: &str) -> Result<(), Problem> {
        who.require_ops()?;
        let pool = self.store().pool_get(name_or_id).await?;
        self.store().pool_delete(&pool, self.now()).await
    }
}
