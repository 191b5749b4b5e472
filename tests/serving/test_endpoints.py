"""OpenAI's own client against the server; what it reads against the engine alone."""

import contextlib
import json
import math

import openai
import pytest

from openherd.inference import engine as engine_module
from openherd.inference.constraint import Constraint
from openherd.inference.engine import score
from openherd.inference.sampling import Sampled, Sampling
from openherd.model.weights import load_model
from openherd.serving import answers
from openherd.serving.protocol import ChatRequest
from openherd.serving.schemas import moved, schema_of
from openherd.tokenizer.dialog import encode_dialog
from openherd.tokenizer.special import END_OF_TURN, PYTHON_TAG
from openherd.tokenizer.tools import Preamble, write_calls
from small_server import CONTEXT, load, running

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say three words."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"days": {"type": "integer"}},
            "required": ["days"],
            "additionalProperties": False,
        },
    },
}


def chat(client, **more):
    return client.chat.completions.create(**{"model": "tiny", "messages": MESSAGES, "max_tokens": 24, "seed": 5, **more})


def joined(stream):
    """A stream as (text, finish reason, token log-probabilities, calls) of each choice, and its usage."""
    found, usage = {}, None
    for chunk in stream:
        assert chunk.object == "chat.completion.chunk"
        usage = chunk.usage or usage
        for choice in chunk.choices:
            mine = found.setdefault(choice.index, ["", None, [], []])
            mine[0] += choice.delta.content or ""
            mine[1] = choice.finish_reason
            mine[2] += choice.logprobs.content if choice.logprobs else []
            mine[3] += choice.delta.tool_calls or []
    return found, usage


def put_together(deltas):
    """Index, name and arguments of each call of a stream, and how many parts it came in."""
    calls = {}
    for delta in deltas:
        mine = calls.setdefault(delta.index, [delta.function.name, "", 0])
        assert bool(delta.id) == bool(delta.function.name) == (delta.type == "function") == (mine[2] == 0)
        mine[1] += delta.function.arguments
        mine[2] += 1
    return [(index, *call) for index, call in calls.items()]


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"temperature": 0, "n": 1},
        {"n": 3, "logprobs": True, "top_logprobs": 3, "top_p": 0.9},
        {"stop": ["e", "zz"], "extra_body": {"top_k": 40, "min_p": 0.01, "repetition_penalty": 1.1}},
        {"frequency_penalty": 1.5, "presence_penalty": -0.5, "logit_bias": {"70": 5, "71": -100}},
    ],
)
def test_a_stream_is_the_whole_answer_and_the_engines(client, alone, asked):
    whole = chat(client, **asked)
    parts, usage = joined(chat(client, stream=True, stream_options={"include_usage": True}, **asked))
    assert usage == whole.usage
    prompt = encode_dialog(alone.tokenizer, MESSAGES, generation_prompt=True).ids
    names = {"stop": "stop_strings", "max_tokens": "max_new_tokens"}
    settings = {names.get(k, k): v for k, v in {**asked, **asked.get("extra_body", {})}.items()}
    for name in ("n", "logprobs", "top_logprobs", "extra_body"):
        settings.pop(name, None)
    settings["stop_strings"] = tuple(settings.get("stop_strings", ()))
    settings["logit_bias"] = {int(token): bias for token, bias in settings.get("logit_bias", {}).items()}
    sampling = Sampling(max_new_tokens=24, seed=5, **{"temperature": 1.0, **settings}, logprobs=asked.get("top_logprobs", 0))
    first = alone(prompt, sampling)
    n_tokens = 0
    for choice in whole.choices:
        text, reason, logprobs, calls = parts[choice.index]
        assert (choice.message.content, choice.finish_reason, choice.message.tool_calls) == (text, reason, None)
        assert (choice.logprobs.content if choice.logprobs else []) == logprobs
        assert not calls
        n_tokens += len(logprobs)
    assert whole.choices[0].message.content == first.text
    assert whole.choices[0].finish_reason == first.finished
    if "logprobs" in asked:
        found = whole.choices[0].logprobs.content
        assert [token.logprob for token in found] == pytest.approx(first.logprobs, abs=1e-5)
        assert [bytes(token.bytes) for token in found] == [alone.tokenizer.decode_bytes([token]) for token in first.tokens]
        tops = [[bytes(other.bytes) for other in token.top_logprobs] for token in found]
        assert tops == [[alone.tokenizer.decode_bytes([token]) for token, _ in top] for top in first.top]
        assert n_tokens == usage.completion_tokens
        assert len({choice.message.content for choice in whole.choices}) == 3
    assert whole.usage.prompt_tokens == len(prompt)


