//! Hosts: added and placed by ops, listed for the scheduler.

use std::collections::HashMap;

use yiqiu_base::{
    Code, Id, NodeType, Principal, Problem, Size,
    http::{Page, Paging},
    id::{Host, Pool, Rack},
    idempotency::Key,
    name,
    secret::Secret,
};

use super::Service;
use crate::{
    lifecycle::{overcommit_of_cut, refuse_retired},
    model::{Area, HostChange, HostModel, HostState, Limit, Selector, Wished},
    store::{HostFilter, HostLabels, HostOrder, NewHost, Place},
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

/// What stands around hosts when they are shown: the names of places and pools, and their labels.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Where each rack is.
    pub places: Places,
    /// The names of pools.
    pub pools: HashMap<Id<Pool>, String>,
    /// Labels and features of the hosts that were asked for.
    pub labels: HashMap<Id<Host>, HostLabels>,
    /// Who wished what is wished of them, and why.
    pub wished: HashMap<Id<Host>, Wished>,
}

/// Which hosts are asked for, by names or ids of where they are.
#[derive(Debug, Clone, Default)]
pub struct HostQuery {
    /// In this state.
    pub state: Option<HostState>,
    /// In this region.
    pub region: Option<String>,
    /// In this zone.
    pub zone: Option<String>,
    /// In this rack.
    pub rack: Option<String>,
    /// In this pool.
    pub pool: Option<String>,
    /// Cut like this.
    pub node_type: Option<NodeType>,
    /// With all of these labels: `key=value,other-key`.
    pub label: Option<String>,
    /// With all of these features: the same.
    pub feature: Option<String>,
    /// With at least this much free.
    pub free: Size,
}

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
        refuse_retired(&host)?;
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
        refuse_retired(&host)?;
        let area = self.area(rack, unit).await?;
        if let Some(why) = host.driver_missing(node_type) {
            return Err(Problem::new(Code::DriverMissing, why));
        }
        overcommit_of_cut(&host.name, Some(node_type), &host)?;
        self.store().host_place(&host, area, node_type, self.now()).await?;
        self.store().host_get(&host.id.to_string()).await
    }

    /// Changes what ops say of a host: limits, overcommit, labels, and its pool, which is named like `Some(None)` for
    /// none.
    pub async fn host_change(
        &self,
        who: &Principal,
        name_or_id: &str,
        mut change: HostChange,
        pool: Option<Option<&str>>,
        if_generation: Option<i64>,
    ) -> Result<HostModel, Problem> {
        who.require_ops()?;
        let host = self.store().host_get(name_or_id).await?;
        change.pool = match pool {
            None => None,
            Some(None) => Some(None),
            Some(Some(pool)) => Some(Some(self.store().pool_get(pool).await?.id)),
        };
        self.store().host_change(host.id, if_generation, &change, self.now()).await
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

    /// Those that are asked for, in order. A place or pool that is not there is `not_found`.
    pub async fn host_list(
        &self,
        who: &Principal,
        query: &HostQuery,
        order: HostOrder,
        paging: &Paging,
    ) -> Result<Page<HostModel>, Problem> {
        who.require_service()?;
        let HostQuery { state, region, zone, rack, pool, node_type, label, feature, free } = query;
        let mut filter = HostFilter { state: *state, node_type: *node_type, free: *free, ..HostFilter::default() };
        let store = self.store();
        if let Some(region) = region {
            filter.region = Some(store.region_get(region).await?.id);
        }
        if let Some(zone) = zone {
            filter.zone = Some(store.zone_get(zone).await?.id);
        }
        if let Some(rack) = rack {
            filter.rack = Some(store.rack_get(rack).await?.id);
        }
        if let Some(pool) = pool {
            filter.pool = Some(store.pool_get(pool).await?.id);
        }
        filter.labels = label.as_deref().map(Selector::parse).transpose()?.unwrap_or_default();
        filter.features = feature.as_deref().map(Selector::parse).transpose()?.unwrap_or_default();
        Ok(Page::of(store.host_list(&filter, order, paging).await?, paging, |host| order.cursor(host)))
    }

    /// What stands around these hosts.
    pub async fn surroundings(&self, who: &Principal, hosts: &[Id<Host>]) -> Result<Surroundings, Problem> {
        who.require_service()?;
        Ok(Surroundings {
            places: self.store().place_all().await?,
            pools: self.store().pool_names().await?,
            labels: self.store().host_labels(hosts).await?,
            wished: self.store().host_wished(hosts).await?,
        })
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
