"""eventsource-py as a worker: measures a round for each line of its input."""

import asyncio
import json
import logging
import sys
from argparse import ArgumentParser

import workloads
from meter import measure


def reply(value):
    print(json.dumps(value), flush=True)


async def main(options):
    workload = workloads.ALL[options.workload]()
    await workload.open(options)
    # to warm up
    await workload.run()
    await workload.clean_up()
    reply(None)
    while await asyncio.to_thread(sys.stdin.readline):
        measured = await measure(workload.server, workload.run)
        await workload.clean_up()
        reply(measured)
    await workload.check()


parser = ArgumentParser()
parser.add_argument("--workload", required=True, choices=workloads.ALL)
parser.add_argument("--callers", required=True, type=int)
parser.add_argument("--postgres", required=True)
parser.add_argument("--redis", required=True)
parser.add_argument("--quick", action="store_true")
parser.add_argument("--count-allocations", action="store_true")
options = parser.parse_args()
logging.disable()
if options.count_allocations:
    reply(None)  # Python does not count them
else:
    asyncio.run(main(options))
