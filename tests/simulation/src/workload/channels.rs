//! Opening and closing channels, many at once.

use std::time::Duration;

use super::leave;
use crate::client::{Connected, Env, Try};
use crate::script::Job;

pub(super) async fn run(env: &Env, job: &Job, left: &mut u32) -> Try<()> {
    let Connected { connection, link } = env.connect().await;
    while *left > 0 {
        *left -= 1;
        let opening: Vec<_> =
            (0..env.random(|rng| rng.u32(1..6))).map(|_| connection.open_channel()).collect();
        let mut channels = Vec::new();
        for opening in opening {
            if let Some(opened) = env.perhaps(opening).await {
                channels.push(env.open(opened)?);
            }
        }
        // Each has its own replies.
        let prefetches: Vec<_> = channels.iter().map(|channel| channel.basic_qos(7)).collect();
        for prefetch in prefetches {
            if let Some(set) = env.perhaps(prefetch).await {
                env.call(set)?;
            }
        }
        env.random(|rng| rng.shuffle(&mut channels));
        for channel in channels {
            if env.one_in(2) {
                // It is dropped, which closes it, too.
                continue;
            }
            if let Some(closed) = env.perhaps(channel.close()).await {
                env.call(closed)?;
            }
        }
        env.pause(job.pause).await;
    }
    if env.world.script.is_calm() {
        // Long enough for anything in transit.
        env.sleep(Duration::from_secs(30)).await;
        let open = env.world.network.borrow().channel_count(link);
        if open > 0 {
            return Err(env.fail(format!("{open} channels were left open")));
        }
    }
    leave(env, connection).await
}
