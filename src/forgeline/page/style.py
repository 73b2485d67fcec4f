"""How pages look: on a screen, light or dark, on a telephone and on paper."""

PALETTE = """
:root { --ink: #1d2730; --soft: #5b6875; --line: #dde3e8; --paper: #fff; --wash: #f5f7f9; --accent: #2f6fa7;
  --good: #3a8f5c; --lost: #d9822b; --quiet: #a9b4be;
  --text: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  --fixed: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e9ee; --soft: #9aa7b3; --line: #2f3943; --paper: #14191e; --wash: #1c232a; --accent: #6fb0e6;
    --good: #62bd87; --lost: #eda05a; --quiet: #5d6974; } }
"""

STYLE = (
    PALETTE
    + """
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 1rem; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.6 var(--text);
  display: grid; grid-template-columns: 15rem minmax(0, 56rem); justify-content: center; gap: 0 3.5rem; }
nav { position: sticky; top: 0; align-self: start; max-height: 100vh; overflow: auto; padding: 3.4rem 0 2rem 1.5rem;
  font-size: .875rem; }
nav p { margin: 0 0 .6rem; font-weight: 650; }
nav ol { list-style: none; margin: 0; padding: 0; border-left: 1px solid var(--line); }
nav a { display: block; padding: .22rem 0 .22rem .9rem; margin-left: -1px; border-left: 1px solid transparent;
  color: var(--soft); text-decoration: none; }
nav a:hover, nav a:focus-visible { color: var(--accent); border-left-color: var(--accent); }
main { padding: 3rem 1.5rem 6rem 0; min-width: 0; }
h1 { font-size: 2.1rem; line-height: 1.2; letter-spacing: -.02em; margin: 0 0 .4rem; }
h2 { font-size: 1.35rem; line-height: 1.3; letter-spacing: -.01em; margin: 3.2rem 0 .8rem; padding-top: 1.2rem;
  border-top: 1px solid var(--line); }
section:first-of-type h2 { border-top: 0; margin-top: 0; padding-top: .4rem; font-size: 1rem; letter-spacing: 0;
  color: var(--soft); font-weight: 500; }
h3 { font-size: 1rem; margin: 1.8rem 0 .6rem; }
h4 { font-size: .875rem; margin: 0 0 .6rem; }
p { margin: 0 0 1rem; max-width: 44rem; }
ul { margin: 0 0 1.2rem; padding-left: 1.2rem; max-width: 46rem; }
li { margin: .3rem 0; font-size: .9375rem; line-height: 1.5; }
nav li { margin: 0; font-size: inherit; }
summary { cursor: pointer; color: var(--accent); font-size: .9375rem; margin: 0 0 .8rem; width: fit-content; }
code { font: .86em/1.5 var(--fixed); background: var(--wash); border-radius: 4px; padding: .1em .35em;
  overflow-wrap: anywhere; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); gap: 1px; margin: 0 0 1.6rem;
  border: 1px solid var(--line); border-radius: 10px; overflow: hidden; }
.figures div { box-shadow: 0 0 0 1px var(--line); padding: .9rem 1.1rem;
  display: flex; flex-direction: column-reverse; }
.figures dt { color: var(--soft); font-size: .8125rem; line-height: 1.35; }
.figures dd { margin: 0; font-size: 1.5rem; font-weight: 620; letter-spacing: -.02em; line-height: 1.35;
  font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; margin: 0 0 1.6rem; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; line-height: 1.45; }
th { text-align: left; font-weight: 600; color: var(--soft); border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th, td { padding: .45rem 1.1rem .45rem 0; vertical-align: top; }
th:last-child, td:last-child { padding-right: 0; }
tbody tr + tr td { border-top: 1px solid var(--line); }
td:first-child code { white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { margin: 0 0 1.8rem; padding: 1.2rem 1.3rem; background: var(--wash); border-radius: 10px; }
figcaption { color: var(--soft); font-size: .8125rem; margin-top: .9rem; }
.row { display: grid; grid-template-columns: minmax(6rem, 15rem) minmax(0, 1fr) minmax(3.2rem, auto); gap: .9rem;
  align-items: center; font-size: .8125rem; line-height: 1.35; padding: .16rem 0; }
.label { text-align: right; overflow-wrap: anywhere; }
.value { font-variant-numeric: tabular-nums; color: var(--soft); min-width: 3.2rem; text-align: right; }
.bars .value { min-width: 6.6rem; white-space: pre; }
.track { width: 100%; height: 14px; overflow: visible; display: block; }
.intervals .row { padding: 0; }
.intervals .track { height: 1.35rem; }
.intervals .axis .track { height: 18px; }
.axis .label { color: var(--soft); }
.columns { width: 100%; overflow: visible; display: block; }
.unit { font-size: .8125rem; color: var(--soft); margin: .2rem 0 0; }
svg text { fill: var(--soft); font: 11px var(--text); text-anchor: middle; font-variant-numeric: tabular-nums; }
svg text.start { text-anchor: start; } svg text.end { text-anchor: end; }
rect.good { fill: var(--good); } rect.plain { fill: var(--accent); } rect.lost { fill: var(--lost); }
rect.quiet { fill: var(--quiet); }
line { stroke-width: 2; } line.plain { stroke: var(--accent); } line.quiet { stroke: var(--quiet); }
line.good { stroke: var(--good); } line.lost { stroke: var(--lost); }
line.nought { stroke: var(--quiet); stroke-width: 1; opacity: .6; }
line.grid { stroke: var(--line); stroke-width: 1; }
circle.plain { fill: var(--accent); } circle.quiet { fill: var(--quiet); } circle.lost { fill: var(--lost); }
circle.good { fill: var(--good); }
polyline { fill: none; stroke-width: 1.6; stroke-linejoin: round; vector-effect: non-scaling-stroke; }
polyline.plain { stroke: var(--accent); } polyline.lost { stroke: var(--lost); }
.plot { display: grid; grid-template-columns: 3rem minmax(0, 1fr); gap: .6rem; }
.plot > svg { width: 100%; height: 172px; overflow: visible; display: block; }
.keys { display: flex; gap: 1rem; margin: 0 0 .7rem; font-size: .8125rem; line-height: 1.35; color: var(--soft); }
.key::before { content: ""; display: inline-block; width: 1rem; border-top: 2px solid; margin-right: .4rem;
  vertical-align: middle; }
.key.plain::before { border-color: var(--accent); } .key.lost::before { border-color: var(--lost); }
.drawn { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1.8rem 2.4rem; }
.bars, .intervals, .scatter, .curves:first-child { grid-column: 1 / -1; }
.examples > div { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: .7rem; }
article { border: 1px solid var(--line); border-radius: 8px; padding: .75rem 1rem; }
article h4 { font-weight: 500; color: var(--soft); font-size: .8125rem; margin: 0 0 .4rem; overflow-wrap: anywhere; }
article dl { display: grid; gap: .3rem; margin: 0; font-size: .875rem; line-height: 1.5; }
article dl div { display: grid; grid-template-columns: 5.6rem minmax(0, 1fr); gap: .3rem .8rem; }
article dt { color: var(--soft); }
article dd { margin: 0; overflow-wrap: anywhere; white-space: pre-line; }
.examples.beside > div { grid-template-columns: minmax(0, 1fr); }
.beside dl { grid-template-columns: repeat(auto-fit, minmax(min(100%, 14rem), 1fr)); gap: .6rem 1.4rem; }
.beside dl div { display: block; }
ins, del { border-radius: 3px; text-decoration-thickness: 1.5px; text-underline-offset: .15em; }
ins { background: color-mix(in srgb, var(--good) 20%, transparent); text-decoration-color: var(--good); }
del { background: color-mix(in srgb, var(--lost) 18%, transparent); text-decoration-color: var(--lost);
  color: var(--soft); }
.heard { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
@media screen and (max-width: 60rem) {
  body { display: block; }
  nav { position: static; max-height: none; padding: 1.5rem 1.25rem 0; }
  nav p { display: none; }
  nav ol { border: 0; display: flex; flex-wrap: wrap; gap: .2rem .9rem; }
  nav a { padding: 0; border: 0; margin: 0; }
  main { padding: 1.5rem 1.25rem 4rem; }
  h1 { font-size: 1.7rem; }
  figure { padding: 1rem; margin-inline: -.25rem; }
  .row { grid-template-columns: minmax(0, 7rem) minmax(0, 1fr) auto; gap: .6rem; }
  article dl div { grid-template-columns: 1fr; gap: 0; }
  article dd { margin-bottom: .5rem; } }
@media print {
  :root { --ink: #000; --soft: #444; --line: #ccc; --paper: #fff; --wash: #fff; --accent: #2f6fa7; --good: #3a8f5c;
    --lost: #d9822b; --quiet: #a9b4be; }
  @page { margin: 16mm; }
  details::details-content { content-visibility: visible; block-size: auto; }
  summary { color: var(--soft); }
  html { font-size: 11.5px; }
  body { display: block; font-size: 1rem; }
  nav { display: none; }
  main { padding: 0; }
  h2, h3 { break-after: avoid; }
  figure { border: 1px solid var(--line); }
  .chart, article, tr, .figures { break-inside: avoid; }
  .wide { overflow: visible; } }
"""
)
