//! The service in this process, on the in-memory broker: what becomes of orders and requests, whatever happens.

mod common;

use std::collections::HashMap;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use amqp_client_blocking::{Message, Wait as _, connect};
use amqp_client_patterns::handler::Verdict;
use amqp_example_service::{Config, Order, QUEUE, Service, Warehouse};
use amqp_test_broker::{Broker, Options};
use amqp_testkit::wait_until;
use common::{Error, LIMIT, Outcome, Parked, get, order, post, receive, send, take_parked};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

/// Does what the item of an order says, and counts the attempts.
#[derive(Clone, Default)]
struct Scripted(Arc<State>);

#[derive(Default)]
struct State {
    attempts: Mutex<HashMap<String, u32>>,
    shipped: Mutex<Vec<String>>,
    /// Lets the orders of `gate` pass.
    gate: Notify,
}

impl Warehouse for Scripted {
    async fn ship(&self, order: &Order) -> Result<(), Verdict> {
        let id = order.id.as_str().to_owned();
        let attempt = {
            let mut attempts = self.0.attempts.lock().expect("no test panicked");
            *attempts.entry(id.clone()).and_modify(|attempts| *attempts += 1).or_insert(1)
        };
        match &*order.item {
            "third time" if attempt < 3 => return Err("busy".into()),
            "never" => return Err("closed".into()),
            "wrong" => return Err(Verdict::refuse("no such item")),
            "panic" => panic!("a defect"),
            "hang" => pending().await,
            "gate" => self.0.gate.notified().await,
            _ => {}
        }
        self.0.shipped.lock().expect("no test panicked").push(id);
        Ok(())
    }
}

impl Scripted {
    fn shipped(&self) -> Vec<String> {
        self.0.shipped.lock().expect("no test panicked").clone()
    }

    fn attempts(&self, id: &str) -> u32 {
        self.0.attempts.lock().expect("no test panicked").get(id).copied().unwrap_or(0)
    }

    fn wait_for(&self, ids: &[&str]) {
        wait_until(LIMIT, "orders to be shipped", || {
            let shipped = self.shipped();
            ids.iter().all(|id| shipped.iter().any(|shipped| shipped == id))
        });
    }
}

/// A service that runs.
struct Running {
    runtime: Runtime,
    address: SocketAddr,
    warehouse: Scripted,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), Error>>,
}

impl Running {
    fn start(uri: &str, grace: Duration) -> Result<Self, Error> {
        let uri = uri.to_owned();
        let config = Config::read(|name| {
            let value = match name {
                "AMQP_URL" => uri.clone(),
                "HTTP_ADDRESS" => "127.0.0.1:0".to_owned(),
                "RETRY_DELAY_MS" => "1".to_owned(),
                "CONFIRM_TIMEOUT_MS" => "60000".to_owned(),
                "SHUTDOWN_GRACE_MS" => grace.as_millis().to_string(),
                _ => return None,
            };
            Some(value.into())
        })?;
        let (runtime, warehouse) = (Runtime::new()?, Scripted::default());
        let service = runtime.block_on(Service::bind(config, warehouse.clone()))?;
        let address = service.address()?;
        let (stop, stopped) = oneshot::channel();
        let ended = runtime.spawn(service.run(async { drop(stopped.await) }));
        Ok(Self { runtime, address, warehouse, stop, ended })
    }

    fn on(broker: &Broker) -> Result<Self, Error> {
        let service = Self::start(&broker.uri(), LIMIT)?;
        service.wait_ready();
        Ok(service)
    }

    fn is_ready(&self) -> bool {
        get(self.address, "/health/ready").is_ok_and(|reply| reply.status == 200)
    }

    fn wait_ready(&self) {
        wait_until(LIMIT, "the service to be ready", || self.is_ready());
    }

    fn order(&self, id: &str, item: &str) -> Result<u16, Error> {
        Ok(post(self.address, id, item)?.status)
    }

    /// Returns whether a part of the health is there.
    fn reports(&self, part: &str) -> bool {
        get(self.address, "/health/ready").is_ok_and(|reply| reply.body.contains(part))
    }

    fn stop(self) -> Outcome {
        let Self { runtime, stop, ended, .. } = self;
        let _ended = stop.send(());
        runtime.block_on(ended)?
    }
}

/// Waits until nothing is ready in any queue but the parked messages, and nothing is unacknowledged.
fn wait_drained(broker: &Broker) {
    let failed = format!("{QUEUE}.failed");
    wait_until(LIMIT, "all orders to be settled", || {
        broker.queues().iter().all(|queue| {
            queue.unacknowledged == 0
                && (queue.messages.is_empty() || queue.name.as_bytes() == failed.as_bytes())
        })
    });
}

