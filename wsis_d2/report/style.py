"""The look of the report: one style sheet, light and dark, for screen and print."""

#: The most panels side by side, from narrow windows to wide ones.
MOST_COLUMNS = (2, 4, 6, 8)

STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --text: #1b1d20; --soft: #5c636b; --rule: #d9dce0; --faint: #f4f5f6;
  --veil: rgb(255 255 255 / .96); --link: #0b57a4;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #15171a; --text: #e6e8ea; --soft: #9ba3ab; --rule: #34393f; --faint: #1d2024;
    --veil: rgb(15 17 19 / .97); --link: #8bbcf0;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 3rem clamp(1rem, 3vw, 3rem) 4rem; max-width: 110rem;
  background: var(--page); color: var(--text); overflow-wrap: break-word;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans",
    "Liberation Sans", Arial, sans-serif;
}
h1 { margin: 0 0 .75rem; font-size: 1.75rem; line-height: 1.2; font-weight: 650; }
h2 { margin: 3.5rem 0 1rem; font-size: 1.2rem; line-height: 1.3; font-weight: 650; }
h1, h2, p { max-width: 72ch; overflow-wrap: anywhere; }
p { margin: 0 0 .75rem; }
dl, dd { margin: 0; }
.note { color: var(--soft); font-size: .8125rem; line-height: 1.45; }

.headline {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: 1.25rem 2rem;
  margin: 2rem 0 0; padding: 1.25rem 0; border-block: 1px solid var(--rule);
}
.headline dt { color: var(--soft); font-size: .8125rem; line-height: 1.35; }
.headline .value {
  margin-top: .25rem; font-size: 2rem; line-height: 1.15; font-weight: 600;
  font-variant-numeric: tabular-nums;
}
.headline .unit { margin-left: .15em; font-size: 1rem; font-weight: 400; color: var(--soft); }

.tables { display: flex; flex-wrap: wrap; gap: 2.25rem 4rem; align-items: flex-start; }
.table { max-width: 100%; }
.table .note { margin: .5rem 0 0; max-width: 60ch; }
/* What is wider than the window scrolls in its frame, whose shaded edge says so. */
.scroll {
  overflow-x: auto;
  background: linear-gradient(to left, var(--page) 1.5rem, transparent) local 100% / 3rem 100%
      no-repeat,
    linear-gradient(to left, var(--rule), transparent) 100% / .75rem 100% no-repeat;
}
.table table { border-collapse: collapse; font-size: .9375rem; }
.table caption { padding-bottom: .5rem; text-align: left; font-weight: 600; }
.table th, .table td { padding: .35rem 0 .35rem 1.75rem; text-align: left; vertical-align: top; }
.table th:first-child { padding-left: 0; font-weight: 400; }
.table thead th {
  border-block: 1px solid var(--text); border-bottom-color: var(--rule);
  color: var(--soft); font-size: .8125rem; font-weight: 500; vertical-align: bottom;
}
.table td.number { white-space: nowrap; }
.table tbody tr + tr > * { border-top: 1px solid var(--rule); }
.table tbody tr:last-child > * { border-bottom: 1px solid var(--text); }
/* The names of the rows stay in sight. */
.table th:first-child { position: sticky; left: 0; background: var(--page); }
.table .upright thead tr { border-block: 1px solid var(--text); border-bottom-color: var(--rule); }
.table .upright thead th { border: 0; }
.table .upright thead th + th {
  padding: .35rem 0; writing-mode: vertical-rl; rotate: 180deg; text-align: left;
  white-space: nowrap;
}
.table .upright td { min-width: 2.25rem; padding-left: .5rem; }
.table .number {
  text-align: right; font-variant-numeric: tabular-nums lining-nums;
}

.legend {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); gap: .75rem 2.5rem;
  margin-bottom: 1.75rem; font-size: .875rem; line-height: 1.45;
}
.legend dt { font-weight: 600; }
.legend dd { color: var(--soft); }

.gallery article + article { margin-top: 1.75rem; }
.gallery h3 {
  margin: 0 0 .4rem; font-size: .875rem; line-height: 1.4; font-weight: 400;
  overflow-wrap: anywhere;
}
.panels {
  --columns: var(--of2); display: grid; gap: .75rem;
  grid-template-columns: repeat(var(--columns), minmax(0, 1fr));
  max-width: calc(var(--columns) * 17rem);
}
.step { margin: 0 0 .2rem; font-size: .8125rem; line-height: 1.3; font-weight: 600; }
figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; background: var(--faint); }
figcaption {
  padding-top: .3rem; color: var(--soft); font-size: .75rem; line-height: 1.35;
  overflow-wrap: anywhere;
}
.empty { margin: 0; padding: 1.5rem 0; background: var(--faint); text-align: center; }
.open { display: block; cursor: zoom-in; }
a:focus-visible, .scroll:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
.close { display: none; }
figure:target .open img {
  position: fixed; inset: 0; z-index: 3; width: 100%; height: 100%; padding: 3vmin;
  object-fit: contain; background: var(--veil);
}
figure:target .close { display: block; position: fixed; inset: 0; z-index: 4; cursor: zoom-out; }

