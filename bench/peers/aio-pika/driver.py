"""aio-pika's RPC, as its documentation uses it: `driver.py call[/at_once=N] COUNT SIZE URL QUEUE`, like the other drivers."""

import asyncio
import json
import resource
import sys
import time

from aio_pika import connect_robust
from aio_pika.patterns import RPC

NOT_OFFERED = 3


async def echo(*, body):
    return body


async def main(scenario, count, size, url, queue):
    name, *parameters = scenario.split("/")
    if name != "call":
        print(f"{scenario} is not offered", file=sys.stderr)
        sys.exit(NOT_OFFERED)
    at_once = int(dict(part.split("=") for part in parameters).get("at_once", 1))
    # RabbitMQ's path "/%2f" is "/" here.
    connections = [await connect_robust(url.replace("/%2f", "/")) for _ in range(2)]
    serving, calling = [await connection.channel() for connection in connections]
    await serving.set_qos(prefetch_count=64)
    server, client = await RPC.create(serving), await RPC.create(calling)
    await server.register(queue, echo, auto_delete=True)
    body, latencies = b"x" * size, []
    await client.call(queue, {"body": body})

    async def caller(calls):
        for _ in range(calls):
            begun = time.perf_counter()
            reply = await client.call(queue, {"body": body})
            latencies.append(time.perf_counter() - begun)
            assert len(reply) == size

    begun, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    shares = [count // at_once + (number < count % at_once) for number in range(at_once)]
    await asyncio.gather(*map(caller, shares))
    wall, now = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
    latencies.sort()

    def percentile(share):
        return latencies[round((len(latencies) - 1) * share)] * 1e6

    report = {
        "count": count,
        "wall": wall,
        "user": now.ru_utime - used.ru_utime,
        "sys": now.ru_stime - used.ru_stime,
        "switches": now.ru_nvcsw + now.ru_nivcsw - used.ru_nvcsw - used.ru_nivcsw,
        "rss_kib": now.ru_maxrss,
        "peak_kib": now.ru_maxrss,
        "threads": 1,
        "p50": percentile(0.5),
        "p99": percentile(0.99),
        "p999": percentile(0.999),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    scenario, count, size, url, queue = sys.argv[1:]
    asyncio.run(main(scenario, int(count), int(size), url, queue))