#[test]
fn orders_are_shipped_retried_and_parked() -> Outcome {
    let broker = Broker::start()?;
    let service = Running::on(&broker)?;
    for (id, item) in [("a", "bread"), ("b", "third time"), ("c", "wrong"), ("d", "panic")] {
        assert_eq!(service.order(id, item)?, 202, "{item}");
    }
    assert_eq!(service.order("e", "never")?, 202);
    // A message that somebody else published, and that no order is in.
    let connection = connect(&broker.uri())?;
    let channel = connection.open_channel().wait()?;
    channel.queue(QUEUE)?.publish_confirmed(&Message::new("poison")).wait()?;

    service.warehouse.wait_for(&["a", "b"]);
    wait_until(LIMIT, "four messages to be parked", || {
        broker.queue(format!("{QUEUE}.failed")).is_some_and(|queue| queue.messages.len() == 4)
    });
    wait_drained(&broker);
    assert_eq!(service.warehouse.attempts("b"), 3);
    let parked = take_parked(&broker.uri())?;
    for (body, reason, attempts) in [
        (&*order("c", "wrong"), "no such item", 1),
        (&*order("d", "panic"), "the handler panicked: a defect", 6),
        (&*order("e", "never"), "closed", 6),
        ("poison", "the body does not decode as JSON: expected value at line 1 column 1", 1),
    ] {
        let (body, reason) = (body.to_owned(), reason.to_owned());
        assert!(parked.contains(&Parked { body, reason, attempts }), "{parked:?}");
    }
    service.stop()
}

#[test]
fn what_is_no_order_is_refused_at_once() -> Outcome {
    let broker = Broker::start()?;
    let service = Running::on(&broker)?;
    for body in ["", "{}", r#"{"id":"../x","item":"bread","pieces":1}"#, &order("", "bread")] {
        let reply = receive(send(service.address, "POST", "/orders", body)?)?;
        assert!((400..500).contains(&reply.status), "{body}: {reply:?}");
    }
    assert_eq!(broker.queue(QUEUE).ok_or("a queue")?.messages.len(), 0);
    service.stop()
}

#[test]
fn the_service_starts_before_its_broker() -> Outcome {
    let broker = Broker::start()?;
    broker.stop();
    let service = Running::start(&broker.uri(), LIMIT)?;
    assert_eq!(get(service.address, "/health/live")?.status, 200);
    assert_eq!(get(service.address, "/health/ready")?.status, 503);
    assert!(service.reports("connecting"));
    assert_eq!(service.order("a", "bread")?, 503);
    broker.start_again()?;
    service.wait_ready();
    assert_eq!(service.order("a", "bread")?, 202);
    service.warehouse.wait_for(&["a"]);
    service.stop()
}

#[test]
fn the_service_stops_without_a_broker() -> Outcome {
    let broker = Broker::start()?;
    broker.stop();
    // Not even the grace period is needed.
    Running::start(&broker.uri(), LIMIT)?.stop()
}

#[test]
fn an_outage_is_reported_and_survived() -> Outcome {
    let broker = Broker::start()?;
    let service = Running::on(&broker)?;
    for round in 1..=3 {
        broker.stop();
        wait_until(LIMIT, "the outage to be noticed", || !service.is_ready());
        let reply = post(service.address, "x", "bread")?;
        assert_eq!(reply.status, 503, "{reply:?}");
        assert!(service.reports("recovering"));
        assert_eq!(get(service.address, "/health/live")?.status, 200);
        broker.start_again()?;
        // Two losses in quick succession.
        broker.restart();
        service.wait_ready();
        let id = format!("round-{round}");
        wait_until(LIMIT, "an order to be accepted", || {
            service.order(&id, "bread").is_ok_and(|status| status == 202)
        });
        service.warehouse.wait_for(&[&id]);
    }
    wait_drained(&broker);
    service.stop()
}

#[test]
fn an_alarm_stops_requests_but_not_the_worker() -> Outcome {
    let broker = Broker::start()?;
    let service = Running::on(&broker)?;
    assert_eq!(service.order("a", "gate")?, 202);
    wait_until(LIMIT, "the order to arrive", || service.warehouse.attempts("a") == 1);
    broker.set_alarm(Some("memory"));
    wait_until(LIMIT, "the alarm to be noticed", || service.reports("blocked"));
    assert!(!service.is_ready());
    service.warehouse.0.gate.notify_one();
    wait_drained(&broker);
    broker.set_alarm(None);
    service.wait_ready();
    assert_eq!(service.order("b", "bread")?, 202);
    service.stop()
}

#[test]
fn a_queue_that_is_deleted_is_declared_again() -> Outcome {
    let broker = Broker::start()?;
    let service = Running::on(&broker)?;
    let connection = connect(&broker.uri())?;
    connection.open_channel().wait()?.queue_delete(QUEUE).wait()?;
    wait_until(LIMIT, "an order to be accepted", || {
        service.order("a", "bread").is_ok_and(|status| status == 202)
    });
    service.warehouse.wait_for(&["a"]);
    service.stop()
}

