//! Hosts: added and placed by ops, listed for the scheduler.

use std::collections::HashMap;

use yiqiu_base::{
    Code, Id, NodeType, Principal, Problem,
    http::{Page, Paging},
    id::Rack,
    idempotency::Key,
    name,
    secret::Secret,
};

use super::Service;
use crate::{
    lifecycle::overcommit_of_cut,
    model::{Area, HostChange, HostModel, Limit},
    store::{NewHost, Place},
};

/// A host as ops ask for it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct HostRequest {
    /// Unique among hosts.
    pub name: String,
    /// Where it stands: a rack by name or id, and a unit. Both or neither.
    pub rack: Option<String>,
    /// The unit, from 1.
    pub unit: Option<i64>,
    /// How it is cut.
    pub node_type: Option<NodeType>,
    /// What ops lower its capacity to, whatever the machine will say.
    pub limit: Limit,
}

/// Where each rack is, by rack.
pub type Places = HashMap<Id<Rack>, Place>;

impl Service {
    /// Adds a host, and returns the one-time token with which its agent joins.
    pub async fn host_create(
        &self,
        who: &Principal,
        request: &HostRequest,
        key: Option<&str>,
    ) -> Result<(HostModel, Secret), Problem> {
        who.require_ops()?;
        name::check("host", &request.name)?;
        request.limit.check()?;
        let area = match (&request.rack, request.unit) {
            (None, None) => None,
            (Some(rack), Some(unit)) => Some(self.area(rack, unit).await?),
            _ => return Err(Problem::invalid("a host stands in a rack at a unit: give both, or neither")),
        };
        let key = key.map(|key| Key::new(&who.subject, "host", key, request)).transpose()?;
        let (token, expires) = self.fresh_join_token();
        let new = NewHost {
            id: Id::new(),
            name: request.name.clone(),
            area,
            node_type: request.node_type,
            limit: request.limit,
        };
        let id = self.store().host_insert(&new, &token, expires, self.now(), key.as_ref()).await?;
        Ok((self.store().host_get(&id.to_string()).await?, token))
    }

    /// Another join token for a host.
    pub async fn host_join_token(&self, who: &Principal, name_or_id: &str) -> Result<(HostModel, Secret), Problem> {
        who.require_ops()?;
        let host = self.store().host_get(name_or_id).await?;
        let (token, expires) = self.fresh_join_token();
        self.store().host_join_token(host.id, &token, expires).await?;
        Ok((host, token))
    }

    fn fresh_join_token(&self) -> (Secret, i64) {
        let ttl = i64::try_from(self.settings().join_token.as_millis()).unwrap_or(i64::MAX);
        (Secret::generate("yqj_"), self.now().saturating_add(ttl))
    }

    /// Puts a host in its rack and unit, and says how it is cut. Refused in its driver's own words where the machine
    /// has no driver for that.
    pub async fn host_place(
        &self,
        who: &Principal,
        name_or_id: &str,
        rack: &str,
        unit: i64,
        node_type: NodeType,
        if_generation: Option<i64>,
    ) -> Result<HostModel, Problem> {
        who.require_ops()?;
        let mut host = self.store().host_get(name_or_id).await?;
        if let Some(seen) = if_generation {
            host.generation = seen; // the statement compares it with what is
        }
        let area = self.area(rack, unit).await?;
        if let Some(why) = host.driver_missing(node_type) {
            return Err(Problem::new(Code::DriverMissing, why));
        }
        overcommit_of_cut(&host.name, Some(node_type), &host)?;
        self.store().host_place(&host, area, node_type, self.now()).await?;
        self.store().host_get(&host.id.to_string()).await
    }

    /// Changes what ops say of a host: limits, overcommit.
    pub async fn host_change(
        &self,
        who: &Principal,
        name_or_id: &str,
        change: &HostChange,
        if_generation: Option<i64>,
    ) -> Result<HostModel, Problem> {
        who.require_ops()?;
        let host = self.store().host_get(name_or_id).await?;
        self.store().host_change(host.id, if_generation, change, self.now()).await
    }

    async fn area(&self, rack: &str, unit: i64) -> Result<Area, Problem> {
        let rack = self.store().rack_get(rack).await?;
        if !(1..=rack.units).contains(&unit) {
            return Err(Problem::invalid(format!("rack {} has the units 1 to {}, not {unit}", rack.name, rack.units)));
        }
        Ok(Area { rack_id: rack.id, unit })
    }

    /// By name or id.
    pub async fn host_get(&self, who: &Principal, name_or_id: &str) -> Result<HostModel, Problem> {
        who.require_service()?;
        self.store().host_get(name_or_id).await
    }

    /// In the order of names.
    pub async fn host_list(&self, who: &Principal, paging: &Paging) -> Result<Page<HostModel>, Problem> {
        who.require_service()?;
        Ok(Page::of(self.store().host_list(paging).await?, paging, |h| h.name.clone()))
    }

    /// Every host with what is free on it.
    pub async fn host_all(&self, who: &Principal) -> Result<Vec<HostModel>, Problem> {
        who.require_service()?;
        self.store().host_all().await
    }

    /// Where each rack is.
    pub async fn places(&self, who: &Principal) -> Result<Places, Problem> {
        who.require_service()?;
        self.store().place_all().await
    }

    /// Takes a host away that carries nothing.
    pub async fn host_delete(&self, who: &Principal, name_or_id: &str) -> Result<(), Problem> {
        who.require_ops()?;
        let host = self.store().host_get(name_or_id).await?;
        self.store().host_delete(&host, self.now()).await
    }
}
