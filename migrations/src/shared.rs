//! What every tier's database has: the outbox, consumers' cursors and idempotency keys.

use std::time::{SystemTime, UNIX_EPOCH};

use sea_orm_migration::{
    prelude::*,
    schema::*,
    sea_orm::{ConnectionTrait, DbBackend},
};

/// Makes the tables that `base` describes.
pub(crate) async fn up(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    manager
        .create_table(
            Table::create()
                .table("outbox_head")
                .col(big_integer("id").primary_key())
                .col(big_integer("position"))
                .col(big_integer("epoch"))
                .to_owned(),
        )
        .await?;
    let connection = manager.get_connection();
    // A history is named by when it began: a database that is made anew never passes for the one before it.
    let began = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_millis());
    let head = format!("INSERT INTO outbox_head (id, position, epoch) VALUES (1, 0, {began})");
    connection.execute_unprepared(&head).await?;
    let mut position = big_integer("position");
    if manager.get_database_backend() == DbBackend::Sqlite {
        position = ColumnDef::new("position").custom("INTEGER").not_null().to_owned(); // it is the row's own number then
    }
    manager
        .create_table(
            Table::create()
                .table("outbox")
                .col(position.primary_key())
                .col(big_integer("at_ms"))
                .col(text("kind"))
                .col(text("owner"))
                .col(text("subject"))
                .col(text("request_id"))
                .col(text("payload"))
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            Table::create().table("cursor").col(text("source").primary_key()).col(big_integer("position")).to_owned(),
        )
        .await?;
    create_keyed(
        manager,
        Table::create()
            .table("idempotency")
            .col(text("scope"))
            .col(text("key"))
            .col(text("digest"))
            .col(text("result"))
            .col(big_integer("at_ms"))
            .primary_key(Index::create().col("scope").col("key"))
            .to_owned(),
    )
    .await
}

/// Makes a table of short rows that are found by their key: SQLite keeps them in the tree of the key itself, rather than
/// in two trees.
pub(crate) async fn create_keyed(manager: &SchemaManager<'_>, table: TableCreateStatement) -> Result<(), DbErr> {
    if manager.get_database_backend() != DbBackend::Sqlite {
        return manager.create_table(table).await;
    }
    let text = format!("{} WITHOUT ROWID", table.to_string(SqliteQueryBuilder));
    manager.get_connection().execute_unprepared(&text).await.map(|_| ())
}

/// Takes them away.
pub(crate) async fn down(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    drop_tables(manager, &["idempotency", "cursor", "outbox", "outbox_head"]).await
}

/// Takes tables away, in the order given.
pub(crate) async fn drop_tables(manager: &SchemaManager<'_>, tables: &[&'static str]) -> Result<(), DbErr> {
    for table in tables {
        manager.drop_table(Table::drop().table(*table).to_owned()).await?;
    }
    Ok(())
}
