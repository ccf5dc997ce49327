"""How the page looks, and the few lines of script that sort its table."""

from __future__ import annotations

CSS = """
*{box-sizing:border-box}
html{color-scheme:light dark;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif;overflow-wrap:break-word}
main,header,footer{max-width:928px;margin:0 auto;padding:0 24px}
header{padding-top:40px}
h1{font-size:28px;line-height:1.2;margin:0;letter-spacing:-.01em}
h2{font-size:20px;line-height:1.3;margin:48px 0 4px;padding-top:24px;border-top:1px solid var(--grid)}
section:first-child h2{margin-top:24px}
h3{font-size:15px;line-height:1.4;margin:28px 0 6px}
p{margin:8px 0;max-width:72ch}
a{color:var(--accent)}
.lead,.about{color:var(--muted)}
.about{font-size:14px}
.badge{display:inline-block;font-size:13px;font-weight:600;padding:1px 10px;border-radius:99px;border:1px solid
currentColor;vertical-align:4px;margin-left:8px;color:var(--muted)}
.badge.done{color:var(--accent)}
nav{margin-top:12px;font-size:14px;line-height:1.9}
nav a{display:inline-block;margin-right:14px;text-decoration:none}
nav a:hover{text-decoration:underline}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(158px,1fr));gap:12px;margin:16px 0;padding:0}
.tile{border:1px solid var(--grid);border-radius:10px;padding:12px 16px}
.tile.main{border-color:var(--accent)}
.tile dt{font-size:13px;color:var(--muted)}
.tile dd{margin:0}
.tile .big{font-size:26px;font-weight:600;line-height:1.3;font-variant-numeric:tabular-nums}
.tile.main .big{color:var(--accent)}
.tile .small{font-size:13px;color:var(--muted)}
.pairs{display:grid;grid-template-columns:1fr 1fr;gap:8px 28px}
.pairs>*,.keys>*{min-width:0}
.keys{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,300px),1fr));gap:8px 20px}
svg.chart{display:block;width:100%;height:auto;font-family:inherit;overflow:visible}
svg.chart.narrow{display:none;max-width:460px}
svg.chart.one{max-width:460px}
.chart text{paint-order:stroke;stroke:var(--paper);stroke-width:3px;stroke-linejoin:round}
.chart polyline.line{stroke-linejoin:round}
.chart polyline.line:hover,.chart polyline.line-many:hover{stroke:var(--accent);stroke-width:2.6px;opacity:1}
.chart circle:hover,.chart rect:hover,.chart path:hover{filter:brightness(1.15)}
.scroll{overflow-x:auto;margin:10px 0;border:1px solid var(--grid);border-radius:10px}
.scroll:focus-visible{outline:2px solid var(--accent)}
table{border-collapse:collapse;width:100%;font-size:14px;line-height:1.4}
th,td{text-align:left;padding:7px 12px;border-bottom:1px solid var(--grid);vertical-align:top;white-space:nowrap}
table.failures td:nth-child(3){white-space:normal;min-width:240px;overflow-wrap:anywhere}
table.failures td:last-child{white-space:normal;min-width:200px}
tbody tr:last-child td{border-bottom:0}
th{font-weight:600;color:var(--muted);font-size:13px}
.number{text-align:right;font-variant-numeric:tabular-nums}
tr:has(.won) td{color:var(--accent);font-weight:600}
th button{all:unset;cursor:pointer;font:inherit;color:inherit}
th button:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
th button::after{content:"\\2195";opacity:.35;margin-left:4px}
th[aria-sort=ascending] button::after{content:"\\2191";opacity:1}
th[aria-sort=descending] button::after{content:"\\2193";opacity:1}
details{margin:8px 0;font-size:14px}
summary{cursor:pointer;color:var(--accent)}
code{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
footer{margin-top:56px;padding-bottom:40px;font-size:13px;color:var(--muted)}
@media (max-width:720px){
main,header,footer{padding-left:16px;padding-right:16px}
header{padding-top:24px}
h1{font-size:24px}
h2{margin-top:40px}
svg.chart.wide{display:none}
svg.chart.narrow{display:block}
.pairs{grid-template-columns:1fr}
.tiles{grid-template-columns:repeat(auto-fit,minmax(150px,1fr))}
.tile .big{font-size:22px}
}
@media print{.scroll{overflow:visible}nav{display:none}}
"""

# Sorting is all that it does, so that the page is whole without it.
SCRIPT = """
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const rising = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const keyed = [...body.rows].map(row => {
        const cell = row.cells[column];
        const raw = cell.firstElementChild?.dataset?.sort ?? cell.textContent;
        return {row, text: raw, number: raw === "" ? NaN : Number(raw)};
      });
      keyed.sort((a, b) => {
        const gap = isNaN(a.number) - isNaN(b.number);
        if (gap) return gap;
        const order = isNaN(a.number) ? a.text.localeCompare(b.text) : a.number - b.number;
        return rising ? order : -order;
      });
      body.append(...keyed.map(k => k.row));
    });
  });
}
"""
