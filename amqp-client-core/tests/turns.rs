//! Publishers that wait for room and do not get both kinds that they need at once.

mod harness;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use amqp_client_core::{ClientConfig, Config, Limits, OnLoss, PublisherOptions, Recovery};
use harness::ClientRig;

/// A task that was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A future that has its turn may not be polled for a while, for example in a `select!` whose other branch is busy. The publishers
/// behind it must not wake each other meanwhile.
#[test]
fn kept_messages_do_not_pass_room_to_each_other() {
    const SIZE: usize = 3000;
    let limits = Limits::default().transmit_high_water(2000);
    let mut rig =
        ClientRig::new(Config::default().protocol(ClientConfig::default().limits(limits)));
    rig.recover_with(Recovery::default().keep_max(200));
    let channel = rig.open_channel();
    let options = PublisherOptions::new().on_loss(OnLoss::Keep).mandatory(false);
    let keeping = channel.default_exchange().publisher(options).expect("it is open");
    let first = rig.poll(pin!(keeping.publish("q", "first"))).expect("there is room");
    let first = first.expect("it is sent");

    let tasks = [Arc::<Woken>::default(), Arc::<Woken>::default()];
    let wakers = tasks.clone().map(Waker::from);
    let mut sends = [(); 2].map(|()| Some(Box::pin(keeping.publish("q", vec![7; 200]))));
    let mut run = |all: bool| {
        let mut polls = 0;
        while polls < 100 {
            let woken = |task: &Woken| task.0.swap(false, Ordering::Relaxed);
            let Some(next) = (0..2).find(|next| woken(&tasks[*next]) || all && polls == *next)
            else {
                break;
            };
            polls += 1;
            let mut context = Context::from_waker(&wakers[next]);
            let sent = sends[next].as_mut().map(|send| send.as_mut().poll(&mut context));
            if sent.is_some_and(|sent| sent.is_ready()) {
                sends[next] = None;
            }
        }
        (polls, sends.iter().flatten().count())
    };
    assert_eq!(run(true), (2, 2), "both wait until the first message is confirmed");

    let plain = PublisherOptions::new().mandatory(false);
    let plain = channel.default_exchange().publisher(plain).expect("it is open");
    let _large = rig.poll(pin!(plain.publish("q", vec![7; SIZE]))).expect("there is room");
    let mut sleeping = pin!(plain.publish("q", vec![7; SIZE]));
    assert!(rig.poll(sleeping.as_mut()).is_none(), "the buffer is full");
    rig.write(true);
    // It has its turn, for more room than there is. The confirm makes room for another kept message.
    rig.answer_all();
    rig.run(first).expect("it is confirmed");
    let (polls, _) = run(false);
    assert!(polls < 10, "{polls} polls of two tasks");
    drop(rig.poll(sleeping).expect("it has its turn").expect("it is sent"));
    for _ in 0..10 {
        rig.turn();
        run(false);
    }
    assert_eq!(run(false).1, 0, "all are sent in the end");
}
