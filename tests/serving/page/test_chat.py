"""The page at work: a real browser, a real server, models that nobody trained."""

import json
import re
from pathlib import Path

import pytest

GONE = r"ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE"
SOME_TEXT = re.compile(r"[\s\S]{20}")
LONG = {"sampling": {"temperature": "0", "max_tokens": "1500"}}


def rows_of(page, button: str) -> list[dict]:
    """What a button of the sidebar saves."""
    page.locator("#data").evaluate("details => details.open = true")
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    return [json.loads(line) for line in Path(download.value.path()).read_text(encoding="utf-8").splitlines()]


def text_of(answer) -> str:
    """An answer as the page keeps it, whatever is drawn."""
    return answer.page.evaluate(
        "id => JSON.parse(localStorage[`openherd.conversation.${id}`]).exchanges.at(-1).sides[0].answers.at(-1).text",
        current(answer.page),
    )


def current(page) -> str:
    """Id of the conversation that is open, written out."""
    page.evaluate("dispatchEvent(new Event('pagehide'))")
    return page.evaluate("location.hash.slice(1)")


def answered_by(page, status: int = 200, body: str = "", **headers: str) -> None:
    """Have the next chat completions answered with this."""
    kind = "application/json" if body.startswith("{") else "text/event-stream"
    page.route(
        "**/v1/chat/completions", lambda route: route.fulfill(status=status, body=body, headers={"Content-Type": kind, **headers})
    )


def stream_of(text: str, end: str = "data: [DONE]\n\n", reason: str = "stop") -> str:
    """A stream that says this."""
    return f"data: {json.dumps({'choices': [{'delta': {'content': text}, 'finish_reason': reason}]})}\n\n{end}"


def test_an_answer_streams(open_page, server, say):
    page = open_page({"sampling": {"temperature": "0", "max_tokens": "300"}})
    page.evaluate("""() => {
        window.lengths = [];
        new MutationObserver(() => lengths.push(document.querySelector(".answer .body")?.textContent.length ?? 0))
            .observe(document.getElementById("thread"), { childList: true, subtree: true, characterData: true });
    }""")
    answer = say(page, "Tell me about modules.", wait=False)
    page.locator(".answer[aria-busy=true]").wait_for()
    page.locator("#send").wait_for()
    assert answer.get_attribute("aria-busy") == "false"
    assert len(set(page.evaluate("lengths"))) > 5, "the text came in one piece"
    asked = {"messages": [{"role": "user", "content": "Tell me about modules."}], "temperature": 0, "max_tokens": 300}
    alone = server.ask(model=page.locator("#models select").input_value(), **asked)
    assert text_of(answer) == alone["choices"][0]["message"]["content"]
    assert "300 tokens" in answer.locator(".speed").inner_text()
    assert re.search(r"First token [\d.]+ m?s", answer.locator(".speed").inner_text())
    assert re.search(r"[\d.]+ tokens/s", answer.locator(".speed").inner_text())
    assert "Ended at the most tokens." in answer.inner_text()
    assert page.locator("#announcer").inner_text() != ""


@pytest.mark.parametrize("how", ["button", "Escape"])
def test_stop(open_page, say, how):
    page = open_page(LONG)
    answer = say(page, "Go on and on.", wait=False)
    page.locator(".answer .body").filter(has_text=SOME_TEXT).wait_for()
    if how == "button":
        page.get_by_role("button", name="Stop").click()
    else:
        page.keyboard.press("Escape")
    answer.get_by_text("Stopped.").wait_for()
    text = text_of(answer)
    page.wait_for_timeout(300)
    assert text_of(answer) == text != ""
    assert page.evaluate("document.activeElement.id") == "draft"
    say(page, "And now this.", wait=False)  # the conversation goes on
    page.get_by_role("button", name="Stop").click()
    assert page.locator(".exchange").count() == 2


