//! Which line belonged to which component.

use sea_orm::{ConnectionTrait, DbErr, FromQueryResult};
use uuid::Uuid;
use yiqiu_base::{Id, clock::Ms, database::sql, id};

use super::within;
use crate::model::{Binding, LineId};

#[derive(FromQueryResult)]
struct Row {
    line_id: Uuid,
    from_ms: i64,
    component_id: Uuid,
    component_name: String,
    ccontract_id: Uuid,
    ccontract_name: String,
    owner: String,
}

impl From<Row> for Binding {
    fn from(row: Row) -> Self {
        let Row { line_id, from_ms, component_id, component_name, ccontract_id, ccontract_name, owner } = row;
        Self {
            line: line_id.into(),
            component: component_id.into(),
            component_name,
            ccontract: ccontract_id.into(),
            ccontract_name,
            owner,
            from_ms,
        }
    }
}

/// A new one; the one of the same line from the same millisecond gives way.
pub(crate) async fn binding_put(connection: &impl ConnectionTrait, binding: &Binding) -> Result<(), DbErr> {
    let Binding { line, component, component_name, ccontract, ccontract_name, owner, from_ms } = binding;
    let text = "INSERT INTO bindings (line_id, from_ms, to_ms, component_id, component_name, ccontract_id, \
                ccontract_name, owner) VALUES (?, ?, NULL, ?, ?, ?, ?, ?) ON CONFLICT (line_id, from_ms) DO UPDATE SET \
                to_ms = NULL, component_id = excluded.component_id, component_name = excluded.component_name, \
                ccontract_id = excluded.ccontract_id, ccontract_name = excluded.ccontract_name, owner = excluded.owner";
    let values = [
        line.uuid().into(),
        (*from_ms).into(),
        component.uuid().into(),
        component_name.as_str().into(),
        ccontract.uuid().into(),
        ccontract_name.as_str().into(),
        owner.as_str().into(),
    ];
    connection.execute_raw(sql(connection.get_database_backend(), text, values)).await.map(|_| ())
}

/// Ends one; whether there was one.
pub(crate) async fn binding_end(
    connection: &impl ConnectionTrait,
    line: LineId,
    component: Id<id::Component>,
    to_ms: Ms,
) -> Result<bool, DbErr> {
    let text = "UPDATE bindings SET to_ms = ? WHERE line_id = ? AND component_id = ? AND to_ms IS NULL";
    let values = [to_ms.into(), line.uuid().into(), component.uuid().into()];
    let done = connection.execute_raw(sql(connection.get_database_backend(), text, values)).await?;
    Ok(done.rows_affected() > 0)
}

/// Those that stand, in the order of their lines, after one and up to one.
pub(crate) async fn binding_open_within(
    connection: &impl ConnectionTrait,
    after: Option<LineId>,
    up_to: Option<LineId>,
) -> Result<Vec<Binding>, DbErr> {
    let text = "SELECT line_id, from_ms, component_id, component_name, ccontract_id, ccontract_name, owner \
                FROM bindings WHERE to_ms IS NULL AND line_id > ? AND line_id <= ? ORDER BY line_id";
    let rows = Row::find_by_statement(sql(connection.get_database_backend(), text, within(after, up_to)));
    Ok(rows.all(connection).await?.into_iter().map(Into::into).collect())
}

/// Every binding, of any owner, of the lines that were ever bound in this owner's name.
pub(crate) async fn binding_of_owner(connection: &impl ConnectionTrait, owner: &str) -> Result<Vec<Binding>, DbErr> {
    let text = "SELECT line_id, from_ms, component_id, component_name, ccontract_id, ccontract_name, owner \
                FROM bindings WHERE line_id IN (SELECT line_id FROM bindings WHERE owner = ?) \
                ORDER BY line_id, from_ms";
    let rows = Row::find_by_statement(sql(connection.get_database_backend(), text, [owner.into()]));
    Ok(rows.all(connection).await?.into_iter().map(Into::into).collect())
}
