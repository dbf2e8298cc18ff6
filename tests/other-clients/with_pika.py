"""RabbitMQ's tutorials with pika, and what else brokers are good for."""

import sys
import time

import pika
from pika.exceptions import ChannelClosedByBroker, NackError, UnroutableError


def connect():
    return pika.BlockingConnection(pika.URLParameters(sys.argv[1]))


def take(channel, queue, count, auto_ack=True):
    """The next deliveries of a queue, which have to come."""
    taken = []
    for method, properties, body in channel.consume(queue, auto_ack=auto_ack, inactivity_timeout=10):
        assert method is not None, f"{queue}: {count - len(taken)} of {count} messages are missing"
        taken.append((method, properties, body))
        if len(taken) == count:
            break
    channel.cancel()
    return taken


def bodies(taken):
    return [body for _, _, body in taken]


def hello_world(connection):
    channel = connection.channel()
    channel.queue_declare("hello", auto_delete=True)
    channel.basic_publish("", "hello", b"Hello World!")
    assert bodies(take(channel, "hello", 1)) == [b"Hello World!"]
    channel.close()


def work_queues(connection):
    channel = connection.channel()
    channel.queue_declare("tasks", durable=True)
    channel.queue_purge("tasks")
    persistent = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent)
    for task in [b"one.", b"two.", b"three."]:
        channel.basic_publish("", "tasks", task, persistent)
    # A worker takes one and goes away.
    worker = connect()
    other = worker.channel()
    other.basic_qos(prefetch_count=1)
    ((method, _, body),) = take_unsettled(other, "tasks")
    assert (body, method.redelivered) == (b"one.", False)
    worker.close()
    # The next one gets it again, and gets no more than one at a time.
    channel.basic_qos(prefetch_count=1)
    for expected in [b"one.", b"two.", b"three."]:
        ((method, _, body),) = take_unsettled(channel, "tasks")
        assert (body, method.redelivered) == (expected, expected == b"one."), body
        channel.basic_ack(method.delivery_tag)
    assert channel.queue_delete("tasks").method.message_count == 0
    channel.close()


def take_unsettled(channel, queue):
    """What comes while nothing is acknowledged; the consumer stays."""
    taken = []
    tag = channel.basic_consume(queue, lambda _, method, properties, body: taken.append((method, properties, body)))
    wait_for(channel.connection, lambda: taken)
    channel.connection.process_data_events(0)
    # What was taken stays unacknowledged: only a closing channel would give it back.
    channel.basic_cancel(tag)
    return taken


