//! The program, while its broker is killed and started again: no order that was accepted is lost, each order that is refused is
//! parked with its reason, nothing stays pending, and SIGTERM ends the program with code 0.

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/site.rs"]
mod site;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use amqp_client_blocking::{Wait as _, connect};
use amqp_example_service::{Order, QUEUE};
use amqp_test_broker::Broker;
use amqp_testkit::{RabbitMq, wait_until};
use common::{Error, LIMIT, Outcome, take_parked};
use program::{Clients, Program, Sending};
use site::{Site, empty_folder};

#[test]
fn nothing_is_lost_when_rabbitmq_is_killed() -> Outcome {
    nothing_is_lost("rabbitmq", &RabbitMq::start()?)
}

#[test]
fn nothing_is_lost_when_the_in_memory_broker_is_killed() -> Outcome {
    nothing_is_lost("in-memory", &Broker::start()?)
}

fn nothing_is_lost(name: &str, site: &dyn Site) -> Outcome {
    let folder = empty_folder(env!("CARGO_TARGET_TMPDIR"), &format!("orders-{name}"))?;
    // Orders of wine cannot be recorded at first: a file is in place of their folder.
    let wine = folder.join("wine");
    fs::write(&wine, "")?;

    let program = Program::start(&site.uri(), &folder)?;
    program.wait_ready();
    // RabbitMQ forgets a quorum queue, with its messages, if it is killed within a second after the declaration.
    wait_until(LIMIT, "all queues to be declared", || waiting(&site.uri()).is_ok());
    site.flush()?;
    let clients = Clients::start(program.address);
    for again in [false, true] {
        clients.begin(60);
        clients.wait_accepted(20);
        wait_until(LIMIT, "an order to be retried", || program.has_logged("retry: "));
        site.kill()?;
        wait_until(LIMIT, "the kill to be noticed", || !program.is_ready());
        assert!(program.is_live());
        let unavailable = clients.unavailable();
        clients.begin(10);
        wait_until(LIMIT, "a reply of 503", || clients.unavailable() > unavailable);
        site.restart()?;
        if again {
            // Two kills in quick succession.
            site.kill()?;
            site.restart()?;
        }
        // From now on, wine can be shipped.
        let _removed = fs::remove_file(&wine);
        clients.wait_all();
    }

    // A kill during the shutdown. The next program starts before its broker, and finishes the work.
    clients.begin(200);
    clients.wait_accepted(20);
    program.terminate()?;
    site.kill()?;
    program.wait()?;
    let orders = clients.stop();
    let program = Program::start(&site.uri(), &folder)?;
    assert!(program.is_live() && !program.is_ready());
    site.restart()?;
    program.wait_ready();

    let accepted = |is: fn(&str) -> bool| -> BTreeSet<String> {
        let accepted = orders.iter().filter(|(_, order)| order.accepted && is(order.item));
        accepted.map(|(id, _)| id.clone()).collect()
    };
    let shipped = accepted(|item| item != "unicorn");
    wait_until(LIMIT, "all orders to be shipped", || shipped.is_subset(&shipped_in(&folder)));
    wait_until(LIMIT, "nothing to be pending", || {
        waiting(&site.uri()).is_ok_and(|waiting| waiting == 0) && program.is_idle()
    });
    program.terminate()?;
    program.wait()?;
    assert_eq!(waiting(&site.uri())?, 0);
    assert!(shipped_in(&folder).iter().all(|id| orders[id].item != "unicorn"));
    assert_parked(&site.uri(), &orders, &accepted(|item| item == "unicorn"))
}

/// The ids of shipped orders.
fn shipped_in(folder: &Path) -> BTreeSet<String> {
    let files = ["bread", "fish", "wine"].into_iter().filter_map(|item| {
        let entries = fs::read_dir(folder.join(item)).ok()?.flatten();
        Some(entries.map(|entry| entry.path()))
    });
    let complete = files.flatten().filter(|path| path.extension().is_some_and(|it| it == "json"));
    complete.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect()
}

/// Returns the number of orders that wait to be shipped, or to be tried again.
fn waiting(uri: &str) -> Result<u32, Error> {
    let connection = connect(uri)?;
    let channel = connection.open_channel().wait()?;
    let delays = program::retry().topology(QUEUE, None).delays.into_iter().map(|(name, _)| name);
    let mut waiting = 0;
    // The queue for parked orders is declared last.
    channel.queue_declare_passive(format!("{QUEUE}.failed")).wait()?;
    for queue in delays.chain([QUEUE.to_owned()]) {
        waiting += channel.queue_declare_passive(queue).wait()?.message_count();
    }
    connection.close().wait()?;
    Ok(waiting)
}

/// Each order that was refused is parked with its reason, and once for each message of it: a client sends an order again if it
/// does not know whether it was accepted. A message is parked again only if it was delivered again.
fn assert_parked(
    uri: &str,
    orders: &BTreeMap<String, Sending>,
    accepted: &BTreeSet<String>,
) -> Outcome {
    let mut parked = BTreeMap::<String, usize>::new();
    for message in take_parked(uri)? {
        let order: Order = serde_json::from_str(&message.body)?;
        let id = order.id.as_str().to_owned();
        assert_eq!(orders[&id].item, "unicorn");
        assert!(message.reason.starts_with(r#"there is no "unicorn""#), "{message:?}");
        *parked.entry(id).or_default() += usize::from(message.attempts == 1);
    }
    for (id, firsts) in &parked {
        assert!(*firsts <= orders[id].times, "{id}: {firsts} times, {:?}", orders[id]);
    }
    let parked: BTreeSet<_> = parked.into_keys().collect();
    assert!(accepted.is_subset(&parked), "{:?}", accepted.difference(&parked));
    Ok(())
}
