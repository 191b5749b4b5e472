"""Bad requests: each a 4xx in OpenAI's format that names the field, and the server as well as before."""

import contextlib
import json
import socket

import httpx2 as httpx
import pytest
from pydantic import ValidationError

from openherd.serving import http
from openherd.serving.protocol import DEEPEST, ChatRequest, CompletionRequest
from small_server import CONTEXT, SECONDS, load, running

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
USER = {"role": "user", "content": "Hello."}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def nested(levels):
    """An object of so many levels."""
    value = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


def chat(**more):
    return CHAT, {"model": "tiny", "messages": [USER], "max_tokens": 2, **more}


def text(**more):
    return TEXT, {"model": "tiny", "prompt": "x", **more}


def format_of(schema):
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


# A schema that llguidance alone does not end within minutes.
ENDLESS = {"allOf": [{"type": "string", "pattern": f"^.*a.{{{i}}}b"} for i in range(1, 30)]}
REFUSED = [
    (chat(messages=[]), "messages"),
    (chat(messages="hello"), "messages"),
    (chat(messages=[{"content": "x"}]), "messages[0].role"),
    (chat(messages=[{"role": "user"}]), "messages[0].content"),
    (chat(messages=[USER, {"role": "user", "content": 3}]), "messages[1].content"),
    (chat(messages=[{"role": "boss", "content": ""}]), "messages[0].role"),
    (chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]), "messages[0].content[0].type"),
    (chat(messages=[{"role": "user", "content": [{"type": "text"}]}]), "messages[0].content[0].text"),
    (chat(messages=[{"role": "user", "content": "x " * CONTEXT}]), "messages"),
    (chat(messages=[{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "no"}}]}]), "messages[0]"),
    (chat(messages=[{"role": "user", "content": "", "tool_calls": [{"function": {"name": "f"}}]}]), "messages[0]"),
    (chat(messages=[{"role": "assistant", "tool_calls": [{"function": {}}]}]), "messages[0].tool_calls[0].function.name"),
    (chat(model="no"), "model"),
    (chat(model=3), "model"),
    (chat(model=None), "model"),
    (chat(temprature=1), "temprature"),
    (chat(temperature=2.1), "temperature"),
    (chat(temperature="1"), "temperature"),
    (chat(temperature=[]), "temperature"),
    (chat(temperature=1e999), "temperature"),
    (chat(top_p=0), "top_p"),
    (chat(top_p=float("nan")), "top_p"),
    (chat(top_k=-2), "top_k"),
    (chat(top_k=1.5), "top_k"),
    (chat(min_p=2), "min_p"),
    (chat(repetition_penalty=0), "repetition_penalty"),
    (chat(repetition_penalty=1e-45), "repetition_penalty"),  # a logit over it is infinite
    (chat(presence_penalty=3), "presence_penalty"),
    (chat(frequency_penalty=-3), "frequency_penalty"),
    (chat(max_tokens=0), "max_tokens"),
    (chat(max_tokens=-1), "max_tokens"),
    (chat(max_tokens=2**70), "max_tokens"),
    (chat(max_completion_tokens=True), "max_completion_tokens"),
    (chat(n=0), "n"),
    (chat(n=129), "n"),
    (chat(seed=2**63), "seed"),
    (chat(seed="a"), "seed"),
    (chat(stop=""), "stop[0]"),
    (chat(stop=["a"] * 17), "stop"),
    (chat(stop=["a", 3]), "stop[1]"),
    (chat(stop={"a": 1}), "stop"),
    (chat(logit_bias={"a": 1}), "logit_bias.a"),
    (chat(logit_bias={"1": 101}), "logit_bias.1"),
    (chat(logit_bias={"99999999": 1}), "logit_bias"),
    (chat(logit_bias=[1]), "logit_bias"),
    (chat(top_logprobs=2), "top_logprobs"),
    (chat(logprobs=True, top_logprobs=21), "top_logprobs"),
    (chat(logprobs=2), "logprobs"),
    (chat(stream="yes"), "stream"),
    (chat(stream_options={"include_usage": True}), "stream_options"),
    (chat(stream=True, stream_options={"usage": True}), "stream_options.usage"),
    (chat(tools=[{"type": "function"}]), "tools[0].function"),
    (chat(tools=[{"type": "function", "function": {"name": "a b"}}]), "tools[0].function.name"),
    (chat(tools=[{"type": "code", "function": {"name": "f"}}]), "tools[0].type"),
    (chat(tools=[{**TOOL, "function": {"name": "f", "parameters": nested(DEEPEST + 1)}}]), "tools[0].function.parameters"),
    (chat(tool_choice="required"), "tool_choice"),
    (chat(tools=[TOOL], tool_choice="any"), "tool_choice"),
    (chat(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "g"}}), "tool_choice.function.name"),
    (chat(tools=[TOOL], chat_template_kwargs={"tool_format": "xml"}), "chat_template_kwargs"),
    (chat(chat_template_kwargs={"tool": 1}), "chat_template_kwargs"),
    (chat(tools=[TOOL], chat_template_kwargs={"tools": []}), "chat_template_kwargs.tools"),
    (chat(tools=[{**TOOL, "function": {"name": "f", "description": "\ud800"}}]), "tools"),
    (chat(chat_template_kwargs={"date_string": "\ud800"}), "chat_template_kwargs"),
    (chat(chat_template_kwargs={"date_string": 1}), "chat_template_kwargs"),
    (chat(chat_template_kwargs={"builtin_tools": 3}), "chat_template_kwargs"),
    (chat(response_format={"type": "xml"}), "response_format.type"),
    (chat(response_format={"type": "json_schema"}), "response_format.json_schema"),
    (chat(response_format=format_of({"type": "nothing"})), "response_format"),
    (chat(response_format=format_of({"$ref": "http://127.0.0.1:1/x"})), "response_format"),
    (chat(response_format=format_of({"$ref": "file:///etc/hostname"})), "response_format"),
    (chat(response_format=format_of(nested(DEEPEST + 1))), "response_format.json_schema.schema"),
    (chat(response_format=format_of({"enum": ["x" * 100] * 1_000})), "response_format"),
    (chat(response_format=format_of(ENDLESS)), "response_format"),
    (chat(modalities=["audio"]), "modalities[0]"),
    (chat(functions=[]), "functions"),
    (text(prompt=None), "prompt"),
    (text(prompt=[]), "prompt"),
    (text(prompt=[[]]), "prompt[0]"),
    (text(prompt=[1, "a"]), "prompt[1]"),
    (text(prompt=[-1]), "prompt[0]"),
    (text(prompt=[10**6]), "prompt"),
    (text(prompt=[[1], [10**6]]), "prompt[1]"),
    (text(prompt=["x", "x " * CONTEXT]), "prompt[1]"),
    (text(prompt=["x"] * 129), "prompt"),
    (text(prompt=["x"] * 64, n=3), "n"),
    (text(best_of=2), "best_of"),
    (text(suffix="x"), "suffix"),
    (text(logprobs=21), "logprobs"),
    (text(echo=1), "echo"),
    (text(max_tokens=-1), "max_tokens"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "param"), REFUSED, ids=[f"{i}-{param}" for i, (_, param) in enumerate(REFUSED)])
