"""The page in a real browser: nothing leaves it, nobody is shut out of it, and text stays text."""

from pathlib import Path

import pytest
from dashboard_samples import HOSTILE

axe = pytest.importorskip("axe_playwright_python", reason="no axe-core: ./scripts/setup_env test")

PAGES = (
    "overview",
    "reports",
    "systems",
    "run",
    "parameters",
    "kernel",
    "roofline",
    "source",
    "token",
    "compare",
    "tables",
    "precision",
    "provenance",
)
DETAILS = (
    "report-0", "systems-1", "run-1", "parameters-0", "kernel-0", "source-0", "token-0", "compare-0", "tables-2",
)  # fmt: skip
H200 = ("reports", "compare", "compare-problem-0", "compare-problem-1", "kernel-3", "source-3")
WIDTHS = (390, 768, 1400, 2560)  # px: a phone, a tablet, a notebook, a large screen
STANDARDS = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "resultTypes": ["violations"],
}
CONTRAST = {"runOnly": ["color-contrast"], "resultTypes": ["violations"]}


def open_at(page, path: Path, name: str) -> None:
    page.goto(f"{path.as_uri()}#{name}")
    page.wait_for_selector(f'html[data-ready="{name}"]', state="attached")


@pytest.fixture
def page(browser):
    context = browser.new_context(viewport={"width": 1360, "height": 900})
    yield context.new_page()
    context.close()


@pytest.mark.parametrize(("scheme", "rules"), [("light", STANDARDS), ("dark", CONTRAST)], ids=["light", "dark"])
def test_axe_finds_nothing(browser, small_page, scheme, rules):
    """In the dark only colours differ: its whole check is among the slow tests."""
    assert violations(browser, small_page, scheme, rules) == {}


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_at_any_width(browser, small_page, scheme, width):
    assert violations(browser, small_page, scheme, STANDARDS, width) == {}


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_a_full_database(browser, full_page, scheme):
    assert violations(browser, full_page, scheme, STANDARDS) == {}


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_what_an_h200_reported(browser, h200_page, scheme, width):
    assert violations(browser, h200_page, scheme, STANDARDS, width, H200) == {}


def violations(
    browser, path: Path, scheme: str, rules: dict, width: int = 1360, names: tuple[str, ...] = PAGES + DETAILS
) -> dict:
    """By page or detail, with everything opened that can be: axe-core's findings."""
    context = browser.new_context(color_scheme=scheme, bypass_csp=True, viewport={"width": width, "height": 900})
    page, found = context.new_page(), {}
    for name in names:
        open_at(page, path, name)
        page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
        page.evaluate(  # hundreds of rows that are all made alike
            """for (const search of document.querySelectorAll('.metrics input')) {
                search.value = 'gpu'; search.dispatchEvent(new Event('input', { bubbles: true })) }"""
        )
        if page.evaluate("typeof axe") == "undefined":  # going to another hash keeps the document
            page.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text())
        answer = page.evaluate("rules => axe.run(document, rules)", rules)
        assert answer["passes"], f"axe-core checked nothing of {name}"
        if answer["violations"]:
            found[name] = [(v["id"], [n["html"][:200] for n in v["nodes"][:3]]) for v in answer["violations"]]
    context.close()
    return found


def test_nothing_is_asked_for(page, small_page):
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    open_at(page, small_page, "overview")
    for name in PAGES + DETAILS:
        page.evaluate(f"location.hash = '{name}'")
        page.wait_for_selector(f'html[data-ready="{name}"]', state="attached")
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in asked if url.startswith("file:")]) == 1
    assert complaints == []


def test_the_policy_lets_nothing_out(page, small_page):
    """Even a script of ours could not ask for anything: the browser refuses it."""
    open_at(page, small_page, "overview")
    refused = page.evaluate("() => fetch('http://127.0.0.1:9/x').then(() => 'let out', (error) => String(error))")
    assert "TypeError" in refused
    page.evaluate("""() => { const script = document.createElement('script'); script.textContent = 'window.ran = 1';
        document.body.append(script) }""")
    assert page.evaluate("window.ran") is None