def test_regenerate_and_turn_over(page, say):
    answer = say(page, "Hello")
    page.get_by_label("Regenerate").click()
    page.get_by_text("2 of 2").wait_for()
    page.locator("#send").wait_for()
    page.get_by_label("The answer before").click()
    page.get_by_text("1 of 2").wait_for()
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "The answer before"
    say(page, "More")
    assert page.locator(".exchange").first.get_by_label("The answer before").count() == 0  # what follows continues this one
    assert answer.count() == 1


def test_an_edited_turn_is_answered_anew_and_can_be_undone(page, say):
    say(page, "First")
    say(page, "Second")
    page.get_by_label("Edit your message and have it answered anew").first.click()
    page.get_by_label("Text").fill("Another first")
    page.keyboard.press("Enter")
    page.locator("#send").wait_for()
    assert page.locator(".prompt .text").all_inner_texts() == ["Another first"]
    page.get_by_role("button", name="Undo").click()
    assert page.locator(".prompt .text").all_inner_texts() == ["First", "Second"]
    page.get_by_label("Edit your message and have it answered anew").last.click()
    page.get_by_label("Text").fill("Never mind")
    page.keyboard.press("Escape")
    assert page.locator(".prompt .text").all_inner_texts() == ["First", "Second"]


def test_an_edited_answer_is_what_the_model_goes_on_from(page, say):
    say(page, "What is 1 + 1?")
    page.get_by_label("Edit the answer").click()
    page.get_by_label("Text").fill("It is **two**.")
    page.get_by_role("button", name="Keep").click()
    assert page.locator(".answer strong").last.inner_text() == "two"
    with page.expect_request("**/v1/chat/completions") as request:
        say(page, "And 2 + 2?")
    assert request.value.post_data_json["messages"] == [
        {"role": "user", "content": "What is 1 + 1?"},
        {"role": "assistant", "content": "It is **two**."},
        {"role": "user", "content": "And 2 + 2?"},
    ]


def test_settings_reach_the_request(page, say):
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("System prompt").fill("Be brief.")
    given = {
        "Temperature": "0.5", "Top-p": "0.9", "Top-k": "40", "Min-p": "0.02", "Repetition penalty": "1.1",
        "Presence penalty": "0.1",
        "Frequency penalty": "-0.1", "Most tokens": "12", "Seed": "7", "Stop at": "END\\n\nnever",
    }  # fmt: skip
    for label, value in given.items():
        page.get_by_label(label, exact=True).fill(value)
    with page.expect_request("**/v1/chat/completions") as request:
        answer = say(page, "Hello")
    body = request.value.post_data_json
    assert body.pop("model")
    assert body == {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
        "stream": True, "stream_options": {"include_usage": True}, "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.02,
        "repetition_penalty": 1.1, "presence_penalty": 0.1, "frequency_penalty": -0.1, "max_tokens": 12, "seed": 7,
        "stop": ["END\n", "never"],
    }  # fmt: skip
    assert answer.locator(".error").count() == 0
    page.get_by_role("button", name="Leave all of these to the server").click()
    page.reload()
    page.get_by_role("button", name="Settings", exact=True).click()
    assert page.get_by_label("Temperature", exact=True).input_value() == ""
    assert page.get_by_label("System prompt").input_value() == "Be brief."


def test_conversations_survive_a_reload(page, say):
    say(page, "The first conversation")
    page.keyboard.press("Control+k")
    say(page, "The second conversation")
    page.get_by_label("Message", exact=True).fill("a draft\nof two lines")
    before = page.locator("#thread").inner_text()
    page.reload()
    page.get_by_text("The second conversation").first.wait_for()
    assert page.locator("#thread").inner_text() == before
    assert page.get_by_label("Message", exact=True).input_value() == "a draft\nof two lines"
    assert page.locator("#list .title").all_inner_texts() == ["The second conversation", "The first conversation"]
    page.get_by_role("button", name="The first conversation", exact=True).click()
    assert page.locator(".prompt .text").all_inner_texts() == ["The first conversation"]
    assert page.get_by_label("Message", exact=True).input_value() == ""
    page.get_by_role("button", name="Delete: The first conversation").click()
    assert page.locator("#list .title").count() == 1
    page.get_by_role("button", name="Undo").click()
    assert page.locator("#list .title").count() == 2


