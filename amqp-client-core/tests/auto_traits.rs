//! Handles can be sent to and used from any thread.

use amqp_client_core::{
    After, Channel, ChannelEvents, Confirmation, Connection, ConnectionEvents, Consumer, Delivery,
    Exchange, Message, OpenChannel, Publisher, Queue, Reply,
};

fn send_and_sync<T: Send + Sync>() {}
fn send<T: Send>() {}
fn clone<T: Clone>() {}

#[test]
fn handles_are_send_sync_and_cloneable() {
    send_and_sync::<(Connection, Channel, Queue, Exchange, Publisher, Message)>();
    clone::<(Connection, Channel, Queue, Exchange, Publisher, Message)>();
    send_and_sync::<(Consumer, Delivery, Confirmation, ConnectionEvents, ChannelEvents, After)>();
    send::<(Reply<Queue>, OpenChannel)>();
}
