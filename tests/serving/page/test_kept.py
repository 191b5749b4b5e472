"""What the page keeps: over reloads, crashes, full storage and several tabs, and in files."""

import json

import pytest

from in_the_browser import LONG, SOME_TEXT, current, rows_of, text_of

GONE = r"ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE"

pytestmark = pytest.mark.slow  # a browser, opened again and again


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
    other.locator(".answer[aria-busy=true]").wait_for()
    draft.press("Escape")
    other.get_by_text("Stopped.").nth(1).wait_for()
    assert current(other) == mine
    kept = page.evaluate("id => JSON.parse(localStorage[`openherd.conversation.${id}`]).exchanges", mine)
    assert [exchange["prompt"] for exchange in kept] == ["From the first tab", "half a message"]
    assert kept[0]["sides"][0]["answers"][0]["text"] == whole
    page.get_by_role("button", name="From the first tab", exact=True).click()
    assert page.locator(".prompt .text").all_inner_texts() == ["From the first tab", "half a message"]
    other.get_by_text("was opened in another tab.").wait_for()


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
    with page.expect_navigation():
        page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    page.locator(".exchange").wait_for()


def test_import_and_export(page, say, tmp_path):
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
    current(page)  # nothing is left to be written
    seen, here = page.locator("#thread").inner_text(), page.url
    page.evaluate("localStorage.clear()")
    page.goto(here.partition("#")[0])
    assert page.locator("#list .title").count() == 0
    page.locator("#import-file").set_input_files(file)
    page.get_by_text("Conversations imported: 2.").wait_for()
    assert page.locator(".answer .body").inner_text() == "<b>A</b>"
    page.get_by_role("button", name="Take this along", exact=True).click()
    assert page.locator("#thread").inner_text() == seen
    assert [row["conversation"]["id"] for row in rows_of(page, "Export this conversation")] == [rows[0]["conversation"]["id"]]
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
        page.locator("#import-file").set_input_files(file)
        page.locator("#notice").get_by_text(line).wait_for()
