//! A handler that cannot move between threads, in a worker that is spawned.

use std::rc::Rc;

use amqp_client_core::Queue;
use amqp_client_patterns::handler::Text;
use amqp_client_patterns::work::Work;

async fn charge(_text: Text) {
    let local = Rc::new(());
    std::future::ready(()).await;
    drop(local);
}

/// As `tokio::spawn`.
fn spawn(_: impl Future + Send + 'static) {}

pub fn worker(queue: &Queue) {
    spawn(Work::on(queue).each(charge).run());
}

//~ future cannot be sent between threads safely
//~ has type `Rc<()>` which is not `Send`
//~ await occurs here, with `local` maybe used later
