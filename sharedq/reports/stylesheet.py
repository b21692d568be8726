"""The look of the report page: one column, system fonts, light and dark by the reader's own setting."""

from sharedq.reports.looks import DARK, LIGHT


def _colours(name: str, colours: tuple[str, ...]) -> str:
    return "".join(f"--{name}{place}:{colour};" for place, colour in enumerate(colours))


STYLESHEET = (
    f":root{{color-scheme:light dark;--paper:#fdfdfc;--ink:{LIGHT.ink};--quiet:#5b636e;--line:#dfe2e6;--box:#f3f4f5;"
    f"{_colours('c', LIGHT.colours)}}}\n"
    f"@media (prefers-color-scheme:dark){{:root{{--paper:#15181c;--ink:{DARK.ink};--quiet:#a0a8b3;--line:#343a42;"
    f"--box:#1d2126;{_colours('c', DARK.colours)}}}}}\n"
    """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:1rem/1.55 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:780px;margin:0 auto;padding:2.5rem 1rem 4rem}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .3rem;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:2.6rem 0 .6rem;overflow-wrap:anywhere}
p,li{max-width:68ch;overflow-wrap:anywhere}
ul{padding-left:1.2rem}
.quiet{color:var(--quiet);font-size:.92rem}
.lead{font-size:1.12rem;border-left:3px solid var(--c0);padding-left:.9rem;margin:1.4rem 0}
figure{margin:1.8rem 0}
figure img{display:block;width:100%;max-width:600px;height:auto;margin:0 auto}
figcaption{color:var(--quiet);font-size:.92rem;max-width:600px;margin:.4rem auto 0;overflow-wrap:anywhere}
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
details{margin:1rem 0}
summary{cursor:pointer}
td small{display:block;color:var(--quiet)}
.dot{display:inline-block;width:.65rem;height:.65rem;border-radius:50%;margin-right:.5rem}
pre{overflow-x:auto;background:var(--box);border-radius:6px;padding:.7rem .9rem;font-size:.85rem;margin:.3rem 0 1rem}
""" + "".join(f".c{place}{{background:var(--c{place})}}\n" for place in range(len(LIGHT.colours)))
)