def test_a_reload_while_an_answer_is_written(open_page, say):
    page = open_page(LONG)
    say(page, "Go on and on.", wait=False)
    page.locator(".answer .body").filter(has_text=SOME_TEXT).wait_for()
    page.reload()
    page.get_by_text("The page was closed while this was written.").wait_for()
    assert page.locator(".answer .body").inner_text() != ""
    page.get_by_label("Regenerate").click()
    page.locator(".answer[aria-busy=true]").wait_for()


def test_the_server_is_killed_and_started_again_under_an_open_page(open_page, server, say):
    page = open_page(LONG)
    page.expected.append(GONE)
    say(page, "Before", wait=False)
    page.locator(".answer .body").filter(has_text=SOME_TEXT).wait_for()
    server.kill()
    try:
        page.locator(".answer .error").get_by_text("The connection broke off before the answer ended.").wait_for()
        kept = page.locator(".answer .body").inner_text()
        assert kept
        say(page, "Meanwhile")
        page.locator(".exchange").last.locator(".error").get_by_text("The server does not answer.").wait_for()
        page.get_by_label("Message", exact=True).fill("a draft")
        page.locator("#notice").get_by_text("The server does not answer.").wait_for()
    finally:
        server.start()
    page.locator("#notice").get_by_text("The server does not answer.").wait_for(state="detached")
    assert page.locator(".answer .body").first.inner_text() == kept
    assert page.get_by_label("Message", exact=True).input_value() == "a draft"
    page.get_by_role("button", name="Try again").last.click()
    page.locator(".exchange").last.locator(".answer[aria-busy=true]").wait_for()
    page.keyboard.press("Escape")
    assert page.get_by_label("Message", exact=True).input_value() == "a draft"


def test_storage_that_is_forbidden(open_page, say):
    page = open_page(
        init="Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError') } })"
    )
    page.get_by_text("This browser keeps nothing for this page").wait_for()
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("Most tokens").fill("8")
    page.get_by_label("Temperature", exact=True).fill("0")
    say(page, "Hello")
    page.keyboard.press("Control+k")
    page.get_by_role("button", name="Hello", exact=True).click()
    assert page.locator(".answer .body").inner_text() != ""


@pytest.mark.slow
def test_storage_that_is_full(open_page, say):
    page = open_page({"tokens": True})
    say(page, "Its probabilities give way")
    fill = "(n) => { try { for (let i = 0; ; i++) localStorage[`other${n}${i}`] = 'x'.repeat(n) } catch {} }"
    current(page)
    for n in (100_000, 1000, 10):
        page.evaluate(fill, n)
    say(page, "There is room for this one")
    assert current(page)
    for n in (1000, 10, 1):
        page.evaluate(fill, n)
    page.get_by_label("Message", exact=True).fill("but not for this. " * 200)
    page.get_by_text("The browser's storage is full").wait_for()
    assert page.locator(".prompt .text").all_inner_texts() == ["Its probabilities give way", "There is room for this one"]
    page.evaluate("for (const name of Object.keys(localStorage)) if (name.startsWith('other')) delete localStorage[name]")
    page.get_by_label("Message", exact=True).fill("There is room again")
    page.get_by_text("The browser's storage is full").wait_for(state="detached")
    page.reload()
    assert page.get_by_label("Message", exact=True).input_value() == "There is room again"
    assert page.locator(".prompt .text").count() == 2