#[test]
fn a_channel_that_the_broker_closes_is_opened_again() -> Outcome {
    let broker = Broker::start_with(Options::new().max_message_size(1000))?;
    let service = Running::on(&broker)?;
    let reply = post(service.address, "a", &"x".repeat(2000))?;
    assert!(reply.status == 503 && reply.body.contains("PRECONDITION_FAILED"), "{reply:?}");
    wait_until(LIMIT, "an order to be accepted", || {
        service.order("b", "bread").is_ok_and(|status| status == 202)
    });
    service.warehouse.wait_for(&["b"]);
    service.stop()
}

#[test]
fn a_client_that_disconnects_leaves_nothing_behind() -> Outcome {
    let broker = Broker::start()?;
    let service = Running::on(&broker)?;
    broker.hold_confirms(true);
    let request = send(service.address, "POST", "/orders", &order("a", "bread"))?;
    service.warehouse.wait_for(&["a"]);
    drop(request);
    broker.hold_confirms(false);
    wait_until(LIMIT, "the confirm", || !service.reports(r#""unconfirmed":1"#));
    assert_eq!(service.order("b", "bread")?, 202);
    service.stop()
}

#[test]
fn a_shutdown_finishes_what_has_begun_and_loses_nothing() -> Outcome {
    let broker = Broker::start()?;
    let service = Running::on(&broker)?;
    let warehouse = service.warehouse.clone();
    // One order is being handled, and a request waits for its confirm.
    assert_eq!(service.order("a", "gate")?, 202);
    wait_until(LIMIT, "the order to arrive", || warehouse.attempts("a") == 1);
    broker.hold_confirms(true);
    let request = send(service.address, "POST", "/orders", &order("b", "bread"))?;
    warehouse.wait_for(&["b"]);

    let (address, Running { stop, ended, runtime, .. }) = (service.address, service);
    stop.send(()).map_err(|()| "the service has ended")?;
    wait_until(LIMIT, "new requests to be refused", || get(address, "/health/live").is_err());
    assert!(!ended.is_finished());
    warehouse.0.gate.notify_one();
    warehouse.wait_for(&["a"]);
    broker.hold_confirms(false);
    assert_eq!(receive(request)?.status, 202);
    runtime.block_on(ended)??;
    wait_drained(&broker);
    wait_until(LIMIT, "both connections to be closed", || broker.connections().is_empty());
    Ok(())
}

#[test]
fn a_handler_that_hangs_is_given_up_after_the_grace_period() -> Outcome {
    let broker = Broker::start()?;
    let service = Running::start(&broker.uri(), Duration::from_millis(50))?;
    service.wait_ready();
    assert_eq!(service.order("a", "hang")?, 202);
    wait_until(LIMIT, "the order to arrive", || service.warehouse.attempts("a") == 1);
    service.stop()?;
    wait_until(LIMIT, "the order to be requeued", || {
        broker.queue(QUEUE).is_some_and(|queue| queue.messages.len() == 1)
    });
    Ok(())
}

#[test]
fn a_request_that_is_never_finished_does_not_keep_the_service() -> Outcome {
    let broker = Broker::start()?;
    let service = Running::start(&broker.uri(), Duration::from_millis(50))?;
    service.wait_ready();
    let mut request = send(service.address, "POST", "/orders", "")?;
    std::io::Write::write_all(&mut request, b"POST /orders HTTP/1.1\r\n")?;
    service.stop()
}

#[test]
fn the_broker_may_stop_during_a_shutdown() -> Outcome {
    let broker = Broker::start()?;
    let service = Running::start(&broker.uri(), Duration::from_millis(200))?;
    service.wait_ready();
    assert_eq!(service.order("a", "hang")?, 202);
    assert_eq!(service.order("b", "never")?, 202);
    wait_until(LIMIT, "the order to arrive", || service.warehouse.attempts("a") == 1);
    let Running { stop, ended, runtime, .. } = service;
    stop.send(()).map_err(|()| "the service has ended")?;
    broker.stop();
    runtime.block_on(ended)??;
    broker.start_again()?;
    wait_until(LIMIT, "the order to be requeued", || {
        broker.queue(QUEUE).is_some_and(|queue| !queue.messages.is_empty())
    });
    Ok(())
}

#[test]
fn refused_credentials_end_the_service() -> Outcome {
    let broker = Broker::start()?;
    broker.refuse_logins(true);
    let Running { ended, runtime, stop: _stop, .. } = Running::start(&broker.uri(), LIMIT)?;
    let error = runtime.block_on(ended)?.expect_err("the service cannot work").to_string();
    assert!(error.contains("cannot connect to"), "{error}");
    Ok(())
}
