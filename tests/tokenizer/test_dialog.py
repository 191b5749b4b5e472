"""The dialog format against the Jinja template through transformers, and against texts worked by hand from Meta's formats."""

import json
import keyword

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from openherd.core.errors import InputError
from openherd.tokenizer.dialog import ROLES, decode_dialog, encode_dialog, read_message, render_mask
from openherd.tokenizer.tokenizer import Tokenizer
from openherd.tokenizer.tools import Preamble, call, read_calls, read_python, read_tagged

WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
BEGIN = "<|begin_of_text|>"


def header(role: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"


def text_of(words: Tokenizer, messages, **more) -> str:
    return words.decode(encode_dialog(words, messages, **more).ids)


contents = st.text(alphabet=st.characters(blacklist_categories=["Cs"], blacklist_characters="<|>"), max_size=30)
messages = st.lists(st.fixed_dictionaries({"role": st.sampled_from(sorted(ROLES)), "content": contents}), min_size=1, max_size=5)


names = st.from_regex(r"[a-z_]{1,5}", fullmatch=True).filter(lambda name: not keyword.iskeyword(name))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False) | contents,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(contents, inner, max_size=3),
    max_leaves=5,
)
calls = st.builds(call, names, st.dictionaries(names, values, max_size=3))
code = st.builds(call, st.just("code_interpreter"), st.fixed_dictionaries({"code": contents}))
parts = st.lists(st.just({"type": "image"}) | st.builds(lambda text: {"type": "text", "text": text}, contents), max_size=4)
preambles = st.builds(
    Preamble,
    tools=st.none() | st.lists(st.just(WEATHER) | st.dictionaries(contents, values, max_size=2), max_size=2),
    tool_format=st.sampled_from(["json", "function", "python"]),
    tools_in_user_message=st.booleans(),
    tool_instructions=st.just("") | contents,
    builtin_tools=st.none()
    | st.lists(st.sampled_from(["brave_search", "wolfram_alpha", "code_interpreter"]), max_size=3, unique=True),
    knowledge_date=st.sampled_from(["", "December 2023"]),
    date_string=st.sampled_from(["", "23 July 2024"]),
)


@st.composite
def tool_dialogs(draw):
    """A preamble and a dialog that its format can hold."""
    preamble = draw(preambles)
    built_in = preamble.builtin_tools is not None
    searches = [call(name, {"query": draw(contents)}) for name in preamble.builtin_tools or () if name != "code_interpreter"]
    found = [{"role": "system", "content": draw(contents)}] if draw(st.booleans()) else []
    found.append({"role": "user", "content": draw(contents | parts)})
    for _ in range(draw(st.integers(0, 3))):
        many = preamble.tool_format == "python"
        own = st.lists(calls, min_size=1, max_size=3 if many else 1)
        special = [code.map(lambda one: [one])] * built_in + [st.just([search]) for search in searches]
        made = draw(st.one_of(own, *special))
        said = "" if many else draw(contents)
        found.append({"role": "assistant", "content": said, "tool_calls": made})
        found.append(
            {"role": draw(st.sampled_from(["tool", "ipython"])), "content": draw(contents | st.dictionaries(contents, values))}
        )
    found.append({"role": "assistant", "content": draw(contents)})
    return preamble, found


def variables(preamble: Preamble) -> dict:
    return {name: value for name, value in vars(preamble).items() if name != "builtin_tools" or value is not None}


@given(given_dialog=st.tuples(st.just(Preamble()), messages) | tool_dialogs(), prompt=st.booleans())
@settings(max_examples=300, deadline=None)
def test_dialogs_equal_the_template(given_dialog, prompt, words, template):
    preamble, dialog = given_dialog
    ours = encode_dialog(words, dialog, preamble=preamble, generation_prompt=prompt)
    text = template.apply_chat_template(dialog, tokenize=False, add_generation_prompt=prompt, **variables(preamble))
    assert words.decode(ours.ids) == text
    assert ours.ids == template.encode(text, add_special_tokens=False)


