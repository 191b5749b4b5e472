"""Settings, and what of them reaches the request."""

import re


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
