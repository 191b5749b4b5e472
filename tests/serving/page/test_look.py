"""What can be seen and reached: widths, themes, the keyboard, and that nothing comes from outside."""

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
WIDE = (
    "A line of code\n\n```python\n"
    + "x = 1  # "
    + "long " * 60
    + "\n```\n\n"
    + "unbroken" * 60
    + "\n\n1. one\n   - two "
    + "`"
    + "c" * 90
    + "`\n"
)
# Every text against what lies behind it: colours are drawn on one pixel, as the browser blends them.
CONTRAST = """() => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const behind = (element) => {
        const colours = [];
        for (let e = element; e; e = e.parentElement) colours.unshift(getComputedStyle(e).backgroundColor);
        return colours;
    };
    const blended = (colours) => {
        canvas.clearRect(0, 0, 1, 1);
        for (const colour of colours) {
            canvas.fillStyle = colour;
            canvas.fillRect(0, 0, 1, 1);
        }
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const light = (rgb) => rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const found = [];
    for (const element of document.querySelectorAll("body *")) {
        const hasText = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
        const isSeen = element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
        const style = getComputedStyle(element);
        const box = element.getBoundingClientRect();
        if (!hasText && !element.matches("input, textarea, .icon")) continue;
        if (!isSeen || box.width < 2 || element.closest("[aria-disabled=true], option")) continue;
        const colours = behind(element);
        const isEmpty = element.matches("input, textarea") && !element.value;
        const field = isEmpty ? getComputedStyle(element, "::placeholder").color : style.color;
        const [a, b] = [light(blended([...colours, field])), light(blended(colours))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        found.push([ratio, `${element.tagName}.${element.className} ${element.textContent.trim().slice(0, 30)}`]);
    }
    return found;
}"""

NAMELESS = """() => [...document.querySelectorAll("button, input:not([hidden]), select, textarea, [role=button]")]
    .filter((e) => !(e.getAttribute("aria-label") || e.labels?.length || e.textContent.trim())).map((e) => e.outerHTML)"""


def is_within_the_screen(page) -> bool:
    return page.evaluate(
        "[document.documentElement, document.getElementById('thread')].every((e) => e.scrollWidth <= e.clientWidth)"
    )


def test_a_phone_has_no_horizontal_scroll(open_page, say):
    page = open_page({"tokens": True, "compare": True}, **PHONE)
    answer = say(page, "unbroken" * 60)
    assert is_within_the_screen(page)
    first, second = (a.bounding_box() for a in answer.all())
    assert second["y"] >= first["y"] + first["height"]
    page.get_by_role("button", name="Tokens").click()
    answer.first.get_by_label("Edit the answer").click()
    page.get_by_label("Text").fill(WIDE)
    assert is_within_the_screen(page)
    page.get_by_role("button", name="Keep").click()
    page.locator(".answer pre").wait_for()
    assert is_within_the_screen(page)
    assert page.locator(".answer pre").evaluate("pre => pre.scrollWidth > pre.clientWidth")  # the code scrolls in its box
    for name in ("Conversations", "Settings"):
        page.get_by_role("button", name=name, exact=True).click()
        assert page.evaluate("document.querySelector('main').inert")
        assert is_within_the_screen(page)
        page.keyboard.press("Escape")
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == name
        page.get_by_role("button", name=name, exact=True).tap()
        panel = page.get_by_label(name, exact=True).and_(page.locator("nav, aside"))
        panel.evaluate("panel => panel.scrollTop = panel.scrollHeight")
        assert panel.locator(".closes").bounding_box()["y"] >= 0
        page.touchscreen.tap(10 if name == "Settings" else 380, 150)  # beside it: closes it, and does nothing else
        panel.wait_for(state="hidden")
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == name
    small = [
        box
        for button in page.get_by_role("button").all()
        if (box := button.bounding_box()) and min(box["width"], box["height"]) < 44
    ]
    assert small == []


