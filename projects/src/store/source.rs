//! Which history of another tier the meter follows. The place in it is the cursor of the same name.

use sea_orm::{ConnectionTrait, DbErr};
use yiqiu_base::{database::sql, outbox};

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

/// Follows another history of a source from where the cursor stands; nothing if none was followed yet.
pub(crate) async fn source_follow(connection: &impl ConnectionTrait, source: &str, epoch: i64) -> Result<(), DbErr> {
    let text = "UPDATE metering_sources SET epoch = ? WHERE source = ?";
    let statement = sql(connection.get_database_backend(), text, [epoch.into(), source.into()]);
    connection.execute_raw(statement).await.map(|_| ())
}

/// Moves the cursor of a source on; whether it stood where it was thought to.
pub(crate) async fn source_move(
    connection: &impl ConnectionTrait,
    source: &str,
    from: i64,
    to: i64,
) -> Result<bool, DbErr> {
    match outbox::cursor_move(connection, source, from, to).await {
        Ok(()) => Ok(true),
        Err(DbErr::RecordNotUpdated) => Ok(false),
        Err(error) => Err(error),
    }
}
