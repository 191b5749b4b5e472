"""The page at work: a real browser, a real server, models that nobody trained."""

import re

import pytest
from playwright.sync_api import expect

from in_the_browser import LONG, SOME_TEXT, answered_by, current, rows_of, stream_of, text_of


def test_an_answer_streams(open_page, server, say):
    page = open_page({"sampling": {"temperature": "0", "max_tokens": "100"}})
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
    asked = {"messages": [{"role": "user", "content": "Tell me about modules."}], "temperature": 0, "max_tokens": 100}
    alone = server.ask(model=page.locator("#models select").input_value(), **asked)
    assert text_of(answer) == alone["choices"][0]["message"]["content"]
    assert "100 tokens" in answer.locator(".speed").inner_text()
    assert re.search(r"First token [\d.]+ m?s", answer.locator(".speed").inner_text())
    assert re.search(r"[\d.]+ tokens/s", answer.locator(".speed").inner_text())
    assert "Ended at the most tokens." in answer.inner_text()
    assert page.locator("#announcer").inner_text() != ""


@pytest.mark.parametrize("how", ["button", pytest.param("Escape", marks=pytest.mark.slow)])
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_an_answer_that_a_guard_ended(page, say):
    for text in ("This far", ""):
        answered_by(page, body=stream_of(text, reason="content_filter"))
        answer = say(page, f"Say {text or 'nothing'}")
        expect(answer.locator(".speed")).to_contain_text("The server's guard ended this answer.")
        assert answer.get_by_label("Regenerate").count() == 1
        page.unroute_all()
    current(page)
    page.reload()
    assert page.get_by_text("The server's guard ended this answer.").count() == 2
