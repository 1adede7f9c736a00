//! Many requests in one transaction: while one commit is on its way to the disk, the requests that come gather, and
//! the next commit carries them all.

use std::{future::Future, sync::Arc};

use tokio::sync::{Mutex, mpsc, oneshot};

use crate::{Code, Problem};

/// Hands requests to a function that decides a whole group at once.
pub struct GroupCommit<In, Out> {
    queue: mpsc::Sender<Request<In, Out>>,
}

/// What is asked, and where the verdict goes.
type Request<In, Out> = (In, oneshot::Sender<Result<Out, Problem>>);

impl<In, Out> Clone for GroupCommit<In, Out> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone() }
    }
}

impl<In: Send + 'static, Out: Send + 'static> GroupCommit<In, Out> {
    /// Starts to commit, so many groups at a time. One at a time has a thread of its own, on which it may wait for the
    /// disk without holding up others. `commit` gets up to `most` requests in the order they came, and returns a verdict for each in the same order; an
    /// error fails all of them.
    pub fn start<F, Fut>(most: usize, at_a_time: usize, commit: F) -> Self
    where
        F: Fn(Arc<Vec<In>>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<Result<Out, Problem>>, Problem>> + Send,
        In: Sync,
    {
        let (queue, requests) = mpsc::channel::<Request<In, Out>>(most * 4);
        let (requests, commit) = (Arc::new(Mutex::new(requests)), Arc::new(commit));
        for _ in 0..at_a_time {
            let (requests, commit) = (requests.clone(), commit.clone());
            let work = async move {
                let mut gathered = Vec::with_capacity(most);
                while requests.lock().await.recv_many(&mut gathered, most).await > 0 {
                    let (group, answers): (Vec<In>, Vec<_>) = gathered.drain(..).unzip();
                    answer(commit(Arc::new(group)).await, answers);
                }
            };
            if at_a_time > 1 {
                tokio::spawn(work); // it waits for a server, not for the disk
                continue;
            }
            let runtime = tokio::runtime::Handle::current();
            let named = std::thread::Builder::new().name("commit".to_owned());
            if let Err(error) = named.spawn(move || runtime.block_on(work)) {
                tracing::error!(%error, "no thread for commits"); // without any, what is asked is refused
            }
        }
        Self { queue }
    }

    /// Waits for the verdict. If the caller goes away, the request may be carried out all the same.
    pub async fn ask(&self, request: In) -> Result<Out, Problem> {
        let gone = || Problem::new(Code::Unavailable, "the server is stopping; try the same request again");
        let (answer, verdict) = oneshot::channel();
        self.queue.send((request, answer)).await.map_err(|_| gone())?;
        verdict.await.map_err(|_| gone())?
    }
}

fn answer<Out>(
    verdicts: Result<Vec<Result<Out, Problem>>, Problem>,
    answers: Vec<oneshot::Sender<Result<Out, Problem>>>,
) {
    match verdicts {
        Ok(verdicts) => {
            debug_assert_eq!(verdicts.len(), answers.len());
            for (answer, verdict) in answers.into_iter().zip(verdicts) {
                let _ = answer.send(verdict); // the caller may have gone
            }
        }
        Err(problem) => {
            for answer in answers {
                let _ = answer.send(Err(problem.clone()));
            }
        }
    }
}
