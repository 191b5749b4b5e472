"""What HTTP and streaming cost: the server against its engine alone, the same model and requests, by turns in one process tree.

A model of 251M parameters with random weights, in bf16, 64 requests at once, 16 tokens of prompt and 128 to write each. `engine`:
tokens written a second by the engine alone. `whole` and `stream`: by a server on loopback, asked by a client in another process;
`raw_overhead_*` is what is lost, as a share of the engine's, by the clock: on a shared machine the engine's own steps differ more
from turn to turn than the server takes. So the engine's steps are timed wherever it runs. `beside_steps_*`: the share of the time
in which its thread computes none (it waits for requests, the event loop, the interpreter's lock). `step_ms_*`: processor time of a
step of all 64, of the fastest tenth, which other work on the machine disturbs least. `overhead_*` is of both: what a turn would
lose if its steps were all as quiet. Medians over turns. `first_unloaded_s`, `first_loaded_s`: time to the first token of a stream,
median alone, and 95th percentile while eight other streams are written; `first_ratio` is one over the other.

    benchmarks/serving.py [--quick] [--threads N] [--repeats N]
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx2 as httpx
import torch

from inference import make
from openherd.inference.engine import Answer, Engine
from openherd.inference.sampling import Sampling
from openherd.serving.served import Served
from openherd.serving.server import Server, create_app, listen
from openherd.serving.service import ServerConfig

AT_ONCE, PROMPT, WRITTEN, BESIDE, ASKED = 64, 16, 128, 8, 24


def drawn(i: int) -> list[int]:
    """A prompt that shares no beginning with another."""
    draw = random.Random(i)
    return [draw.randrange(500) for _ in range(PROMPT)]


def body(i: int, n: int, stream: bool) -> dict[str, Any]:
    """A request: token ids, so that nothing but serving is measured."""
    prompt = drawn(i)
    return {"model": "m", "prompt": prompt, "max_tokens": n, "temperature": 0, "ignore_eos": True, "stream": stream}


class Steps:
    """An engine's steps as they are computed: processor seconds, and answers that got a token."""

    def __init__(self, *engines: Engine) -> None:
        self.found: list[tuple[float, int]] = []
        for engine in engines:
            engine.step = self._timed(engine.step)  # type: ignore[method-assign]

    def _timed(self, step: Callable[[], list[Answer]]) -> Callable[[], list[Answer]]:
        def timed() -> list[Answer]:
            before = time.thread_time()
            written = step()
            self.found.append((time.thread_time() - before, len(written)))
            return written

        return timed

    def taken(self, wall_s: float) -> tuple[float, list[float]]:
        """The share of `wall_s` beside all steps since the last time, and seconds of those of all texts."""
        found, self.found = self.found, []
        return 1 - sum(s for s, _ in found) / wall_s, [s for s, n in found if n == AT_ONCE]


async def first_and_last(client: httpx.AsyncClient, asked: dict[str, Any]) -> tuple[float, float]:
    """Seconds to the first event and to the last."""
    start, first = time.perf_counter(), 0.0
    async with client.stream("POST", "/v1/completions", json=asked) as answer:
        assert answer.status_code == 200
        async for _ in answer.aiter_raw():
            first = first or time.perf_counter() - start
    return first, time.perf_counter() - start


async def throughput(client: httpx.AsyncClient, n: int, stream: bool, salt: int) -> float:
    """Tokens a second of all requests at once."""

    async def ask(i: int) -> None:
        if stream:
            await first_and_last(client, body(salt + i, n, True))
        else:
            answer = await client.post("/v1/completions", json=body(salt + i, n, False))
            assert answer.json()["usage"]["completion_tokens"] == n

    start = time.perf_counter()
    await asyncio.gather(*map(ask, range(AT_ONCE)))
    return AT_ONCE * n / (time.perf_counter() - start)


async def first(client: httpx.AsyncClient, asked: int, salt: int) -> tuple[float, float]:
    """Median time to the first token alone, 95th percentile beside others."""
    alone = [(await first_and_last(client, body(salt + 1_000 + i, 2, True)))[0] for i in range(asked)]
    others = [asyncio.create_task(endless(client, salt + 3_000 + i)) for i in range(BESIDE)]
    await asyncio.sleep(2.0)
    loaded = [(await first_and_last(client, body(salt + 2_000 + i, 2, True)))[0] for i in range(asked)]
    for other in others:
        other.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    return statistics.median(alone), sorted(loaded)[int(0.95 * (asked - 1))]


async def endless(client: httpx.AsyncClient, i: int) -> None:
    """Streams, one after the other."""
    while True:
        await first_and_last(client, body(i, 1_000, True))


