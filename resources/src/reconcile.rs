//! The loops of Resources. They repair what a lost signal left behind.

use std::time::Duration;

use yiqiu_base::reconcile::{Next, Waker};

use crate::{lifecycle::settled, service::Service};

/// Starts them.
pub(crate) fn start(service: &Service) {
    let environment = service.environment().clone();
    let service = service.clone();
    let period = service.settings().resend_after;
    tokio::spawn(async move {
        environment
            .loops
            .run(
                "resources.resend",
                environment.clock.clone(),
                period,
                Waker::default(),
                environment.stop.clone(),
                || resend(&service, period),
            )
            .await;
    });
}

/// Tells agents again what they have known for a while and not carried out: the message may have been lost.
async fn resend(service: &Service, after: Duration) -> Result<Next, yiqiu_base::Problem> {
    let age = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
    let before = service.environment().clock.now().saturating_sub(age);
    let mut nodes = service.store().node_unsettled(before).await?;
    nodes.retain(|n| !settled(n.power, n.generation, n.carried, n.state, n.removed));
    service.push(&nodes);
    Ok(Next::Done)
}
