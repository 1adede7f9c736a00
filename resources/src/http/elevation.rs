//! The elevation of a rack: what stands in it, from top to bottom.

use axum::{
    Json,
    extract::{Path, State},
};
use serde::Serialize;
use utoipa::ToSchema;
use yiqiu_base::{
    Id, NodeType, Principal, Problem, Size,
    id::{Host, Rack},
};

use crate::{
    model::{HostModel, HostState},
    service::{Service, place::Elevation},
};

/// A rack with what stands in it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Elevation)]
pub(super) struct ElevationView {
    rack_id: Id<Rack>,
    rack: String,
    zone: String,
    region: String,
    /// How many units it has.
    units: i64,
    /// Every unit, from the highest to the lowest.
    elevation: Vec<UnitView>,
}

/// One unit of a rack.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Unit)]
pub(super) struct UnitView {
    /// Counted from 1 at the bottom.
    unit: i64,
    /// What stands there; absent where nothing does.
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<HostInRack>,
}

/// A host as its rack shows it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HostInRack {
    id: Id<Host>,
    name: String,
    state: HostState,
    node_type: Option<NodeType>,
    nodes: i64,
    /// What claims could hold in all.
    rentable: Size,
    /// What they hold.
    used: Size,
    /// What is left; negative where the host is short.
    free: Size,
}

impl From<HostModel> for HostInRack {
    fn from(host: HostModel) -> Self {
        let (state, rentable, free) = (host.state(), host.rentable(), host.free());
        let HostModel { id, name, node_type, nodes, used, .. } = host;
        Self { id, name, state, node_type, nodes, rentable, used, free }
    }
}

impl From<Elevation> for ElevationView {
    fn from(elevation: Elevation) -> Self {
        let Elevation { rack, place, units } = elevation;
        Self {
            rack_id: rack.id,
            rack: rack.name,
            zone: place.zone.0,
            region: place.region.0,
            units: rack.units,
            elevation: units
                .into_iter()
                .map(|(unit, host)| UnitView { unit, host: host.map(HostInRack::from) })
                .collect(),
        }
    }
}

/// Show what stands in a rack
///
/// Every unit from top to bottom, with its host.
#[utoipa::path(get, path = "/v1/racks/{rack}/elevation", tag = "resources", params(("rack", description = "name or id")),
    responses((status = 200, body = ElevationView), (status = "4XX", body = Problem)))]
pub(super) async fn get(
    State(service): State<Service>,
    who: Principal,
    Path(rack): Path<String>,
) -> Result<Json<ElevationView>, Problem> {
    Ok(Json(service.rack_elevation(&who, &rack).await?.into()))
}
