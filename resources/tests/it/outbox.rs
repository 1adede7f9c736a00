use std::{collections::HashSet, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};
use yiqiu_base::{
    outbox::{self, NewEvent},
    testing::TestDatabase,
};
use yiqiu_resources::store::Store;

const WRITERS: u64 = 6;
const CHANGES: usize = 40;

/// Many writers at once, some of whose changes are given up, and a reader that follows: positions come in the order of
/// commits, so that the reader, who never looks back, misses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_never_looks_back_misses_nothing() {
    for test in TestDatabase::both().await {
        let database = test.open().await;
        Store::open(database.clone()).await.unwrap();
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let database = database.clone();
                tokio::spawn(async move {
                    let mut random = StdRng::seed_from_u64(writer);
                    let mut committed = Vec::new();
                    for change in 0..CHANGES {
                        let mut transaction = database.begin().await.unwrap();
                        let subjects: Vec<String> =
                            (0..random.random_range(1..4)).map(|n| format!("{writer} {change} {n}")).collect();
                        for subject in &subjects {
                            transaction.emit(NewEvent::new(0, "test.event", "", subject, &()));
                        }
                        tokio::task::yield_now().await;
                        if random.random_bool(0.2) {
                            drop(transaction); // given up: its events never were
                        } else {
                            transaction.commit().await.unwrap();
                            committed.extend(subjects);
                        }
                    }
                    committed
                })
            })
            .collect();
        let reader = tokio::spawn({
            let database = database.clone();
            async move {
                let (mut after, mut seen) = (0, Vec::new());
                loop {
                    let events = outbox::read(&database, after, 7, Duration::from_secs(2)).await.unwrap();
                    if events.is_empty() {
                        return seen;
                    }
                    for event in events {
                        assert_eq!(event.position, after + 1, "a gap was seen");
                        after = event.position;
                        seen.push(event.subject);
                    }
                }
            }
        });
        let mut committed = HashSet::new();
        for writer in writers {
            committed.extend(writer.await.unwrap());
        }
        let seen = reader.await.unwrap();
        assert_eq!(seen.len(), committed.len(), "on {}", test.name);
        assert_eq!(seen.into_iter().collect::<HashSet<_>>(), committed, "on {}", test.name);
    }
}
