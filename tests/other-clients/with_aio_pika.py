"""RabbitMQ's tutorials with aio-pika."""

import asyncio
import sys

import aio_pika
from aio_pika import DeliveryMode, ExchangeType, Message
from aio_pika.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed, DeliveryError


ARGUMENTS = {"x-max-length": 50, "x-overflow": "reject-publish"}


async def take(queue, count):
    """The next messages of a queue, acknowledged, which have to come."""
    taken = []
    async with queue.iterator(timeout=10) as messages:
        async for message in messages:
            async with message.process():
                taken.append(message)
            if len(taken) == count:
                break
    return taken


def bodies(messages):
    return [message.body for message in messages]


async def hello_world(connection):
    async with connection.channel() as channel:
        queue = await channel.declare_queue("hello", auto_delete=True)
        await channel.default_exchange.publish(Message(b"Hello World!"), queue.name)
        assert bodies(await take(queue, 1)) == [b"Hello World!"]


async def work_queues(connection):
    async with connection.channel() as channel:
        queue = await channel.declare_queue("tasks", durable=True)
        await queue.purge()
        for task in [b"one.", b"two."]:
            message = Message(task, delivery_mode=DeliveryMode.PERSISTENT)
            await channel.default_exchange.publish(message, queue.name)
    # A worker takes one and goes away; the next one gets it again.
    for redelivered in [False, True]:
        async with connection.channel() as channel:
            await channel.set_qos(prefetch_count=1)
            message = await (await channel.get_queue("tasks")).get(timeout=10)
            assert (message.body, message.redelivered) == (b"one.", redelivered)
            if redelivered:
                await message.ack()
    async with connection.channel() as channel:
        queue = await channel.get_queue("tasks")
        assert bodies(await take(queue, 1)) == [b"two."]
        await queue.delete()


async def publish_subscribe(connection):
    async with connection.channel() as channel:
        logs = await channel.declare_exchange("logs", ExchangeType.FANOUT, auto_delete=True)
        queues = [await channel.declare_queue(exclusive=True) for _ in range(2)]
        for queue in queues:
            await queue.bind(logs)
        await logs.publish(Message(b"info: all is well"), "")
        for queue in queues:
            assert bodies(await take(queue, 1)) == [b"info: all is well"]


async def routing(connection):
    published = ["quick.orange.rabbit", "lazy", "error"]
    for kind, keys, expected in [
        (ExchangeType.DIRECT, ["error"], ["error"]),
        (ExchangeType.TOPIC, ["*.orange.*", "lazy.#"], ["quick.orange.rabbit", "lazy"]),
    ]:
        async with connection.channel() as channel:
            exchange = await channel.declare_exchange(f"logs-{kind.value}", kind, auto_delete=True)
            queue = await channel.declare_queue(exclusive=True)
            for key in keys:
                await queue.bind(exchange, key)
            for key in published:
                # Those that reach nobody would come back.
                await exchange.publish(Message(key.encode()), key, mandatory=False)
            assert [body.decode() for body in bodies(await take(queue, len(expected)))] == expected
            assert await queue.get(fail=False) is None


async def rpc(connection):
    async with connection.channel() as client, connection.channel() as server:
        requests = await server.declare_queue(exclusive=True)
        callback = await client.declare_queue(exclusive=True)

        async def answer(message):
            async with message.process():
                reply = Message(str(int(message.body) ** 2).encode(), correlation_id=message.correlation_id)
                await server.default_exchange.publish(reply, message.reply_to)

        await requests.consume(answer)
        for number in range(5):
            request = Message(str(number).encode(), correlation_id=str(number), reply_to=callback.name)
            await client.default_exchange.publish(request, requests.name)
        replies = await take(callback, 5)
        assert {reply.correlation_id: reply.body for reply in replies} == {
            str(number): str(number**2).encode() for number in range(5)
        }


async def confirms(connection):
    async with connection.channel(on_return_raises=True) as channel:
        queue = await channel.declare_queue(exclusive=True, arguments=ARGUMENTS)
        publish = channel.default_exchange.publish
        await asyncio.gather(*(publish(Message(bytes([number])), queue.name) for number in range(50)))
        try:
            await publish(Message(b"too much"), queue.name)
            raise AssertionError("the queue is full")
        except DeliveryError:
            pass
        try:
            await publish(Message(b"lost"), "nowhere", mandatory=True)
            raise AssertionError("there is no such queue")
        except DeliveryError:
            pass
        assert bodies(await take(queue, 50)) == [bytes([number]) for number in range(50)]


async def transactions(connection):
    async with connection.channel(publisher_confirms=False) as channel:
        queue = await channel.declare_queue(exclusive=True)
        async with channel.transaction():
            await channel.default_exchange.publish(Message(b"committed"), queue.name)
        assert bodies(await take(queue, 1)) == [b"committed"]


async def errors(connection):
    for expected, request in [
        (ChannelNotFoundEntity, lambda channel: channel.get_queue("missing")),
        (ChannelPreconditionFailed, lambda channel: channel.declare_exchange("amq.topic", ExchangeType.FANOUT)),
    ]:
        channel = await connection.channel()
        try:
            await request(channel)
            raise AssertionError(f"{expected} was expected")
        except expected:
            pass
        await channel.close()


async def main():
    connection = await aio_pika.connect(sys.argv[1])
    for tutorial in [
        hello_world, work_queues, publish_subscribe, routing, rpc, confirms, transactions, errors,
    ]:
        await asyncio.wait_for(tutorial(connection), 30)
        print("aio-pika:", tutorial.__name__)
    await connection.close()


asyncio.run(main())
