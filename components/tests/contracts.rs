//! Contracts from the request to their end, on both databases, beside a tier 1 that can fail.

mod common;

use std::time::Duration;

use common::{Books, World, ask, eventually, ops, quick, size, tenant, with_id};
use yiqiu_base::{Clock, Code, Id, NodeState, http::Paging, outbox::Reading};
use yiqiu_components::{
    Settings,
    model::{Across, NewCContract, Spread, State},
    scheduler::{Change, Explanation},
};
use yiqiu_proto::{common as wire, components::ComponentBound};

/// Waits until the sweeper made three passes more, the first of them after `pause`.
async fn sweeps_on(world: &World, pause: Duration) {
    let passes = || world.loops.status().get("components.sweeper").map_or(0, |sweeper| sweeper.passes);
    let begun = std::time::Instant::now();
    eventually("the pause is over", || async { (begun.elapsed() >= pause).then_some(()) }).await;
    let before = passes();
    eventually("three more sweeps", || async { (passes() >= before + 3).then_some(()) }).await;
}

async fn kinds(world: &World) -> Vec<String> {
    let events = world.service.events(&ops(), 0, 1000, Duration::ZERO).await.unwrap().events;
    events.into_iter().map(|event| event.kind).collect()
}

on_both! {
    async fn a_contract_is_placed_and_tells_so(books: Books) {
        let world = World::new(books).await;
        world.peer.host("h1", 1000, 1000);
        world.peer.host("h2", 1000, 1000);
        let who = tenant("a");
        let whole = world.service.create(&who, ask("web", 2), None).await.unwrap();
        assert_eq!((whole.contract.state, whole.contract.owner.as_str()), (State::Placed, "project:a"));
        let names: Vec<_> = whole.components.iter().map(|c| (c.name.as_str(), c.host_name.as_str())).collect();
        assert!(names == [("web-0", "h1"), ("web-1", "h2")] || names == [("web-0", "h2"), ("web-1", "h1")], "{names:?}");
        assert!(whole.components.iter().all(|c| c.node_id.is_some() && c.state == NodeState::Pending));

        // What is told names every line before there is anything to meter, for the owner that was asked for.
        assert_eq!(kinds(&world).await, ["ccontract.created", "component.bound", "component.bound", "ccontract.placed"]);
        let events = world.service.events(&who, 0, 1000, Duration::ZERO).await.unwrap().events;
        let bound: ComponentBound = serde_json::from_str(&events[1].payload).unwrap();
        assert_eq!((bound.component_name.as_str(), bound.owner.as_str()), ("web-0", "project:a"));
        assert_eq!(bound.line_id, whole.components[0].line_id.to_string());
        assert!(bound.from_ms >= whole.contract.created_ms);

        // What Resources was asked for.
        let request = world.peer.lock().creates[0].clone();
        assert_eq!((request.id, request.name), (whole.contract.rcontract_id.to_string(), format!("cc-{}", whole.contract.id)));
        let spec = request.lines[0].spec.clone().unwrap();
        assert_eq!((spec.image_id.as_str(), spec.command.as_slice()), ("busybox-id", &["httpd".to_owned()][..]));
        assert_eq!(world.peer.lock().leases.values().next().unwrap().owner, "tier:components");

        // What its node becomes is shown.
        let line = whole.components[1].line_id.to_string();
        world.peer.report(&line, wire::NodeState::Running, &[(80, 32768)]);
        let component = eventually("web-1 runs", || async {
            let (_, component) = world.service.component(&who, "web-1").await.unwrap();
            (component.state == NodeState::Running).then_some(component)
        })
        .await;
        assert_eq!((component.ports[0].node_port, component.ports[0].host_port), (80, 32768));
        assert_eq!((component.carried, component.generation), (1, 1));
        assert_eq!(kinds(&world).await.last().unwrap(), "component.changed");
    }

    async fn asking_again_is_the_same_as_once(books: Books) {
        let world = World::new(books).await;
        world.peer.host("h1", 10_000, 10_000);
        let who = tenant("a");
        let first = world.service.create(&who, ask("web", 2), Some("k1")).await.unwrap();
        let again = world.service.create(&who, ask("web", 2), Some("k1")).await.unwrap();
        assert_eq!(first.contract.id, again.contract.id);
        assert_eq!(first.components, again.components);
        let other = world.service.create(&who, ask("web", 3), Some("k1")).await.unwrap_err();
        assert_eq!(other.code, Code::IdempotencyKeyReused);
        // Another project's key of the same text is another key.
        assert_ne!(world.service.create(&tenant("b"), ask("web", 2), Some("k1")).await.unwrap().contract.id, first.contract.id);

        let id = Id::new();
        let minted = world.service.create(&who, with_id(id, ask("db", 1)), None).await.unwrap();
        assert_eq!(minted.contract.id, id);
        assert_eq!(world.service.create(&who, with_id(id, ask("db", 1)), None).await.unwrap().contract.id, id);
        for (what, who, ask) in [
            ("another name", who.clone(), ask("db2", 1)),
            ("another owner", tenant("b"), ask("db", 1)),
        ] {
            let refusal = world.service.create(&who, with_id(id, ask), None).await.unwrap_err();
            assert_eq!(refusal.code, Code::AlreadyExists, "{what}");
        }
        assert_eq!(world.service.create(&who, ask("web", 1), None).await.unwrap_err().code, Code::AlreadyExists);
        assert_eq!(world.peer.active().len(), 3);

        // Many at once with one key and one name are one.
        let requests = (0..8).map(|_| world.service.create(&who, ask("many", 1), Some("k2")));
        let made = futures::future::join_all(requests).await;
        let ids: std::collections::HashSet<_> = made.into_iter().map(|whole| whole.unwrap().contract.id).collect();
        assert_eq!(ids.len(), 1);
        assert_eq!(world.peer.active().len(), 4);
    }

    async fn a_refusal_explains_itself_and_records_nothing(books: Books) {
        let world = World::new(books).await;
        let who = tenant("a");
        let refusal = world.service.create(&who, ask("web", 1), None).await.unwrap_err();
        assert_eq!(refusal.code, Code::NoPlacement);
        assert!(refusal.detail.contains("there is no host at all"), "{}", refusal.detail);

        world.peer.host("h1", 1000, 150);
        world.peer.host("h2", 1000, 80);
        let refusal = world.service.create(&who, ask("web", 2), Some("k")).await.unwrap_err();
        let explanation: Explanation = serde_json::from_value(refusal.data.unwrap()).unwrap();
        assert_eq!((explanation.fits, explanation.verdicts.len()), (1, 2));
        assert!(explanation.verdicts.iter().all(|verdict| verdict.refusals.len() == 1));
        let Some(Change::Reduce { to, .. }) = explanation.changes.first() else { panic!("{explanation:?}") };

        assert!(world.service.list(&who, &Paging::default()).await.unwrap().items.is_empty());
        assert!(kinds(&world).await.is_empty());
        assert!(world.peer.lock().creates.is_empty());
        // The change that it offers does fit, even under the same key: nothing was kept under it.
        let mut smaller = ask("web", 2);
        smaller.need.size.memory_bytes = *to;
        let planned = world.service.dry_run(&who, &smaller).await.unwrap();
        assert_eq!(planned.len(), 2);
        assert!(world.service.list(&who, &Paging::default()).await.unwrap().items.is_empty());
        assert_eq!(world.service.create(&who, smaller, Some("k")).await.unwrap().contract.state, State::Placed);
    }

    async fn bad_requests_change_nothing(books: Books) {
        let world = World::new(books).await;
        world.peer.host("h1", 10_000, 10_000);
        let who = tenant("a");
        let with = |change: fn(&mut NewCContract)| {
            let mut ask = ask("web", 1);
            change(&mut ask);
            ask
        };
        for (what, ask, code) in [
            ("no such image", with(|a| a.need.image = "nope".into()), Code::NotFound),
            ("another project's image", with(|a| a.need.image = "theirs".into()), Code::NotFound),
            ("an image without content", with(|a| a.need.image = "empty".into()), Code::WrongState),
            ("a name with a space", with(|a| a.name = "a b".into()), Code::InvalidArgument),
            ("an absurd size", with(|a| a.need.size.cpu_millicores = i64::MAX), Code::InvalidArgument),
        ] {
            assert_eq!(world.service.create(&who, ask, None).await.unwrap_err().code, code, "{what}");
        }
        assert_eq!(world.service.create(&who, ask("web", 1), Some("a b")).await.unwrap_err().code, Code::InvalidArgument);
        assert_eq!(world.service.create(&ops(), ask("web", 1), None).await.unwrap_err().code, Code::InvalidArgument);
        assert!(world.service.list(&ops(), &Paging::default()).await.unwrap().items.is_empty());
    }

    async fn what_stopped_between_record_and_ask_is_carried_on(books: Books) {
        let mut world = World::new(books).await;
        world.peer.host("h1", 1000, 1000);
        let who = tenant("a");
        // The question never arrives, and the tier dies with it.
        world.peer.lock().creates_fail = true;
        let whole = world.service.create(&who, ask("web", 1), Some("k")).await.unwrap();
        assert_eq!(whole.contract.state, State::Placing);
        assert_eq!(kinds(&world).await, ["ccontract.created", "component.bound"]);
        world.restart().await;
        world.peer.lock().creates_fail = false;
        let placed = eventually("placed after a restart", || async {
            let whole = world.service.find(&who, "web").await.unwrap();
            (whole.contract.state == State::Placed).then_some(whole)
        })
        .await;
        assert_eq!(placed.contract.rcontract_id, whole.contract.rcontract_id);
        assert_eq!(placed.components[0].line_id, whole.components[0].line_id);

        // The question is carried out, and only the answer lost.
        world.peer.lock().deaf = true;
        let whole = world.service.create(&who, ask("db", 1), None).await.unwrap();
        assert_eq!(whole.contract.state, State::Placing);
        world.restart().await;
        world.peer.lock().deaf = false;
        eventually("placed though the answer was lost", || async {
            let whole = world.service.find(&who, "db").await.unwrap();
            (whole.contract.state == State::Placed).then_some(())
        })
        .await;
        assert_eq!(world.peer.active().len(), 2);
        // A replay of the first request shows what became of it.
        assert_eq!(world.service.create(&who, ask("web", 1), Some("k")).await.unwrap().contract.state, State::Placed);
    }

    async fn a_lost_race_is_planned_anew_under_another_id(books: Books) {
        let world = World::new(books).await;
        world.peer.host("h1", 1000, 1000);
        let who = tenant("a");
        world.peer.lock().lose = 2;
        let whole = world.service.create(&who, ask("web", 1), None).await.unwrap();
        assert_eq!(whole.contract.state, State::Placed);
        let ids: std::collections::HashSet<String> = world.peer.lock().creates.iter().map(|c| c.id.clone()).collect();
        assert_eq!(ids.len(), 3);
        assert_eq!(world.peer.active(), [whole.contract.rcontract_id.to_string()]);
        // Each line that was given up is unbound as the next is bound.
        let kinds = kinds(&world).await;
        let count = |kind: &str| kinds.iter().filter(|k| *k == kind).count();
        assert_eq!((count("component.bound"), count("component.unbound")), (3, 2));

        // When it is lost again and again, the contract ends with the reason, and says it again when asked again.
        world.peer.lock().lose = 100;
        let refusal = world.service.create(&who, ask("db", 1), Some("k")).await.unwrap_err();
        assert_eq!(refusal.code, Code::NoPlacement);
        assert!(refusal.detail.contains("others were faster"), "{}", refusal.detail);
        let explanation: Explanation = serde_json::from_value(refusal.data.clone().unwrap()).unwrap();
        assert_eq!((explanation.fits, explanation.hosts), (0, 1));
        assert_eq!(world.service.create(&who, ask("db", 1), Some("k")).await.unwrap_err(), refusal);
        world.peer.lock().lose = 0;
        // Its name is free.
        assert_eq!(world.service.create(&who, ask("db", 1), None).await.unwrap().contract.state, State::Placed);
        // When room runs out meanwhile, the refusal is the explanation.
        world.peer.lock().lose = 1;
        world.peer.lock().creates_fail = true;
        let whole = world.service.create(&who, ask("late", 1), Some("k3")).await.unwrap();
        assert_eq!(whole.contract.state, State::Placing);
        for host in &mut world.peer.lock().hosts {
            host.free = Some(size(10, 10).into());
        }
        world.peer.lock().creates_fail = false;
        let refusal = eventually("refused", || async {
            world.service.create(&who, ask("late", 1), Some("k3")).await.err()
        })
        .await;
        assert_eq!(refusal.code, Code::NoPlacement);
        assert!(serde_json::from_value::<Explanation>(refusal.data.unwrap()).is_ok());
    }

    async fn many_at_once_that_just_fit_are_all_placed(books: Books) {
        let settings = Settings { racing: Duration::from_secs(20), ..quick() };
        let world = World::with(books, settings).await;
        let beside = world.beside().await; // does not know what the other is about to ask for
        for host in 0..10 {
            world.peer.host(&format!("h{host}"), 900, 900);
        }
        let who = tenant("a");
        let names: Vec<String> = (0..30).map(|n| format!("c{n}")).collect();
        let made = futures::future::join_all(names.iter().enumerate().map(|(n, name)| {
            let service = if n % 3 == 0 { &beside } else { &world.service };
            let mut ask = ask(name, 1);
            ask.need.size = size(300, 300);
            service.create(&who, ask, None)
        }))
        .await;
        for whole in made {
            assert_eq!(whole.unwrap().contract.state, State::Placed);
        }
        assert_eq!(world.peer.active().len(), 30);
        let refusal = world.service.create(&who, ask("late", 1), None).await.unwrap_err();
        assert_eq!(refusal.code, Code::NoPlacement);
    }

    async fn plans_of_one_process_see_each_other(books: Books) {
        let world = World::new(books).await;
        for host in 0..12 {
            world.peer.host(&format!("h{host}"), 400, 400);
        }
        let who = tenant("a");
        let names: Vec<String> = (0..12).map(|n| format!("c{n}")).collect();
        let made = futures::future::join_all(names.iter().map(|name| {
            let mut ask = ask(name, 1);
            ask.need.size = size(300, 300);
            world.service.create(&who, ask, None)
        }))
        .await;
        assert!(made.into_iter().all(|whole| whole.unwrap().contract.state == State::Placed));
    }

    async fn the_end_comes_however_often_it_is_asked_for(books: Books) {
        let mut world = World::new(books).await;
        world.peer.host("h1", 1000, 1000);
        let who = tenant("a");
        let whole = world.service.create(&who, ask("web", 2), Some("k")).await.unwrap();
        world.peer.lock().down = true;
        assert_eq!(world.service.release(&who, "web").await.unwrap().contract.state, State::Releasing);
        assert_eq!(world.service.release(&who, "web").await.unwrap().contract.state, State::Releasing);
        // Its name is taken until nothing is held under it.
        world.restart().await;
        world.peer.lock().down = false;
        assert_eq!(world.service.create(&who, ask("web", 1), None).await.unwrap_err().code, Code::AlreadyExists);
        eventually("Resources was asked", || async { world.peer.active().is_empty().then_some(()) }).await;
        world.peer.finish_releases();
        eventually("released", || async {
            let whole = world.service.find(&who, &whole.contract.id.to_string()).await.unwrap();
            (whole.contract.state == State::Released && whole.components.is_empty()).then_some(())
        })
        .await;
        // Whoever asks again under the old key hears what became of it.
        let replayed = world.service.create(&who, ask("web", 2), Some("k")).await.unwrap();
        assert_eq!((replayed.contract.id, replayed.contract.state), (whole.contract.id, State::Released));
        assert!(replayed.contract.detail.contains("deleted since"), "{}", replayed.contract.detail);
        let kinds = kinds(&world).await;
        assert_eq!(kinds.iter().filter(|k| *k == "component.unbound").count(), 2);
        assert_eq!(kinds.last().unwrap(), "ccontract.released");
        assert_eq!(world.service.find(&who, "web").await.unwrap_err().code, Code::NotFound);
        for name in ["web", &whole.contract.id.to_string()] {
            assert_eq!(world.service.release(&who, name).await.unwrap().contract.state, State::Released, "{name}");
        }
        assert_eq!(world.service.release(&who, "nothing").await.unwrap_err().code, Code::NotFound);
        assert_eq!(world.service.create(&who, ask("web", 1), None).await.unwrap().contract.state, State::Placed);
    }

    async fn ending_what_is_being_placed_leaves_nothing_behind(books: Books) {
        let world = World::with(books, Settings { sweep_grace: Duration::from_millis(50), ..quick() }).await;
        world.peer.host("h1", 1000, 1000);
        let who = tenant("a");
        world.peer.lock().deaf = true; // made below, and nobody here knows
        let whole = world.service.create(&who, ask("web", 1), None).await.unwrap();
        assert_eq!(whole.contract.state, State::Placing);
        world.service.release(&who, "web").await.unwrap();
        world.peer.lock().deaf = false;
        eventually("nothing is held", || async {
            world.peer.finish_releases();
            let whole = world.service.find(&ops(), &whole.contract.id.to_string()).await.unwrap();
            (whole.contract.state == State::Released && world.peer.active().is_empty()).then_some(())
        })
        .await;
    }

    async fn the_sweeper_releases_what_nobody_holds_and_nothing_else(books: Books) {
        let world = World::with(books, Settings { sweep_grace: Duration::from_millis(300), ..quick() }).await;
        world.peer.host("h1", 10_000, 10_000);
        let who = tenant("a");
        let kept = world.service.create(&who, ask("kept", 2), None).await.unwrap();
        world.peer.lock().deaf = true; // placing is holding, too
        let placing = world.service.create(&who, ask("placing", 1), None).await.unwrap();
        let now = Clock::system().now();
        let (old, young) = (world.peer.stranger(now), world.peer.stranger(now + 60_000));
        eventually("the stray lease is released", || async { (!world.peer.active().contains(&old)).then_some(()) }).await;
        sweeps_on(&world, Duration::from_millis(600)).await; // the grace of everything else is over by then
        let mut active = world.peer.active();
        active.sort();
        let mut held = vec![kept.contract.rcontract_id.to_string(), placing.contract.rcontract_id.to_string(), young];
        held.sort();
        assert_eq!(active, held);
        world.peer.lock().deaf = false;

        // A lease that went away below is shown, not hidden; the contract stays until someone ends it.
        world.peer.lock().leases.remove(&kept.contract.rcontract_id.to_string());
        let gone = eventually("shown as gone", || async {
            let whole = world.service.find(&who, "kept").await.unwrap();
            whole.components.iter().all(|c| c.state == NodeState::Gone).then_some(whole)
        })
        .await;
        assert_eq!(gone.contract.state, State::Placed);
        assert!(gone.components[0].detail.contains("released below"));
        assert_eq!(world.service.release(&who, "kept").await.unwrap().contract.state, State::Released);
    }

    async fn what_is_older_than_the_database_is_never_swept(books: Books) {
        let mut world = World::with(Books::sqlite(), Settings { sweep_grace: Duration::from_millis(200), ..quick() }).await;
        world.peer.host("h1", 1000, 1000);
        let kept = world.service.create(&tenant("a"), ask("kept", 1), None).await.unwrap().contract.rcontract_id.to_string();
        // The database is lost, and the tier starts on an empty one.
        world.restart_on(books).await;
        let since = std::time::Instant::now();
        let stray = world.peer.stranger(Clock::system().now());
        eventually("what is younger is swept", || async { (!world.peer.active().contains(&stray)).then_some(()) }).await;
        assert!(since.elapsed() >= Duration::from_millis(150), "swept before the process ran for a grace");
        let error = eventually("the loop says so", || async {
            world.loops.status().get("components.sweeper").map(|s| s.error.clone()).filter(|error| !error.is_empty())
        })
        .await;
        assert!(error.contains("1 leases") && error.contains(&kept) && error.contains("right database"), "{error}");
        sweeps_on(&world, Duration::ZERO).await;
        assert_eq!(world.peer.active(), [kept]);
    }

    async fn others_see_nothing(books: Books) {
        let world = World::new(books).await;
        world.peer.host("h1", 10_000, 10_000);
        let (a, b) = (tenant("a"), tenant("b"));
        let mine = world.service.create(&a, ask("web", 1), None).await.unwrap();
        let theirs = world.service.create(&b, ask("web", 1), None).await.unwrap();
        let (contract, component) = (mine.contract.id.to_string(), mine.components[0].id.to_string());
        let on = yiqiu_base::Power::On;
        assert_eq!(world.service.find(&b, &contract).await.unwrap_err().code, Code::NotFound);
        assert_eq!(world.service.release(&b, &contract).await.unwrap_err().code, Code::NotFound);
        assert_eq!(world.service.component(&b, &component).await.unwrap_err().code, Code::NotFound);
        assert_eq!(world.service.power(&b, &component, on, None, None).await.unwrap_err().code, Code::NotFound);
        let page = Paging::default();
        assert_eq!(world.service.components(&b, Some(&contract), &page).await.unwrap_err().code, Code::NotFound);
        assert_eq!(world.service.release_any(&b, mine.contract.id).await.unwrap_err().code, Code::PermissionDenied);
        // The same words as for what never was.
        let never = world.service.find(&b, &Id::<yiqiu_base::id::CContract>::new().to_string()).await.unwrap_err();
        assert_eq!(never.detail.split('`').next(), Some("there is no ccontract "));
        // By the name, each means their own.
        assert_eq!(world.service.find(&b, "web").await.unwrap().contract.id, theirs.contract.id);
        assert_eq!(world.service.components(&a, None, &page).await.unwrap().items.len(), 1);
        let Reading { events, next: read_to, .. } = world.service.events(&b, 0, 1000, Duration::ZERO).await.unwrap();
        assert!(events.iter().all(|event| event.owner == "project:b") && events.len() == 3);
        assert_eq!(read_to, 6);
        // Ops see all, and have to say which.
        assert_eq!(world.service.list(&ops(), &page).await.unwrap().items.len(), 2);
        assert_eq!(world.service.find(&ops(), "web").await.unwrap_err().code, Code::InvalidArgument);
        assert_eq!(world.service.find(&ops(), &contract).await.unwrap().contract.id, mine.contract.id);
    }

    async fn pages_go_through_all_and_once(books: Books) {
        let world = World::new(books).await;
        world.peer.host("h1", 100_000, 100_000);
        for project in ["a", "b"] {
            for name in ["x", "y", "z"] {
                world.service.create(&tenant(project), ask(name, 2), None).await.unwrap();
            }
        }
        let (mut seen, mut cursor) = (Vec::new(), None);
        loop {
            let page = world.service.list(&ops(), &Paging { cursor, limit: Some(4) }).await.unwrap();
            seen.extend(page.items.into_iter().map(|c| (c.name, c.id)));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen.len(), 6);
        assert!(seen.is_sorted_by(|a, b| a < b));
        let page = world.service.components(&tenant("a"), Some("y"), &Paging::default()).await.unwrap();
        let names: Vec<_> = page.items.iter().map(|(contract, c)| (contract.name.as_str(), c.name.as_str())).collect();
        assert_eq!(names, [("y", "y-0"), ("y", "y-1")]);
        let bad = Paging { cursor: Some("x".into()), limit: None };
        assert_eq!(world.service.list(&ops(), &bad).await.unwrap_err().code, Code::InvalidArgument);
    }

    async fn a_required_spread_holds(books: Books) {
        let world = World::new(books).await;
        world.peer.host("h1", 1000, 1000);
        let apart = NewCContract { spread: Spread { across: Across::Host, required: true }, ..ask("web", 2) };
        let refusal = world.service.create(&tenant("a"), apart.clone(), None).await.unwrap_err();
        let explanation: Explanation = serde_json::from_value(refusal.data.unwrap()).unwrap();
        assert_eq!(explanation.changes[0], Change::PreferSpread { across: Across::Host });
        world.peer.host("h2", 1000, 1000);
        let whole = world.service.create(&tenant("a"), apart, None).await.unwrap();
        assert_ne!(whole.components[0].host_id, whole.components[1].host_id);
    }

    async fn another_history_below_is_compared_from_its_start(books: Books) {
        let mut world = World::new(books).await;
        world.peer.host("h1", 1000, 1000);
        let whole = world.service.create(&tenant("a"), ask("web", 1), None).await.unwrap();
        let line = whole.components[0].line_id.to_string();
        async fn seen(world: &World, state: NodeState) {
            let look = || async { world.service.component(&tenant("a"), "web-0").await.unwrap().1.state };
            eventually("seen", || async { (look().await == state).then_some(()) }).await;
        }
        for report in [wire::NodeState::Preparing, wire::NodeState::Starting, wire::NodeState::Running] {
            world.peer.report(&line, report, &[]);
        }
        seen(&world, NodeState::Running).await;
        // Restored from a backup: fewer events, of another epoch.
        {
            let mut peer = world.peer.lock();
            peer.events.clear();
            peer.epoch = 7;
        }
        world.peer.report(&line, wire::NodeState::Failed, &[]);
        seen(&world, NodeState::Failed).await;
        // The same name, and yet fewer events than were read.
        for report in [wire::NodeState::Starting, wire::NodeState::Running] {
            world.peer.report(&line, report, &[]);
        }
        seen(&world, NodeState::Running).await;
        world.peer.lock().events.clear();
        world.peer.report(&line, wire::NodeState::Failed, &[]);
        seen(&world, NodeState::Failed).await;
        // Another history with as many events, begun while nobody followed.
        world.stop.cancel();
        {
            let mut peer = world.peer.lock();
            peer.events.clear();
            peer.epoch = 8;
        }
        world.peer.report(&line, wire::NodeState::Running, &[]);
        world.restart().await;
        seen(&world, NodeState::Running).await;
    }
}