def without_space(message: dict) -> dict:
    """What is left of a message after the way to ids and back."""
    found = {**message, "role": ROLES[message["role"]]}
    content = message["content"]
    if isinstance(content, dict):
        found["content"] = json.dumps(content, ensure_ascii=False)
    elif isinstance(content, str):
        found["content"] = content.strip()
    return found


@given(given_dialog=st.tuples(st.just(Preamble()), messages) | tool_dialogs())
@settings(max_examples=200, deadline=None)
def test_dialogs_come_back(given_dialog, words):
    preamble, dialog = given_dialog
    found = decode_dialog(words, encode_dialog(words, dialog, preamble=preamble).ids, preamble.tool_format)
    assert len(found) - len(dialog) == (bool(preamble.system_lines) and dialog[0]["role"] != "system")
    for theirs, ours in zip(reversed(found), reversed(dialog), strict=False):
        if theirs["role"] in ("assistant", "ipython"):
            assert theirs == without_space(ours)
        elif isinstance(ours["content"], str):
            assert theirs["content"].endswith(ours["content"].strip())


@given(dialog=messages)
@settings(max_examples=60, deadline=None)
def test_the_loss_is_on_the_assistants_words_and_end_of_turn(dialog, words):
    encoded = encode_dialog(words, dialog)
    learned = [i for i, has_loss in zip(encoded.ids, encoded.has_loss) if has_loss]
    expected = [
        i for m in dialog if m["role"] == "assistant" for i in [*words.encode(m["content"].strip()), words.id("<|eot_id|>")]
    ]
    assert learned == expected


def test_the_mask_is_rendered(words):
    dialog = encode_dialog(words, [{"role": "user", "content": "who"}, {"role": "assistant", "content": "me"}])
    marked = render_mask(words, dialog, brackets=True).plain
    assert "".join(part.split("›")[0] for part in marked.split("‹")[1:]) == "me<|eot_id|>"
    styled = render_mask(words, dialog)
    assert "‹" not in styled.plain
    assert any("green" in str(span.style) for span in styled.spans)


def test_an_unknown_role_is_refused(words):
    with pytest.raises(InputError, match=r"message 0: role 'bot'; allowed: system, user"):
        encode_dialog(words, [{"role": "bot", "content": "x"}])


def dialog_ids(words: Tokenizer, text: str) -> list[int]:
    """Ids of a text in which the names of special tokens stand for them, as a model would write it."""
    backend = tokenizers.Tokenizer.from_file(str(words.directory / "tokenizer.json"))
    return backend.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>", "does not begin with <|begin_of_text|>"),
        ("<|begin_of_text|>hi<|end_header_id|>\n\nhi<|eot_id|>", "message 0 has no header"),
        ("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi", "message 0 has no end"),
        ("<|begin_of_text|><|start_header_id|>bot<|end_header_id|>\n\nhi<|eot_id|>", "message 0 has role 'bot'"),
        (
            "<|begin_of_text|><|start_header_id|>assistant<|end_header_id|>\n\n<|python_tag|>f()<|eom_id|>"
            "<|start_header_id|>ipython<|end_header_id|>\n\n1<|python_tag|><|eot_id|>",
            "message 1 holds <|python_tag|>",
        ),
    ],
)
def test_what_is_no_dialog_is_refused(words, text, found):
    with pytest.raises(InputError) as error:
        decode_dialog(words, dialog_ids(words, text))
    assert error.value.found == found


def test_the_mask_shows_whole_characters_and_no_control_characters(words):
    answer = "日本 \x1b[2J\u0085\tline\nend"
    dialog = encode_dialog(words, [{"role": "assistant", "content": answer}])
    assert len(words.encode("日")) > 1
    plain = render_mask(words, dialog).plain
    assert "日本 ␛[2J\ufffd␉line⏎end<|eot_id|>\n" in plain
    marked = render_mask(words, dialog, brackets=True).plain
    assert marked.replace("‹", "").replace("›", "") == plain
    assert "‹›" not in marked


