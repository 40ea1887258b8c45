// The passes in order: what each did, to what size, at what predicted time and at which loss.

/** hub: {stage(id), technique(name)}: what a click on a row asks other parts for. */
function passesPart(doc, tones, hub) {
  const rows = doc.passes.filter((row) => row.edits || row.changed || row.step || row.measured_ms !== null);
  if (rows.length < 2) return null;
  const first = number(rows[0].bytes) || 1;
  const has = (key) => rows.some((row) => number(row[key]) !== null);
  const slowest = Math.max(...rows.flatMap((row) => [number(row.predicted_ms) ?? 0, number(row.measured_ms) ?? 0])) || 1;
  const columns = [["Pass", ""], ["Did", ""], ["Weights after it", "bars"],
    has("predicted_ms") ? ["Predicted", "num"] : null, ["Measured", "num"], ["Largest loss", ""], has("seconds") ? ["Took", "num"] : null].filter(Boolean);
  const lines = rows.map((row, at) => h("tr", null,
    h("th", { scope: "row" }, passName(row, tones, hub)),
    h("td", null, whatItDid(row, doc)),
    h("td", { class: "bars" }, sizeCell(row, rows[at - 1], first)),
    has("predicted_ms") ? h("td", { class: "num" }, timeCell(row.predicted_ms, slowest)) : null,
    h("td", { class: "num" }, timeCell(row.measured_ms, slowest)),
    h("td", null, lossCell(row)),
    has("seconds") ? h("td", { class: "num quiet" }, row.seconds === null ? "" : `${three(number(row.seconds))} s`) : null));
  const inexact = rows.some((row) => row.exact === false);
  return part("passes", "Pass by pass", "Choose a pass to see its layers and its graph.",
    h("div", { class: "card passes wrap", tabindex: 0, role: "region", "aria-label": "Passes" }, h("table", { class: "grid" },
      h("thead", null, h("tr", null, columns.map(([title, name]) => h("th", { scope: "col", class: name || null }, title)))),
      h("tbody", null, lines))),
    h("p", { class: "quiet small" }, "Largest loss: the relative squared error of an edited region's outputs, sum((y′−y)²) / sum(y²), at the site where it is largest. ",
      "Measured: the original and what is handed over; nothing in between was timed.", inexact ? " Sizes are what the edits say they save." : ""));
}

function passName(row, tones, hub) {
  const title = stageTitle(row.name);
  const options = row.step && row.step !== row.name ? row.step.slice(row.name.length) : "";
  return [h("button", { class: "rowhead step", onclick: () => hub.pass(row) }, row.edits ? chip(tones, row.name, title) : title),
    options ? h("div", { class: "mono quiet small" }, options) : null];
}

function whatItDid(row, doc) {
  if (row.name === "model" || row.name === "legalise") return spelled(row, doc);
  if (row.name === "imported") return h("span", { class: "quiet" }, "as imported");
  const parts = [];
  if (row.edits) parts.push(`edited ${sitesEdited(row.edits, row.sites)}`);
  if (row.refused) parts.push(`${whole(row.refused)} refused`);
  if (row.missed) parts.push(`${whole(row.missed)} missed`);
  if (row.edits && number(row.nodes) !== null) parts.push(many(row.nodes, "node"));
  return parts.length ? parts.join(", ") : h("span", { class: "quiet" }, row.changed ? "rewrote the graph without loss" : "changed nothing");
}

/** What is written for the runtime, in the spellings that it runs fastest. */
function spelled(row, doc) {
  const names = row.name === "model" ? doc.compile.plan?.spellings ?? [] : [];
  const nodes = number(row.nodes) === null ? "" : many(row.nodes, "node");
  return [names.length ? `spelled for the runtime: ${names.join(", ")}` : row.changed ? "written for the runtime" : "changed nothing", nodes].filter(Boolean).join("; ");
}

function sizeCell(row, last, first) {
  const now = number(row.bytes), was = last ? number(last.bytes) : now;
  if (now === null) return "";
  const change = now - was;
  return [h("span", { class: "nowrap" }, bytes(now), change ? h("span", { class: "quiet" }, `  ${change < 0 ? "−" : "+"}${bytes(Math.abs(change))}`) : null),
    meter(now / first, "var(--after)", was / first)];
}

function timeCell(ms, slowest) {
  return number(ms) === null ? h("span", { class: "quiet" }, "–") : [milliseconds(number(ms)), meter(number(ms) / slowest, "var(--copper)")];
}

function lossCell(row) {
  const loss = number(row.loss);
  if (loss === null) return h("span", { class: "quiet" }, "none");
  return [lossText(loss), row.where ? h("div", { class: "mono quiet small nowrap", title: row.where }, tailOf(row.where, 30)) : null];
}
