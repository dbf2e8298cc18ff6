use std::sync::Arc;
use std::time::Duration;

use amqp_client_core::{Queue, proto};
use amqp_client_patterns::handler::Text;
use amqp_client_patterns::rpc::{
    RemoteError, ReplyError, RpcClient, RpcError, RpcServer, ServeError,
};
use futures_util::stream::{StreamExt as _, unfold};

use super::ledger::PANICKED;
use super::{CALLS, Shared};

/// Number of calls of a client at the same time.
const UNDER_WAY: usize = 8;

/// Longer than any call waits for its server without faults.
const LONG: Duration = Duration::from_secs(20);

const METHODS: [&str; 3] = ["echo", "fail", "panic"];

async fn echo(Text(text): Text) -> String {
    // The work itself: faults fall into it.
    tokio::time::sleep(Duration::from_millis(text.len() as u64 % 20)).await;
    format!("re: {text}")
}

async fn fail(Text(text): Text) -> Result<String, ReplyError> {
    Err(ReplyError::new("failed", format!("no: {text}")))
}

async fn panic() -> String {
    // Without a text on standard error.
    std::panic::resume_unwind(Box::new(PANICKED))
}

/// Carries out calls by servers that are stopped and started again, until the end.
pub(super) async fn serve(shared: Arc<Shared>, queue: Queue) {
    while !shared.is_ended() {
        let server = RpcServer::on(&queue).at_once(8).serve(echo).register("echo", echo);
        let server = server.and_then(|server| server.register("fail", fail));
        let server = server.and_then(|server| server.register("panic", panic));
        let server = match server {
            Ok(server) => server.grace(Duration::from_millis(fastrand::u64(..50))),
            Err(error) => return shared.ledger.trouble(format!("server: {error}")),
        };
        let time = Duration::from_millis(fastrand::u64(500..10_000));
        match server.until(shared.ended_or(time)).await {
            Ok(_) => {}
            // A fault fell into its start.
            Err(ServeError::Start(error)) if error.is_transient() => {
                super::back_off().await;
            }
            // Or it fell into its end, before the broker had taken the last replies.
            Err(ServeError::Ended { end, .. }) if end.is_transient() => {}
            Err(error) => return shared.ledger.trouble(format!("server: {error:?}")),
        }
    }
}

/// Makes calls, several at the same time, until that is stopped. `endless` if a lost reply always ends its call.
pub(super) async fn call(shared: Arc<Shared>, client: RpcClient, endless: bool) {
    let numbers = unfold(0, async |number: u64| {
        // The pace of the caller.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(..20))).await;
        (!shared.is_stopped()).then_some((number, number + 1))
    });
    let call = async |number| {
        if let Some(text) = one_call(&shared, &client, number, endless).await {
            shared.ledger.trouble(text);
        }
    };
    std::pin::pin!(numbers).for_each_concurrent(UNDER_WAY, call).await;
}

/// Makes a call. Returns what is wrong with its outcome.
async fn one_call(
    shared: &Shared,
    client: &RpcClient,
    number: u64,
    endless: bool,
) -> Option<String> {
    let method = METHODS[fastrand::usize(..METHODS.len())];
    let timeout = match fastrand::u8(..4) {
        0 => Duration::from_millis(fastrand::u64(1..200)),
        1 if endless => Duration::MAX,
        _ => LONG,
    };
    let begun = {
        let mut books = shared.books.lock();
        books.calls += 1;
        books.now()
    };
    let text = "#".repeat(number as usize % 40) + &number.to_string();
    let call = client.call(CALLS, text.clone()).method(method).timeout(timeout);
    let call = if fastrand::bool() { call.idempotent() } else { call };
    if fastrand::u8(..8) == 0 {
        let _dropped = tokio::time::timeout(Duration::from_millis(fastrand::u64(..30)), call).await;
        return None;
    }
    let outcome = call.await;
    let mut books = shared.books.lock();
    let certain = timeout >= LONG && books.was_calm_since(begun);
    match is_expected(method, &text, &outcome) {
        Some(true) => books.replies += 1,
        None if !certain => {}
        _ => return Some(format!("a call of {method} with {text:?} ended with {outcome:?}")),
    }
    None
}

/// Whether this is the result of the method. `None` if a fault explains the error.
fn is_expected(
    method: &str,
    text: &str,
    outcome: &Result<proto::Delivery, RpcError>,
) -> Option<bool> {
    Some(match (method, outcome) {
        ("echo", Ok(reply)) => reply.body() == format!("re: {text}").as_bytes(),
        ("fail", Err(RpcError::Remote(RemoteError { code, text: why, .. }))) => {
            code == "failed" && *why == format!("no: {text}")
        }
        ("panic", Err(RpcError::Remote(RemoteError { code, .. }))) => code == RemoteError::PANICKED,
        (_, Err(error)) if error.is_transient() => return None,
        _ => false,
    })
}

/// Calls until there is a reply, and returns whether there was one.
pub(super) async fn probe(client: &RpcClient, probe: u64) -> bool {
    let text = format!("p.{probe}");
    let call = client.call(CALLS, text.clone()).method("echo").timeout(Duration::from_secs(5));
    match call.idempotent().await {
        Ok(reply) => reply.body() == format!("re: {text}").as_bytes(),
        Err(_) => false,
    }
}
