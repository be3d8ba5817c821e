"""Measures a round: its time, and the processor time of this process and of the servers."""

import time
from math import ceil
from pathlib import Path


def server_nanos(main_process):
    """The processor time so far, of all threads of a server and of its children that have not ended."""
    children = Path(f"/proc/{main_process}/task/{main_process}/children").read_text().split()
    return sum(map(process_nanos, [main_process, *children]))


def process_nanos(process):
    nanos = 0
    for schedstat in Path(f"/proc/{process}/task").glob("*/schedstat"):
        try:
            nanos += int(schedstat.read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            pass
    return nanos


def percentile(times, percent):
    """The microseconds that so many percent of the sorted times take at most."""
    return times[max(ceil(len(times) * percent / 100), 1) - 1] * 1e6 if times else None


async def measure(server, work):
    """Runs `work`, which returns the number of operations and the seconds of each."""
    servers, client, start = server_nanos(server), time.process_time(), time.perf_counter()
    operations, times = await work()
    seconds, client = time.perf_counter() - start, time.process_time() - client
    servers = server_nanos(server) - servers
    times.sort()
    return {
        "operations": operations,
        "seconds": seconds,
        "client_cpu": client * 1e6 / operations,
        "server_cpu": servers / 1e3 / operations,
        "p50": percentile(times, 50),
        "p99": percentile(times, 99),
    }
