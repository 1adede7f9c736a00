//! Power of components, on both databases.

mod common;

use common::{Books, World, ask, eventually, tenant};
use yiqiu_base::{Code, NodeState, Power};
use yiqiu_proto::common::{self as wire};

on_both! {
    async fn a_wish_goes_down_once(books: Books) {
        let world = World::new(books).await;
        world.peer.host("h1", 1000, 1000);
        let who = tenant("a");
        let whole = world.service.create(&who, ask("web", 1), None).await.unwrap();
        let line = whole.components[0].line_id.to_string();
        let (_, off) = world.service.power(&who, "web-0", Power::Off, Some(1), Some("k")).await.unwrap();
        assert_eq!((off.power, off.generation, off.asked), (Power::Off, 2, 2));
        assert_eq!(world.peer.lock().leases.values().next().unwrap().nodes[0].power(), wire::Power::Off);
        // The same key again changes nothing; another wish under it is refused.
        let (_, again) = world.service.power(&who, "web-0", Power::Off, Some(1), Some("k")).await.unwrap();
        assert_eq!(again.generation, 2);
        let other = world.service.power(&who, "web-0", Power::On, None, Some("k")).await.unwrap_err();
        assert_eq!(other.code, Code::IdempotencyKeyReused);
        assert_eq!(world.peer.lock().commands.len(), 1);

        // Whoever has not seen the newest wish does not overrule it.
        let stale = world.service.power(&who, "web-0", Power::On, Some(1), None).await.unwrap_err();
        assert_eq!((stale.code, stale.code.http()), (Code::StaleGeneration, 412));
        let hibernated = world.service.power(&who, "web-0", Power::Hibernated, None, None).await.unwrap_err();
        assert_eq!(hibernated.code, Code::InvalidArgument);
        assert!(hibernated.detail.contains("cannot be hibernated: expected on or off"), "{}", hibernated.detail);

        // Carried out is what the host says.
        assert_eq!(world.service.component(&who, "web-0").await.unwrap().1.carried, 0);
        world.peer.report(&line, wire::NodeState::Off, &[]);
        eventually("carried out", || async {
            let (_, component) = world.service.component(&who, "web-0").await.unwrap();
            (component.state == NodeState::Off && component.carried == 2).then_some(())
        })
        .await;
    }

    async fn a_wish_that_could_not_be_asked_is_asked_later(books: Books) {
        let mut world = World::new(books).await;
        world.peer.host("h1", 1000, 1000);
        let who = tenant("a");
        world.service.create(&who, ask("web", 1), None).await.unwrap();
        world.peer.lock().down = true;
        let (_, off) = world.service.power(&who, "web-0", Power::Off, None, None).await.unwrap();
        assert_eq!((off.power, off.generation, off.asked), (Power::Off, 2, 1));
        world.restart().await;
        world.peer.lock().down = false;
        eventually("asked", || async {
            (world.service.component(&who, "web-0").await.unwrap().1.asked == 2).then_some(())
        })
        .await;
        assert_eq!(world.peer.lock().commands.len(), 1);
        assert_eq!(world.peer.lock().leases.values().next().unwrap().nodes[0].power(), wire::Power::Off);
    }

    async fn wishes_that_race_are_counted_each(books: Books) {
        let world = World::new(books).await;
        world.peer.host("h1", 1000, 1000);
        let who = tenant("a");
        world.service.create(&who, ask("web", 1), None).await.unwrap();
        let wishes = (0..4).map(|_| world.service.power(&who, "web-0", Power::On, None, None));
        for wish in futures::future::join_all(wishes).await {
            wish.unwrap();
        }
        assert_eq!(world.service.component(&who, "web-0").await.unwrap().1.generation, 5);
        // Of those who have seen the same, one wins.
        let wishes = (0..4).map(|_| world.service.power(&who, "web-0", Power::Off, Some(5), None));
        let won = futures::future::join_all(wishes).await.into_iter().filter(Result::is_ok).count();
        assert_eq!(won, 1);
    }

    async fn a_wish_that_is_refused_below_is_told_and_not_repeated(books: Books) {
        let world = World::new(books).await;
        world.peer.host("h1", 1000, 1000);
        let who = tenant("a");
        let whole = world.service.create(&who, ask("web", 1), None).await.unwrap();
        world.peer.lock().leases.get_mut(&whole.contract.rcontract_id.to_string()).unwrap().nodes.clear();
        let refusal = world.service.power(&who, "web-0", Power::Off, None, None).await.unwrap_err();
        assert_eq!(refusal.code, Code::NotFound);
        let (_, component) = world.service.component(&who, "web-0").await.unwrap();
        assert_eq!((component.generation, component.asked), (2, 2));
        assert!(component.detail.contains("there is no node"), "{}", component.detail);
        world.service.release(&who, "web").await.unwrap();
        let ending = world.service.power(&who, "web-0", Power::On, None, None).await.unwrap_err();
        assert_eq!(ending.code, Code::WrongState);
    }
}
