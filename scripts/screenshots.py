"""Pictures of the dashboard's pages: see scripts/screenshots."""

import shutil
import tempfile
from pathlib import Path

import click
from playwright.sync_api import Browser, sync_playwright

from autotune.dashboard.build import html
from autotune.dashboard.collect import collect
from autotune.dashboard.page_data import PageData
from autotune.dashboard.pages import compare

TARGET = Path(__file__).resolve().parents[1] / "docs" / "images"
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
SIZE = {"width": 1360, "height": 850}


def views(data: PageData) -> dict[str, tuple[str, str]]:
    """By picture: what the address names, and light or dark. The details shown are those with the most to see."""
    runs = data.database.runs
    longest = max(runs, key=lambda run: (len(run.trials), run.stored.id)) if runs else None
    found = {
        "overview": ("overview", "light"),
        "overview-dark": ("overview", "dark"),
        "roofline": ("roofline", "light"),
    }
    if longest:
        found["run"] = (f"run-{longest.stored.id}", "light")
        found["parameters"] = ("parameters", "light")
    if data.benchmarks:
        found["token"] = ("token", "light")
    profiled = list(enumerate(data.profiled))
    if profiled:
        place, _ = max(profiled, key=lambda pair: (pair[1].time_ns or 0.0, -pair[0]))
        found["kernel"] = (f"kernel-{place}", "light")
    sampled = [(place, sum(line.samples for line in entry.sampled.lines)) for place, entry in profiled]
    if any(count for _, count in sampled):
        found["source"] = (f"source-{max(sampled, key=lambda pair: pair[1])[0]}", "dark")
    compared = [detail.id for detail in compare.page(data).details]
    if compared:
        found["compare"] = (compared[0], "light")
    if data.database.profiles:
        found["reports"] = ("reports", "light")
    longest_trace = max(enumerate(data.database.traces), key=lambda pair: len(pair[1]), default=None)
    if longest_trace and len(longest_trace[1]):
        found["systems"] = (f"systems-{longest_trace[0]}", "light")
        found["systems-dark"] = (f"systems-{longest_trace[0]}", "dark")
    if "compare-kernel-0" in compared:
        found["compare-reports"] = ("compare-kernel-0", "light")
    return found


def take(browser: Browser, page: Path, name: str, scheme: str, target: Path) -> None:
    context = browser.new_context(viewport=SIZE, color_scheme=scheme)
    tab = context.new_page()
    tab.goto(f"{page.as_uri()}#{name}")
    tab.wait_for_selector(f'html[data-ready="{name}"]', state="attached")
    tab.evaluate("document.activeElement.blur()")
    tab.screenshot(path=target)
    context.close()


@click.command()
@click.argument("database", type=click.Path(path_type=Path, exists=True))
@click.option("--against", type=click.Path(path_type=Path, exists=True))
@click.option("--bench", "benches", type=click.Path(path_type=Path, exists=True), multiple=True)
@click.option("--only", "wanted", metavar="NAME", multiple=True, help="Take this picture; may be given again.")
def main(database: Path, against: Path | None, benches: tuple[Path, ...], wanted: tuple[str, ...]) -> None:
    TARGET.mkdir(parents=True, exist_ok=True)
    data = collect(database, against, benches)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        page = Path(folder) / "page.html"
        page.write_text(html(database, against, benches), encoding="utf-8")
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=list(FLAGS))
        for picture, (name, scheme) in views(data).items():
            if wanted and picture not in wanted:
                continue
            target = TARGET / f"{picture}.png"
            take(browser, page, name, scheme, target)
            print(f"{target.relative_to(TARGET.parents[1])}: {target.stat().st_size / 1e3:.0f} kB")
        browser.close()


if __name__ == "__main__":
    main()