def wait_for(connection, condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "nothing came"
        connection.process_data_events(0.1)


def publish_subscribe(connection):
    channel = connection.channel()
    channel.exchange_declare("logs", "fanout", auto_delete=True)
    queues = [channel.queue_declare("", exclusive=True).method.queue for _ in range(2)]
    assert len(set(queues)) == 2
    for queue in queues:
        channel.queue_bind(queue, "logs")
    channel.basic_publish("logs", "", b"info: all is well")
    for queue in queues:
        assert bodies(take(channel, queue, 1)) == [b"info: all is well"]
    channel.close()


def routing(connection, kind, keys, published, expected):
    channel = connection.channel()
    exchange = f"logs-{kind}"
    channel.exchange_declare(exchange, kind, auto_delete=True)
    queue = channel.queue_declare("", exclusive=True).method.queue
    for key in keys:
        channel.queue_bind(queue, exchange, key)
    for key in published:
        channel.basic_publish(exchange, key, key.encode())
    assert [body.decode() for body in bodies(take(channel, queue, len(expected)))] == expected
    assert channel.basic_get(queue)[0] is None
    channel.close()


def direct(connection):
    routing(connection, "direct", ["warning", "error"], ["info", "error", "warning"], ["error", "warning"])


def topics(connection):
    published = ["quick.orange.rabbit", "lazy.brown.fox", "lazy", "quick.brown.fox", "quick.orange.fox.male"]
    routing(connection, "topic", ["*.orange.*", "lazy.#"], published, published[:3])


def headers(connection):
    channel = connection.channel()
    channel.exchange_declare("by-headers", "headers", auto_delete=True)
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(queue, "by-headers", arguments={"x-match": "all", "format": "pdf", "pages": 3})
    for body, entries in [(b"no", {"format": "pdf"}), (b"yes", {"format": "pdf", "pages": 3, "more": True})]:
        channel.basic_publish("by-headers", "", body, pika.BasicProperties(headers=entries))
    ((_, properties, body),) = take(channel, queue, 1)
    assert body == b"yes" and properties.headers["more"] is True
    channel.close()


def rpc(connection):
    call(connection, None)


def direct_reply_to(connection):
    call(connection, "amq.rabbitmq.reply-to")


def call(connection, reply_to):
    server, client = connection.channel(), connection.channel()
    requests = server.queue_declare("", exclusive=True).method.queue

    def answer(channel, method, properties, body):
        reply = pika.BasicProperties(correlation_id=properties.correlation_id)
        channel.basic_publish("", properties.reply_to, str(int(body) ** 2).encode(), reply)
        channel.basic_ack(method.delivery_tag)

    server.basic_consume(requests, answer)
    replies = {}
    callback = reply_to or client.queue_declare("", exclusive=True).method.queue
    client.basic_consume(
        callback, lambda _c, _m, properties, body: replies.update({properties.correlation_id: body}), auto_ack=True
    )
    for number in range(5):
        properties = pika.BasicProperties(reply_to=callback, correlation_id=str(number))
        client.basic_publish("", requests, str(number).encode(), properties)
    wait_for(connection, lambda: len(replies) == 5)
    assert replies == {str(number): str(number**2).encode() for number in range(5)}
    server.close()
    client.close()


def confirms(connection):
    channel = connection.channel()
    channel.confirm_delivery()
    queue = channel.queue_declare("", exclusive=True, arguments={"x-max-length": 2, "x-overflow": "reject-publish"})
    queue = queue.method.queue
    for body in [b"1", b"2"]:
        channel.basic_publish("", queue, body, mandatory=True)
    try:
        channel.basic_publish("", queue, b"3", mandatory=True)
        raise AssertionError("the queue is full")
    except NackError:
        pass
    try:
        channel.basic_publish("", "nowhere", b"4", mandatory=True)
        raise AssertionError("there is no such queue")
    except UnroutableError as error:
        assert error.messages[0].body == b"4"
    assert bodies(take(channel, queue, 2)) == [b"1", b"2"]
    channel.close()


def dead_letters(connection):
    channel = connection.channel()
    dead = channel.queue_declare("", exclusive=True).method.queue
    arguments = {"x-message-ttl": 20, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
    mortal = channel.queue_declare("", exclusive=True, arguments=arguments).method.queue
    channel.basic_publish("", mortal, b"late")
    ((method, properties, body),) = take(channel, dead, 1)
    death = properties.headers["x-death"][0]
    assert (body, death["reason"], death["queue"], death["count"]) == (b"late", "expired", mortal, 1)
    channel.close()


def transactions(connection):
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.tx_select()
    channel.basic_publish("", queue, b"rolled back")
    channel.tx_rollback()
    channel.basic_publish("", queue, b"committed")
    assert channel.basic_get(queue)[0] is None
    channel.tx_commit()
    _, _, body = channel.basic_get(queue, auto_ack=True)
    assert body == b"committed"
    channel.close()


def counts_and_errors(connection):
    channel = connection.channel()
    queue = channel.queue_declare("counted").method.queue
    for number in range(3):
        channel.basic_publish("", queue, bytes([number]))
    assert channel.queue_purge(queue).method.message_count == 3
    refused(connection, 404, "no queue 'missing' in vhost '/'", lambda it: it.queue_declare("missing", passive=True))
    refused(connection, 406, "inequivalent arg 'durable'", lambda it: it.queue_declare("counted", durable=True))
    refused(connection, 403, "reserved prefix", lambda it: it.queue_declare("amq.mine"))
    channel.queue_delete(queue)
    channel.close()


def refused(connection, code, text, request):
    try:
        request(connection.channel())
        raise AssertionError(f"{code} was expected")
    except ChannelClosedByBroker as error:
        assert error.reply_code == code and text in error.reply_text, error


def main():
    connection = connect()
    for tutorial in [
        hello_world, work_queues, publish_subscribe, direct, topics, headers, rpc, direct_reply_to, confirms,
        dead_letters, transactions, counts_and_errors,
    ]:
        tutorial(connection)
        print("pika:", tutorial.__name__)
    connection.close()


main()