def test_a_bad_field_is_named(tiny, asked, param):
    path, body = asked
    answer = tiny.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param, error
    assert error["message"].startswith(param.partition("[")[0].partition(".")[0])
    assert len(error["message"]) < 500
    assert "\n" not in error["message"]


FIELDS = {f"k{i}": 1 for i in range(2_000)}
MANY = [
    text(prompt=[0, *[""] * 2_000]),
    text(prompt=[[0], *[""] * 2_000]),
    text(prompt=[[""] * 2_000]),
    text(prompt=["", *[0] * 2_000]),
    text(stop=[0] * 2_000),
    text(logit_bias=FIELDS),
    text(**FIELDS),
    chat(messages=[0] * 2_000),
    chat(messages=[{"role": "user", "content": [{"type": "text"}] * 1_000}]),
    chat(messages=[{"role": "user", "content": [FIELDS]}]),
    chat(messages=[{"role": "assistant", "tool_calls": [{}] * 2_000}]),
    chat(tools=[{}] * 2_000),
    chat(modalities=[0] * 2_000),
]


@pytest.mark.parametrize("asked", MANY, ids=range(len(MANY)))
def test_few_errors_are_made_of_a_body_with_many(asked):
    path, body = asked
    with pytest.raises(ValidationError) as refused:  # with them all, 4 MB held the event loop for 30 s
        {CHAT: ChatRequest, TEXT: CompletionRequest}[path].model_validate(body)
    assert refused.value.error_count() < 5


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (chat(temprature=1), "temprature: an unknown field; did you mean 'temperature'?"),
        (text(messages=[]), "messages: an unknown field; known: "),
        (chat(stream=True, stream_options={"usage": True}), "stream_options.usage: an unknown field"),
        (chat(n=10**400), "n; allowed: "),
    ],
)
def test_what_is_said_of_a_field(tiny, asked, message):
    said = tiny.post(asked[0], json=asked[1]).json()["error"]["message"]
    assert said == message or (said.startswith(message) and message.endswith(": ") and "did you mean 'messages'" not in said)