def test_a_conversation_is_open_in_one_tab(open_page, say):
    """A second tab begins anew, is kept from what the first writes, and gets all of it when that is done."""
    page = open_page(LONG)
    other = open_page(same_as=page)
    answer = say(page, "From the first tab", wait=False)
    page.locator(".answer .body").filter(has_text=SOME_TEXT).wait_for()
    mine = current(page)
    other.get_by_role("button", name="From the first tab", exact=True).click()
    other.get_by_text("“From the first tab” is being written in another tab.").wait_for()
    assert other.locator(".exchange").count() == 0
    other.get_by_label("Message", exact=True).fill("a draft")
    assert answer.get_attribute("aria-busy") == "true"
    page.keyboard.press("Escape")
    answer.get_by_text("Stopped.").wait_for()
    assert other.get_by_label("Message", exact=True).input_value() == "a draft"
    whole = text_of(answer)
    page.get_by_label("Message", exact=True).fill("half a")
    other.get_by_role("button", name="Open it here").click()
    page.get_by_text("“From the first tab” was opened in another tab.").wait_for()
    assert page.locator(".exchange").count() == 0
    draft = other.get_by_label("Message", exact=True)
    while draft.input_value() != "half a":
        other.wait_for_timeout(20)
    draft.press_sequentially(" message")
    draft.press("Enter")
    other.locator("#send").wait_for()
    assert current(other) == mine
    kept = page.evaluate("id => JSON.parse(localStorage[`openherd.conversation.${id}`]).exchanges", mine)
    assert [exchange["prompt"] for exchange in kept] == ["From the first tab", "half a message"]
    assert kept[0]["sides"][0]["answers"][0]["text"] == whole
    page.get_by_role("button", name="From the first tab", exact=True).click()
    assert page.locator(".prompt .text").all_inner_texts() == ["From the first tab", "half a message"]
    other.get_by_text("was opened in another tab.").wait_for()


@pytest.mark.slow
def test_an_answer_being_written_is_taken_to_another_tab(open_page, say):
    page = open_page(LONG)
    say(page, "Go on and on.", wait=False)
    page.locator(".answer .body").filter(has_text=SOME_TEXT).wait_for()
    address = page.url
    other = open_page(same_as=page, path=f"#{current(page)}")
    assert page.url == address
    other.get_by_role("button", name="Open it here").click()
    other.get_by_text("Stopped.").wait_for()
    page.get_by_text("“Go on and on.” was opened in another tab.").wait_for()
    page.get_by_role("button", name="Open it here").click()
    page.get_by_text("Stopped.").wait_for()
    page.get_by_label("Edit your message and have it answered anew").click()
    page.get_by_label("Text").fill("half a text")
    page.evaluate("dispatchEvent(new Event('pagehide'))")
    other.get_by_role("button", name="Go on and on.", exact=True).click()
    other.get_by_text("is being written in another tab.").wait_for()
    assert page.get_by_label("Text").input_value() == "half a text"


def test_two_models_and_preferences(open_page, say):
    page = open_page({"compare": True})
    answers = say(page, "Which is better?")
    names = [select.input_value() for select in page.locator("#models select").all()]
    assert len(set(names)) == 2
    assert answers.locator("header").all_inner_texts() == names
    answers.nth(1).get_by_label("Good answer").click()
    assert answers.nth(1).get_by_label("Good answer").get_attribute("aria-pressed") == "true"
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Good answer"
    [pair] = rows_of(page, "Export preference pairs")
    prompt = [{"role": "user", "content": "Which is better?"}]
    texts = [
        page.evaluate(
            f"""JSON.parse(localStorage['openherd.conversation.{current(page)}']).exchanges[0].sides[{i}].answers[0].text"""
        )
        for i in (0, 1)
    ]
    assert pair == {
        "prompt": prompt, "chosen": [{"role": "assistant", "content": texts[1]}],
        "rejected": [{"role": "assistant", "content": texts[0]}],
        "chosen_model": names[1], "rejected_model": names[0], "edited": False,
    }  # fmt: skip
    assert rows_of(page, "Export single ratings") == [
        {"prompt": prompt, "completion": [{"role": "assistant", "content": texts[1]}], "label": True, "model": names[1]}
    ]
    with page.expect_request(lambda request: request.post_data and names[1] in request.post_data) as request:
        say(page, "Go on")
    assert request.value.post_data_json["messages"][1]["content"] == texts[1]  # each model goes on from its own answer


