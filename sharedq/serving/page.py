"""The pages of the server: the agent at play, and a list of what can be asked. They load nothing from elsewhere."""

import re
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from sharedq.reports.interactive import policy
from sharedq.reports.outputs import PAGE_BEGINS
from sharedq.reports.stylesheet import STYLESHEET

STYLE = """
main{max-width:1040px}
#game,#values{min-width:0}
.beside{display:grid;grid-template-columns:minmax(0,9fr) minmax(0,11fr);gap:0 2rem;align-items:start}
.beside.alone{grid-template-columns:minmax(0,620px)}
#picture{display:block;width:100%;border:1px solid var(--line);border-radius:6px;background:var(--box)}
#picture.grid{image-rendering:pixelated}
.controls{display:flex;flex-wrap:wrap;gap:.5rem;align-items:center;margin:.7rem 0}
.controls button,.controls select,form button{font:inherit;font-size:.92rem;border:1px solid var(--line);
border-radius:6px;padding:.25rem .8rem;min-height:2.2rem;background:var(--box);color:var(--ink)}
.controls button:hover,form button:hover{border-color:var(--quiet)}
#toggle{min-width:5.2rem;text-align:center}
.row{display:grid;grid-template-columns:minmax(4.5rem,max-content) minmax(0,1fr) 4.2rem;gap:.6rem;align-items:center;
padding:.2rem .4rem;border-radius:6px;font-size:.9rem;font-variant-numeric:tabular-nums}
.row.chosen{background:var(--box);font-weight:600}
.row .number{text-align:right}
.track{position:relative;height:var(--row,1.5rem);border-left:1px solid var(--line)}
.bar{position:absolute;left:0;top:15%;bottom:15%;background:var(--line);border-radius:0 3px 3px 0}
.chosen .bar{background:color-mix(in srgb,var(--c0) 38%,var(--paper))}
.head{position:absolute;width:7px;height:7px;margin:-3.5px;border-radius:50%}
.wish{outline:1.5px solid var(--ink);outline-offset:1px}
.chain{display:inline-block;width:3.4rem;height:.5rem;border-radius:.25rem;margin:0 .4rem;
background:linear-gradient(90deg in oklab,var(--c0),var(--c3))}
#scale{display:grid;grid-template-columns:1fr 1fr 1fr;margin:.1rem 5.2rem .6rem 5.5rem;font-size:.82rem}
#scale span:nth-child(2){text-align:center}
#scale span:nth-child(3){text-align:right}
#past svg{display:block;width:100%;height:6.5rem;border-bottom:1px solid var(--line)}
#past path{fill:none;stroke-width:1.6;stroke-linejoin:round}
#past-figure{margin:1rem 0}
#agreement{min-height:3.1em}
#wrong{border-left:3px solid var(--c3);padding-left:.9rem}
textarea,input{font:.85rem ui-monospace,monospace;width:100%;background:var(--box);color:var(--ink);
border:1px solid var(--line);border-radius:6px;padding:.5rem}
textarea{height:6rem;resize:vertical}
@media (max-width:760px){.beside{grid-template-columns:minmax(0,1fr)}#picture{max-height:60vh;object-fit:contain}}
"""

_BODY = """<main>
<h1 id="title">An agent</h1>
<p class="quiet" id="about"></p>
<noscript><p>This page needs JavaScript. The <a href="docs">other addresses</a> do not.</p></noscript>
<p id="wrong" role="alert" hidden></p>
<form id="token-form" hidden>
<p><label for="token">This server asks for its token. It is kept until you close the page.</label></p>
<p><input id="token" type="password" autocomplete="off" required></p>
<p><button>Use it</button></p>
</form>
<div id="content" hidden>
<p id="no-game" class="quiet" hidden>The agent does not play here, because the server has no environment open. Start it
with <code>sharedq serve agent.onnx --play</code>, where what it was trained with is installed: sharedq with JAX, and
for environments of Gymnasium, Atari or the Control Suite their extra too. Below, it decides on an observation of
yours.</p>
<div id="beside" class="beside">
<section id="game" hidden>
<img id="picture" alt="the game at this step" hidden>
<pre id="seen" hidden></pre>
<div class="controls">
<button id="toggle" type="button">Play</button>
<button id="once" type="button">One step</button>
<label>steps per second <select id="speed"><option>1</option><option>4</option><option selected>10</option>
<option>30</option></select></label>
</div>
<p class="quiet" id="score"></p>
</section>
<section id="values" hidden>
<div id="rows"></div>
<div id="scale" class="quiet"></div>
<p id="agreement"></p>
<p class="quiet" id="key">A bar is the value that the agent follows. <span id="key-of-heads">A dot is the value of one
head, from the first <span class="chain"></span> to the last. A ring marks the action that this head would
choose.</span></p>
<figure id="past-figure" hidden><div id="past"></div><figcaption id="past-scale"></figcaption></figure>
</section>
</div>
<details id="by-hand"><summary>Decide on an observation of your own</summary>
<form id="by-hand-form">
<p><label for="observation">An observation as JSON: <code id="form-of"></code></label></p>
<textarea id="observation" spellcheck="false"></textarea>
<p class="controls"><button>Decide</button><button type="button" id="zeros">Zeros</button>
<button type="button" id="random">Random numbers</button></p>
</form>
</details>
</div>
<p class="quiet"><a href="docs">What can be asked of this server</a></p>
</main>
"""


def _script() -> str:
    return files("sharedq.serving").joinpath("page.js").read_text(encoding="utf-8")


POLICY = f"{policy(_script())}; connect-src 'self'; frame-ancestors 'none'"
DOCS_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"


@cache
def page() -> str:
    """The agent at play."""
    return _page("An agent", _BODY + f"<script>{_script()}</script>\n", STYLESHEET + STYLE)


def docs_page(described: dict[str, Any]) -> str:
    """What the description of the addresses in OpenAPI says, to be read without a script."""
    parts = [f"<h1>{escape(described['info']['title'])}</h1>", f"<p>{_as_html(described['info']['description'])}</p>"]
    parts.append('<p>The same is at <a href="openapi.json">openapi.json</a>. <a href="./">The agent</a></p>')
    for path, methods in described["paths"].items():
        for method, one in methods.items():
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(one['summary'])}</p>")
            parts.append(f"<p>{_as_html(one.get('description', ''))}</p>")
            if "requestBody" in one:
                parts.append(f"<pre>{escape(_EXAMPLES.format(path=path))}</pre>")
            told = {code: answer["description"] for code, answer in one["responses"].items() if code != "200"}
            if told:
                rows = "".join(f"<tr><th>{code}</th><td>{escape(words)}</td></tr>" for code, words in told.items())
                parts.append(f"<details><summary>Mistakes</summary><table>{rows}</table></details>")
    return _page(described["info"]["title"], f"<main>{''.join(parts)}</main>", STYLESHEET)


def _as_html(text: str) -> str:
    """Text in which code stands between backticks."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", escape(text))


_EXAMPLES = """curl -H 'Content-Type: application/json' -d '{{"observation": [0, 0, 1, 0]}}' localhost:8000{path}
curl -H 'Content-Type: application/octet-stream' --data-binary @observation.bin localhost:8000{path}"""


def _page(title: str, body: str, style: str) -> str:
    head = (
        f'<meta name="viewport" content="width=device-width,initial-scale=1">\n<title>{escape(title)}</title>\n'
        f'<link rel="icon" href="data:,">\n<style>{style}</style>\n</head>\n<body>\n'
    )
    return PAGE_BEGINS + head + body + "</body>\n</html>\n"