JSON = {"Content-Type": "application/json"}
BODIES = [
    (b"", JSON, 400),
    (b"{", JSON, 400),
    (b"[]", JSON, 400),
    (b"3", JSON, 400),
    (b'"x"', JSON, 400),
    (b"null", JSON, 400),
    (bytes(range(256)) * 8, JSON, 400),
    (b"\xff\xfe{\x00}\x00", JSON, 400),
    (b"[" * 100_000, JSON, 400),
    (b'{"a":' * 50_000, JSON, 400),
    (json.dumps({**chat()[1], "messages": nested(900)}).encode(), JSON, 400),
    (json.dumps({**chat()[1], "metadata": nested(400)}).encode(), JSON, 200),
    (b'{"model": "tiny", "max_tokens": ' + b"9" * 10_000 + b"}", JSON, 400),
    (b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}', JSON, 400),
    (b'{"model": "\\udfff", "messages": []}', JSON, 400),
    (b'{"\\ud800": 1, "model": "tiny", "messages": [{"role": "user", "content": "x"}]}', JSON, 400),
    (b'{"model": "tiny", "prompt": "\\u0000", "max_tokens": 1}', JSON, 400),
    (json.dumps(chat()[1]).encode(), {"Content-Type": "text/plain"}, 415),
    (json.dumps(chat()[1]).encode(), {"Content-Type": "multipart/form-data; boundary=x"}, 415),
    (json.dumps(chat()[1]).encode(), {}, 415),
    (json.dumps(chat()[1]).encode(), {"Content-Type": "application/json; charset=utf-8"}, 200),
    (b" " * 5_000_000, JSON, 413),
    (b"\x1f\x8b\x08", {**JSON, "Content-Encoding": "gzip"}, 415),
]


@pytest.mark.parametrize(("body", "headers", "status"), BODIES, ids=range(len(BODIES)))
def test_noise(tiny, body, headers, status):
    for path in (CHAT, TEXT) if status != 200 else (CHAT,):
        answer = tiny.post(path, content=body, headers=headers)
        if path == TEXT and b"prompt" in body:
            assert answer.status_code == 200
            continue
        assert answer.status_code == status, answer.text
        assert status == 200 or set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert tiny.post(*[CHAT], json=chat()[1]).status_code == 200