def test_hostile_names_are_text(page, small_page):
    open_at(page, small_page, "overview")
    title = page.title()
    for name in PAGES + DETAILS:
        open_at(page, small_page, name)
        assert page.evaluate("document.querySelectorAll('img, iframe, object').length") == 0, name
        assert page.evaluate("document.querySelectorAll('script:not([type])').length") == 2, name
    assert page.title() == title
    for name in ("kernel-0", "run-1", "token-0", "source-0"):
        open_at(page, small_page, name)
        assert HOSTILE in page.inner_text("main"), name
    assert "<img" not in small_page.read_text()


def test_the_keyboard_reaches_everything(page, small_page):
    for name in ("overview", "systems-1", "run-1", "source-0", "tables-2"):
        open_at(page, small_page, name)
        wanted = page.evaluate(
            """() => { const all = [...document.querySelectorAll('a[href], button, select, summary, [tabindex="0"]')]
                .filter((e) => e.checkVisibility()); all.forEach((e, n) => { e.dataset.n = n }); return all.length }"""
        )
        reached = set()
        for _ in range(wanted + 20):  # from the page's heading on, past the end, and from the start again
            page.keyboard.press("Tab")
            number = page.evaluate("document.activeElement.dataset.n ?? null")
            reached.add(number)
            if number is not None:
                assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        assert len(reached - {None}) == wanted, name


def test_the_keyboard_works_everything(page, small_page):
    open_at(page, small_page, "overview")
    page.focus('nav a[href="#run"]')
    page.keyboard.press("Enter")
    page.wait_for_selector('html[data-ready="run"]', state="attached")
    assert page.evaluate("document.activeElement.id") == "title-run"

    times = page.locator("#page-run > .scroll th:nth-child(8) button")
    times.focus()
    page.keyboard.press("Enter")
    column = page.locator("#page-run > .scroll td:nth-child(8)").all_inner_texts()
    numbers = [float(text.replace(",", "")) for text in column]
    assert numbers == sorted(numbers, reverse=True) and len(set(numbers)) > 1
    page.keyboard.press("Enter")
    assert page.locator("#page-run th[aria-sort=ascending]").count() == 1

    page.focus("#page-run select")
    page.keyboard.press("ArrowDown")
    page.wait_for_selector('html[data-ready="run-1"]', state="attached")
    assert page.locator("#page-run article svg").count() == 2

    open_at(page, small_page, "source-0")
    line = page.locator("#page-source article table.code").first.locator("button").first
    line.focus()
    page.keyboard.press("Enter")
    assert line.get_attribute("aria-pressed") == "true"
    assert page.locator("#page-source tr.marked").count() > 1

    page.focus("#theme")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    for word in ("light", "dark"):
        page.keyboard.press("Enter")
        assert page.inner_text("#theme") == f"Theme: {word}"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light


def test_all_metrics_can_be_searched(page, small_page):
    open_at(page, small_page, "kernel-0")
    shown = page.locator("#page-kernel .metrics tbody tr:visible")
    everything = shown.count()
    assert everything > 250
    page.locator("#page-kernel .metrics input").fill("SM__warps  active.avg")
    assert shown.all_inner_texts()[0].startswith("sm__warps_active.avg.pct_of_peak_sustained_active")
    assert shown.count() == 1
    assert page.inner_text("#page-kernel .metrics [role=status]") == f"1 of {everything} metrics"
    page.locator("#page-kernel .metrics input").fill("nothing has this")
    assert shown.count() == 0


@pytest.mark.parametrize("width", [390, *(pytest.param(width, marks=pytest.mark.slow) for width in WIDTHS[1:-1]), 2560])
def test_no_page_is_wider_than_the_window(browser, small_page, h200_page, width):
    context = browser.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    for path, names in ((small_page, PAGES + DETAILS), (h200_page, H200)):
        for name in names:
            open_at(page, path, name)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
    context.close()


def test_without_scripts_the_overviews_are_there(browser, small_page):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(small_page.as_uri())
    for name in PAGES:
        assert page.locator(f"#page-{name} .answer").is_visible()
    context.close()