def test_without_a_seed_answers_differ(client):
    assert len({chat(client, seed=None, max_tokens=20).choices[0].message.content for _ in range(3)}) == 3


def test_a_system_message_by_its_new_name_and_a_content_in_parts(client):
    parts = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Say three"}, {"type": "text", "text": " words."}]},
    ]
    assert chat(client, messages=parts).choices[0].message == chat(client).choices[0].message


def test_an_answer_can_be_sent_back_as_it_came(client):
    answer = chat(client).choices[0].message
    chat(client, messages=[*MESSAGES, answer, {"role": "user", "content": "Again."}], user="ann", store=False, metadata={})
    chat(client, messages=[*MESSAGES, answer.model_dump()], service_tier="auto", parallel_tool_calls=True)
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}", "parsed_arguments": {}}}  # by its parse()
    parsed = {"role": "assistant", "tool_calls": [call], "parsed": None}
    chat(client, messages=[MESSAGES[1], parsed, {"role": "tool", "tool_call_id": "1", "content": "3"}])


def test_an_answer_ends_at_the_context_and_at_the_servers_limit(client, directory):
    assert chat(client, max_tokens=None, extra_body={"ignore_eos": True}).usage.total_tokens == CONTEXT
    with running(load(directory), max_tokens=7) as server:
        with server.client() as other:
            assert chat(other, max_tokens=None, extra_body={"ignore_eos": True}).usage.completion_tokens == 7
            assert chat(other, max_tokens=7).usage.completion_tokens <= 7
            with pytest.raises(openai.BadRequestError) as refused:
                chat(other, max_tokens=8)
        assert refused.value.param == "max_tokens"


def test_completions(client, alone):
    asked = {"model": "tiny", "prompt": ["def main", "import"], "max_tokens": 9, "seed": 3, "logprobs": 2, "n": 2}
    whole = client.completions.create(**asked)
    parts = [*client.completions.create(**asked, stream=True, stream_options={"include_usage": True})]
    assert parts[-1].usage == whole.usage
    for choice in whole.choices:
        mine = [c for part in parts for c in part.choices if c.index == choice.index]
        assert "".join(c.text for c in mine) == choice.text
        assert [token for c in mine for token in c.logprobs.tokens] == choice.logprobs.tokens
        assert [offset for c in mine for offset in c.logprobs.text_offset] == choice.logprobs.text_offset
    tokenizer = alone.tokenizer
    prompt = [tokenizer.bos_id, *tokenizer.encode("def main")]
    first = alone(prompt, Sampling(max_new_tokens=9, seed=3, temperature=1.0, logprobs=2))
    assert (whole.choices[0].text, whole.choices[0].finish_reason) == (first.text, first.finished)
    assert whole.choices[0].logprobs.token_logprobs == pytest.approx(first.logprobs, abs=1e-5)
    by_id = client.completions.create(**{**asked, "prompt": prompt, "n": 1})
    assert by_id.choices[0].text == first.text
    assert client.completions.create(**{**asked, "prompt": [prompt, prompt], "n": 1}).choices[0].text == first.text


