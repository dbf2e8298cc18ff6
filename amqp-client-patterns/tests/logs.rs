//! The lines of the log about messages that a worker could not handle.

mod common;

use std::sync::{Mutex, PoisonError};

use amqp_client_core::Message;
use amqp_client_patterns::handler::{Text, Verdict};
use amqp_client_patterns::work::Work;
use common::{Rig, on_each_adapter};
use tokio::sync::mpsc;

struct Sink(Mutex<Vec<String>>);

static SINK: Sink = Sink(Mutex::new(Vec::new()));

impl Sink {
    /// Takes the warnings about workers, without the connection.
    fn take(&self) -> Vec<String> {
        let lines = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let own = lines.iter().filter_map(|line| line.split_once(": a worker "));
        own.map(|(_, text)| text.to_owned()).collect()
    }
}

impl log::Log for Sink {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("{} {}", record.level(), record.args());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    fn flush(&self) {}
}

#[test]
fn what_becomes_of_a_message_and_why() {
    log::set_logger(&SINK).expect("there is no other");
    log::set_max_level(log::LevelFilter::Debug);
    on_each_adapter(async |rig: Rig| {
        let (queue, _failed) = (rig.queue("q").await?, rig.queue("q.failed").await?);
        for body in ["park", "park", "park", "park", "fine"] {
            queue.publish_confirmed(&Message::new(body)).await?;
        }
        let (sender, mut done) = mpsc::unbounded_channel();
        let handler = move |Text(text): Text| {
            let sender = sender.clone();
            async move {
                if text == "fine" {
                    sender.send(()).expect("the test listens");
                    return Verdict::Done;
                }
                Verdict::refuse("one\ntwo")
            }
        };
        let work = Work::on(&queue).failed_to("q.failed").each(handler);
        work.until(async { done.recv().await.unwrap_or_default() }).await?;
        let line = |number: u32| {
            format!(
                r#"could not handle message {number} with the routing key "q": refuse: one\ntwo; it is parked in "q.failed""#
            )
        };
        let left_out = " (1 more such line was left out before this one)";
        assert_eq!(SINK.take(), [line(1), line(2), line(4) + left_out]);
        Ok(())
    });
}
