"""The built site in a headless browser: every page opens, and loads nothing from elsewhere. `make docs` runs this."""

import functools
import html
import json
import re
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


SITE = Path(__file__).parents[2] / "build" / "site"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
# Opens each page in a frame, one after the other, and writes down what is wrong with it.
DRIVER = """<!doctype html><title>driver</title>
<iframe id="page" width="WIDTH" height="900"></iframe><pre id="report"></pre>
<script>
const pages = PAGES, others = OTHERS, found = {}, frame = document.getElementById("page");
function look(page) {
  const inside = frame.contentDocument, faults = [];
  const loaded = frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name);
  loaded.filter(name => !name.startsWith(location.origin)).forEach(name => faults.push("loads " + name));
  [...inside.images].filter(image => !image.naturalWidth).forEach(image => faults.push("shows no " + image.src));
  if (!inside.querySelector("h1")) faults.push("has no heading");
  if (inside.body.innerHTML.includes("<!-- table:")) faults.push("has no table");
  if (inside.documentElement.scrollWidth > WIDTH) faults.push("is wider than the window");
  for (const link of inside.querySelectorAll("article a[href]")) {
    const target = new URL(link.href), known = [...pages, ...others].some(name => target.pathname === "/" + name);
    if (target.origin === location.origin && !known) faults.push("links to " + target.pathname);
    const id = target.pathname === "/" + page && decodeURIComponent(target.hash.slice(1));
    if (id && !inside.getElementById(id)) faults.push("has no #" + id);
  }
  return faults;
}
function next(number) {
  if (number === pages.length) {
    document.getElementById("report").textContent = JSON.stringify(found);
    return;
  }
  frame.onload = () => { found[pages[number]] = look(pages[number]); next(number + 1); };
  frame.src = "/" + pages[number];
}
next(0);
</script>
"""

# Types each query into the search of a page, and writes down where the results lead. The browser waits for the
# picture, which the server holds back until it is asked for /driver/done.
SEARCHER = """<!doctype html><title>searcher</title><pre id="report"></pre><img src="/driver/held">
<script>
const queries = QUERIES, found = {};
async function results(page, query) {
  const frame = document.createElement("iframe");
  frame.width = 1200;
  frame.height = 900;
  frame.src = "/" + page + "?q=" + encodeURIComponent(query);
  document.body.append(frame);
  for (let round = 0; round < 400; round++) {
    await new Promise(resolve => setTimeout(resolve, 100));
    const links = frame.contentDocument?.querySelectorAll(".md-search-result__link") ?? [];
    if (links.length) return [...links].map(link => decodeURIComponent(new URL(link.href).pathname));
  }
  return [];
}
(async () => {
  for (const [page, query] of queries) found[query] = await results(page, query);
  document.getElementById("report").textContent = JSON.stringify(found);
  fetch("/driver/done");
})();
</script>
"""
# A query, and the page that has to be among what the search finds.
QUERIES = {
    "perplexity": ("index.html", "/concepts/glossary.html"),
    "困惑度": ("zh/index.html", "/zh/concepts/glossary.html"),
    "学习率": ("zh/index.html", "/zh/concepts/glossary.html"),
    "填充在哪一边": ("zh/index.html", "/zh/how-to/questions.html"),
    "混合检索": ("zh/index.html", "/zh/how-to/search.html"),
}


class Handler(SimpleHTTPRequestHandler):
    """Serves the site and the driver, and writes down what is not there."""

    missing: list[str] = []
    done = threading.Event()

    def do_GET(self):
        if not self.path.startswith("/driver"):
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        if self.path == "/driver/held":
            self.done.wait(240)
        if self.path == "/driver/done":
            self.done.set()
        if self.path == "/driver/search":
            asked = [(page, query) for query, (page, _) in QUERIES.items()]
            self.wfile.write(SEARCHER.replace("QUERIES", json.dumps(asked)).encode())
            return
        width = self.path.partition("?")[2]
        others = ["404.html", *(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.ipynb"))]
        driver = DRIVER.replace("PAGES", json.dumps(names())).replace("OTHERS", json.dumps(others))
        self.wfile.write(driver.replace("WIDTH", width).encode())

    def log_message(self, format, *arguments):
        pass

    def send_error(self, code, message=None, explain=None):
        self.missing.append(f"{code} {self.path}")
        super().send_error(code, message, explain)


def names() -> list[str]:
    return sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html") if path.name != "404.html")


def open_driver(address: str, folder: Path, *more: str) -> tuple[dict, str]:
    """What a driver reports of the built site, and what the browser logs."""
    if not (SITE / "index.html").exists():
        pytest.skip("the site is not built: make docs")
    if BROWSER is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    Handler.missing.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    options = [
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
        *("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", *more),
        *(f"--user-data-dir={folder}", "--enable-logging=stderr", "--dump-dom"),
    ]
    command = [BROWSER, *options, f"http://127.0.0.1:{server.server_port}/{address}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    server.shutdown()
    report = re.search(r'<pre id="report">(.*?)</pre>', result.stdout, flags=re.DOTALL)
    assert report and report[1], result.stderr[-2000:]
    return json.loads(html.unescape(report[1])), result.stderr


@pytest.mark.parametrize("width", [1200, 390], ids=["window", "phone"])
def test_every_page_opens_and_loads_nothing_from_elsewhere(width, tmp_path):
    found, log = open_driver(f"driver?{width}", tmp_path, "--virtual-time-budget=120000")
    assert sorted(found) == names()
    assert {page: faults for page, faults in found.items() if faults} == {}
    # The theme looks for a sitemap beside the page in the other language, which the link leads to without it.
    optional = ("favicon", "sitemap.xml")
    assert [name for name in Handler.missing if not any(part in name for part in optional)] == []
    console = re.findall(r"CONSOLE.*", log)
    assert [line for line in console if not any(part in line for part in optional)] == []


def test_the_search_finds_words_in_both_languages(tmp_path):
    found, _ = open_driver("driver/search", tmp_path)
    missed = {query: found[query] for query, (_, page) in QUERIES.items() if page not in found[query]}
    assert missed == {}
