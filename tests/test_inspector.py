"""The inspector's page: what it may load, and what it does in a browser that is driven from here."""

import json
import re
import uuid
from html.parser import HTMLParser
from importlib import resources

import chromium
import httpx
import pytest
from served import Kept, serving, tiny_agent

from mr1jax.service.limits import SECURITY_HEADERS

SAID = "Mia has a dog called Bramo."
QUESTION = "What is Mia's dog called?"
HOSTILE = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>'; DROP TABLE memories; --"


def source(suffix):
    return (resources.files("mr1jax.service") / f"inspector.{suffix}").read_text(encoding="utf-8")


class Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_the_page_loads_its_own_files_alone():
    """Oracle: every address in the page, found by a parser of HTML; no style or script stands in it, for the policy forbids them."""
    page = Elements()
    page.feed(source("html"))
    addresses = {attrs.get("src") or attrs.get("href") for _, attrs in page.found} - {None}
    assert addresses == {"/inspector.css", "/inspector.js", "data:,"}
    assert not [attrs for _, attrs in page.found if any(name.startswith("on") or name == "style" for name in attrs)]
    labels = {attrs.get("for") for tag, attrs in page.found if tag == "label"}
    fields = {attrs["id"] for tag, attrs in page.found if tag in ("input", "textarea")}
    assert labels == fields
    assert "url(" not in source("css")
    assert "@import" not in source("css")
    assert not re.search(r"https?://", source("js"))


def test_the_script_makes_no_markup_of_text():
    """Oracle: the names of everything in a browser that turns a string into HTML or code."""
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|setHTML|srcdoc"
    ways += r"|\beval\b|new Function|javascript:"
    assert not re.search(ways, source("js"))
    assert re.search(ways, "node.innerHTML = text")


