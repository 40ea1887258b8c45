// Layers as a map: blocks from top to bottom, what stands in each of them from left to right.

const MOST_COLUMNS = 14, MOST_ROWS = 64;

/** Where a layer stands: the number of its block, and its name inside of it. */
function placeOf(name) {
  const parts = name.split(".");
  let at = -1;
  parts.forEach((part, index) => { if (/^\d+$/.test(part)) at = index; });
  if (at >= 0 && at < parts.length - 1) return { row: parts.slice(0, at + 1).join("."), column: parts.slice(at + 1).join(".") };
  const numbered = /^(.*?\d+)\.(.+)$/.exec(name);
  if (numbered) return { row: numbered[1], column: numbered[2] };
  return { row: parts.slice(0, -1).join(".") || "model", column: parts.at(-1) };
}

/** Layers of the map: the halves of a layer that was split count as that layer. */
function mapped(layers) {
  const known = new Set(layers.map((layer) => layer.name));
  const merged = new Map();
  for (const layer of layers) {
    const stem = layer.name.replace(/\.(in|out|share)$/, "");
    const name = stem !== layer.name && known.has(stem) ? stem : layer.name;
    const at = merged.get(name) ?? { name, saved: 0, loss: null, edits: [], left: [] };
    at.saved += layer.saved;
    if (layer.loss !== null) at.loss = Math.max(at.loss ?? 0, layer.loss);
    at.edits.push(...layer.edits);
    at.left.push(...layer.left);
    merged.set(name, at);
  }
  return [...merged.values()];
}

const MEASURES = {
  saved: { title: "Bytes saved", tone: "var(--t3)", value: (layer) => layer.saved > 0 ? layer.saved : null, text: (layer) => layer.saved ? bytes(layer.saved) : "" },
  loss: { title: "Loss", tone: "var(--t2)", value: (layer) => layer.loss, text: (layer) => layer.loss === null ? "" : lossText(layer.loss) },
  count: { title: "Techniques", tone: "var(--t0)", value: (layer) => new Set(layer.edits.map((e) => e.pass)).size || null, text: (layer) => layer.edits.length ? String(new Set(layer.edits.map((e) => e.pass)).size) : "" },
};

/** hub.layer(name): a cell was chosen. */
function heatMap(layers, hub) {
  if (!layers.some((layer) => layer.edits.length)) return null;
  const cells = mapped(layers.filter((layer) => layer.name !== "graph")).map((layer) => ({ layer, ...placeOf(layer.name) }));
  const columns = common(cells.map((c) => c.column), MOST_COLUMNS);
  const kept = cells.filter((cell) => columns.includes(cell.column));
  const rows = [...new Set(kept.map((cell) => cell.row))].sort(byName);
  if (rows.length < 2 || columns.length < 2 || rows.length > MOST_ROWS) return null;
  let chosen = "saved";
  const body = h("div");
  const scale = h("span", { class: "scale" });
  const buttons = Object.entries(MEASURES).map(([key, measure]) =>
    h("button", { onclick: () => { chosen = key; draw(); say(`map of ${measure.title}`); } }, measure.title));

  function draw() {
    const measure = MEASURES[chosen];
    const most = Math.max(...kept.map((cell) => measure.value(cell.layer) ?? 0)) || 1;
    const by = new Map(kept.map((cell) => [`${cell.row} ${cell.column}`, cell.layer]));
    buttons.forEach((button, at) => button.setAttribute("aria-pressed", String(Object.keys(MEASURES)[at] === chosen)));
    scale.style.setProperty("--tone", measure.tone);
    scale.replaceChildren("0", h("i"), measure.text({ saved: most, loss: most, edits: Array.from({ length: most | 0 }, (_, at) => ({ pass: at })) }));
    body.replaceChildren(h("table", { style: { "--tone": measure.tone } },
      h("caption", { class: "unseen" }, `${measure.title} by block and layer`),
      h("thead", null, h("tr", null, h("td"), columns.map((column) => h("th", { scope: "col", title: column }, headOf(column, columns))))),
      h("tbody", null, rows.map((row) => h("tr", null, h("th", { scope: "row", title: row }, tailOf(row, 26)),
        columns.map((column) => h("td", null, cellOf(by.get(`${row} ${column}`), measure, most))))))));
  }

  function cellOf(layer, measure, most) {
    if (!layer) return null;
    const value = measure.value(layer), share = value === null ? 0 : Math.sqrt(value / most);
    const button = h("button", {
      class: value === null ? "none" : share > 0.8 ? "deep" : share > 0.5 ? "middle" : null, style: { "--heat": `${Math.round(8 + 84 * share)}%` },
      "aria-label": `${layer.name}: ${measure.title} ${measure.text(layer) || "none"}`, onclick: () => hub.layer(layer.name),
    }, measure.text(layer) || "–");
    return tipped(button, () => `${layer.name}\n${layerLine(layer)}`);
  }

  draw();
  const around = cells.length - kept.length;
  return h("div", { class: "card" }, h("div", { class: "filters" }, h("div", { class: "seg", role: "group", "aria-label": "What the map shows" }, buttons), scale,
    h("span", { class: "found" }, around > 0 ? `${many(around, "layer")} ${around === 1 ? "stands" : "stand"} in the table only` : "")), h("div", { class: "heat", tabindex: 0, role: "region", "aria-label": "Map of layers" }, body));
}

/** The names that most blocks have, in the order in which they come. */
function common(names, most) {
  const counts = new Map();
  for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1);
  const chosen = new Set([...counts].sort((a, b) => b[1] - a[1]).slice(0, most).filter(([, n]) => n > 1).map(([name]) => name));
  return [...counts.keys()].filter((name) => chosen.has(name));
}

/** The end of a column's name, as long as no other ends alike. */
function headOf(name, all) {
  const parts = name.split(".");
  for (let count = 1; count < parts.length; count++) {
    const tail = parts.slice(-count).join(".");
    if (all.filter((other) => other === tail || other.endsWith(`.${tail}`)).length === 1) return tailOf(tail, 24);
  }
  return tailOf(name, 24);
}

function layerLine(layer) {
  const done = layer.edits.map((edit) => `${edit.pass} ${edit.setting}`.trim());
  const left = layer.left.map((remark) => `${remark.pass}: ${remark.code}`);
  return [...new Set(done)].join(", ") + (left.length ? `\nleft alone by ${[...new Set(left)].join(", ")}` : "");
}