def ask(url: str) -> None:
    """The client's process: a measure for each line of standard input."""

    async def measured(work: Any) -> Any:
        async with httpx.AsyncClient(base_url=url, timeout=600, limits=httpx.Limits(max_connections=None)) as client:
            found: Coroutine[Any, Any, Any] = work(client)
            return await found

    for line in sys.stdin:
        case, n, salt = json.loads(line)
        if case == "first":
            found = asyncio.run(measured(lambda client, n=n, salt=salt: first(client, ASKED if n == WRITTEN else 4, salt)))
        else:
            found = asyncio.run(measured(lambda client, n=n, case=case, salt=salt: throughput(client, n, case == "stream", salt)))
        print(json.dumps(found), flush=True)


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description="The server beside its engine.")
    parser.add_argument("--quick", action="store_true", help="two layers, few tokens, once")
    parser.add_argument("--threads", type=int, default=1, help="of the engine (default 1: the client has the other core)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ask", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.ask:
        ask(asked.ask)
        return
    torch.set_num_threads(asked.threads)
    most, repeats = (16, 1) if asked.quick else (WRITTEN, asked.repeats)
    with tempfile.TemporaryDirectory() as folder:
        figures: dict[str, Any] = {"threads": asked.threads, "repeats": repeats, "parameters": make(Path(folder), asked.quick)}
        served = Served.load("m", Path(folder), weights="bfloat16")
        engine = Engine(served.engine.compiling.wait(), served.tokenizer)  # type: ignore[union-attr]
        steps = Steps(engine, served.engine)

        def alone(n: int, salt: int) -> float:
            start = time.perf_counter()
            for i in range(AT_ONCE):
                engine.add(drawn(salt + i), Sampling(max_new_tokens=n))
            engine.run()
            return AT_ONCE * n / (time.perf_counter() - start)

        async def serve() -> None:
            config = ServerConfig(port=0)
            listener = listen(config.host, 0)
            server = Server(create_app([served], config), config, lambda said: None)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            client = subprocess.Popen(
                [sys.executable, __file__, "--ask", url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
            )

            async def told(case: str, n: int, salt: int) -> Any:
                print(json.dumps([case, n, salt]), file=client.stdin, flush=True)
                return json.loads(await asyncio.to_thread(client.stdout.readline))  # type: ignore[union-attr]

            throughputs = ["engine", "whole", "stream"]
            turns = [throughputs[turn % 3 :] + throughputs[: turn % 3] for turn in range(repeats + 1)]  # a processor tires
            found: dict[str, list[Any]] = {case: [] for case in [*throughputs, "first"]}
            beside: dict[str, list[float]] = {case: [] for case in found}
            full: dict[str, list[float]] = {case: [] for case in found}
            for turn, cases in enumerate([*turns, *[["first"]] * repeats]):
                n = most if turn else 16  # the first warms up
                for case in cases:
                    salt = 10_000 * turn + (5_000 if case == "stream" else 0)
                    value = await asyncio.to_thread(alone, n, salt) if case == "engine" else await told(case, n, salt)
                    share, of_all = steps.taken(AT_ONCE * n / value if case != "first" else 1.0)
                    if turn:
                        found[case].append(value)
                        beside[case].append(share)
                        full[case] += of_all
                        print(case, value, share, file=sys.stderr, flush=True)
            client.stdin.close()  # type: ignore[union-attr]
            client.wait()
            server.end()
            await serving
            for case in ("engine", "whole", "stream"):
                figures[f"{case}_tokens_per_s"] = round(statistics.median(found[case]), 1)
                figures[f"beside_steps_{case}"] = round(statistics.median(beside[case]), 4)
                figures[f"step_ms_{case}"] = round(1e3 * statistics.quantiles(full[case], n=10)[0], 2)
            for case in ("whole", "stream"):
                quiet = [(1 - figures[f"beside_steps_{one}"]) / figures[f"step_ms_{one}"] for one in ("engine", case)]
                figures[f"overhead_{case}"] = round(1 - quiet[1] / quiet[0], 4)
                shares = [1 - there / here for here, there in zip(found["engine"], found[case], strict=True)]
                figures[f"raw_overhead_{case}"] = round(statistics.median(shares), 4)
            figures["first_unloaded_s"] = round(statistics.median(alone for alone, _ in found["first"]), 4)
            figures["first_loaded_s"] = round(statistics.median(loaded for _, loaded in found["first"]), 4)
            figures["first_ratio"] = round(statistics.median(loaded / alone for alone, loaded in found["first"]), 2)

        asyncio.run(serve())
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
