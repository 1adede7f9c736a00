//! The loops of Resources. They repair what a lost signal left behind.

use std::{future::Future, time::Duration};

use yiqiu_base::{
    Problem,
    reconcile::{Next, Waker},
};

use crate::{lifecycle::settled, service::Service};

/// Starts them.
pub(crate) fn start(service: &Service) {
    let resend_after = service.settings().resend_after;
    let again = service.clone();
    run(service, "resources.resend", resend_after, Waker::default(), move || {
        let service = again.clone();
        async move { resend(&service, resend_after).await }
    });
    let agents = service.clone();
    run(service, "resources.agents", service.settings().lost_after, Waker::default(), move || {
        let service = agents.clone();
        async move { service.agents_missing().await.map(|()| Next::Done) }
    });
    let terms = service.clone();
    run(service, "resources.terms", Duration::from_secs(30), service.terms_waker(), move || {
        let service = terms.clone();
        async move { service.terms().await }
    });
    let (audits, every, since) = (service.clone(), service.settings().audit, service.environment().clock.now());
    run(service, "resources.audit", every, Waker::default(), move || {
        let service = audits.clone();
        async move { service.audit_pass(every, since).await }
    });
}

fn run<F, Fut>(service: &Service, name: &'static str, period: Duration, waker: Waker, pass: F)
where
    F: FnMut() -> Fut + Send + 'static,
    Fut: Future<Output = Result<Next, Problem>> + Send,
{
    let environment = service.environment().clone();
    tokio::spawn(async move {
        let (clock, stop) = (environment.clock.clone(), environment.stop.clone());
        environment.loops.run(name, clock, period, waker, stop, pass).await;
    });
}

/// Tells agents again what they have known for a while and not carried out: the message may have been lost.
async fn resend(service: &Service, after: Duration) -> Result<Next, Problem> {
    let age = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
    let before = service.environment().clock.now().saturating_sub(age);
    let mut after = None;
    loop {
        let mut nodes = service.store().node_unsettled(before, after).await?;
        after = nodes.last().map(|n| n.id);
        nodes.retain(|n| n.resizing.is_some() || !settled(n.power, n.generation, n.carried, n.state, n.removed));
        service.push(&nodes);
        if after.is_none() {
            return Ok(Next::Done);
        }
    }
}
