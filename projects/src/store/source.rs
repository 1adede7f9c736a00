//! Which history of another tier the meter follows. The place in it is the cursor of the same name.

use sea_orm::{ConnectionTrait, DbErr};
use yiqiu_base::database::sql;

/// The epoch of the history, if one was followed yet.
pub(crate) async fn source_epoch(connection: &impl ConnectionTrait, source: &str) -> Result<Option<i64>, DbErr> {
    let text = "SELECT epoch FROM metering_sources WHERE source = ?";
    let row = connection.query_one_raw(sql(connection.get_database_backend(), text, [source.into()])).await?;
    row.map(|row| row.try_get("", "epoch")).transpose()
}

/// Takes this epoch for the first; the one that is kept already stays.
pub(crate) async fn source_insert(connection: &impl ConnectionTrait, source: &str, epoch: i64) -> Result<(), DbErr> {
    let text = "INSERT INTO metering_sources (source, epoch) VALUES (?, ?) ON CONFLICT (source) DO NOTHING";
    let statement = sql(connection.get_database_backend(), text, [source.into(), epoch.into()]);
    connection.execute_raw(statement).await.map(|_| ())
}