.review button, .review select, .review .file {
  font: inherit; font-size: .875rem; padding: .3rem .6rem; max-width: 100%;
  border: 1px solid var(--rule); border-radius: .25rem; background: var(--faint); color: inherit;
}
.review button { cursor: pointer; }
.review button:disabled { opacity: .5; cursor: default; }
.review .file input { max-width: 13rem; font-size: .8125rem; }
.review :focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
.review h3 { margin: 2rem 0 .5rem; font-size: 1rem; }
.review kbd {
  padding: 0 .3em; border: 1px solid var(--rule); border-radius: .2rem; font-size: .8125em;
}
.bar, .acts, .pager { display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: center; }
.bar label, .acts label { font-size: .875rem; max-width: 100%; }
.status { margin: .75rem 0; min-height: 3em; font-size: .875rem; }
.desk { display: grid; gap: 1.25rem 2rem; grid-template-columns: minmax(0, 1fr); }
.stage { background: var(--faint); }
.stage svg { display: block; width: 100%; height: min(26rem, 55vh, 75vw); }
.facts-of-mask { margin: .5rem 0; min-height: 3em; font-size: .875rem; overflow-wrap: anywhere; }
.thumbs {
  display: grid; gap: .5rem; grid-template-columns: repeat(auto-fill, minmax(5.5rem, 1fr));
  position: relative; max-height: min(34rem, 70vh); overflow-y: auto; padding: .25rem;
  border: 1px solid var(--rule); align-content: start;
}
.thumb { min-width: 0; padding: .2rem; border: 2px solid transparent; cursor: pointer; }
.thumb svg { display: block; width: 100%; aspect-ratio: 1; background: var(--faint); }
.thumb span {
  display: block; overflow: hidden; font-size: .75rem; line-height: 1.5; white-space: nowrap;
  text-overflow: ellipsis;
}
.thumb[aria-selected=true] { border-color: var(--link); }
/* Not by color alone: what goes is dashed and pale, and the labels have a sign. */
.review { --undecided: #f0a020; --accepted: #1c9c52; --rejected: #d83a3a; --other: #3b7be0; }
.review path {
  fill: var(--undecided); fill-opacity: .3; fill-rule: evenodd; stroke: var(--undecided);
  stroke-width: 2; vector-effect: non-scaling-stroke;
}
.review .accepted path { fill: var(--accepted); stroke: var(--accepted); }
.review .reclassified path { fill: var(--other); stroke: var(--other); }
.review .rejected path, .review .below path {
  fill: none; stroke: var(--rejected); stroke-dasharray: 4 3;
}
.thumb.rejected image, .thumb.below image { opacity: .45; }
.thumb.accepted span::before { content: "✓ "; color: var(--accepted); }
.thumb.rejected span::before { content: "✗ "; color: var(--rejected); }
.thumb.below span::before { content: "↓ "; color: var(--rejected); }
.pager { margin-top: .5rem; font-size: .875rem; }
.keys { font-size: .8125rem; line-height: 1.7; color: var(--soft); }
.keys p { max-width: none; margin: 0; }
.keys ul { display: flex; flex-wrap: wrap; gap: 0 1rem; margin: 0; padding: 0; list-style: none; }
.scores { display: grid; gap: .5rem 2rem; font-size: .875rem; }
.scores div { display: grid; gap: 0 1rem; grid-template-columns: 7rem minmax(0, 1fr); }
.scores label { overflow-wrap: anywhere; }
.scores input { width: 100%; min-width: 0; }
.scores output { grid-column: 2; color: var(--soft); font-variant-numeric: tabular-nums; }

footer { margin-top: 4rem; border-top: 1px solid var(--rule); }
footer h2 { margin: 1.5rem 0 .75rem; font-size: 1rem; }
.facts { font-size: .8125rem; line-height: 1.45; }
.facts div {
  display: grid; grid-template-columns: 10rem minmax(0, 1fr); gap: 1rem; padding: .15rem 0;
}
.facts dt { color: var(--soft); }
.facts dd { overflow-wrap: anywhere; }

@media (min-width: 40rem) { .panels { --columns: var(--of4); } }
@media (min-width: 60rem) {
  .panels { --columns: var(--of6); }
  .desk { grid-template-columns: minmax(0, 2fr) minmax(0, 3fr); }
  .desk .keys { grid-column: 1 / -1; }
  .scores { grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); }
}
@media (min-width: 75rem) { .panels { --columns: var(--of8); } }
@media (max-width: 40rem) {
  body { padding-top: 1.5rem; }
  .tables { gap: 2.25rem; }
  .table table { font-size: .8125rem; }
  .table th, .table td { padding-left: .6rem; }
  .table thead th { font-size: .75rem; }
  .facts div { grid-template-columns: 1fr; gap: 0; padding: .3rem 0; }
}
@media print {
  @page { size: landscape; margin: 12mm; }
  :root {
    --page: #ffffff; --text: #000000; --soft: #444444; --rule: #bbbbbb; --faint: #ffffff;
  }
  body { max-width: none; padding: 0; font-size: 10pt; }
  .panels { --columns: var(--of8); }
  .review { display: none; }
  .gallery article, .table, .headline { break-inside: avoid; }
  h2 { break-after: avoid; }
  img { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
