//! `--wait`: asks again until a state is reached, and tells on standard error how far it is.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use super::failure::{Failure, Outcome};

/// What a look at a thing that is on its way says.
pub enum Progress<T> {
    /// It is there.
    Arrived(T),
    /// Not yet; how far it is, as a line.
    Underway(String),
    /// It will not get there.
    Lost(String),
}

/// Looks until it arrived, or `timeout` is over. A line is printed whenever it changes.
pub async fn until<T, F, Fut>(timeout: Duration, mut look: F) -> Outcome<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Outcome<Progress<T>>>,
{
    let started = Instant::now();
    let mut told = String::new();
    let mut pause = Duration::from_millis(100);
    loop {
        match look().await? {
            Progress::Arrived(value) => return Ok(value),
            Progress::Lost(why) => return Err(Failure::Failed(why)),
            Progress::Underway(line) => {
                let line = line.trim_end();
                if line != told {
                    let elapsed = i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX);
                    eprintln!("[{:>7}] {line}", super::time::span(elapsed));
                    told = line.to_owned();
                }
            }
        }
        if started.elapsed() >= timeout {
            return Err(Failure::TimedOut(format!(
                "not there after {} s: {told}. It goes on; --timeout waits longer",
                timeout.as_secs()
            )));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(Duration::from_secs(1));
    }
}
