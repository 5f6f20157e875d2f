"""The report in a real browser: nothing to fetch, nothing on the console, toggles that work, and no fault that axe-core
(PIPELINE_AXE: its axe.min.js) calls serious."""

import html
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.analysis.fit.study_fit import fit
from pipeline.analysis.page.report import render
from tests.support.synthetic_study import valley, write_study

pytestmark = pytest.mark.slow

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
if not BROWSER and not os.environ.get("PIPELINE_REQUIRE_BROWSER"):
    pytest.skip("needs chromium (apt-get install chromium)", allow_module_level=True)

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--enable-logging=stderr", "--v=0",
)  # fmt: skip

PRESSES = """
<script>
const said = [], seen = () => [...document.querySelectorAll(".v")].filter(one => one.offsetParent !== null)
    .map(one => one.className.replace("panels v ", "")).join(", ");
said.push(seen());
for (const button of document.querySelectorAll(".seg button")) {
  button.click();
  const pressed = [...document.querySelectorAll(".seg button")].filter(one => one.ariaPressed === "true");
  said.push([button.value, seen(), pressed.map(one => one.value).join(" ")]);
}
const past = [...document.querySelectorAll("body *")].filter(one => !one.closest(".scroll, svg, .skip, thead"))
    .filter(one => one.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map(one => one.outerHTML.slice(0, 80));
parent.postMessage(JSON.stringify({said, past, top: document.querySelector("#table tbody").getBoundingClientRect().top}), "*");
</script>
"""

# A headless window is 500 pixels wide at least, a frame as narrow as one likes.
FRAME = """
<body style="margin:0"><script>addEventListener("message", heard => {{ document.body.dataset.said = heard.data }})</script>
<iframe src="probe.html" style="border:0;width:{width}px;height:{height}px"></iframe>
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    study = write_study(folder / "quick", valley(-0.5), params=("sp", "mup"), seeds=(0, 1))
    (folder / "report.html").write_text(render(fit([study])))
    return folder / "report.html"


def browse(page: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [BROWSER, *FLAGS, f"--user-data-dir={page.parent / 'profile'}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def pressed(page: Path, width: int, height: int) -> dict:
    """What the buttons did, what stands beyond the right edge, and where the table begins, of a page with a script of
    ours added."""
    page.with_name("probe.html").write_text(page.read_text().replace("</body>", f"{PRESSES}</body>"))
    frame = page.with_name("frame.html")
    frame.write_text(FRAME.format(width=width, height=height))
    dom = browse(frame, "--dump-dom", f"--window-size={max(width, 500)},{height}").stdout
    return json.loads(html.unescape(dom.split('data-said="')[1].split('"')[0]))


def test_nothing_is_fetched_and_nothing_is_on_the_console(page: Path) -> None:
    log = page.with_name("net.json")
    said = browse(page, f"--log-net-log={log}", "--dump-dom")
    assert "CONSOLE" not in said.stderr
    events = json.loads(log.read_text())
    urls = {e["params"]["url"] for e in events["events"] if "url" in e.get("params", {})}
    assert [url for url in urls if url.startswith("file:")] in ([], [page.as_uri()])
    # of its own accord the browser may look for updates; of the page's there is nothing that its host would not show
    text = page.read_text()
    assert not [url for url in urls if url.startswith("http") and url in text]

    broken = page.with_name("broken.html")  # the test would see it
    broken.write_text(page.read_text().replace("</body>", "<script>nothing.there()</script></body>"))
    assert "CONSOLE" in browse(broken, "--dump-dom").stderr


def test_toggles_show_what_they_say(page: Path) -> None:
    said = pressed(page, 1300, 800)["said"]
    assert said == [
        "apart raw",
        ["apart", "apart raw", "apart raw"],
        ["together", "together raw", "together raw"],
        ["raw", "together raw", "together raw"],
        ["fit", "together fit", "together fit"],
        ["theory", "together theory", "together theory"],
    ]


@pytest.mark.parametrize(("width", "height"), [(1300, 800), (390, 844)])
def test_the_first_screen_reaches_the_table(page: Path, width: int, height: int) -> None:
    found = pressed(page, width, height)
    assert found["past"] == []  # nothing stands beyond the right edge
    assert found["top"] < height


AXE = os.environ.get("PIPELINE_AXE", "")
AUDIT = """
<script>axe.run().then(found => {
  document.body.dataset.dark = matchMedia("(prefers-color-scheme: dark)").matches;
  document.body.dataset.said = JSON.stringify(found.violations.map(one => [one.id, one.impact, one.nodes[0].html]));
})</script>
"""


@pytest.mark.skipif(not AXE, reason="needs PIPELINE_AXE, the path of axe-core's axe.min.js")
@pytest.mark.parametrize("dark", [False, True])
def test_no_fault_is_serious(page: Path, dark: bool) -> None:
    axe = Path(AXE).read_text().replace("</script", "<\\/script")

    def serious(text: str) -> list[list[str]]:
        audited = page.with_name("audited.html")
        audited.write_text(text.replace("</body>", f"<script>{axe}</script>{AUDIT}</body>"))
        scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
        dom = browse(audited, "--dump-dom", "--virtual-time-budget=20000", scheme).stdout
        assert f'data-dark="{str(dark).lower()}"' in dom
        found = json.loads(html.unescape(dom.split('data-said="')[1].split('"')[0]))
        return [one for one in found if one[1] in ("serious", "critical")]

    text = page.read_text()
    assert serious(text) == []
    assert serious(text.replace("</main>", '<img src="data:,"></main>')), "the test would see one"