def test_tokens(open_page, server, say):
    page = open_page({"tokens": True})
    answer = say(page, "Hello")
    tokens = answer.locator(".tokens .token")
    assert tokens.count() == 24
    asked = {
        "messages": [{"role": "user", "content": "Hello"}],
        "temperature": 0,
        "max_tokens": 24,
        "logprobs": True,
        "top_logprobs": 5,
    }
    entry = server.ask(model=page.locator("#models select").input_value(), **asked)["choices"][0]["logprobs"]["content"][3]
    tokens.nth(3).hover()
    alternatives = page.locator("#alternatives .alternative")
    assert alternatives.count() == 5
    share = float(alternatives.first.locator(".share").evaluate("bar => bar.style.getPropertyValue('--share')"))
    assert share == pytest.approx(2.718281828 ** entry["top_logprobs"][0]["logprob"], abs=1e-3)
    assert "taken" in alternatives.first.get_attribute("class")  # greedy
    tokens.nth(5).focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement === document.querySelectorAll('.tokens .token')[6]")
    page.keyboard.press("Escape")
    assert page.locator("#alternatives").is_hidden()
    doubts = [float(t.evaluate("t => t.style.getPropertyValue('--doubt')")) for t in tokens.all()]
    assert all(0 <= doubt <= 1 for doubt in doubts)
    page.reload()
    assert answer.locator(".tokens .token").count() == 24
    page.get_by_role("button", name="Tokens").click()
    assert page.locator(".tokens").count() == 0
    say(page, "Without")
    page.get_by_role("button", name="Tokens").click()
    page.get_by_text("No probabilities were asked for with this answer").wait_for()


def test_what_the_server_refuses_is_said_in_a_line(page, say):
    page.expected.append("Failed to load resource: the server responded with a status of")
    error = '{"error": {"message": "%s", "type": "invalid_request_error", "param": %s, "code": null}}'
    answered_by(page, 429, error % ("busy", "null"), **{"Retry-After": "3"})
    answer = say(page, "Hello")
    assert answer.locator(".error").inner_text().startswith("The server has as many requests as it takes. Try again in 3 s.")
    page.unroute_all()
    page.get_by_role("button", name="Try again").click()
    page.get_by_label("Good answer").wait_for()
    answered_by(page, 400, error % ("temperature: 9, allowed are 0 to 2", '"temperature"'))
    answer = say(page, "Hot")
    assert answer.locator(".error").inner_text().startswith("temperature: 9, allowed are 0 to 2")
    answer.get_by_role("button", name="Open the settings").click()
    assert page.evaluate("document.activeElement.id") == "set-temperature"
    assert page.get_by_label("Temperature", exact=True).get_attribute("aria-invalid") == "true"
    page.unroute_all()
    answered_by(page, 404, error % ("model = 'first', known are: third", '"model"'))
    page.route("**/v1/models", lambda route: route.fulfill(json={"data": [{"id": "third"}]}))
    answer = say(page, "Gone")
    assert answer.get_by_role("button", name="Open the settings").count() == 0  # nothing there helps
    page.locator("#models option[value=third]").wait_for(state="attached")
    page.unroute_all()
    with page.expect_request("**/v1/chat/completions") as request:
        answer.get_by_role("button", name="Try again").click()
    assert request.value.post_data_json["model"] == "third"
    page.locator("#models option[value=second]").wait_for(state="attached")
    answered_by(page, 500, "no JSON")
    assert say(page, "Fail").locator(".error").inner_text().startswith("The server failed (500)")
    page.unroute_all()
    answered_by(page, body=stream_of("Half of", end=""))
    answer = say(page, "Break off")
    assert answer.locator(".error").inner_text().startswith("The connection broke off")
    assert answer.locator(".body").inner_text() == "Half of"
    page.unroute_all()
    answered_by(page, body=f'data: {{"error": {{"message": "out of luck"}}}}\n\n{stream_of("x")}')
    line = say(page, "Fail in the stream").locator(".error").inner_text()
    assert line.startswith("The server ended the answer: out of luck.")
    page.unroute_all()
    answered_by(page, 503, error % ("the server is shutting down", "null"))
    assert say(page, "Late").locator(".error").inner_text().startswith("The server is shutting down. Try again when it is back.")
    page.unroute_all()
    page.get_by_label("Temperature", exact=True).fill("99")
    answer = say(page, "The server itself")
    assert "temperature" in answer.locator(".error").inner_text()
    assert answer.get_by_role("button", name="Open the settings").count() == 1


