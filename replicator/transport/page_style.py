"""The status page's look and its one script, inline: the page asks for nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib

CSS = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6676; --line: #d9dee6; --ground: #f5f7fa; --card: #fff;
  --good: #177245; --wait: #945f00; --bad: #b3261e; --bar: #3b6fd4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #98a3b3; --line: #313a47; --ground: #12161c;
  --card: #1a2029; --good: #5cc98f; --wait: #e5b454; --bad: #ff8a80; --bar: #7ba4f4; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 24px 16px 48px; }
h1 { font-size: 22px; margin: 0; } h2 { font-size: 16px; margin: 0 0 12px; }
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: 4px 14px; margin-bottom: 16px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 16px; margin-top: 16px; }
table { width: 100%; border-collapse: collapse; } .wide { overflow-x: auto; }
th { text-align: left; font-weight: 500; color: var(--soft); font-size: 13px; }
th, td { padding: 6px 12px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child > td { border-bottom: 0; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.soft { color: var(--soft); } .small { font-size: 13px; } code { font-size: 13px; overflow-wrap: anywhere; }
.state { font-weight: 600; white-space: nowrap; } .state::before { content: "\\25CF\\00A0"; }
.good { color: var(--good); } .wait { color: var(--wait); } .bad { color: var(--bad); }
.notice { border-left: 4px solid; border-radius: 4px; padding: 8px 12px; margin: 0 0 12px; background: var(--ground); }
.notice p { margin: 0; color: var(--ink); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(115px, 1fr)); gap: 12px; margin-bottom: 12px; }
.figures div { min-width: 0; } .figures b { display: block; font-size: 20px; font-variant-numeric: tabular-nums; }
.figures div > span { color: var(--soft); font-size: 13px; }
#stale { display: none; position: sticky; top: 0; padding: 8px 16px; background: var(--bad); color: var(--card); }
footer { margin-top: 16px; color: var(--soft); font-size: 13px; } footer a { color: inherit; }
"""

# The figures are made in one place, by the server; the script only fetches them again, and says when it cannot: then
# nothing is known any more, in the header and in the tab's title, too.
SCRIPT = """
const stale = document.getElementById("stale");
let heard = Date.now();
async function refresh() {
  try {
    const answer = await fetch("/", { cache: "no-store", signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error(answer.status);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.querySelector("main").replaceWith(fresh.querySelector("main"));
    document.title = fresh.title;
    heard = Date.now();
    stale.style.display = "none";
  } catch {
    const seconds = Math.round((Date.now() - heard) / 1000);
    stale.textContent = "No answer from the sidecar for " + seconds + " s: these figures are old.";
    stale.style.display = "block";
    const state = document.querySelector("header .state");
    state.textContent = "not known";
    state.className = "state wait";
    document.title = document.querySelector("h1").textContent + ": not known";
  }
  setTimeout(refresh, document.hidden ? 10000 : 1000);
}
setTimeout(refresh, 1000);
"""


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src {_hash(CSS)}; script-src {_hash(SCRIPT)}; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
