"""The look of the report page: one column, system fonts, light and dark by the reader's setting; it prints light."""

from sharedq.reports.looks import DARK, HEAT_STEPS, LIGHT, heat_colours

PAPER = {"light": "#fdfdfc", "dark": "#15181c"}


def _colours(name: str, colours: tuple[str, ...]) -> str:
    return "".join(f"--{name}{place}:{colour};" for place, colour in enumerate(colours))


STYLESHEET = (
    f":root{{color-scheme:light dark;--paper:{PAPER['light']};--ink:{LIGHT.ink};--quiet:#5b636e;--line:#dfe2e6;"
    f"--box:#f3f4f5;--grid:#e6e8eb;{_colours('c', LIGHT.colours)}"
    f"{_colours('h', tuple(heat_colours(LIGHT, PAPER['light'])))}}}\n"
    f"@media screen and (prefers-color-scheme:dark){{:root{{--paper:{PAPER['dark']};--ink:{DARK.ink};--quiet:#a0a8b3;"
    f"--line:#343a42;--box:#1d2126;--grid:#2a2f36;{_colours('c', DARK.colours)}"
    f"{_colours('h', tuple(heat_colours(DARK, PAPER['dark'])))}}}}}\n"
    """
*{box-sizing:border-box}
[hidden]{display:none!important}
body{margin:0;background:var(--paper);color:var(--ink);font:1rem/1.55 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:780px;margin:0 auto;padding:2.5rem 1rem 4rem}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .3rem;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:2.6rem 0 .6rem;overflow-wrap:anywhere;scroll-margin-top:5rem}
p,li{max-width:68ch;overflow-wrap:anywhere}
ul{padding-left:1.2rem}
a{color:var(--c0)}
.quiet{color:var(--quiet);font-size:.92rem}
.lead{font-size:1.12rem;border-left:3px solid var(--c0);padding-left:.9rem;margin:1.4rem 0}
figure{margin:1.8rem 0}
figure img,figure video{display:block;width:100%;max-width:600px;height:auto;margin:0 auto}
figcaption{color:var(--quiet);font-size:.92rem;max-width:600px;margin:.4rem auto 0;overflow-wrap:anywhere}
.films{display:grid;grid-template-columns:repeat(auto-fill,minmax(200px,1fr));gap:0 1rem}
/* the shadow at an edge says that the table goes on there; it is covered once scrolled to the end */
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:6px;margin:1rem 0;background:
linear-gradient(90deg,var(--paper) 60%,transparent) left/2.5rem 100% no-repeat local,
linear-gradient(270deg,var(--paper) 60%,transparent) right/2.5rem 100% no-repeat local,
linear-gradient(90deg,#8886,transparent) left/.9rem 100% no-repeat scroll,
linear-gradient(270deg,#8886,transparent) right/.9rem 100% no-repeat scroll}
/* where there is room, a wide table is wider than the text */
@media (min-width:860px){.scroll{width:max-content;min-width:100%;max-width:min(100vw - 3rem,1180px);
position:relative;left:50%;transform:translateX(-50%)}}
table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:.45rem .6rem;text-align:right;white-space:nowrap;border-top:1px solid var(--line);vertical-align:top}
thead th{border-top:0;font-weight:600;vertical-align:bottom}
th:first-child,th:last-child,td:last-child{text-align:left}
tbody th{font-weight:500;max-width:16rem;overflow:hidden;text-overflow:ellipsis}
tbody tr:hover>*{background:color-mix(in srgb,var(--ink) 5%,transparent)}
details{margin:1rem 0}
summary{cursor:pointer}
details.task{border-top:1px solid var(--line);margin:0}
details.task>summary{padding:.7rem 0}
details.task>summary h2{display:inline;margin:0}
td small{display:block;color:var(--quiet)}
.dot{display:inline-block;width:.65rem;height:.65rem;border-radius:50%;margin-right:.5rem}
pre{overflow-x:auto;background:var(--box);border-radius:6px;padding:.7rem .9rem;font-size:.85rem;margin:.3rem 0 1rem}
.heat td{padding:0;text-align:center}
.heat td span{display:block;padding:.5rem .6rem}
.heat thead th:not(:first-child){white-space:normal;min-width:5.5rem;max-width:9rem;text-align:center}
/* what the script makes */
button{font:inherit;color:inherit;background:none;border:0;padding:0;cursor:pointer;text-align:inherit}
:focus-visible{outline:2px solid var(--c0);outline-offset:2px}
.sources{position:sticky;top:0;z-index:3;display:flex;flex-wrap:wrap;gap:.3rem .4rem;padding:.5rem 0;
background:var(--paper);border-bottom:1px solid var(--line);font-size:.86rem;max-height:40vh;overflow:auto;
box-shadow:0 0 0 100vmax var(--paper);clip-path:inset(0 -100vmax)} /* also over tables that are wider than the text */
.sources button{flex:none;display:flex;align-items:center;gap:.4rem;border:1px solid var(--line);border-radius:1rem;
padding:.18rem .65rem;max-width:17rem;min-height:1.9rem}
.sources button span{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.sources button:hover{background:var(--box)}
.sources .source[aria-pressed=false]{color:var(--quiet);text-decoration:line-through;border-style:dashed}
.sources .source[aria-pressed=false] .swatch{opacity:.3}
.sources .plain[aria-pressed=true]{background:var(--ink);color:var(--paper)}
.swatch{width:26px;height:12px;flex:none;vertical-align:-1px;margin-right:.3rem}
.sources .swatch{margin:0}
.live>img{display:none}
.live>figcaption{max-width:none}
.chart{position:relative;touch-action:pan-y;border-radius:6px}
.chart>svg{display:block;overflow:visible;font-size:12px}
.axes line{stroke:var(--grid)}
.axes line.level{stroke:var(--ink);stroke-dasharray:2 3}
.axes text{fill:var(--quiet)}
.axes .title{fill:var(--ink)}
.grey{fill:var(--line);opacity:.55}
.series text{fill:var(--ink)}
.series .name{font-size:13px;paint-order:stroke;stroke:var(--paper);stroke-width:3px}
.series path.line{fill:none;stroke-width:2;stroke-linejoin:round}
.series path.seed{fill:none;stroke-width:.8;opacity:.65}
.series .band{opacity:.15;stroke:none}
.series .bar{opacity:.35}
.series .whisker{stroke-width:2.5}
.series .dot-seed{opacity:.65}
.beside path{fill:none;stroke-width:1.2}
.small .series path.line{stroke-width:1.5}
.dim{opacity:.12}
@media (prefers-reduced-motion:no-preference){.series{transition:opacity .12s}}
.cursor line{stroke:var(--ink);stroke-width:1;opacity:.6}
.cursor rect{fill:var(--ink);opacity:.06}
.cursor .ring{stroke:var(--paper);stroke-width:.3}
.tip{position:absolute;z-index:2;pointer-events:none;background:var(--paper);border:1px solid var(--line);
border-radius:6px;box-shadow:0 2px 10px #0003;padding:.35rem .55rem;font-size:.8rem;line-height:1.45;
width:max-content;max-width:min(100%,24rem);font-variant-numeric:tabular-nums}
.tip .when{color:var(--quiet)}
.tip span{overflow-wrap:anywhere}
.tip b{font-weight:600;white-space:nowrap}
.tip .near{background:var(--box);margin:0 -.3rem;padding:0 .3rem;border-radius:4px}
.tip small{display:block;color:var(--quiet)}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(220px,1fr));gap:1rem .8rem}
.panel{min-width:0}
.panel>a{display:block;font-size:.9rem;overflow:hidden;text-overflow:ellipsis;white-space:nowrap;color:inherit}
.sort{font-weight:inherit;text-align:inherit;width:100%}
.sort:hover{text-decoration:underline}
th[aria-sort] .sort::after{content:" ↓"}
th[aria-sort=ascending] .sort::after{content:" ↑"}
.tools{display:flex;gap:.9rem;justify-content:flex-end;margin:-.6rem 0 1.2rem;font-size:.82rem;color:var(--quiet)}
.tools.above{margin:.3rem 0 -.2rem}
.copy:hover{color:var(--ink);text-decoration:underline}
.away{position:fixed;left:-99rem}
@media (max-width:600px){
main{padding-top:1.4rem}
.sources{flex-wrap:nowrap;overflow-x:auto}
tbody th{min-width:7.5rem;max-width:9.5rem;white-space:normal;overflow-wrap:anywhere}
.panels{grid-template-columns:repeat(auto-fill,minmax(150px,1fr))}
}
@media print{
:root{color-scheme:light}
main{max-width:none;padding:0}
.sources{position:static;max-height:none}
.sources .plain,.tools,.tip,.cursor,video{display:none!important}
.scroll{overflow:visible;position:static;transform:none;width:auto;max-width:none;min-width:0;background:none}
table{font-size:.66rem}
th,td{white-space:normal;padding:.25rem .3rem}
figure,tr{break-inside:avoid}
h2,h3{break-after:avoid}
details.task::details-content{content-visibility:visible;block-size:auto}
pre{white-space:pre-wrap;overflow-wrap:anywhere}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
}
"""
    + "".join(f".c{place}{{background:var(--c{place})}}\n" for place in range(len(LIGHT.colours)))
    + "".join(f".h{place}{{background:var(--h{place})}}\n" for place in range(2 * HEAT_STEPS + 1))
)