def test_a_message_may_come_before_the_models_names(open_page, say):
    page = open_page()
    page.route("**/v1/models", lambda route: (page.wait_for_timeout(300), route.fallback()))
    page.evaluate("localStorage.removeItem('openherd.settings')")
    page.reload()
    page.get_by_label("Message", exact=True).fill("Early")
    page.keyboard.press("Enter")
    page.get_by_label("Good answer").wait_for()
    assert page.get_by_label("Message", exact=True).input_value() == ""
    assert page.locator(".answer header").inner_text() == page.locator("#models select").input_value()


def test_an_api_key(page, say):
    page.expected.append("status of 401")
    with_key = re.compile("Bearer secret")

    def guard(route):
        if with_key.search(route.request.headers.get("authorization", "")):
            return route.fallback()
        return route.fulfill(
            status=401, json={"error": {"message": "no key", "type": "authentication_error", "param": None, "code": None}}
        )

    page.route("**/v1/**", guard)
    page.reload()
    page.get_by_role("button", name="Enter it").click()
    assert page.evaluate("document.activeElement.id") == "key"
    page.keyboard.type("secret")
    page.keyboard.press("Enter")
    page.get_by_text("The server asks for an API key.").wait_for(state="detached")
    assert say(page, "Hello").locator(".error").count() == 0
    page.reload()
    assert say(page, "Hello again").locator(".error").count() == 0
    assert "secret" not in page.evaluate("JSON.stringify(localStorage)")


def test_a_key_that_cannot_be_sent(page, say):
    """What is no ASCII is refused where it is typed; a server that answers, but not this page, is not asked without end."""
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_role("button", name="Settings", exact=True).click()
    key = page.locator("#key")
    for given, name in {
        "sk-“abc”": "“ (U+201C) at place 4",
        "sk\u200b-abc": "U+200B at place 3",
        "schlüssel": "ü (U+00FC) at place 5",
    }.items():
        key.fill(given)
        key.press("Tab")
        page.locator("#key-hint").get_by_text(name).wait_for()
        assert key.get_attribute("aria-invalid") == "true"
    assert asked == []
    assert say(page, "Hello").locator(".error").count() == 0
    key.fill("sk-abc")
    key.press("Tab")
    assert key.get_attribute("aria-invalid") is None
    assert "where the server asks for one" in page.locator("#key-hint").inner_text()
    page.expected.append("ERR_FAILED")
    page.route("**/v1/models", lambda route: route.abort())
    key.fill("sk-abcd")
    key.press("Tab")
    page.locator("#notice").get_by_text("The server does not answer.").wait_for()
    page.wait_for_timeout(700)
    assert sum(url.endswith("/health") for url in asked) < 3


