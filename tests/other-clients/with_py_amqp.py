"""RabbitMQ's tutorials with py-amqp, the client of Celery and Kombu."""

import sys
from urllib.parse import unquote, urlsplit

import amqp
from amqp.exceptions import AccessRefused, MessageNacked, NotFound, PreconditionFailed


def connect(**options):
    uri = urlsplit(sys.argv[1])
    connection = amqp.Connection(
        host=f"{uri.hostname}:{uri.port or 5672}",
        userid=unquote(uri.username or "guest"),
        password=unquote(uri.password or "guest"),
        virtual_host=unquote(uri.path[1:]) or "/",
        **options,
    )
    connection.connect()
    return connection


def take(channel, queue, count):
    """The next messages of a queue, acknowledged, which have to come."""
    taken = []
    tag = channel.basic_consume(queue, callback=taken.append)
    while len(taken) < count:
        channel.connection.drain_events(timeout=10)
    channel.basic_cancel(tag)
    for message in taken:
        channel.basic_ack(message.delivery_tag)
    return taken


def bodies(messages):
    return [message.body for message in messages]


def hello_world(connection):
    channel = connection.channel()
    channel.queue_declare("hello", durable=False, auto_delete=True)
    channel.basic_publish(amqp.Message("Hello World!"), "", "hello")
    assert bodies(take(channel, "hello", 1)) == ["Hello World!"]
    channel.close()


def work_queues(connection):
    channel = connection.channel()
    channel.queue_declare("tasks", durable=True, auto_delete=False)
    channel.queue_purge("tasks")
    for task in ["one.", "two."]:
        channel.basic_publish(amqp.Message(task, delivery_mode=2), "", "tasks")
    for redelivered in [False, True]:
        worker = connection.channel()
        worker.basic_qos(0, 1, False)
        message = worker.basic_get("tasks")
        assert (message.body, message.delivery_info["redelivered"]) == ("one.", redelivered)
        if redelivered:
            worker.basic_ack(message.delivery_tag)
        worker.close()
    assert bodies(take(channel, "tasks", 1)) == ["two."]
    assert channel.queue_delete("tasks") == 0
    channel.close()


def routing(connection):
    published = ["quick.orange.rabbit", "lazy", "error"]
    for kind, keys, expected in [
        ("fanout", [""], published),
        ("direct", ["error"], ["error"]),
        ("topic", ["*.orange.*", "lazy.#"], ["quick.orange.rabbit", "lazy"]),
    ]:
        channel = connection.channel()
        exchange = f"logs-{kind}"
        channel.exchange_declare(exchange, kind, auto_delete=True)
        queue = channel.queue_declare("", exclusive=True, auto_delete=False).queue
        for key in keys:
            channel.queue_bind(queue, exchange, key)
        for key in published:
            channel.basic_publish(amqp.Message(key), exchange, key)
        assert bodies(take(channel, queue, len(expected))) == expected
        assert channel.basic_get(queue) is None
        channel.close()


def rpc(connection):
    client, server = connection.channel(), connection.channel()
    requests = server.queue_declare("", exclusive=True, auto_delete=False).queue
    callback = client.queue_declare("", exclusive=True, auto_delete=False).queue
    for number in range(3):
        request = amqp.Message(str(number), reply_to=callback, correlation_id=str(number))
        client.basic_publish(request, "", requests)
    for request in take(server, requests, 3):
        reply = amqp.Message(str(int(request.body) ** 2), correlation_id=request.correlation_id)
        server.basic_publish(reply, "", request.reply_to)
    assert bodies(take(client, callback, 3)) == ["0", "1", "4"]
    client.close()
    server.close()


def confirms(_):
    connection = connect(confirm_publish=True)
    channel = connection.channel()
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    queue = channel.queue_declare("", exclusive=True, auto_delete=False, arguments=arguments).queue
    channel.basic_publish(amqp.Message("taken"), "", queue)
    try:
        channel.basic_publish(amqp.Message("refused"), "", queue)
        raise AssertionError("the queue is full")
    except MessageNacked:
        pass
    assert bodies(take(channel, queue, 1)) == ["taken"]
    connection.close()


def transactions(connection):
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True, auto_delete=False).queue
    channel.tx_select()
    channel.basic_publish(amqp.Message("rolled back"), "", queue)
    channel.tx_rollback()
    channel.basic_publish(amqp.Message("committed"), "", queue)
    channel.tx_commit()
    assert channel.basic_get(queue).body == "committed"
    channel.close()


def errors(connection):
    for expected, request in [
        (NotFound, lambda channel: channel.queue_declare("missing", passive=True)),
        (PreconditionFailed, lambda channel: channel.exchange_declare("amq.direct", "fanout", durable=True)),
        (AccessRefused, lambda channel: channel.exchange_delete("amq.direct")),
    ]:
        try:
            request(connection.channel())
            raise AssertionError(f"{expected} was expected")
        except expected:
            pass


def main():
    connection = connect()
    for tutorial in [hello_world, work_queues, routing, rpc, confirms, transactions, errors]:
        tutorial(connection)
        print("py-amqp:", tutorial.__name__)
    connection.close()


main()