def test_a_body_of_unsaid_length_is_cut(tiny):
    answer = tiny.post(CHAT, content=(b" " * 100_000 for _ in range(60)), headers=JSON)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize(
    "path", ["/v1/nothing", "/etc/passwd", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/v1/models/%00", "//x"]
)
def test_paths_that_are_not_there(tiny, path):
    answer = httpx.get(f"{tiny.url}{path}", timeout=SECONDS)
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "not_found_error"
    posted = tiny.post(path, content=b" " * 5_000_000)
    assert posted.status_code == (405 if path.startswith("/v1/models/") else 404)
    assert posted.json()["error"]["message"]


def raw(server, head, body=b"", until=b"\r\n\r\n"):
    """What comes back for bytes, to its end or until some bytes; and whether the connection was ended."""
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=SECONDS) as connection:
        connection.sendall("\r\n".join([*head, "", ""]).encode() + body)
        found = b""
        while part := connection.recv(65_536):
            found += part
            if until and until in found:
                return found, False
        return found, True


def test_a_request_of_two_lengths_ends_its_connection(tiny):
    head = [f"POST {CHAT} HTTP/1.1", "Host: localhost", "Content-Type: application/json", "Transfer-Encoding: chunked"]
    answer, ended = raw(tiny, [*head, "Content-Length: 4"], b"0\r\n\r\nGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", until=b"")
    assert ended
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1  # what stood behind it was not asked


def test_a_target_may_be_a_whole_address(tiny):
    for host, status in (("localhost", b"200"), ("evil.example", b"403")):
        answer, _ = raw(tiny, [f"GET http://{host}/v1/models HTTP/1.1", "Host: localhost"])
        assert answer.startswith(b"HTTP/1.1 " + status)


def test_who_is_slow_is_not_waited_for(directory, monkeypatch):
    for name in ("HEAD_S", "BODY_S"):
        monkeypatch.setattr(http, name, 0.3)
    monkeypatch.setattr(http, "MOST_CONNECTIONS", 2)
    with running(load(directory)) as server:
        half = ["POST /x HTTP/1.1", "Host: localhost"]
        port = int(server.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
            connection.sendall("\r\n".join(half).encode())
            with socket.create_connection(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port)) as third:
                for ended in (third, connection):  # one too many; one too slow
                    ended.settimeout(SECONDS)
                    with contextlib.suppress(ConnectionResetError):
                        assert ended.recv(1) == b""
        server.wait_for(lambda: not server.server.server_state.connections, "they stay")
        monkeypatch.setattr(http, "BODY_S", -4.7)  # 0.3 s in all
        answer, ended = raw(server, [*half, "Content-Length: 9"], b"x", until=b"")  # refused, and the rest never comes
        assert ended
        assert answer.startswith(b"HTTP/1.1 404 ")


def test_large_bodies_have_a_bound_together(directory, monkeypatch):
    monkeypatch.setattr(http, "LARGE_BYTES", 300_000)
    with running(load(directory), max_body_bytes=300_000) as server:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 200001\r\n\r\n"
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as connection:
            connection.sendall(head.encode() + b" " * 200_000)
            refused = server.post(CHAT, content=b" " * 200_000, headers=JSON)
            while refused.status_code != 503:  # until the other is here
                refused = server.post(CHAT, content=b" " * 200_000, headers=JSON)
            assert refused.headers["retry-after"] == "5"
            assert server.post(CHAT, json=chat()[1]).status_code == 200  # a small one is read always
        server.wait_for(lambda: not server.server.server_state.connections, "it stays")
        assert server.post(CHAT, content=b" " * 200_000, headers=JSON).status_code == 400


def test_methods(tiny):
    for method, path in (("GET", CHAT), ("DELETE", "/v1/models"), ("POST", "/health")):
        answer = httpx.request(
            method, f"{tiny.url}{path}", headers=JSON, content=b"{}" if method == "POST" else None, timeout=SECONDS
        )
        assert answer.status_code == 405
        assert answer.json()["error"]["message"]


