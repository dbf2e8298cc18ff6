//! A clock: at the begin of each minute, publishes a message whose routing key is the time in UTC, as
//! `year.month.day.weekday.hour.minute`. A queue bound with `#.0` gets a message at the begin of each hour.
//!
//! ```text
//! cargo run --example clock [TICKS [SECONDS]]
//! ```
//!
//! It ends after so many ticks, and ticks every so many seconds (default: never, 60).

use std::env;
use std::error::Error;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use amqp_client_blocking::{
    ExchangeKind, ExchangeOptions, Message, MessageProperties, Wait as _, connect,
};

fn main() -> Result<(), Box<dyn Error>> {
    let argument = |number| env::args().nth(number).map(|argument| argument.parse::<u64>());
    let ticks = argument(1).unwrap_or(Ok(u64::MAX))?;
    let period = argument(2).unwrap_or(Ok(60))?.max(1);

    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri)?;
    let channel = connection.open_channel().wait()?;
    let clock =
        channel.exchange_declare("clock", ExchangeKind::Topic, ExchangeOptions::new()).wait()?;
    for _ in 0..ticks {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let next = Duration::from_secs((now.as_secs() / period + 1) * period);
        // The subject: a message at each full minute.
        thread::sleep(next.saturating_sub(now));
        let message =
            Message::new("").with(&MessageProperties::new().timestamp(UNIX_EPOCH + next))?;
        // Not confirmed: a tick that nobody waits for is not an error.
        clock.publish(routing_key(next.as_secs()), &message).wait()?;
        println!(" [x] {}", routing_key(next.as_secs()));
    }
    Ok(connection.close().wait()?)
}

/// The time so many seconds after 1970, in UTC. Years begin with March here, so that leap days are their last days.
fn routing_key(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let day_of_era = days + 719_468;
    let (era, day) = (day_of_era / 146_097, day_of_era % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let weekday = (days + 4) % 7;
    format!("{year}.{month}.{day}.{weekday}.{}.{}", second / 3_600, second / 60 % 60)
}