@pytest.mark.parametrize("stream", [False, True])
def test_an_echoed_prompt_has_the_models_log_probabilities(client, alone, directory, stream):
    tokenizer = alone.tokenizer
    texts = ["def main(a, b):" * 5, "x", ""]
    asked = {"model": "tiny", "prompt": texts, "max_tokens": 0, "echo": True, "logprobs": 1, "stream": stream}
    answer = client.completions.create(**asked)
    choices = [c for part in answer for c in part.choices] if stream else answer.choices
    model = load_model(directory)
    for choice in choices:
        ids = [tokenizer.bos_id, *tokenizer.encode(texts[choice.index])]
        wanted = score(model, [ids[:1]], [ids[1:]])[0].tolist()
        found = choice.logprobs
        assert (choice.text, choice.finish_reason, found.token_logprobs[0]) == (texts[choice.index], "length", None)
        assert found.token_logprobs[1:] == pytest.approx(wanted, abs=1e-5)
        assert [found.text_offset[i] for i in range(len(ids))] == [
            len(tokenizer.decode(t for t in ids[:i] if t not in tokenizer.special_ids)) for i in range(len(ids))
        ]
        for logprob, top in zip(found.token_logprobs[1:], found.top_logprobs[1:]):
            assert logprob <= max(top.values())
    assert len(choices) == 3
    torn = client.completions.create(**{**asked, "prompt": "aéb\u65e5", "stream": False}).choices[0].logprobs
    assert torn.text_offset == [0, 0, *(i for i, c in enumerate("aéb\u65e5") for _ in tokenizer.encode(c))][1:]
    with running(load(directory, most_tokens=16)) as server, server.client() as other:  # where answers are ready before the scores
        asked["max_tokens"] = 4
        by_parts = other.completions.create(**{**asked, "prompt": texts[:1], "seed": 1})
        found = [c for part in by_parts for c in part.choices] if stream else by_parts.choices
    n = len(tokenizer.encode(texts[0])) + 1
    scored = [logprob for choice in found for logprob in choice.logprobs.token_logprobs]
    assert scored[1:n] == pytest.approx(score(model, [[tokenizer.bos_id]], [tokenizer.encode(texts[0])])[0].tolist(), abs=1e-5)
    assert len(scored) == len([token for choice in found for token in choice.logprobs.tokens]) > n
    more = client.completions.create(**{**asked, "n": 2, "stream": False, "seed": 1})
    assert [choice.text[: len(texts[choice.index // 2])] for choice in more.choices] == [text for text in texts for _ in range(2)]


def test_models(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").max_model_len == CONTEXT
    for name in ("other", "../tiny", "tiny/x"):
        with pytest.raises(openai.NotFoundError) as refused:
            chat(client, model=name)
        assert (refused.value.param, refused.value.code) == ("model", "model_not_found")


def test_two_models_at_once(directory):
    with running(load(directory, "a"), load(directory, "b", most_texts=2)) as server, server.client() as client:
        assert [model.id for model in client.models.list()] == ["a", "b"]
        streams = {name: chat(client, model=name, stream=True) for name in ("a", "b")}
        texts = {name: joined(stream)[0][0][0] for name, stream in streams.items()}
        assert texts["a"] == texts["b"] == chat(client, model="b").choices[0].message.content


@pytest.fixture
def scripted(directory, monkeypatch):
    """A server whose model says what it is told, and what it was asked."""
    script = []

    def sample(logits_BV, requests, prompts, outputs, allowed_BV):
        tokens = [script[len(output)] for output in outputs]
        return Sampled(tokens, [-1.0] * len(tokens), [[] for _ in tokens])

    monkeypatch.setattr(engine_module, "sample", sample)
    with running(load(directory), tool_format="json") as server, server.client() as client:
        tokenizer = server.served.tokenizer

        def say(text, tagged=False):
            tag = [tokenizer.id(PYTHON_TAG)] if tagged else []
            script[:] = [*tag, *tokenizer.encode(text), tokenizer.id(END_OF_TURN)]
            return len(script) - 1

        yield client, say


@pytest.mark.parametrize("tool_format", ["json", "function", "python"])
@pytest.mark.parametrize("words", ["", "Let me see. "])
def test_calls_are_read_back(scripted, tool_format, words):
    client, say = scripted
    call = {"type": "function", "function": {"name": "weather", "arguments": {"days": 3, "where": "Zürich {[<"}}}
    written = write_calls("call", [call], Preamble(tool_format=tool_format))
    if words and tool_format != "function":
        pytest.skip("in this format nothing is said beside a call")
    n = say(words + written.text, written.tagged)
    asked = {"tools": [WEATHER], "max_tokens": 200, "extra_body": {"chat_template_kwargs": {"tool_format": tool_format}}}
    choice = chat(client, **asked).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == (words or None)
    assert [c.function.name for c in choice.message.tool_calls] == ["weather"]
    arguments = choice.message.tool_calls[0].function.arguments
    assert json.loads(arguments) == call["function"]["arguments"]
    parts = joined(chat(client, stream=True, logprobs=True, **asked))[0][0]
    assert parts[0] == words
    assert parts[1] == "tool_calls"
    [(index, name, streamed, n_parts)] = put_together(parts[3])
    assert (index, name, streamed) == (0, "weather", arguments)
    assert (n_parts > 5) == (tool_format != "python")
    with client.chat.completions.stream(model="tiny", messages=MESSAGES, **asked) as events:
        final = events.get_final_completion().choices[0].message
    assert (final.content or "", final.tool_calls[0].function.arguments) == (words, arguments)
    assert len(parts[2]) == n
    # And back: the call and its result go into the next prompt.
    if tool_format == "json":
        result = {"role": "tool", "tool_call_id": choice.message.tool_calls[0].id, "content": "sunny"}
        say("It is sunny.")
        assert chat(client, **asked, messages=[*MESSAGES, choice.message, result]).choices[0].message.content == "It is sunny."


@pytest.mark.parametrize(
    "said", ['{"type": "function", "name": "unknown", "parameters": {}}', '{"a": 1}', "[1, 2]", "{", "plain <function"]
)
def test_what_is_no_call_is_said(scripted, said):
    client, say = scripted
    say(said)
    for tool_format in ("json", "function", "python"):
        asked = {"tools": [WEATHER], "max_tokens": 200, "extra_body": {"chat_template_kwargs": {"tool_format": tool_format}}}
        assert chat(client, **asked).choices[0].message.content == said
        assert joined(chat(client, stream=True, **asked))[0][0][:2] == [said, "stop"]


@pytest.mark.parametrize(
    ("tool_format", "said"),
    [
        ("json", '{"name": "weather", "parameters": {"a": %s}}'),
        ("function", '<function=weather>{"a": %s}</function>'),
        ("python", "[weather(a=%s)]"),
    ],
)
def test_arguments_are_json_that_every_client_reads(scripted, tool_format, said):
    client, say = scripted
    asked = {"tools": [WEATHER], "max_tokens": 200, "extra_body": {"chat_template_kwargs": {"tool_format": tool_format}}}
    torn = said % r'"é\ud800"'  # half of a surrogate pair: JSON can spell it, UTF-8 cannot
    say(torn)
    message = chat(client, **asked).choices[0].message
    streamed = joined(chat(client, stream=True, **asked))[0][0][3]
    for call in (message.tool_calls[0], streamed[0]):
        assert json.loads(call.function.arguments) == {"a": "é\ud800"}
    say("Good.")
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "3"}
    assert chat(client, **asked, messages=[MESSAGES[1], message, result]).choices[0].message.content == "Good."
    for number in ("NaN", "1e999"):
        say(said % number)
        assert chat(client, **asked).choices[0].message.content == said % number


def test_a_stream_that_fails_by_a_bug_says_so(scripted, monkeypatch):
    client, say = scripted
    say('{"name": "weather", "parameters": {}}')
    monkeypatch.setattr(answers, "answered", lambda *_: 1 / 0)
    with pytest.raises(openai.APIError, match="a bug of the server's"):
        list(chat(client, tools=[WEATHER], max_tokens=200, stream=True))


def test_a_call_without_a_tag_and_one_that_is_cut(scripted):
    client, say = scripted
    text = '{"type": "function", "name": "weather", "parameters": {"days": 1}}'
    say(text)
    assert chat(client, tools=[WEATHER], max_tokens=200).choices[0].finish_reason == "tool_calls"
    assert chat(client, tools=[WEATHER], tool_choice="none", max_tokens=200).choices[0].message.content == text
    cut = chat(client, tools=[WEATHER], max_tokens=4).choices[0]
    assert cut.finish_reason == "length"
    assert text.startswith(cut.message.content)
    assert cut.message.content
    cut = chat(client, tools=[WEATHER], max_tokens=say(text) - 3).choices[0]
    assert (cut.finish_reason, cut.message.content) == ("length", None)
    assert '{"days": 1}'.startswith(cut.message.tool_calls[0].function.arguments)


@pytest.mark.parametrize(("behind", "said"), [(" and more", " and more"), ("\n", None), ("} ", "}")])
@pytest.mark.parametrize("order", ['"name": "weather", "parameters": {"days": 1}', '"parameters": {"days": 1}, "name": "weather"'])
def test_what_stands_behind_a_call_is_said(scripted, order, behind, said):
    client, say = scripted
    text = f"{{{order}}}{behind}"
    say(text)
    message = chat(client, tools=[WEATHER], max_tokens=200).choices[0].message
    if order.startswith('"name"') or said is None:
        assert (message.content, message.tool_calls[0].function.arguments) == (said, '{"days": 1}')
    else:
        assert (message.content, message.tool_calls) == (text, None)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_call_can_be_asked_for(client, choice):
    pytest.importorskip("llguidance")
    asked = {"tools": [WEATHER], "tool_choice": choice, "max_tokens": 300, "temperature": 0.7}
    found = chat(client, **asked).choices[0]
    assert found.finish_reason == "tool_calls"
    assert found.message.tool_calls[0].function.name == "weather"
    assert isinstance(json.loads(found.message.tool_calls[0].function.arguments)["days"], int)
    assert joined(chat(client, **asked, stream=True))[0][0][3][0].function.name == "weather"


def test_a_call_keeps_to_what_its_schema_refers_to(alone):
    pytest.importorskip("llguidance")
    one = {"type": "object", "properties": {"of": {"$ref": "#/$defs/leaf"}}, "required": ["of"], "additionalProperties": False}
    tools = [
        {"type": "function", "function": {"name": name, "parameters": {**one, "$defs": {"leaf": {"enum": [leaf]}}}}}
        for name, leaf in (("f", 7), ("g", "x"))
    ]
    request = ChatRequest.model_validate({"model": "tiny", "messages": MESSAGES, "tools": tools, "tool_choice": "required"})
    param, schema = schema_of(request, Preamble())
    assert param == "tool_choice"
    for name, leaf, fits in (("f", "7", True), ("g", '"x"', True), ("f", '"x"', False), ("g", "7", False)):
        constraint = Constraint.json_schema(schema, alone.tokenizer)
        text = f'{{"type": "function", "name": "{name}", "parameters": {{"of": {leaf}}}}}'
        with contextlib.nullcontext() if fits else pytest.raises(ValueError, match="not allowed here"):
            for token in alone.tokenizer.encode(text):
                constraint.accept(token)
        assert constraint.complete == fits


def test_a_schema_moves_as_a_whole():
    given = {"$defs": {"a": {"$ref": "#"}, "$ref": {"enum": [{"$ref": "#"}]}}, "anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "other"}]}
    assert moved(given, "#/x") == {
        "$defs": {"a": {"$ref": "#/x"}, "$ref": {"enum": [{"$ref": "#"}]}},
        "anyOf": [{"$ref": "#/x/$defs/a"}, {"$ref": "other"}],
    }


def test_answers_keep_to_a_schema(client):
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
    asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    for choice in chat(client, response_format=asked, n=3, max_tokens=100).choices:
        assert set(json.loads(choice.message.content)) == {"a"}
    assert chat(client, response_format={"type": "text"}).choices[0].message == chat(client).choices[0].message


def test_constraints_without_their_package_are_a_400(client, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    with pytest.raises(openai.BadRequestError, match="needs llguidance") as refused:
        chat(client, response_format={"type": "json_object"})
    assert refused.value.param == "response_format"


def test_a_request_that_no_token_can_follow_fails_alone(client):
    with pytest.raises(openai.BadRequestError, match="the answer: no token can be chosen") as refused:
        chat(client, extra_body={"repetition_penalty": 1e-40})
    assert refused.value.param is None
    assert chat(client).choices


def test_log_probabilities_are_finite_numbers(client):
    for token in chat(client, logprobs=True, top_logprobs=20, temperature=2).choices[0].logprobs.content:
        assert all(math.isfinite(other.logprob) for other in token.top_logprobs)
        assert len(token.top_logprobs) == 20
