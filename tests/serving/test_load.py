"""Many requests at once: some leave, some are nonsense, none is lost, nothing is left of any. And what the description allows."""

import asyncio
import contextlib
import gc
import json
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings, strategies
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode

from small_server import SECONDS, load, running

CHAT = "/v1/chat/completions"
AT_ONCE = 40


def resident_mb():
    """Memory of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def body_of(draw):
    """A request of mixed length."""
    words = "word " * draw.randint(1, 60)
    return {
        "model": "tiny",
        "messages": [{"role": "user", "content": words}],
        "max_tokens": draw.randint(1, 40),
        "n": draw.choice([1, 1, 1, 2]),
        "seed": draw.randrange(100),
        "stream": draw.random() < 0.5,
        "logprobs": draw.random() < 0.2,
        "ignore_eos": True,
    }


def nonsense(draw):
    """A request that is refused, and with what."""
    oversized = b" " * 5_000_000
    unknown = json.dumps({**body_of(draw), "model": "other"}).encode()
    too_long = json.dumps({**body_of(draw), "messages": [{"role": "user", "content": "x " * 2_000}]}).encode()
    wrong = json.dumps({**body_of(draw), "temperature": "hot"}).encode()
    return draw.choice([(oversized, 413), (unknown, 404), (too_long, 400), (wrong, 400), (draw.randbytes(500), 400)])


async def one(client, number, told):
    """One request to its end; what became of it is told."""
    draw = random.Random(number)
    kind = "nonsense" if number % 10 == 0 else "leaves" if number % 3 == 0 else "stays"
    headers = {"Content-Type": "application/json"}
    if kind == "nonsense":
        content, status = nonsense(draw)
        answer = await client.post(CHAT, content=content, headers=headers)
        assert (answer.status_code, "error" in answer.json()) == (status, True)
        told.append("refused")
        return
    body = body_of(draw)

    async def ask():
        if not body["stream"]:
            answer = await client.post(CHAT, json=body)
            assert answer.status_code == 200, answer.text
            found = answer.json()
            assert [choice["finish_reason"] for choice in found["choices"]] == ["length"] * body["n"]
            assert found["usage"]["completion_tokens"] == body["n"] * body["max_tokens"]
            return
        async with client.stream("POST", CHAT, json=body) as answer:
            assert answer.status_code == 200
            events = [line async for line in answer.aiter_lines() if line]
        assert events[-1] == "data: [DONE]"
        reasons = [choice["finish_reason"] for event in events[:-1] for choice in json.loads(event[6:])["choices"]]
        assert sum(reason == "length" for reason in reasons) == body["n"]

    if kind == "stays":
        await ask()
        told.append("answered")
        return
    try:
        await asyncio.wait_for(ask(), draw.uniform(0, 0.5))
        told.append("answered")
    except TimeoutError:
        told.append("left")


async def ask_all(url, numbers):
    """Requests, some at once; what became of each."""
    told = []
    waiting = iter(numbers)
    async with httpx.AsyncClient(base_url=url, timeout=SECONDS * 5, limits=httpx.Limits(max_connections=None)) as client:

        async def work():
            for number in waiting:
                await one(client, number, told)

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return told


def checked(server, n):
    """A load, and that nothing is left of it."""
    with ThreadPoolExecutor(1) as alone:  # the page's tests leave a loop running in this thread
        told = alone.submit(asyncio.run, ask_all(server.url, range(n))).result()
    assert len(told) == n
    assert told.count("refused") == len(range(0, n, 10))
    assert told.count("answered") > n / 3
    assert told.count("left") > n / 30
    server.wait_for(lambda: server.at_rest, "something is left")
    return told


def test_a_load(directory):
    with running(load(directory)) as server:
        checked(server, 60)


@pytest.mark.slow
def test_a_thousand_requests(directory):
    """Twice, or for as many minutes as OPENHERD_SOAK_MINUTES says."""
    until = time.monotonic() + 60 * float(os.environ.get("OPENHERD_SOAK_MINUTES", "0"))
    with running(load(directory)) as server:
        checked(server, 300)  # whatever is made once is made by now
        gc.collect()
        before, rounds = resident_mb(), 0
        while rounds < 2 or time.monotonic() < until:
            told = checked(server, 1_000)
            gc.collect()
            rounds += 1
            grown = resident_mb() - before
            print(f"round {rounds}: {told.count('answered')} answered, {told.count('left')} left, {grown:+.1f} MB", flush=True)
        assert grown < 20
        assert not server.server.server_state.tasks


def test_the_description_is_one(tiny):
    found = httpx.get(f"{tiny.url}/openapi.json", timeout=SECONDS).json()
    assert {"/v1/chat/completions", "/v1/completions", "/v1/models", "/metrics", "/health"} <= set(found["paths"])
    for name in ("/v1/chat/completions", "/v1/completions"):
        described = found["paths"][name]["post"]
        assert set(described["responses"]) == {"200", "4XX", "5XX"}
        assert described["requestBody"]["required"]


PLAIN = {"messages": [{"role": "user", "content": "Hello"}], "prompt": "Hello"}


def fuzz(server, operation, mode, seen):
    """Requests to one endpoint that follow its description, or do not, and their statuses."""

    @seed(0)
    @settings(max_examples=250, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(case=operation.as_strategy(generation_mode=mode), is_named=strategies.booleans(), is_asked=strategies.booleans())
    def ask(case, is_named, is_asked):
        if is_named and isinstance(case.body, dict):
            case.body["model"] = "tiny"
        if is_asked and isinstance(case.body, dict):  # so that more is looked at than what is to be answered
            case.body.update({name: PLAIN[name] for name in case.body if name in PLAIN})
        answer = case.call(base_url=server.url, timeout=SECONDS)
        seen.append(answer.status_code)
        assert answer.status_code < 500, answer.text

    ask()


@pytest.mark.slow
def test_nothing_that_the_description_allows_or_forbids_is_a_5xx(directory):
    """By schemathesis: bodies that follow the description, and bodies that do not."""
    with running(load(directory), max_tokens=4) as server:
        described = schemathesis.openapi.from_dict(httpx.get(f"{server.url}/openapi.json", timeout=SECONDS).json())
        seen = {}
        for result in described.get_all_operations():
            for mode in GenerationMode:
                with contextlib.suppress(Unsatisfiable):  # where nothing is given, nothing can be wrong
                    fuzz(server, result.ok(), mode, seen.setdefault((result.ok().path, mode.name), []))
        print({key: sorted(set(values)) for key, values in seen.items()})
        assert 200 in seen["/v1/chat/completions", "POSITIVE"]
        assert 200 in seen["/v1/completions", "POSITIVE"]
        assert len(seen["/v1/completions", "NEGATIVE"]) >= 20
        server.wait_for(lambda: server.at_rest, "something is left")
