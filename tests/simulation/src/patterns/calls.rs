//! Calls, and the servers that carry them out.

use std::time::Duration;

use amqp_client_core::Connection;
use amqp_client_patterns::handler::{Redelivered, State, Text};
use amqp_client_patterns::rpc::{
    RemoteError, ReplyError, RpcClient, RpcError, RpcOptions, RpcServer, ServeError,
};
use futures_util::future::join_all;

use super::actor::{Actor, Again, Try};
use super::ledger::PANICKED;
use super::script::Does;

const QUEUE: &str = "calls";

/// Longer than any call waits for its server without faults: a handler that hangs is dropped when its server is stopped.
const LONG: Duration = Duration::from_secs(1200);

/// The methods, and what becomes of their calls.
const METHODS: [&str; 4] = ["echo", "fail", "panic", "hang"];

async fn echo(Text(text): Text, State(connection): State<Connection>) -> String {
    let work = text.len() as u64 * 37 % 200;
    if work > 100 {
        // A connection that has ended drops the handler.
        let _passed = connection.after(Duration::from_millis(work)).await;
    }
    format!("re: {text}")
}

async fn fail(Text(text): Text) -> Result<String, ReplyError> {
    Err(ReplyError::new("failed", format!("no: {text}")))
}

async fn panic() -> String {
    panic!("{PANICKED}")
}

/// Hangs unless the request was delivered before.
async fn hang(Text(text): Text, Redelivered(again): Redelivered) -> String {
    if !again {
        std::future::pending::<()>().await;
    }
    format!("re: {text}")
}

impl Actor {
    /// Carries out calls by servers that are stopped and started again.
    pub(super) async fn serve(&self, connection: &Connection, at_once: u16) -> Try<()> {
        let channel = self.expect(connection.open_channel().await)?;
        let queue = self.declare(&channel, QUEUE).await?;
        while !self.world.done.get() {
            let (time, grace) = (self.milliseconds(10_000), self.milliseconds(3_000));
            let server = RpcServer::on(&queue).state(connection.clone()).at_once(at_once);
            let server = server.grace(grace).register("echo", echo);
            let server = server.and_then(|server| server.register("fail", fail));
            let server = server.and_then(|server| server.register("panic", panic));
            let server = server.map_err(|error| self.fail(error.to_string()))?.serve(hang);
            let served = server.until(self.until(time));
            if self.one_in(6) {
                self.dropped(served).await;
                continue;
            }
            match self.bounded(time + grace + Duration::from_secs(60), "a server", served).await? {
                Ok(_) => {}
                Err(ServeError::Ended { end, .. }) if self.is_fault(&end.to_string()) => {
                    return Err(Again);
                }
                Err(ServeError::Start(error) | ServeError::NotConfirmed { error, .. }) => {
                    return Err(self.judge(&error));
                }
                Err(error) => return Err(self.fail(format!("a server: {error:?}"))),
            }
        }
        Ok(())
    }

    /// Makes calls, several at the same time.
    pub(super) async fn call(
        &self,
        connection: &Connection,
        reply_queue: bool,
        left: &mut u32,
    ) -> Try<()> {
        let channel = self.expect(connection.open_channel().await)?;
        self.declare(&channel, QUEUE).await?;
        let options = match reply_queue {
            false => RpcOptions::new(),
            true => {
                let name = format!("replies-{}", self.index);
                RpcOptions::new().reply_queue(&self.declare(&channel, &name).await?)
            }
        };
        let client = self.expect(RpcClient::open_with(connection, options).await)?;
        while *left > 0 && client.is_open() {
            let calls = self.random(|rng| rng.u32(1..=4)).min(*left);
            *left -= calls;
            for outcome in join_all((0..calls).map(|_| self.one_call(&client, reply_queue))).await {
                outcome?;
            }
            if client.pending_calls() > 0 {
                return Err(self.fail("calls are left over"));
            }
            self.pause(self.job.pause).await;
        }
        if client.is_open() { Ok(()) } else { Err(Again) }
    }

    async fn one_call(&self, client: &RpcClient, reply_queue: bool) -> Try<()> {
        let text = self.random(|rng| rng.u64(..).to_string());
        let method = self.random(|rng| METHODS[rng.usize(..METHODS.len())]);
        let served = self.world.script.has(|does| matches!(does, Does::Serve { .. }));
        let timeout = match self.random(|rng| rng.u8(..4)) {
            0 => self.milliseconds(100),
            2 if served => LONG,
            // The loss of a request or of its reply is the loss of the connection, which ends the call.
            3 if served && !reply_queue => Duration::MAX,
            _ => self.milliseconds(20_000),
        };
        self.world.ledger.lock().counts.calls += 1;
        let call = client.call(QUEUE, text.clone()).method(method).timeout(timeout);
        let call = if self.one_in(2) { call.idempotent() } else { call };
        if self.one_in(6) {
            self.dropped(call).await;
            return Ok(());
        }
        let outcome =
            self.bounded(timeout.min(LONG) + Duration::from_secs(60), "a call", call).await?;
        let certain = self.world.script.is_calm() && timeout >= LONG;
        let replied = match (method, &outcome) {
            ("echo" | "hang", Ok(reply)) => reply.body() == format!("re: {text}").as_bytes(),
            ("fail", Err(RpcError::Remote(RemoteError { code, text: why, .. }))) => {
                code == "failed" && *why == format!("no: {text}")
            }
            ("panic", Err(RpcError::Remote(RemoteError { code, .. }))) => {
                code == RemoteError::PANICKED
            }
            (_, Err(RpcError::TimedOut { .. })) if !certain => return Ok(()),
            (_, Err(error)) if self.is_loss(error) => return Ok(()),
            _ => false,
        };
        if !replied {
            return Err(self.fail(format!("a call of {method} with {text}: {outcome:?}")));
        }
        self.world.ledger.lock().counts.replies += 1;
        Ok(())
    }

    fn is_loss(&self, error: &RpcError) -> bool {
        match error {
            RpcError::Lost(end) | RpcError::Ended(end) => self.is_fault(&end.to_string()),
            RpcError::NotSent(error) => self.is_fault(&error.to_string()),
            _ => false,
        }
    }
}
