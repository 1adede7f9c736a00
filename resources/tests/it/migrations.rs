use sea_orm::ConnectionTrait;
use yiqiu_base::{database::sql, testing::TestDatabase};
use yiqiu_migrations::{MigratorTrait, resources::Migrator};

/// Up, down and up again: `down` leaves no table of the tier behind.
#[tokio::test]
async fn migrations_run_up_and_down() {
    for test in TestDatabase::both().await {
        let database = test.open().await;
        Migrator::up(database.schema(), None).await.unwrap();
        Migrator::down(database.schema(), None).await.unwrap();
        let list = match test.name {
            "sqlite" => "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'",
            _ => "SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public'",
        };
        let rows = database.read().query_all_raw(sql(database.backend(), list, [])).await.unwrap();
        let left: Vec<String> = rows.iter().map(|row| row.try_get("", "name").unwrap()).collect();
        assert_eq!(left, ["resources_migrations"], "on {}", test.name);
        Migrator::up(database.schema(), None).await.unwrap();
    }
}
