//! The driver is woken for what there is to do, and for nothing else: a turn costs more than a message.

mod rig;

use amqp_client_core::{Config, QueueOptions};
use rig::Rig;

#[test]
fn an_answer_that_was_taken_leaves_nothing_to_do() {
    let mut rig = Rig::new(Config::default());
    let opening = rig.connection.open_channel();
    let channel = rig.run(opening).expect("a channel");
    let declaring = channel.queue_declare("queue", QueueOptions::new());
    assert!(rig.is_wanted(), "there is a request to write");
    rig.run(declaring).expect("it is declared");
    assert!(!rig.is_wanted());
    // One that nobody waits for any more is another matter: what it brings may have to be undone.
    let declaring = channel.queue_declare("queue", QueueOptions::new());
    rig.write(true);
    assert!(!rig.is_wanted());
    drop(declaring);
    assert!(rig.is_wanted());
}
