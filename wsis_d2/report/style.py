"""The look of the report: one style sheet, light and dark, for screen and print."""

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
  background: var(--page); color: var(--text);
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
.scroll { overflow-x: auto; }
.table table { border-collapse: collapse; font-size: .9375rem; }
.table caption { padding-bottom: .5rem; text-align: left; font-weight: 600; }
.table th, .table td { padding: .35rem 0 .35rem 1.75rem; text-align: left; vertical-align: top; }
.table th:first-child { padding-left: 0; font-weight: 400; }
.table thead th {
  border-block: 1px solid var(--text); border-bottom-color: var(--rule);
  color: var(--soft); font-size: .8125rem; font-weight: 500; vertical-align: bottom;
}
.table tbody tr + tr > * { border-top: 1px solid var(--rule); }
.table tbody tr:last-child > * { border-bottom: 1px solid var(--text); }
.table .number {
  text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums lining-nums;
}

.legend {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); gap: .75rem 2.5rem;
  margin-bottom: 1.75rem; font-size: .875rem; line-height: 1.45;
}
.legend dt { font-weight: 600; }
.legend dd { color: var(--soft); }

.gallery { --gap: .75rem; margin-inline: calc(var(--gap) / -2); }
.gallery table {
  width: 100%; max-width: calc(var(--columns) * 17rem); table-layout: fixed;
  /* Many steps make the page wider than the screen rather than the panels too small. */
  min-width: calc(var(--columns) * 9.25rem);
  border-collapse: collapse;
}
.gallery th { text-align: left; }
.gallery thead th {
  position: sticky; top: 0; z-index: 1; padding: .5rem calc(var(--gap) / 2);
  background: var(--page); font-size: .8125rem; line-height: 1.3; font-weight: 600;
  vertical-align: bottom;
}
.gallery thead th::after {
  content: ""; position: absolute; inset: auto calc(var(--gap) / 2) 0;
  border-bottom: 1px solid var(--rule);
}
.gallery tbody th {
  padding: 1.25rem calc(var(--gap) / 2) .4rem; font-size: .875rem; line-height: 1.4;
  font-weight: 400;
}
.gallery td { padding: 0 calc(var(--gap) / 2); vertical-align: top; }
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

footer { margin-top: 4rem; border-top: 1px solid var(--rule); }
footer h2 { margin: 1.5rem 0 .75rem; font-size: 1rem; }
.facts { font-size: .8125rem; line-height: 1.45; }
.facts div {
  display: grid; grid-template-columns: 10rem minmax(0, 1fr); gap: 1rem; padding: .15rem 0;
}
.facts dt { color: var(--soft); }
.facts dd { overflow-wrap: anywhere; }

@media screen and (max-width: 72rem) {
  /* Panels keep a size at which they can be read; the gallery scrolls sideways instead. */
  .gallery { overflow-x: auto; }
  .gallery table { min-width: calc(var(--columns) * 10.5rem); }
  .gallery .stay { position: sticky; left: calc(var(--gap) / 2); }
}
@media (max-width: 40rem) {
  body { padding-top: 1.5rem; }
  .tables { gap: 2.25rem; }
  .table th, .table td { padding-left: 1rem; }
  .facts div { grid-template-columns: 1fr; gap: 0; padding: .3rem 0; }
}
@media print {
  @page { size: landscape; margin: 12mm; }
  :root {
    --page: #ffffff; --text: #000000; --soft: #444444; --rule: #bbbbbb; --faint: #ffffff;
  }
  body { max-width: none; padding: 0; font-size: 10pt; }
  .gallery thead th { position: relative; }
  .gallery table { min-width: 0; }
  .gallery tbody, .table, .headline { break-inside: avoid; }
  h2 { break-after: avoid; }
  img { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