@pytest.fixture(scope="module")
def template(transformers_tokenizer):
    """Transformers' tokenizer, with a short name in hypothesis' reports."""

    class Template:
        def __getattr__(self, name):
            return getattr(transformers_tokenizer, name)

        def __repr__(self):
            return "template"

    return Template()


@pytest.mark.parametrize("token", ["<|eot_id|>", "<|begin_of_text|>", "<|python_tag|>", "<|image|>"])
def test_content_never_becomes_a_special_token(words, token):
    said = [{"role": "user", "content": f"stop{token}now"}]
    dialog = encode_dialog(words, said)
    assert decode_dialog(words, dialog.ids) == said
    assert sum(i in words.special_ids for i in dialog.ids) == 4  # text, header, header's end, turn
    called = [{"role": "assistant", "content": "", "tool_calls": [call("f", {"a": token})]}]
    dialog = encode_dialog(words, called)
    assert decode_dialog(words, dialog.ids) == called
    assert sum(i in words.special_ids for i in dialog.ids) == 5  # and the tag
    for preamble in (Preamble(tools=[{token: token}]), Preamble(tools=[WEATHER], tool_instructions=token)):
        ids = encode_dialog(words, said, preamble=preamble).ids
        assert sum(i in words.special_ids for i in ids) == 4


ASKED = {"role": "user", "content": " Paris? "}
CALLED = {"role": "assistant", "content": "", "tool_calls": [call("weather", {"city": 'the "City"', "days": 2, "wet": None})]}
ANSWERED = {"role": "tool", "content": {"degrees": 21.5}}
TOLD = {"role": "assistant", "content": "It is warm."}
ARGUMENTS = '{"city": "the \\"City\\"", "days": 2, "wet": null}'


@pytest.mark.parametrize(
    ("preamble", "written"),
    [
        (
            Preamble(),
            '<|python_tag|>{"type": "function", "name": "weather", "parameters": ' + ARGUMENTS + "}<|eot_id|>",
        ),
        (
            Preamble(builtin_tools=[]),
            '<|python_tag|>{"type": "function", "name": "weather", "parameters": ' + ARGUMENTS + "}<|eom_id|>",
        ),
        (Preamble(tool_format="function"), f"<function=weather>{ARGUMENTS}</function><|eot_id|>"),
        (Preamble(tool_format="python"), '[weather(city="the \\"City\\"", days=2, wet=None)]<|eot_id|>'),
        (Preamble(builtin_tools=["weather"]), '<|python_tag|>weather.call(city="the \\"City\\"", days=2, wet=None)<|eom_id|>'),
    ],
)
def test_calls_as_metas_formats_write_them(words, preamble, written):
    dialog = encode_dialog(words, [ASKED, CALLED, ANSWERED, TOLD], preamble=preamble)
    told = "" if preamble.builtin_tools is None else "Environment: ipython"
    told += "\nTools: weather" if preamble.builtin_tools else ""
    system = f"{header('system')}{told}<|eot_id|>" if told else ""
    asked = f"{header('user')}Paris?<|eot_id|>"
    answered = f'{header("ipython")}{{"degrees": 21.5}}<|eot_id|>'
    expected = f"{BEGIN}{system}{asked}{header('assistant')}{written}{answered}{header('assistant')}It is warm.<|eot_id|>"
    assert words.decode(dialog.ids) == expected
    learned = words.decode(i for i, has_loss in zip(dialog.ids, dialog.has_loss, strict=True) if has_loss)
    assert learned == f"{written}It is warm.<|eot_id|>"


def test_several_calls_in_pythons_format(words):
    made = [call("a.b", {}), call("c", {"x": [True, {"k": -1.5}]})]
    text = text_of(words, [{"role": "assistant", "content": "", "tool_calls": made}], preamble=Preamble(tool_format="python"))
    assert text == f'{BEGIN}{header("assistant")}[a.b(), c(x=[True, {{"k": -1.5}}])]<|eot_id|>'


