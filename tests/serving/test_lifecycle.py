"""What a server lives through: clients that leave, a full queue, steps that fail, a guard, its end."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading

import httpx2 as httpx
import openai
import pytest

from miniature import environment
from openherd.cli.answering import command_serve
from openherd.core.errors import ConfigError
from openherd.inference.engine import Engine
from openherd.serving import schemas
from openherd.serving import server as server_module
from small_server import SECONDS, load, running

ASKED = {"model": "tiny", "messages": [{"role": "user", "content": "Count."}], "seed": 1}
BAD_TOOL = {"type": "function", "function": {"name": "f", "description": "bad"}}
LONG = {**ASKED, "max_tokens": 400, "ignore_eos": True}


class Slow(Engine):
    """An engine whose steps wait for leave."""

    leave = threading.Semaphore(0)

    def step(self):
        self.leave.acquire(timeout=SECONDS)
        return super().step()


@pytest.fixture
def slow(directory):
    """A model whose steps are counted out; at the end they go freely."""
    served = load(directory)
    Slow.leave = threading.Semaphore(0)
    served.engine.__class__ = Slow
    yield served
    Slow.leave.release(100_000)


def post(server, body):
    return server.post("/v1/chat/completions", json=body)


SCORED = {"model": "tiny", "prompt": [*range(1, 451)], "max_tokens": 40, "echo": True, "logprobs": 1}


@pytest.mark.parametrize(
    ("path", "asked", "stream"),
    [("chat/completions", LONG, True), ("chat/completions", LONG, False), ("completions", SCORED, False)],
)
def test_a_client_that_leaves_frees_its_blocks(slow, path, asked, stream):
    slow.engine.scheduler.most_tokens = 32  # fifteen steps at least until the scores are there
    with running(slow) as server:
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as connection:
            body = json.dumps({**asked, "n": 3, "stream": stream}).encode()
            head = [f"POST /v1/{path} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
            connection.sendall("\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body)
            for _ in range(5):
                Slow.leave.release()
            server.wait_for(lambda: server.free_blocks < server.blocks and len(server.service.worker._jobs) == 3, "nothing begins")
            if stream:
                connection.recv(1)
        Slow.leave.release()  # the step that runs
        server.wait_for(lambda: not server.service.worker.tickets, "the client has not left")
        Slow.leave.release(2)
        server.wait_for(lambda: server.at_rest, "something is left")
        assert server.service.worker.metrics["tiny"].cancelled == 3
        assert httpx.get(f"{server.url}/metrics").text.count('status="499"') <= 1  # none where a stream had begun
        Slow.leave.release(100_000)
        assert post(server, ASKED).status_code == 200


def test_a_full_queue_is_a_429(slow):
    with running(slow, max_queue=2) as server:
        limit = 2 + slow.engine.scheduler.most_texts
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(post(server, {**LONG, "max_tokens": 4}))) for _ in range(limit)]
        for thread in threads:
            thread.start()
        server.wait_for(lambda: len(server.service.worker.tickets) == limit, "they do not come in")
        refused = post(server, ASKED)
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.json()["error"]["code"] == "queue_full"
        with server.client() as client, pytest.raises(openai.RateLimitError):
            client.chat.completions.create(**ASKED)
        too_many = post(server, {**ASKED, "n": limit + 1})
        assert (too_many.status_code, too_many.json()["error"]["param"]) == (400, "n")
        Slow.leave.release(100_000)
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [200] * limit
        server.wait_for(lambda: server.at_rest, "something is left")


def test_a_step_that_fails_is_a_500_and_the_engine_goes_on(directory, monkeypatch):
    with running(load(directory)) as server:
        head, fails = type(server.served.engine.model.head).forward, [True]

        def forward(self, hidden):
            if fails.pop() if fails else False:
                raise RuntimeError("a test's")
            return head(self, hidden)

        monkeypatch.setattr(type(server.served.engine.model.head), "forward", forward)
        failed = post(server, ASKED)
        assert (failed.status_code, failed.json()["error"]["type"]) == (500, "server_error")
        assert "a test's" not in failed.text
        assert post(server, ASKED).status_code == 200
        with server.client() as client:  # inside a stream
            stream = client.chat.completions.create(**ASKED, max_tokens=400, extra_body={"ignore_eos": True}, stream=True)
            assert next(stream).choices
            fails.append(True)
            with pytest.raises(openai.APIError, match="engine failed"):
                list(stream)
        server.wait_for(lambda: server.at_rest, "something is left")
        assert server.service.worker.metrics["tiny"].failed_steps == 2


def test_schemas_that_are_compiled_for_ever_hold_up_nobody(directory, monkeypatch, tmp_path):
    pytest.importorskip("llguidance")
    end = tmp_path / "end"
    monkeypatch.setattr(schemas, "CHECK", f"import os, time\nwhile not os.path.exists({str(end)!r}): time.sleep(0.02)")
    answers = []
    with running(load(directory)) as server:
        asked = [{"name": "x", "schema": {"const": i}} for i in range(12)]  # more than a pool of asyncio's has threads on two cores
        bodies = [{**ASKED, "response_format": {"type": "json_schema", "json_schema": one}} for one in asked]
        threads = [threading.Thread(target=lambda body=body: answers.append(post(server, body))) for body in bodies]
        for thread in threads:
            thread.start()
        for _ in range(3):
            assert post(server, {**ASKED, "max_tokens": 1}).status_code == 200
        assert not answers
        end.touch()
        for thread in threads:
            thread.join()
    assert [answer.status_code for answer in answers] == [200] * 12


class Guard:
    """Refuses a word."""

    part = 8

    def __init__(self):
        self.judged = []

    async def judge_prompt(self, messages):
        return "a word" if "bad" in str(messages) else ""

    async def judge_answer(self, messages, answer, finished):
        self.judged.append((answer, finished))
        return "a word" if len(answer) > 20 else ""


@pytest.mark.parametrize("stream", [True, False])
def test_a_guard_sees_everything_before_the_client(directory, stream):
    guard = Guard()
    with running(load(directory), guard=guard) as server, server.client() as client:
        for body, path in (
            ({**ASKED, "messages": [{"role": "user", "content": "bad"}]}, "/v1/chat/completions"),
            ({"model": "tiny", "prompt": "bad"}, "/v1/completions"),
            ({**ASKED, "tools": [BAD_TOOL]}, "/v1/chat/completions"),
            ({**ASKED, "chat_template_kwargs": {"date_string": "bad"}}, "/v1/chat/completions"),
            ({**ASKED, "tools": [BAD_TOOL], "chat_template_kwargs": {"tools_in_user_message": False}}, "/v1/chat/completions"),
        ):
            refused = server.post(path, json=body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, "content_filter")
        assert not guard.judged
        asked = {**ASKED, "max_tokens": 200, "logprobs": True, "extra_body": {"ignore_eos": True}}
        answer = client.chat.completions.create(**asked, stream=stream)
        choices = [choice for part in answer for choice in part.choices] if stream else answer.choices
        said = "".join((choice.delta if stream else choice.message).content or "" for choice in choices)
        assert choices[-1].finish_reason == "content_filter"
        assert 0 < len(said) <= 20
        assert said == guard.judged[-2][0]  # what passed last; the part that did not is not there
        tokens = [token for choice in choices if choice.logprobs for token in choice.logprobs.content]
        plain = b"".join(bytes(token.bytes) for token in tokens if not token.token.startswith("<|"))
        assert len(plain.decode("utf-8", "replace")) <= len(said) + 1
        server.wait_for(lambda: server.at_rest, "the engine writes on")
        assert server.service.worker.metrics["tiny"].cancelled == 1
        short = client.chat.completions.create(**{**ASKED, "max_tokens": 5})
        assert guard.judged[-1] == (short.choices[0].message.content, True)


def test_the_end_waits_for_answers(slow):
    answers = []
    with running(slow) as server:
        thread = threading.Thread(target=lambda: answers.append(post(server, {**LONG, "max_tokens": 5})))
        thread.start()
        server.wait_for(lambda: server.service.worker.tickets, "nothing begins")
        server.loop.call_soon_threadsafe(server.server.end)
        server.wait_for(lambda: server.service.worker.draining, "it does not end")
        late = post(server, ASKED)
        assert (late.status_code, late.json()["error"]["type"]) == (503, "server_error")
        assert httpx.get(f"{server.url}/health").status_code == 503
        Slow.leave.release(100_000)
        thread.join()
    assert [answer.status_code for answer in answers] == [200]
    assert server.said[-1] == "stopped; nothing was dropped\n"


@pytest.mark.parametrize("stream", [True, False])
def test_what_is_not_finished_in_time_is_told(slow, stream):
    answers = []
    with running(slow, grace_s=0.1) as server:
        thread = threading.Thread(target=lambda: answers.append(post(server, {**LONG, "stream": stream})))
        thread.start()
        Slow.leave.release(3)
        server.wait_for(lambda: server.service.worker.metrics["tiny"].generated_tokens, "nothing is written")
        threading.Timer(0.5, Slow.leave.release, [100_000]).start()
        server.loop.call_soon_threadsafe(server.server.end)
        thread.join()
    assert server.said[-1] == "stopped; requests dropped: 1\n"
    assert "shut down before the answer was finished" in answers[0].text
    assert answers[0].status_code == (200 if stream else 503)


def test_the_end_cuts_who_does_not_read_or_send(directory, monkeypatch, caplog):
    monkeypatch.setattr(server_module, "FLUSH_S", 0.2)
    with running(load(directory), grace_s=0.2) as server:
        port = int(server.url.rpartition(":")[2])
        reader, sender = socket.socket(), socket.create_connection(("127.0.0.1", port))
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
        reader.connect(("127.0.0.1", port))
        body = json.dumps({**LONG, "max_tokens": 150, "n": 8, "logprobs": True, "top_logprobs": 20, "stream": True}).encode()
        head = ["POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
        reader.sendall("\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body)
        sender.sendall("\r\n".join([*head, "Content-Length: 9", "", "{"]).encode())
        worker = server.service.worker
        server.wait_for(lambda: any(not ticket.unfinished for ticket in worker.tickets), "not all is written")
        server.wait_for(lambda: len(server.server.server_state.tasks) == 2, "the half body is not there")
        server.loop.call_soon_threadsafe(server.server.end)
        server.wait_for(lambda: server.said, "it does not end")
        server.wait_for(lambda: not server.server.server_state.tasks, "it waits for them")
        for connection in (reader, sender):
            connection.close()
    assert server.said == ["requests to finish: 1, in 0.2 s; Ctrl-C again drops them\n", "stopped; requests dropped: 1\n"]
    assert not caplog.records


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT])
def test_the_command(directory, number):
    command = [sys.executable, "-m", "openherd", "serve", str(directory), "--port", "0", "--api-key", "a b"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*command, "--model", f"twin={directory}"], env=environment() | {"PYTHONUNBUFFERED": "1"}, **pipes)
    try:
        line = process.stdout.readline()
        url = re.search(r"http://127\.0\.0\.1:\d+", line)[0]
        for _ in range(SECONDS * 10):  # the socket listens before the application answers
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/health", timeout=SECONDS).status_code == 200:
                    break
        names = [directory.name, "twin"]
        with openai.OpenAI(base_url=f"{url}/v1", api_key="a b", max_retries=0, timeout=SECONDS) as client:
            assert [model.id for model in client.models.list()] == names
            for name in names:
                assert client.chat.completions.create(**{**ASKED, "model": name, "max_tokens": 3}).usage.completion_tokens <= 3
        process.send_signal(number)
        out, err = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (0, "stopped; nothing was dropped\n", "")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--api-key", ""), ("--host", " "), ("--name", "a\nb"), ("--cors", "nonsense"), ("--cors", "http://a/b"),
        ("--model", "a\nb=x"),
        ("--cache-gb", "10000000"),
    ],
)  # fmt: skip
def test_an_option_that_cannot_be_is_one_line(directory, option, value):
    with pytest.raises(ConfigError, match=re.escape(option)):
        command_serve([str(directory), "--port", "0", option, value])


def test_an_address_that_cannot_be_had_is_one_line(directory):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "openherd", "serve", str(directory), "--port", str(port)]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"openherd: 127.0.0.1:{port}: cannot listen")
    assert len(done.stderr.splitlines()) == 1