def test_keys(directory):
    with running(load(directory), api_keys=("first", "schlüssel")) as server:
        for given, status in (("", 401), ("Bearer no", 401), ("first", 401), ("Bearer first", 200), ("bearer schlüssel", 200)):
            headers = {"Authorization": given.encode()} if given else {}
            assert httpx.get(f"{server.url}/v1/models", headers=headers, timeout=SECONDS).status_code == status
        refused = server.post(CHAT, json=chat()[1])
        assert refused.status_code == 401
        assert (refused.json()["error"]["code"], refused.headers["www-authenticate"]) == ("invalid_api_key", "Bearer")
        for path in ("/health", "/metrics", "/openapi.json"):
            assert httpx.get(f"{server.url}{path}", timeout=SECONDS).status_code == 200


def test_a_page_elsewhere_may_not_ask_unless_it_is_named(tiny, directory):
    preflight = {
        "Origin": "http://else.where",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",  # OpenAI's client in a page
    }
    answer = httpx.options(f"{tiny.url}{CHAT}", headers=preflight, timeout=SECONDS)
    assert (answer.status_code, answer.headers.get("access-control-allow-origin")) == (405, None)
    with running(load(directory), origins=("http://else.where",), api_keys=("k",)) as server:
        answer = httpx.options(f"{server.url}{CHAT}", headers=preflight, timeout=SECONDS)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "http://else.where")
        refused = server.post(CHAT, json=chat()[1], headers={"Origin": "http://else.where"})  # its page can read why
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "http://else.where")
        assert refused.headers["access-control-expose-headers"] == "Retry-After"
        other = httpx.options(f"{server.url}{CHAT}", headers={**preflight, "Origin": "http://evil"}, timeout=SECONDS)
        assert "access-control-allow-origin" not in other.headers


def test_another_name_for_this_machine_is_refused(tiny, directory):
    port = tiny.url.rpartition(":")[2]
    for host in ("localhost", f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert httpx.get(f"{tiny.url}/health", headers={"Host": host}, timeout=SECONDS).status_code == 200
    for host in ("evil.example", f"127.0.0.1.evil.example:{port}"):
        answer = httpx.get(f"{tiny.url}/v1/models", headers={"Host": host}, timeout=SECONDS)
        assert (answer.status_code, answer.json()["error"]["param"]) == (403, "host")
    with running(load(directory), host="127.0.0.2") as server:
        url = server.url.replace("127.0.0.1", "127.0.0.2")
        for host, status in (("127.0.0.2", 200), ("evil.example", 403)):
            assert httpx.get(f"{url}/health", headers={"Host": host}, timeout=SECONDS).status_code == status
    with running(load(directory), allowed_hosts=("my.example",)) as server:
        assert httpx.get(f"{server.url}/health", headers={"Host": "my.example"}, timeout=SECONDS).status_code == 200


def test_every_answer_keeps_browsers_in(tiny, directory, tmp_path):
    (tmp_path / "index.html").write_text("<p>page", encoding="utf-8")
    with running(load(directory), page=tmp_path) as server:
        assert httpx.get(f"{server.url}/", timeout=SECONDS).text == "<p>page"
        for path, status in (("/", 200), ("/health", 200), ("/no", 404), ("/v1/models", 200)):
            answer = httpx.get(f"{server.url}{path}", timeout=SECONDS)
            assert answer.status_code == status
            assert answer.headers["content-security-policy"].startswith("default-src 'self'")
            assert answer.headers["x-content-type-options"] == "nosniff"


def test_what_prometheus_reads(tiny):
    tiny.post(CHAT, json=chat()[1])
    lines = httpx.get(f"{tiny.url}/metrics", timeout=SECONDS).text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(values['openherd_requests_total{path="/v1/chat/completions",status="200"}']) >= 1
    assert float(values['openherd_first_token_seconds_count{model="tiny"}']) >= 1
    assert float(values['openherd_cache_blocks{model="tiny"}']) == tiny.blocks
    buckets = [float(value) for name, value in values.items() if name.startswith("openherd_first_token_seconds_bucket")]
    assert buckets == sorted(buckets)
    families = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(families) == len(set(families))
    assert all(name.startswith(tuple(families)) for name in values)
