//! The rows, and what they are outside of the store.

use sea_orm::{DbErr, FromQueryResult, Value};
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;
use yiqiu_base::database::stored;

use crate::model::{CContractModel, ComponentModel};

macro_rules! row {
    ($(#[$doc:meta])* $name:ident, $columns:ident, { $($column:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(FromQueryResult)]
        pub(super) struct $name { $($column: $type,)* }

        /// Its columns, in the order of its values.
        pub(super) const $columns: [&str; [$(stringify!($column)),*].len()] = [$(stringify!($column)),*];
    };
}

row! {
    /// A row of `ccontract`.
    ContractRow, CONTRACT, {
        id: Uuid,
        owner: String,
        name: String,
        component_type: String,
        count: i64,
        need: String,
        region: Option<String>,
        zone: Option<String>,
        spread: String,
        state: String,
        generation: i64,
        created_ms: i64,
        created_by: String,
        rcontract_id: Uuid,
        image_id: String,
        detail: String,
        refusal: Option<String>,
    }
}

row! {
    /// A row of `component`.
    ComponentRow, COMPONENT, {
        id: Uuid,
        ccontract_id: Uuid,
        owner: String,
        ordinal: i64,
        name: String,
        line_id: Uuid,
        node_id: Option<Uuid>,
        host_id: Uuid,
        host_name: String,
        host_state: String,
        power: String,
        generation: i64,
        asked: i64,
        carried: i64,
        state: String,
        detail: String,
        ports: String,
        version: i64,
    }
}

/// The values of a new contract, in the order of [`CONTRACT`].
pub(super) fn contract_values(contract: &CContractModel) -> Result<Vec<Value>, DbErr> {
    let CContractModel {
        id,
        owner,
        name,
        component_type,
        count,
        need,
        region,
        zone,
        spread,
        state,
        generation,
        created_ms,
        created_by,
        rcontract_id,
        image_id,
        detail,
        refusal,
    } = contract;
    Ok(vec![
        id.uuid().into(),
        owner.as_str().into(),
        name.as_str().into(),
        component_type.as_str().into(),
        i64::from(*count).into(),
        json(need)?.into(),
        region.clone().into(),
        zone.clone().into(),
        json(spread)?.into(),
        state.as_str().into(),
        (*generation).into(),
        (*created_ms).into(),
        created_by.as_str().into(),
        rcontract_id.uuid().into(),
        image_id.as_str().into(),
        detail.as_str().into(),
        refusal.as_ref().map(json).transpose()?.into(),
    ])
}

/// The values of a new component, in the order of [`COMPONENT`].
pub(super) fn component_values(component: &ComponentModel) -> Result<Vec<Value>, DbErr> {
    let ComponentModel {
        id,
        ccontract_id,
        owner,
        ordinal,
        name,
        line_id,
        node_id,
        host_id,
        host_name,
        host_state,
        power,
        generation,
        asked,
        carried,
        state,
        detail,
        ports,
        version,
    } = component;
    Ok(vec![
        id.uuid().into(),
        ccontract_id.uuid().into(),
        owner.as_str().into(),
        i64::from(*ordinal).into(),
        name.as_str().into(),
        line_id.uuid().into(),
        node_id.map(yiqiu_base::Id::uuid).into(),
        host_id.uuid().into(),
        host_name.as_str().into(),
        host_state.as_str().into(),
        power.as_str().into(),
        (*generation).into(),
        (*asked).into(),
        (*carried).into(),
        state.as_str().into(),
        detail.as_str().into(),
        json(ports)?.into(),
        (*version).into(),
    ])
}

impl TryFrom<ContractRow> for CContractModel {
    type Error = DbErr;
    fn try_from(row: ContractRow) -> Result<Self, DbErr> {
        let ContractRow {
            id,
            owner,
            name,
            component_type,
            count,
            need,
            region,
            zone,
            spread,
            state,
            generation,
            created_ms,
            created_by,
            rcontract_id,
            image_id,
            detail,
            refusal,
        } = row;
        Ok(Self {
            id: id.into(),
            owner,
            name,
            component_type: stored(&component_type)?,
            count: small(count)?,
            need: read(&need)?,
            region,
            zone,
            spread: read(&spread)?,
            state: stored(&state)?,
            generation,
            created_ms,
            created_by,
            rcontract_id: rcontract_id.into(),
            image_id,
            detail,
            refusal: refusal.as_deref().map(read).transpose()?,
        })
    }
}

impl TryFrom<ComponentRow> for ComponentModel {
    type Error = DbErr;
    fn try_from(row: ComponentRow) -> Result<Self, DbErr> {
        let ComponentRow {
            id,
            ccontract_id,
            owner,
            ordinal,
            name,
            line_id,
            node_id,
            host_id,
            host_name,
            host_state,
            power,
            generation,
            asked,
            carried,
            state,
            detail,
            ports,
            version,
        } = row;
        Ok(Self {
            id: id.into(),
            ccontract_id: ccontract_id.into(),
            owner,
            ordinal: small(ordinal)?,
            name,
            line_id: line_id.into(),
            node_id: node_id.map(Into::into),
            host_id: host_id.into(),
            host_name,
            host_state,
            power: stored(&power)?,
            generation,
            asked,
            carried,
            state: stored(&state)?,
            detail,
            ports: read(&ports)?,
            version,
        })
    }
}

/// A value as it is stored.
pub(super) fn json(value: &impl Serialize) -> Result<String, DbErr> {
    serde_json::to_string(value).map_err(|error| DbErr::Json(error.to_string()))
}

fn read<T: DeserializeOwned>(text: &str) -> Result<T, DbErr> {
    serde_json::from_str(text).map_err(|error| DbErr::Json(error.to_string()))
}

fn small(number: i64) -> Result<u32, DbErr> {
    u32::try_from(number).map_err(|_| DbErr::Type(format!("{number} is not a count")))
}
