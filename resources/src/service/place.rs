//! Regions, zones and racks: what ops say of the data centre.

use std::collections::HashMap;

use yiqiu_base::{
    Id, Principal, Problem,
    http::{Page, Paging},
    idempotency::Key,
    name,
};

use super::Service;
use crate::{
    model::{HostModel, RackModel, RegionModel, ZoneModel},
    store::{HostFilter, HostOrder, HostSort, Place},
};

/// A rack with what stands in it.
#[derive(Debug, Clone)]
pub struct Elevation {
    /// The rack.
    pub rack: RackModel,
    /// Where it stands.
    pub place: Place,
    /// Every unit with its host, from the highest to the lowest.
    pub units: Vec<(i64, Option<HostModel>)>,
}

/// The most units of a rack.
const UNITS_MOST: i64 = 100;

impl Service {
    /// Adds a region.
    pub async fn region_create(&self, who: &Principal, name: &str, key: Option<&str>) -> Result<RegionModel, Problem> {
        who.require_ops()?;
        name::check("region", name)?;
        let key = key.map(|key| Key::new(&who.subject, "region", key, &name)).transpose()?;
        let new = RegionModel { id: Id::new(), name: name.to_owned(), generation: 1, created_ms: self.now() };
        self.store().region_insert(&new, key.as_ref()).await
    }

    /// By name or id.
    pub async fn region_get(&self, who: &Principal, name_or_id: &str) -> Result<RegionModel, Problem> {
        who.require_service()?;
        self.store().region_get(name_or_id).await
    }

    /// In the order of names.
    pub async fn region_list(&self, who: &Principal, paging: &Paging) -> Result<Page<RegionModel>, Problem> {
        who.require_service()?;
        Ok(Page::of(self.store().region_list(paging).await?, paging, |r| r.name.clone()))
    }

    /// Takes an empty region away.
    pub async fn region_delete(&self, who: &Principal, name_or_id: &str) -> Result<(), Problem> {
        who.require_ops()?;
        let region = self.store().region_get(name_or_id).await?;
        self.store().region_delete(&region, self.now()).await
    }

    /// Adds a zone to a region.
    pub async fn zone_create(
        &self,
        who: &Principal,
        name: &str,
        region: &str,
        key: Option<&str>,
    ) -> Result<ZoneModel, Problem> {
        who.require_ops()?;
        name::check("zone", name)?;
        let region_id = self.store().region_get(region).await?.id;
        let key = key.map(|key| Key::new(&who.subject, "zone", key, &(name, region_id))).transpose()?;
        let new = ZoneModel { id: Id::new(), name: name.to_owned(), region_id, generation: 1, created_ms: self.now() };
        self.store().zone_insert(&new, key.as_ref()).await
    }

    /// By name or id.
    pub async fn zone_get(&self, who: &Principal, name_or_id: &str) -> Result<ZoneModel, Problem> {
        who.require_service()?;
        self.store().zone_get(name_or_id).await
    }

    /// In the order of names.
    pub async fn zone_list(&self, who: &Principal, paging: &Paging) -> Result<Page<ZoneModel>, Problem> {
        who.require_service()?;
        Ok(Page::of(self.store().zone_list(paging).await?, paging, |z| z.name.clone()))
    }

    /// Takes an empty zone away.
    pub async fn zone_delete(&self, who: &Principal, name_or_id: &str) -> Result<(), Problem> {
        who.require_ops()?;
        let zone = self.store().zone_get(name_or_id).await?;
        self.store().zone_delete(&zone, self.now()).await
    }

    /// Adds a rack to a zone.
    pub async fn rack_create(
        &self,
        who: &Principal,
        name: &str,
        zone: &str,
        units: i64,
        key: Option<&str>,
    ) -> Result<RackModel, Problem> {
        who.require_ops()?;
        name::check("rack", name)?;
        if !(1..=UNITS_MOST).contains(&units) {
            return Err(Problem::invalid(format!("a rack has 1 to {UNITS_MOST} units, not {units}")));
        }
        let zone_id = self.store().zone_get(zone).await?.id;
        let key = key.map(|key| Key::new(&who.subject, "rack", key, &(name, zone_id, units))).transpose()?;
        let new =
            RackModel { id: Id::new(), name: name.to_owned(), zone_id, units, generation: 1, created_ms: self.now() };
        self.store().rack_insert(&new, key.as_ref()).await
    }

    /// By name or id.
    pub async fn rack_get(&self, who: &Principal, name_or_id: &str) -> Result<RackModel, Problem> {
        who.require_service()?;
        self.store().rack_get(name_or_id).await
    }

    /// What stands in a rack.
    pub async fn rack_elevation(&self, who: &Principal, name_or_id: &str) -> Result<Elevation, Problem> {
        who.require_service()?;
        let rack = self.store().rack_get(name_or_id).await?;
        let filter = HostFilter { rack: Some(rack.id), ..HostFilter::default() };
        let order = HostOrder { by: HostSort::Name, descending: false };
        let all = Paging { cursor: None, limit: Some(1000) }; // more than a rack has units
        let hosts = self.store().host_list(&filter, order, &all).await?;
        let place = self.store().place_all().await?.remove(&rack.id).unwrap_or_default();
        let mut at: HashMap<i64, HostModel> = hosts.into_iter().filter_map(|h| Some((h.area?.unit, h))).collect();
        let units = (1..=rack.units).rev().map(|unit| (unit, at.remove(&unit))).collect();
        Ok(Elevation { rack, place, units })
    }

    /// In the order of names.
    pub async fn rack_list(&self, who: &Principal, paging: &Paging) -> Result<Page<RackModel>, Problem> {
        who.require_service()?;
        Ok(Page::of(self.store().rack_list(paging).await?, paging, |r| r.name.clone()))
    }

    /// Takes an empty rack away.
    pub async fn rack_delete(&self, who: &Principal, name_or_id: &str) -> Result<(), Problem> {
        who.require_ops()?;
        let rack = self.store().rack_get(name_or_id).await?;
        self.store().rack_delete(&rack, self.now()).await
    }
}
