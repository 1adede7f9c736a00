//! The ledger of Components beside that of Resources: a difference that was planted by hand is told, and goes away when
//! it is put right.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

mod common;

use sea_orm::ConnectionTrait;
use yiqiu_base::{Code, Principal, ledger::Comparison, principal::Role};

use self::common::{Books, World, ask, eventually, ops, tenant};

async fn compare(world: &World) -> Comparison {
    world.service.ledger_compare(&ops()).await.unwrap()
}

fn details(comparison: &Comparison) -> Vec<String> {
    comparison.findings.iter().map(|finding| finding.difference.detail.clone()).collect()
}

async fn by_hand(world: &World, text: &str) {
    world.books.open().await.read().execute_unprepared(text).await.unwrap();
}

on_both! {
    async fn a_planted_difference_is_told_until_it_is_put_right(books: Books) {
        let world = World::new(books).await;
        world.peer.host("a", 8000, 8000);
        let web = world.service.create(&tenant("p"), ask("web", 3), None).await.unwrap();
        let clean = compare(&world).await;
        assert_eq!((clean.clean, clean.compared, clean.unknown.as_str()), (true, 3, ""), "{clean:?}");

        // Here: what a component needs is changed in the database.
        by_hand(&world, "UPDATE ccontract SET need = REPLACE(need, '\"cpu_millicores\":100', '\"cpu_millicores\":90')")
            .await;
        let dirty = compare(&world).await;
        assert_eq!(details(&dirty).len(), 3, "{dirty:?}");
        let told = &details(&dirty)[0];
        assert!(told.contains("needs 0.09 cpu, 100 MiB memory, and its line holds 0.1 cpu, 100 MiB memory"), "{told}");
        assert!(dirty.findings.iter().all(|f| f.difference.owner == "project:p" && f.tier == "components"));
        assert_eq!(world.service.ledger_last(&ops()).unwrap(), dirty, "it is kept");
        by_hand(&world, "UPDATE ccontract SET need = REPLACE(need, '\"cpu_millicores\":90', '\"cpu_millicores\":100')")
            .await;
        assert!(compare(&world).await.clean);

        // There: a line vanishes, and one comes that nobody here asked for.
        let line = web.components[1].line_id.to_string();
        let id = web.contract.rcontract_id.to_string();
        let taken = {
            let mut inner = world.peer.lock();
            let nodes = &mut inner.leases.get_mut(&id).unwrap().nodes;
            let at = nodes.iter().position(|node| node.line_id == line).unwrap();
            nodes.remove(at)
        };
        let stray = world.peer.stranger(i64::MAX);
        let mut node = taken.clone();
        (node.line_id, node.name) = (web.contract.id.to_string(), "stray".into());
        world.peer.lock().leases.get_mut(&stray).unwrap().nodes.push(node);
        let dirty = compare(&world).await;
        let mut told = details(&dirty);
        told.sort();
        assert_eq!(told, [
            "Resources holds line stray for Components, and no ccontract holds it",
            "component web-1 is placed, and Resources holds no line of it",
        ]);
        let about = world.service.ledger_of_lines(&ops(), &[web.components[1].line_id]).unwrap();
        assert_eq!(about.findings.len(), 1, "of the lines that are asked about");
        world.peer.lock().leases.remove(&stray);
        world.peer.lock().leases.get_mut(&id).unwrap().nodes.push(taken);
        assert!(compare(&world).await.clean);

        // What is on its way out is not judged, and leaves nothing to tell of.
        world.service.release(&tenant("p"), "web").await.unwrap();
        assert!(compare(&world).await.clean);
        world.peer.finish_releases();
        eventually("it is released", || async {
            let left = world.service.find(&tenant("p"), &web.contract.id.to_string()).await.unwrap();
            left.components.is_empty().then_some(())
        })
        .await;
        let last = compare(&world).await;
        assert_eq!((last.clean, last.compared), (true, 0), "{last:?}");
    }

    async fn silence_is_no_agreement_and_tenants_do_not_ask(books: Books) {
        let world = World::new(books).await;
        world.peer.host("a", 8000, 8000);
        world.service.create(&tenant("p"), ask("web", 1), None).await.unwrap();
        assert!(compare(&world).await.clean);
        world.peer.lock().down = true;
        let silent = compare(&world).await;
        assert!(!silent.clean && silent.unknown.contains("the link is cut"), "{silent:?}");
        assert_eq!(world.service.ledger_compare(&tenant("p")).await.unwrap_err().code, Code::PermissionDenied);
        assert_eq!(world.service.ledger_last(&tenant("p")).unwrap_err().code, Code::PermissionDenied);
        let tier = Principal { role: Role::Service, ..ops() };
        assert_eq!(world.service.binding_list(&tenant("p"), None, 10).await.unwrap_err().code, Code::PermissionDenied);
        let bound = world.service.binding_list(&tier, None, 10).await.unwrap();
        assert_eq!(bound.len(), 1);
        assert!(world.service.binding_list(&tier, Some(bound[0].1.line_id), 10).await.unwrap().is_empty());
    }
}