def test_the_page_is_served_under_its_policy():
    """Oracle: the bytes of the package, and the headers: nothing of another origin, no frame, no HTML from strings."""
    with serving(Kept(tiny_agent())) as (url, _):
        for path, suffix, kind in (
            ("/", "html", "text/html"),
            ("/inspector.css", "css", "text/css"),
            ("/inspector.js", "js", "text/javascript"),
        ):
            page = httpx.get(url + path)
            assert page.text == source(suffix)
            assert page.headers["content-type"].partition(";")[0] == kind
            assert page.headers["content-security-policy"] == SECURITY_HEADERS["content-security-policy"]
    policy = SECURITY_HEADERS["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in policy


# In a browser ---------------------------------------------------------------------------------------------------------------------

DRIVE = """
globalThis.$ = (query) => document.querySelector(query);
globalThis.lines = (query) => [...document.querySelectorAll(query)].map((node) => node.textContent);
globalThis.idle = () => new Promise((done) => {
  const look = () => ($('#status').textContent.startsWith('working') ? requestAnimationFrame(look) : done($('#status').textContent));
  look();
});
globalThis.settle = (number) => new Promise((done) => {  // until the bank of this moment is drawn
  const look = () => ($('#moment-says').textContent.startsWith(number) && $('#memories').dataset.moment === $('#moment').value
    ? done(lines('#memories .text')) : requestAnimationFrame(look));
  look();
});
globalThis.send = (words, act) => { $('#text').value = words; $(`#say button[value=${act}]`).click(); return idle(); };
globalThis.openUser = (user) => { $('#user').value = user; $('#open button').click(); return idle(); };
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if chromium.PATH is None:
        pytest.skip("there is no Chromium here to look at the page with")
    browser = chromium.Chromium(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def page(browser):
    """An agent, the address of its server, and a page that has been opened for a user of its own."""
    agent, user = Kept(tiny_agent()), f"user-{uuid.uuid4()}"
    with serving(agent) as (url, _):
        browser.resize(1280, 800)
        browser.asked.clear()
        browser.console.clear()
        browser.open(url)
        browser.run(DRIVE)
        assert browser.run(f"openUser({json.dumps(user)})") == ""
        yield agent, url, user


@pytest.mark.slow
def test_what_is_told_and_asked_is_seen(browser, page):
    """Oracle: the agent, asked directly: its operations before and after, its bank, its answer, and which memories it selected."""
    agent, url, user = page
    assert browser.run(f"send({json.dumps(SAID)}, 'tell')") == ""
    (memory,) = agent.get_all(user_id=user)["results"]
    assert browser.run("lines('#memories .text')") == [memory["memory"]]
    assert browser.run("lines('.turn .bubble .text')") == [SAID]
    assert browser.run("lines('.turn .card .after .text')") == [memory["memory"]]
    assert browser.run("lines('#events strong')") == ["1. ADD"]
    assert browser.run("$('#events time').dateTime") == agent.events(user_id=user)[0].created_at
    assert "by manager" in browser.run("$('#events .head').textContent")
    browser.run("$('#when').value = '2022-02-11'")
    browser.run("send('Leo works as a baker.', 'tell')")
    assert agent.events(user_id=user)[-1].said_at.startswith("2022-02-11T00:00:00")
    agent.restore(agent.events(user_id=user)[-1].memory_id, user_id=user)
    browser.run("$('#when').value = ''")
    browser.run(f"openUser({json.dumps(user)})")
    browser.run(f"send({json.dumps(QUESTION)}, 'ask')")
    answered = agent.answer(QUESTION, user_id=user)
    assert browser.run("$('.bubble.reply .text').textContent") == (answered["answer"] or "(no answer)")
    tags = ["\u2713 selected" if shown["selected"] else "ignored" for shown in answered["memories"]]
    assert browser.run("lines('.shown .tag')") == tags
    assert browser.run("lines('#memories li:not(.gone) .tag')") == tags
    assert (browser.console, {address.startswith((url, "data:")) for address in browser.asked}) == ([], {True})


@pytest.mark.slow
def test_time_is_walked_and_operations_are_undone(browser, page):
    """Oracle: the agent's state after each event, read directly; Undo is its restore, and stands in the log as one more operation."""
    agent, _, user = page
    memory_id = agent.add(SAID, user_id=user)["results"][0]["id"]
    said = agent.get(memory_id, user_id=user)["memory"]
    agent.update(memory_id, "Mia has a cat.", user_id=user)
    agent.delete(memory_id, user_id=user)
    browser.run(f"openUser({json.dumps(user)})")
    assert browser.run("lines('#memories .gone .text')") == ["Mia has a cat."]
    assert browser.run("lines('#events strong')") == ["3. DELETE", "2. UPDATE", "1. ADD"]
    assert browser.run("[lines('#events .before .text'), lines('#events .after .text')]") == [
        ["Mia has a cat.", said],
        ["Mia has a cat.", said],
    ]
    assert browser.run("$('#earlier').click(); settle('then: after operation 2')") == ["Mia has a cat."]
    assert browser.run("$('#moment').value = 1; $('#moment').dispatchEvent(new Event('input')); settle('then: after operation 1')") == [
        said
    ]
    assert browser.run("$('#earlier').click(); settle('before the first')") == []
    assert browser.run("$('#events button').click(); idle()") == "operation 3 is undone"
    assert agent.get(memory_id, user_id=user)["memory"] == "Mia has a cat."
    assert browser.run("lines('#memories .text')") == ["Mia has a cat."]
    assert browser.run("[...document.querySelectorAll('#events button')].at(-1).click(); idle()") == "back to operation 1"
    assert agent.get(memory_id, user_id=user)["memory"] == said
    assert [event.event for event in agent.events(user_id=user)] == ["ADD", "UPDATE", "DELETE", "RESTORE", "RESTORE"]
    assert browser.run("lines('#events strong').length") == 5


@pytest.mark.slow
def test_what_is_hostile_is_shown_as_text(browser, page):
    """Oracle: the text, letter for letter, as the text of nodes; no element and no title came of it, and no address was asked for."""
    agent, url, user = page
    memory_id = agent.add(SAID, user_id=user)["results"][0]["id"]
    agent.update(memory_id, HOSTILE, user_id=user)
    browser.run(f"openUser({json.dumps(user)})")
    browser.run(f"send({json.dumps(HOSTILE)}, 'tell')")
    browser.run(f"send({json.dumps(HOSTILE)}, 'ask')")
    assert browser.run("lines('#events .after .text')").count(HOSTILE) >= 1
    assert HOSTILE in browser.run("lines('.turn .bubble .text')")
    assert browser.run("[document.title, document.images.length, document.scripts.length]") == ["Memory inspector", 0, 1]
    assert all(address.startswith((url, "data:")) for address in browser.asked)
    assert browser.run("try { $('#status').innerHTML = '<b>x</b>'; 'taken' } catch (error) { error.name }") == "TypeError"


@pytest.mark.slow
def test_keys_and_labels_are_enough(browser, page):
    """Oracle: Chromium's own tree of accessibility: every control has a name; Enter asks what ends in a question mark."""
    agent, _, user = page
    agent.add(SAID, user_id=user)
    browser.run(f"openUser({json.dumps(user)})")
    nodes = browser.send("Accessibility.getFullAXTree")["nodes"]
    controls = [node for node in nodes if node.get("role", {}).get("value") in ("button", "textbox", "slider") and not node["ignored"]]
    assert len(controls) >= 8
    assert all(node["name"]["value"] for node in controls)
    browser.run("$('#text').focus()")
    browser.send("Input.insertText", text=QUESTION)
    for kind in ("rawKeyDown", "keyUp"):
        browser.send("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13)
    browser.run("idle()")
    assert browser.run("lines('.bubble.reply').length") == 1
    assert browser.run("document.activeElement.id") == "text"


CONTRAST = """
(() => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const color = numbers(getComputedStyle(at).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
  };
  const worst = [];
  for (const node of document.querySelectorAll('body *')) {
    const says = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!says || node.disabled || !node.checkVisibility()) continue;
    const [a, b] = [light(numbers(getComputedStyle(node).color)), light(behind(node))].sort((x, y) => y - x);
    worst.push([(a + 0.05) / (b + 0.05), node.outerHTML.slice(0, 80)]);
  }
  return worst.sort((x, y) => x[0] - y[0])[0];
})()
"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_is_readable_in_any_light_and_width(browser, page, scheme, width):
    """Oracle: the contrast of WCAG 2.2 (4.5 to 1), computed in the page for every text; nothing is wider than the window."""
    agent, _, user = page
    memory_id = agent.add(SAID, user_id=user)["results"][0]["id"]
    agent.update(memory_id, "x" * 300, user_id=user)
    browser.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.resize(width, 740)
    browser.run(f"openUser({json.dumps(user)})")
    browser.run(f"send({json.dumps(QUESTION)}, 'ask')")
    browser.run("$('#earlier').click(); settle('then: after operation 1')")
    for part in ("conversation", "bank", "log"):
        browser.run(f"$('#tabs [data-part={part}]').click()")
        contrast, worst = browser.run(CONTRAST)
        assert contrast >= 4.5, worst
        assert browser.run("document.documentElement.scrollWidth <= innerWidth")
        assert browser.run("[...document.querySelectorAll('ol, ul')].every((list) => list.scrollWidth <= list.clientWidth)")


@pytest.mark.slow
def test_a_token_is_asked_for(browser):
    """Oracle: a server with a token: the page asks for it, works with it, and keeps it nowhere in the browser."""
    token = "a" * 32
    with serving(Kept(tiny_agent()), tokens={token: ""}) as (url, _):
        browser.open(url)
        browser.run(DRIVE)
        assert browser.run("$('#token-field').hidden")
        assert "wants a token" in browser.run("openUser('ann')")
        assert not browser.run("$('#token-field').hidden")
        browser.run(f"$('#token').value = '{token}'")
        assert browser.run("openUser('ann')") == ""
        assert browser.run("[document.cookie, localStorage.length, sessionStorage.length]") == ["", 0, 0]
