//! What agents were asked and have not answered yet.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;
use uuid::Uuid;
use yiqiu_base::{Id, id::Host};

use crate::model::Inventory;

/// What an agent answers.
#[derive(Debug)]
pub enum Answer {
    /// What is there.
    Inventory(Inventory),
    /// Why what ops decided was not done; empty: it was.
    Orphan(String),
}

type Open = HashMap<Uuid, (Id<Host>, oneshot::Sender<Answer>)>;

/// Questions without an answer.
#[derive(Clone, Default)]
pub(super) struct Questions(Arc<Mutex<Open>>);

impl Questions {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A question to a host. Whose answer nobody waits for any more goes with the next one.
    pub(super) fn put(&self, host: Id<Host>) -> (Uuid, oneshot::Receiver<Answer>) {
        let (id, (tell, answer)) = (Uuid::now_v7(), oneshot::channel());
        let mut open = self.open();
        open.retain(|_, (_, tell)| !tell.is_closed());
        open.insert(id, (host, tell));
        (id, answer)
    }

    /// An agent answers what its own host was asked.
    pub(super) fn answer(&self, host: Id<Host>, id: Uuid, answer: Answer) {
        let mut open = self.open();
        if open.get(&id).is_some_and(|(asked, _)| *asked == host)
            && let Some((_, tell)) = open.remove(&id)
        {
            let _ = tell.send(answer); // nobody waits any more
        }
    }

    /// The agent of a host left: it will not answer.
    pub(super) fn forget(&self, host: Id<Host>) {
        self.open().retain(|_, (asked, _)| *asked != host);
    }
}
