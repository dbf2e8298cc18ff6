"""RabbitMQ's tutorials with AMQPStorm."""

import sys
import time

import amqpstorm


def take(channel, queue, count):
    """The next messages of a queue, acknowledged, which have to come."""
    taken = []
    tag = channel.basic.consume(taken.append, queue)
    deadline = time.monotonic() + 10
    while len(taken) < count:
        assert time.monotonic() < deadline, f"{queue}: {count - len(taken)} of {count} messages are missing"
        channel.process_data_events()
    channel.basic.cancel(tag)
    for message in taken:
        message.ack()
    return taken


def bodies(messages):
    return [message.body for message in messages]


def hello_world(connection):
    with connection.channel() as channel:
        channel.queue.declare("hello", auto_delete=True)
        channel.basic.publish("Hello World!", "hello")
        assert bodies(take(channel, "hello", 1)) == ["Hello World!"]


def work_queues(connection):
    with connection.channel() as channel:
        channel.queue.declare("tasks", durable=True)
        channel.queue.purge("tasks")
        for task in ["one.", "two."]:
            channel.basic.publish(task, "tasks", properties={"delivery_mode": 2})
    for redelivered in [False, True]:
        with connection.channel() as channel:
            channel.basic.qos(prefetch_count=1)
            message = channel.basic.get("tasks")
            assert (message.body, message.method["redelivered"]) == ("one.", redelivered)
            if redelivered:
                message.ack()
    with connection.channel() as channel:
        assert bodies(take(channel, "tasks", 1)) == ["two."]
        assert channel.queue.delete("tasks")["message_count"] == 0


def routing(connection):
    published = ["quick.orange.rabbit", "lazy", "error"]
    for kind, keys, expected in [
        ("fanout", [""], published),
        ("direct", ["error"], ["error"]),
        ("topic", ["*.orange.*", "lazy.#"], ["quick.orange.rabbit", "lazy"]),
    ]:
        with connection.channel() as channel:
            exchange = f"logs-{kind}"
            channel.exchange.declare(exchange, kind, auto_delete=True)
            queue = channel.queue.declare("", exclusive=True)["queue"]
            for key in keys:
                channel.queue.bind(queue, exchange, key)
            for key in published:
                channel.basic.publish(key, key, exchange)
            assert bodies(take(channel, queue, len(expected))) == expected
            assert channel.basic.get(queue) is None


def rpc(connection):
    with connection.channel() as client, connection.channel() as server:
        requests = server.queue.declare("", exclusive=True)["queue"]
        callback = client.queue.declare("", exclusive=True)["queue"]
        for number in range(3):
            message = amqpstorm.Message.create(client, str(number))
            message.reply_to, message.correlation_id = callback, str(number)
            message.publish(requests)
        for request in take(server, requests, 3):
            reply = amqpstorm.Message.create(server, str(int(request.body) ** 2))
            reply.correlation_id = request.correlation_id
            reply.publish(request.reply_to)
        assert bodies(take(client, callback, 3)) == ["0", "1", "4"]


def confirms(connection):
    with connection.channel() as channel:
        channel.confirm_deliveries()
        queue = channel.queue.declare(
            "", exclusive=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
        )["queue"]
        assert channel.basic.publish("taken", queue, mandatory=True)
        assert channel.basic.publish("refused", queue) is False
        try:
            channel.basic.publish("lost", "nowhere", mandatory=True)
            raise AssertionError("there is no such queue")
        except amqpstorm.AMQPMessageError as error:
            assert error.error_code == 312
        assert bodies(take(channel, queue, 1)) == ["taken"]


def transactions(connection):
    with connection.channel() as channel:
        queue = channel.queue.declare("", exclusive=True)["queue"]
        channel.tx.select()
        channel.basic.publish("rolled back", queue)
        channel.tx.rollback()
        channel.basic.publish("committed", queue)
        channel.tx.commit()
        assert bodies(take(channel, queue, 1)) == ["committed"]


def errors(connection):
    for code, request in [
        (404, lambda channel: channel.queue.declare("missing", passive=True)),
        (406, lambda channel: channel.exchange.declare("amq.direct", "fanout")),
        (403, lambda channel: channel.exchange.delete("amq.direct")),
    ]:
        channel = connection.channel()
        try:
            request(channel)
            raise AssertionError(f"{code} was expected")
        except amqpstorm.AMQPChannelError as error:
            assert error.error_code == code, error
        channel.close()


def main():
    connection = amqpstorm.UriConnection(sys.argv[1])
    for tutorial in [hello_world, work_queues, routing, rpc, confirms, transactions, errors]:
        tutorial(connection)
        print("amqpstorm:", tutorial.__name__)
    connection.close()


main()