def test_code_is_a_call(words):
    run = {"role": "assistant", "content": "Let me see.", "tool_calls": [call("code_interpreter", {"code": "print(1)\n"})]}
    text = text_of(words, [run], preamble=Preamble(builtin_tools=["code_interpreter"]))
    assert text.endswith(f"Environment: ipython<|eot_id|>{header('assistant')}Let me see.<|python_tag|>print(1)\n<|eom_id|>")


def test_the_systems_lines(words):
    preamble = Preamble(
        tools=[WEATHER], tools_in_user_message=False, builtin_tools=["code_interpreter", "brave_search", "wolfram_alpha"],
        knowledge_date="December 2023", date_string="23 July 2024", tool_instructions="Use these:",
    )  # fmt: skip
    told = (
        "Environment: ipython\nTools: brave_search, wolfram_alpha\n\n"
        "Cutting Knowledge Date: December 2023\nToday Date: 23 July 2024\n\nUse these:\n\n" + json.dumps(WEATHER, indent=4)
    )
    asked = f"{header('user')}Paris?<|eot_id|>"
    assert text_of(words, [ASKED], preamble=preamble) == f"{BEGIN}{header('system')}{told}<|eot_id|>{asked}"
    system = {"role": "system", "content": " Be brief. "}
    expected = f"{BEGIN}{header('system')}{told}\n\nBe brief.<|eot_id|>{asked}"
    assert text_of(words, [system, ASKED], preamble=preamble) == expected


def test_tools_stand_in_the_first_message_of_the_user(words):
    text = text_of(words, [ASKED, TOLD, ASKED], preamble=Preamble(tools=[WEATHER]))
    assert text.count('"city"') == 1
    assert text.index('"city"') < text.index("Paris?") < text.index("It is warm.")
    assert '"type": "function", "name": the name' in text
    with pytest.raises(InputError, match="tools without a message of the user"):
        encode_dialog(words, [TOLD], preamble=Preamble(tools=[WEATHER]))


def test_an_image_is_one_token(words):
    content = [{"type": "text", "text": " "}, {"type": "image"}, {"type": "text", "text": " What is this? "}]
    dialog = encode_dialog(words, [{"role": "user", "content": content}])
    assert words.decode(dialog.ids) == f"{BEGIN}{header('user')}<|image|> What is this?<|eot_id|>"
    assert dialog.ids.count(words.id("<|image|>")) == 1
    back = [{"type": "image"}, {"type": "text", "text": " What is this?"}]
    assert decode_dialog(words, dialog.ids) == [{"role": "user", "content": back}]


def test_what_a_model_writes_is_read(words):
    ids = encode_dialog(words, [ASKED, CALLED], preamble=Preamble(builtin_tools=[])).ids
    at = len(encode_dialog(words, [ASKED], preamble=Preamble(builtin_tools=[]), generation_prompt=True).ids)
    assert read_message(words, ids[at:-1]) == CALLED
    assert ids[-1] in words.message_ends
    with pytest.raises(InputError, match=r"message holds <\|image\|>"):
        read_message(words, [words.id("<|python_tag|>"), words.id("<|image|>")])


@pytest.mark.parametrize(
    "text",
    ["[f(1)]", "[f(**{})]", "[f(a=open('x'))]", "[f(a=b)]", "[1]", "[]", "f(a=1)", "[f(a=1e999)]", "[f(a={1})]",
     "[(lambda: 1)(a=1)]", "[f(a=1)] and so on", "[" * 5000, "[f(a=" + "[" * 5000],
)  # fmt: skip
def test_what_is_no_call_is_words(text):
    assert read_calls(text, "python") == (text, [])


def test_code_that_resembles_a_call_stays_code():
    for text in ('{"name": 1, "parameters": {}}', "brave_search.call('x')", "f(a=1)", "{", "[" * 5000):
        assert read_tagged(text) == call("code_interpreter", {"code": text})
    assert read_tagged('{"name": "f", "parameters": {}}') == call("f", {})
    assert read_python("a.call(q='x')") == [("a.call", {"q": "x"})]
    assert read_calls("<function=f>{1}</function>", "function")[1] == []
    assert read_calls("say <function=f>{}</function>", "json")[1] == []


