// Quality: the metric and each slice of it, then how far outputs moved.

function qualityPart(m) {
  const quality = m.quality, rows = quality.rows ?? [], drift = Object.entries(quality.drift ?? {});
  const coverage = Object.entries(quality.coverage ?? {});
  if (!rows.length && !drift.length && !coverage.length) return null;
  return part("quality", "Quality, slice by slice", quality.sentence ? `${quality.verdict.replace(/-/g, " ")}: ${quality.sentence}` : quality.verdict.replace(/-/g, " "),
    rows.length ? h("div", { class: "card wrap", tabindex: 0, role: "region", "aria-label": "Quality by slice" }, sliceTable(rows, allowedDrop(quality))) : null,
    drift.length ? h("details", { class: "card block", style: { "margin-top": "14px" }, open: !rows.length },
      h("summary", null, "How far outputs moved on held-out data"), h("div", null, driftList(quality.drift))) : null,
    coverage.length ? h("details", { class: "card block", style: { "margin-top": "14px" } },
      h("summary", null, "Held-out values outside the calibrated ranges"), h("div", null, coverageList(coverage))) : null);
}

function sliceTable(rows, budget) {
  const width = 320, scale = dropScale(rows, budget, width);
  return h("table", { class: "grid" },
    h("thead", null, h("tr", null, ["", "Before", "After", "Drop", "95 %", "Samples"].map((title, at) => h("th", { scope: "col", class: at ? "num" : null }, title)),
      h("th", { scope: "col" }, budget === null ? "better ← 0 → worse" : "better ← 0 → worse; dashed: allowed for the metric"))),
    h("tbody", null, rows.map((row, at) => h("tr", null,
      h("th", { scope: "row" }, at ? row.name : h("b", null, row.name)),
      h("td", { class: "num" }, Number(row.before).toPrecision(4)), h("td", { class: "num" }, Number(row.after).toPrecision(4)),
      h("td", { class: "num" }, three(number(row.drop))),
      h("td", { class: "num quiet" }, number(row.low) === null ? "" : `${three(number(row.low))} to ${three(number(row.high))}`),
      h("td", { class: "num quiet" }, row.samples ? whole(row.samples) : ""),
      h("td", null, whisker(row, at ? null : budget, scale, width))))));
}

function coverageList(coverage) {
  const rows = coverage.map(([name, share]) => [name, number(share)]).sort((a, b) => b[1] - a[1]);
  const shown = rows.slice(0, 20);
  return [h("p", { class: "quiet small" }, "The part of the held-out values outside of the calibrated range, less the part of the calibration data that is."),
    h("dl", { class: "facts small" }, shown.map(([name, share]) => [h("dt", { class: "mono" }, name), h("dd", null, `${three(100 * share)} %`)])),
    rows.length > shown.length ? h("p", { class: "quiet small" }, `and ${whole(rows.length - shown.length)} with less; report.md has all.`) : null];
}