def test_numbers_that_cannot_be_sent(page, say):
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("Temperature", exact=True).fill("")
    for label, text, line in (
        ("Temperature", "1e", "Not sent: this is no number."),
        ("Top-k", "--5", "Not sent: this is no number."),
        ("Seed", "9007199254740993", "Not sent: whole numbers go up to 9007199254740991 here."),
    ):
        control = page.get_by_label(label, exact=True)
        control.press_sequentially(text)
        assert control.get_attribute("aria-invalid") == "true"
        assert page.locator(f"#{control.get_attribute('id')}-hint").inner_text() == line
    with page.expect_request("**/v1/chat/completions") as request:
        say(page, "Hello")
    assert not {"temperature", "top_k", "seed"} & set(request.value.post_data_json)
    page.get_by_label("Seed", exact=True).fill("9007199254740991")
    assert page.get_by_label("Seed", exact=True).get_attribute("aria-invalid") is None
    page.get_by_label("Temperature", exact=True).press_sequentially("-1")
    page.get_by_role("button", name="Leave all of these to the server").click()
    assert page.locator("#fields [aria-invalid]").count() == 0
    assert page.get_by_label("Temperature", exact=True).input_value() == ""


def test_what_is_edited_stays_whatever_is_shown_anew(page, say):
    say(page, "First")
    page.get_by_label("Edit your message and have it answered anew").click()
    page.get_by_label("Text").fill("typed for minutes")
    page.get_by_role("button", name="Tokens").click()
    page.get_by_label("Edit the answer").click()
    page.get_by_label("Text").last.fill("an answer")
    say(page, "Second")
    texts = page.get_by_label("Text")
    assert [text.input_value() for text in texts.all()] == ["typed for minutes", "an answer"]
    page.keyboard.press("Control+k")
    assert texts.count() == 0
    page.get_by_role("button", name="First", exact=True).click()
    assert [text.input_value() for text in texts.all()] == ["typed for minutes", "an answer"]
    texts.last.press("Escape")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Edit the answer"
    texts.press("Enter")
    page.locator("#send").wait_for()
    assert page.locator(".prompt .text").all_inner_texts() == ["typed for minutes"]
    assert texts.count() == 0


def test_an_answer_that_a_guard_ended(page, say):
    for text in ("This far", ""):
        answered_by(page, body=stream_of(text, reason="content_filter"))
        answer = say(page, f"Say {text or 'nothing'}")
        assert answer.locator(".speed").inner_text().endswith("The server's guard ended this answer.")
        assert answer.get_by_label("Regenerate").count() == 1
        page.unroute_all()
    current(page)
    page.reload()
    assert page.get_by_text("The server's guard ended this answer.").count() == 2


def test_import_and_export(page, open_page, say, tmp_path):
    say(page, "Take this along")
    rows = rows_of(page, "Export all conversations")
    assert [message["role"] for message in rows[0]["messages"]] == ["user", "assistant"]
    file = tmp_path / "conversations.jsonl"
    dialog = {
        "messages": [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "Q"},
            {"role": "assistant", "content": "<b>A</b>"},
        ]
    }
    file.write_text("".join(json.dumps(row) + "\n" for row in [dialog, *rows]), encoding="utf-8")
    other = open_page()
    other.locator("#import-file").set_input_files(file)
    other.get_by_text("Conversations imported: 2.").wait_for()
    assert other.locator(".answer .body").inner_text() == "<b>A</b>"
    other.get_by_role("button", name="Take this along", exact=True).click()
    assert other.locator("#thread").inner_text() == page.locator("#thread").inner_text()
    assert [row["conversation"]["id"] for row in rows_of(other, "Export this conversation")] == [rows[0]["conversation"]["id"]]
    bad = {
        "not json": "line 1: not JSON",
        '{"text": 1}': "line 1: neither a conversation nor a dialog",
        '{"messages": [{"role": "tool", "content": "x"}]}': 'of role "tool"',
        '{"messages": [{"role": "user", "content": [1]}]}': "messages[0].content is not text",
        "": "no conversation in it",
        json.dumps(
            {"conversation": {"id": "x", "exchanges": [{"prompt": 5, "sides": [{"answers": [{"text": {}}]}]}]}}
        ): "imported: 1",
    }
    for text, line in bad.items():
        file.write_text(text, encoding="utf-8")
        other.locator("#import-file").set_input_files(file)
        other.locator("#notice").get_by_text(line).wait_for()
