"""The client of endpoints against a scripted server on loopback: what is tried again, and what is an error at once."""

import json

import pytest

from openherd.core.endpoint import Endpoint, EndpointConfig
from openherd.core.errors import InputError
from scripted_server import completion, scripted

QUESTION = [{"role": "user", "content": "Well?"}]


def endpoint(url, **settings):
    pauses = []
    return Endpoint(EndpointConfig(url=url, model="m", **settings), pauses.append), pauses


def test_an_answer_with_what_it_cost():
    with scripted(lambda n, body: completion("yes", 100, 10)) as (url, asked):
        client, pauses = endpoint(url, prompt_price=2.0, completion_price=8.0)
        answer = client.chat(QUESTION, max_tokens=5)
    assert (answer.text, answer.prompt_tokens, answer.completion_tokens) == ("yes", 100, 10)
    assert asked[0]["body"] == {"model": "m", "messages": QUESTION, "max_tokens": 5}
    assert asked[0]["path"] == "/v1/chat/completions"
    assert "Authorization" not in asked[0]["headers"]
    assert client.cost(answer.prompt_tokens, answer.completion_tokens) == pytest.approx(280e-6)
    assert pauses == []


def test_what_may_pass_is_tried_again_with_growing_pauses():
    script = [(503, {}, b"busy"), (429, {"Retry-After": "7"}, b"slow down"), None, (500, {}, b"")]

    def answer(n, body):
        return script[n] if n < len(script) else completion("at last")

    with scripted(answer) as (url, asked):
        client, pauses = endpoint(url)
        assert client.chat(QUESTION).text == "at last"
    assert len(asked) == 5
    assert pauses == [1.0, 7.0, 4.0, 8.0]


def test_a_refusal_is_an_error_at_once_in_the_servers_words():
    refusal = (400, {}, json.dumps({"error": {"message": "no\nsuch model"}}).encode())
    with scripted(lambda n, body: refusal) as (url, asked):
        client, pauses = endpoint(url)
        with pytest.raises(InputError, match="status 400: no such model"):
            client.chat(QUESTION)
    assert (len(asked), pauses) == (1, [])


def test_it_gives_up_after_so_many_tries():
    with scripted(lambda n, body: (502, {}, b"gate")) as (url, asked):
        client, pauses = endpoint(url, tries=3)
        with pytest.raises(InputError, match="status 502: gate, tried 3 times"):
            client.chat(QUESTION)
    assert (len(asked), pauses) == (3, [1.0, 2.0])


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"choices": []}', b'{"choices": [{"message": null}]}'])
def test_what_is_no_completion_is_refused(body):
    allowed = pytest.raises(InputError, match="allowed: an OpenAI-compatible endpoint")
    with scripted(lambda n, _: (200, {}, body)) as (url, _), allowed:
        endpoint(url)[0].chat(QUESTION)


def test_an_answer_without_words_or_counts():
    with scripted(lambda n, _: (200, {}, b'{"choices": [{"message": {"content": null}}]}')) as (url, _):
        found = endpoint(url)[0].chat(QUESTION)
    assert (found.text, found.prompt_tokens, found.completion_tokens) == ("", 0, 0)


def test_the_key_is_sent_and_stands_in_no_error(tmp_path):
    (tmp_path / "key").write_text("secret-key\n")
    with scripted(lambda n, body: (401, {}, b"who are you")) as (url, asked):
        client, _ = endpoint(url, api_key_file=str(tmp_path / "key"))
        with pytest.raises(InputError) as error:
            client.chat(QUESTION)
    assert asked[0]["headers"]["Authorization"] == "Bearer secret-key"
    assert "secret-key" not in str(error.value)
    with pytest.raises(InputError, match="no key can be read"):
        endpoint("http://x/v1", api_key_file=str(tmp_path / "none"))


def test_nobody_there_and_no_address():
    client, pauses = endpoint("http://127.0.0.1:9/v1", tries=2)
    with pytest.raises(InputError, match=r"no answer .* tried 2 times"):
        client.chat(QUESTION)
    assert pauses == [1.0]
    with pytest.raises(InputError, match="begins with http"):
        endpoint("127.0.0.1:8000")