def test_contrast_and_names(open_page, say):
    """In both themes, each against the system's."""
    page = open_page({"theme": "dark", "tokens": True, "compare": True}, color_scheme="light")
    say(page, "Hello")
    page.locator(".tokens .token").nth(2).focus()
    page.get_by_role("button", name="Settings", exact=True).click()
    page.locator("#data").evaluate("details => details.open = true")
    page.get_by_role("button", name="Export preference pairs").click()
    page.get_by_label("Edit the answer").first.click()
    page.get_by_label("Text").fill(f"# Head\n> quote\n\n{WIDE}")
    page.get_by_role("button", name="Keep").click()
    page.get_by_label("Bad answer").last.click()
    page.get_by_label("Seed", exact=True).fill("9007199254740993")
    page.get_by_label("Seed", exact=True).blur()
    for theme in ("dark", "light"):
        if theme == "light":
            page.get_by_role("button", name="Theme: dark").click()
            page.get_by_role("button", name="Theme: as the system").click()
            page.emulate_media(color_scheme="dark")
        found = page.evaluate(CONTRAST)
        assert len(found) > 50
        assert [(round(ratio, 2), what) for ratio, what in found if ratio < 4.5] == []
        assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == theme
    assert page.evaluate(NAMELESS) == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    page.evaluate("document.documentElement.style.setProperty('--muted', '#808080')")
    assert any(ratio < 4.5 for ratio, _ in page.evaluate(CONTRAST)), "the test sees no pale text"


def test_the_theme_follows_the_system_until_it_is_chosen(open_page):
    page = open_page(color_scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    page.emulate_media(color_scheme="light")
    light = page.evaluate(paper)
    assert light != dark
    page.get_by_role("button", name="Theme: as the system").click()
    page.get_by_role("button", name="Theme: light").click()
    assert page.evaluate(paper) == dark
    page.reload()
    page.get_by_role("button", name="Theme: dark").wait_for()
    assert page.evaluate(paper) == dark


def test_keyboard_alone(page):
    def focused() -> str:
        return page.evaluate("(e => e.getAttribute('aria-label') || e.id || e.textContent)(document.activeElement)")

    def tab_to(name: str, key: str = "Tab") -> None:
        for _ in range(40):
            page.keyboard.press(key)
            outline = page.evaluate(
                "((e, of) => of(e).outlineStyle + of(e.closest('form') ?? e).boxShadow)(document.activeElement, getComputedStyle)"
            )
            assert page.evaluate("document.activeElement === document.body") or outline != "nonenone", f"{focused()} shows no focus"
            if focused() == name:
                return
        raise AssertionError(f"{name} is not reached by {key}")

    assert focused() == "Message"
    page.keyboard.type("First line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second line")
    page.keyboard.press("Enter")
    page.get_by_label("Good answer").wait_for()
    assert page.locator(".prompt .text").inner_text() == "First line\nsecond line"
    assert focused() == "Message"
    tab_to("Good answer", "Shift+Tab")
    page.keyboard.press("Space")
    assert page.get_by_label("Good answer").get_attribute("aria-pressed") == "true"
    tab_to("Regenerate", "Shift+Tab")
    page.keyboard.press("Enter")
    page.get_by_text("2 of 2").wait_for()
    page.locator("#send").wait_for()
    tab_to("Settings", "Shift+Tab")
    page.keyboard.press("Enter")
    assert focused() == "Close the settings"
    page.keyboard.press("Escape")
    assert focused() == "Settings"
    page.keyboard.press("Control+k")
    assert focused() == "Message"
    assert page.locator(".exchange").count() == 0
    tab_to("First line second line", "Shift+Tab")
    page.keyboard.press("Enter")
    assert page.locator(".exchange").count() == 1


def test_a_cold_page_has_nothing_from_outside(open_page, server, capsys):
    page = open_page()
    ready, kilobytes, requests = page.evaluate("""() => {
        const [page, ...parts] = [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")];
        const last = Math.max(page.domContentLoadedEventEnd, ...parts.map((part) => part.responseEnd));
        return [last, [page, ...parts].reduce((sum, part) => sum + part.transferSize, 0) / 1000, parts.length + 1];
    }""")
    with capsys.disabled():
        print(f"\ncold page: {ready:.0f} ms to the list of models, {kilobytes:.0f} kB, {requests} requests")
    assert requests < 25
    page.expected.append("Content Security Policy|violates|Failed to fetch|Refused")
    refused = page.evaluate("fetch('https://example.org/').then(() => false, () => true)")
    assert refused
    assert (
        page.evaluate(
            "(s => { s.text = 'window.ran = 1'; document.body.append(s); return window.ran })(document.createElement('script'))"
        )
        is None
    )
    sources = page.evaluate("performance.getEntriesByType('resource').map((e) => e.name)")
    assert len(sources) > 10
    assert [source for source in sources if not source.startswith(server.address)] == []
