"""The style sheet of the report: light and dark, screen and paper."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f5f6f8; --card: #ffffff; --text: #1a1f26; --muted: #5a6573; --line: #e2e6ec;
  --soft: #eef1f5; --winner: #0a7d5c; --evolution: #2563d9; --random: #c2620a;
  --largest: #7a46d1; --front: #39424e; --limit: #b3261e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0e1217; --card: #161b22; --text: #e7ebf0; --muted: #97a3b1; --line: #2a323c;
    --soft: #1f262f; --winner: #3ecf9e; --evolution: #6fa3ff; --random: #f2a052;
    --largest: #bb9aff; --front: #aab6c4; --limit: #ff8a80;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial,
    "Noto Sans", "Liberation Sans", sans-serif;
  font-variant-numeric: tabular-nums;
}
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 56px; }
h1 { font-size: 30px; line-height: 1.2; margin: 2px 0 8px; letter-spacing: -0.015em; }
h2 { font-size: 18px; margin: 0 0 4px; letter-spacing: -0.005em; }
h3 { font-size: 13px; margin: 0 0 6px; font-weight: 600; color: var(--muted); }
p { margin: 0 0 14px; max-width: 92ch; }
.kicker { color: var(--muted); font-size: 13px; margin: 0; }
.lead { font-size: 16px; color: var(--muted); margin-bottom: 0; }
.note { color: var(--muted); font-size: 13.5px; }
section > :last-child { margin-bottom: 0; }
.scroll + .note { margin-top: 14px; }
section {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 22px 24px; margin-top: 18px;
}
code, pre, .path {
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono",
    "DejaVu Sans Mono", monospace; font-size: 0.9em;
}
.path, code { overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(4, 1fr); gap: 14px; margin-top: 24px; }
.tile {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px 18px;
}
.tile dt { color: var(--muted); font-size: 13px; }
.tile dd { margin: 0; }
.tile .figure { font-size: 27px; line-height: 1.25; font-weight: 650; letter-spacing: -0.02em; }
.tile.good .figure { color: var(--winner); }
.tile .below { color: var(--muted); font-size: 13px; }
dl { margin: 0; }
.exact { overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: 8px 14px 8px 0; vertical-align: middle; }
th { color: var(--muted); font-weight: 600; font-size: 13px; border-bottom: 1px solid var(--line); }
tbody tr + tr td { border-top: 1px solid var(--line); }
td.number, th.number { text-align: right; white-space: nowrap; }
td:last-child, th:last-child { padding-right: 0; }
tr.winner td { font-weight: 600; }
.small { color: var(--muted); font-size: 13px; font-weight: 400; }
.chips { display: flex; flex-wrap: wrap; gap: 4px; }
.chip {
  background: var(--soft); border-radius: 6px; padding: 1px 8px; font-size: 13px;
  white-space: nowrap;
}
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 28px; }
figure { margin: 14px 0 0; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg.mark { display: inline-block; width: 14px; height: 14px; vertical-align: -2px; }
svg text { fill: var(--muted); font-size: 12px; font-family: inherit; }
svg .label {
  fill: var(--text); font-weight: 600; font-size: 13px; paint-order: stroke; stroke: var(--card);
  stroke-width: 4px; stroke-linejoin: round;
}
.grid { stroke: var(--line); stroke-width: 1; }
.axis { stroke: var(--muted); stroke-width: 1; }
.curve { fill: none; stroke-width: 2.2; stroke-linejoin: round; stroke-linecap: round; }
.front { fill: none; stroke: var(--front); stroke-width: 1.6; }
.halo { fill: none; stroke: var(--front); stroke-width: 1.2; }
.limit { stroke: var(--limit); stroke-width: 1.4; stroke-dasharray: 5 4; }
svg text.limit-label { fill: var(--limit); }
.evolution { fill: var(--evolution); }
.random { fill: var(--card); stroke: var(--random); stroke-width: 1.6; }
.other { fill: var(--muted); }
.largest { fill: var(--largest); stroke: var(--card); stroke-width: 1.5; }
.winner-mark { fill: var(--winner); stroke: var(--card); stroke-width: 1.5; }
.best-random { fill: var(--random); stroke: var(--card); stroke-width: 1.5; }
.cloud { opacity: 0.62; }
.evolution-dot { fill: var(--evolution); }
.winner-dot { fill: var(--winner); }
.outside { fill: var(--soft); opacity: 0.7; }
.stroke-evolution { stroke: var(--evolution); }
.stroke-winner { stroke: var(--winner); }
.span { stroke-width: 3; stroke-linecap: round; opacity: 0.45; }
.span.winner-row { stroke: var(--winner); } .span.random-row { stroke: var(--random); }
.span.largest-row { stroke: var(--largest); } .span.other-row { stroke: var(--muted); }
.dot.winner-row { fill: var(--winner); } .dot.random-row { fill: var(--random); }
.dot.largest-row { fill: var(--largest); } .dot.other-row { fill: var(--muted); }
.forest { width: 150px; min-width: 110px; }
.legend {
  display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 12px 0 0; padding: 0; list-style: none;
  font-size: 13.5px; color: var(--muted);
}
.network { margin-top: 16px; }
.row { display: flex; flex-wrap: wrap; gap: 14px 18px; margin-bottom: 14px; }
.row:last-child { margin-bottom: 0; }
.row-name { margin: 0 0 6px; color: var(--muted); }
.layer {
  position: relative; flex: 0 0 108px; background: var(--soft);
  border: 1px solid var(--line); border-radius: 10px; padding: 9px 11px 10px;
}
.layer:not(:last-child)::after {
  content: "\\2192"; position: absolute; right: -17px; top: 50%; transform: translateY(-50%);
  color: var(--muted); font-size: 14px;
}
.layer.end { flex-basis: 100px; white-space: nowrap; }
.layer.whole { flex-basis: 100%; background: none; display: flex; flex-wrap: wrap; gap: 4px 32px; }
.layer.whole .gauge { flex: 0 1 220px; }
.layer.whole::after, .layer.last::after { content: none; }
.layer.end { background: none; border-style: solid; border-color: var(--line); }
.layer.absent { background: none; border: 1px dashed var(--muted); color: var(--muted); }
.layer h3 { margin: 0 0 5px; color: var(--text); overflow-wrap: anywhere; }
.layer.absent h3 { color: var(--muted); font-weight: 500; }
.gauge + .gauge { margin-top: 5px; }
.layer.whole .gauge + .gauge { margin-top: 0; }
.gauge div {
  display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 8px; font-size: 13px;
  overflow-wrap: break-word;
}
.gauge div span { color: var(--muted); max-width: 100%; }
.gauge div b { font-weight: 600; max-width: 100%; margin-left: auto; }
.gauge svg { margin-top: 1px; }
.rail { stroke: var(--line); stroke-width: 2; }
.layer .rail { stroke: var(--muted); opacity: 0.35; }
.stop { fill: var(--card); stroke: var(--muted); stroke-width: 1.2; }
.taken { fill: var(--winner); }
.commands { margin: 14px 0 0; padding: 0; list-style: none; }
.commands li + li { margin-top: 12px; }
pre {
  background: var(--soft); border-radius: 8px; padding: 10px 14px; margin: 3px 0 0;
  white-space: pre-wrap; overflow-wrap: anywhere;
}
.facts { display: grid; grid-template-columns: max-content 1fr; gap: 6px 24px; margin-top: 12px; }
.facts dt { color: var(--muted); }
.facts dd { margin: 0; overflow-wrap: anywhere; }
footer { color: var(--muted); font-size: 13px; margin-top: 22px; }
@media (max-width: 820px) {
  .tiles { grid-template-columns: 1fr 1fr; }
  .pair, .facts { grid-template-columns: 1fr; gap: 12px; }
  .facts { gap: 0; } .facts dd { margin-bottom: 10px; }
  main { padding: 24px 14px 40px; }
  section { padding: 18px 16px; }
}
@media print {
  body { background: #fff; }
  section, .tile { break-inside: avoid; border-color: #ccc; }
  main { max-width: none; padding: 0; }
}
"""