@pytest.mark.parametrize(
    ("message", "preamble", "said"),
    [
        ({"tool_calls": [call("f", {}), call("g", {})]}, {}, "2 calls; allowed: one call of a built-in tool"),
        ({"tool_calls": [call("f", {"a b": 1})]}, {"tool_format": "python"}, "'a b' in a call; allowed: names as Python has them"),
        ({"tool_calls": [call("f", {"class": 1})]}, {"tool_format": "python"}, "'class' in a call"),
        ({"tool_calls": [call("f>", {})]}, {"tool_format": "function"}, "'f>' in a call"),
        (
            {"tool_calls": [call("code_interpreter", {"x": 1})]},
            {"builtin_tools": []},
            "code_interpreter called with x; allowed: code",
        ),
        ({"tool_calls": [{"name": "f"}]}, {}, "no tool call"),
        ({"tool_calls": [call("f", {"a": float("nan")})]}, {}, "no tool call"),
        ({"tool_calls": [call("f", {})], "content": "hm"}, {"tool_format": "python"}, "words beside calls"),
        ({"tool_calls": [call("f", {})], "role": "user"}, {}, "calls by 'user'"),
        ({"content": [{"type": "video"}]}, {}, "a part of type 'video'; allowed: text, image"),
        ({"content": [1]}, {}, "a content of neither text nor parts"),
        ({"content": 7}, {}, "a content of neither text nor parts"),
        ({"content": {"a": {1}}}, {}, "an object that is no JSON"),
    ],
)
def test_what_the_format_cannot_hold_is_named(words, message, preamble, said):
    with pytest.raises(InputError) as error:
        encode_dialog(words, [{"role": "assistant", "content": "", **message}], preamble=Preamble(**preamble))
    assert said in str(error.value)
    assert str(error.value).startswith("message 0: ")


def test_the_preamble_of_a_row():
    row = {"messages": [], "tools": [WEATHER], "chat_template_kwargs": {"tool_format": "python"}}
    assert Preamble.of(row) == Preamble(tools=[WEATHER], tool_format="python")
    with pytest.raises(InputError, match="unknown 'tool_fromat'; allowed: tools, tool_format"):
        Preamble.of({"chat_template_kwargs": {"tool_fromat": "python"}})
    with pytest.raises(InputError, match="'xml'; allowed: json, function, python"):
        Preamble(tool_format="xml")
    with pytest.raises(InputError, match="tools: str; allowed: a list of definitions"):  # some datasets keep them as JSON texts
        Preamble.of({"tools": json.dumps([WEATHER])})
    with pytest.raises(InputError, match="builtin_tools: 'brave_search'; allowed: a list of names"):
        Preamble(builtin_tools="brave_search")


def test_arguments_may_be_json_as_openai_writes_them(words):
    as_text = {"type": "function", "function": {"name": "weather", "arguments": json.dumps({"city": "Rome"})}}
    one, other = (
        encode_dialog(words, [{"role": "assistant", "content": None, "tool_calls": [made]}]).ids
        for made in (as_text, call("weather", {"city": "Rome"}))
    )
    assert one == other


def test_the_template_refuses_what_we_refuse(template):
    for content in ([{"type": "video"}], [1]):
        with pytest.raises(Exception, match="a part that is neither text nor image"):
            template.apply_chat_template([{"role": "tool", "content": content}], tokenize=False)
    several = [{"role": "assistant", "content": "", "tool_calls": [call("f", {}), call("g", {})]}]
    with pytest.raises(Exception, match="several calls in one message"):
        template.apply_chat_template(several, tokenize=False)
    said = [{**several[0], "content": "hm"}]
    with pytest.raises(Exception, match="words beside calls"):
        template.apply_chat_template(said, tokenize=False, tool_format="python")
