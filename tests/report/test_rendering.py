"""The pages in a real browser, where there is one: nothing overflows, nothing is cut, everything can be read, light and dark."""

from __future__ import annotations

import html
import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from coterie.recipe import load_recipe
from coterie.report import write_report

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
WIDTHS = (1280, 390)
LONG = "a_very_long_class_name_that_does_not_fit_into_any_column_of_any_table_at_all"
HOSTILE = ["plain_class", LONG, "<b>bold", "$x_1$", "Wölfe_日本語のとても長いクラス名", "🦈 shark", "x", "m" * 60]


def load(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Each page stands in a frame as wide as the screen that it is tried on. What is measured of each:
#   overflow   how much wider the page is than the screen
#   scrolling  tables that would have to be scrolled sideways
#   cut        texts of a chart that reach out of it
#   faint      texts whose contrast with what is behind them is less than 4.5 : 1 (WCAG AA)
MEASURE = """
const luminance = color => {
  const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const measure = frame => {
  const page = frame.contentDocument, root = page.documentElement, view = frame.contentWindow;
  page.querySelectorAll("details").forEach(each => each.open = true);
  const paper = view.getComputedStyle(page.body).backgroundColor;
  const cut = [...page.querySelectorAll("svg text")].filter(text => {
    const box = text.getBoundingClientRect(), svg = text.closest("svg").getBoundingClientRect();
    return box.left < svg.left - 2 || box.right > svg.right + 2 || box.top < svg.top - 2 || box.bottom > svg.bottom + 2;
  });
  const faint = [...page.querySelectorAll("main *, header *, footer *")].filter(each => {
    if (![...each.childNodes].some(node => node.nodeType === 3 && node.data.trim())) return false;
    const style = view.getComputedStyle(each);
    const own = each.closest("svg") ? style.fill : style.color;
    const [a, b] = [luminance(own), luminance(paper)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05) < 4.5;
  });
  const overflow = root.scrollWidth - view.innerWidth;
  const scrolling = [...page.querySelectorAll(".scroll")].filter(each => each.scrollWidth > each.clientWidth).length;
  const width = () => Math.max(0, ...[...page.querySelectorAll(".heat-map")].map(each => each.getBoundingClientRect().width));
  const fitted = width();
  page.querySelectorAll(".zoom input").forEach(each => each.click());
  const enlarged = width() / fitted;
  return {
    overflow: Math.max(overflow, root.scrollWidth - view.innerWidth),
    scrolling,
    enlarged,
    cut: cut.map(each => each.textContent),
    faint: faint.map(each => each.tagName + ": " + each.textContent.slice(0, 40)),
    paper,
    words: page.body.innerText.length,
  };
};
addEventListener("load", () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) found[frame.title] = measure(frame);
  document.querySelector("#found").textContent = JSON.stringify(found);
});
"""


def render(folder: Path, pages: dict[str, str], scheme: str) -> dict[str, dict[str, Any]]:
    """``"page at width"`` -> what was measured."""
    frames = "".join(
        f'<iframe title="{name} at {width}" style="border: 0; width: {width}px; height: 900px" srcdoc="{html.escape(page)}"></iframe>'
        for name, page in pages.items()
        for width in WIDTHS
    )
    path = folder / f"{scheme}.html"
    path.write_text(
        f'<!doctype html><meta charset="utf-8"><pre id="found"></pre>{frames}<script>{MEASURE}</script>',
        encoding="utf-8",
    )
    assert BROWSER is not None
    command = [
        *(BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"),
        f"--user-data-dir={folder / 'profile'}",
        f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
        *("--virtual-time-budget=20000", "--dump-dom", path.as_uri()),
    ]
    dump = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r'<pre id="found">(.*?)</pre>', dump, re.DOTALL)
    assert found is not None
    measured: dict[str, dict[str, Any]] = json.loads(html.unescape(found[1]))
    return measured


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, str]:
    here, folder = Path(__file__).parent, tmp_path_factory.mktemp("pages")
    runs = load("rendered_runs", here / "conftest.py")
    arms = load("rendered_arms", here.parent / "comparison" / "conftest.py")
    comparisons = load("rendered_comparisons", here / "test_comparison.py")
    hostile = runs.fabricate_run(folder / "hostile", classes=8, class_names=HOSTILE, students=4, samples=160)
    (folder / "hundred").mkdir()
    named = [f"{LONG[:20]}_{number}" for number in range(100)]
    hundred = runs.fabricate_run(folder / "hundred", classes=100, class_names=named, students=1, method="baseline", samples=600)  # fmt: skip
    texts = runs.fabricate_run(folder / "texts", classes=2, class_names=["good", LONG], samples=80, epochs=2)
    recipe = {
        "task": "text_classification",
        "data": {"name": "films.csv"},
        "network": {"name": "student"},
        "method": "dml",
    }
    (texts / "recipe.yaml").write_text(load_recipe(recipe).to_yaml())
    written = [image.stem for image in (texts / "gallery").iterdir()]
    examples = [{"index": int(index), "texts": [LONG * 3, "a short one " * 40]} for index in written]
    (texts / "gallery" / "texts.json").write_text(json.dumps({"examples": examples}))
    for image in (texts / "gallery").glob("*.png"):
        image.unlink()
    levels = {"baseline": 0.2, "okdmde": 0.23} | {
        f"okdmde method.diversity=coincident_error method.diversity_weight=0.{number}": 0.23 + 0.001 * number
        for number in range(4)
    }
    built = [
        arms.run_of(label, seed, level, 1 if label == "baseline" else 4)
        for seed in range(5)
        for label, level in [*levels.items(), (LONG, 0.21)]
    ]
    return {
        "eight classes": write_report(hostile).read_text(encoding="utf-8"),
        "hundred classes": write_report(hundred).read_text(encoding="utf-8"),
        "texts": write_report(texts).read_text(encoding="utf-8"),
        "comparison": comparisons.write(folder / "comparison", built).read_text(encoding="utf-8"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_is_cut_or_faint(pages, tmp_path, scheme):
    measured = render(tmp_path, pages, scheme)
    assert len(measured) == len(pages) * len(WIDTHS)
    for where, found in measured.items():
        assert found["words"] > 1000, where
        assert found["overflow"] <= 0, where
        assert found["cut"] == [], where
        assert found["faint"] == [], where
        assert found["scrolling"] == 0, where
        if where == "hundred classes at 390":
            assert found["enlarged"] > 3
        light = [int(part) for part in re.findall(r"\d+", found["paper"])[:3]]
        assert (min(light) > 200) == (scheme == "light")


@pytest.mark.slow
def test_what_is_too_wide_is_found(tmp_path):
    """The measures themselves: a page with every fault."""
    page = (
        '<style>body { background: white }</style><main><div style="width: 2000px; color: #bbb">faint</div>'
        '<svg viewBox="0 0 10 10" width="10" height="10"><text x="5" y="5">cut off</text></svg></main>'
    )
    for found in render(tmp_path, {"faulty": page}, "light").values():
        assert found["overflow"] > 0
        assert found["cut"] == ["cut off"]
        assert found["faint"] == ["DIV: faint"]
