// Every layer with what was done to it: a map, and a table that sorts, filters and unfolds.

function layersPart(doc, tones, hub) {
  const m = doc.compile, layers = layersOf(m);
  if (!layers.length) return null;
  const filters = { text: "", pass: "", setting: "", saved: 0, loss: 0, left: false };
  const most = Math.max(...layers.map((layer) => layer.saved)) || 1;
  const kernels = layers.some((layer) => layer.kernel);
  const table = sortable([
    { title: "Layer", value: (layer) => layer.name, cell: (layer) => unfolds(layer) },
    { title: "Done", value: (layer) => layer.edits.map((e) => e.pass).join(" ") || null, cell: (layer) => doneChips(layer, tones) },
    { title: "Saved", numeric: true, value: (layer) => layer.saved || null, cell: (layer) => layer.saved ? [bytes(layer.saved), meter(layer.saved / most, "var(--t3)")] : "" },
    { title: "Loss", numeric: true, value: (layer) => layer.loss, cell: (layer) => layer.loss === null ? "" : lossText(layer.loss) },
    kernels ? { title: "Runs as", value: (layer) => layer.kernel?.kernel ?? null, cell: kernelCell } : null,
  ].filter(Boolean), { caption: "Layers", name: "layers", sorted: 2, down: true, onrow: (line, layer) => { line.dataset.layer = layer.name; } });
  const found = h("span", { class: "found", role: "status" });
  const fields = filterFields(m, filters, () => show());

  function show() {
    const kept = layers.filter((layer) => fits(layer, filters));
    table.show(kept);
    found.textContent = kept.length === layers.length ? many(layers.length, "layer") : `${whole(kept.length)} of ${many(layers.length, "layer")}`;
  }

  function unfolds(layer) {
    const button = h("button", { class: "rowhead", "aria-expanded": "false", onclick: () => {
      const open = button.getAttribute("aria-expanded") === "true", line = button.closest("tr");
      button.setAttribute("aria-expanded", String(!open));
      if (open) line.nextElementSibling?.remove();
      else line.after(h("tr", { class: "more" }, h("td", { colspan: line.children.length }, layerDetails(layer, tones, hub))));
    } }, h("span", { class: "turn", "aria-hidden": "true" }, "▸"), h("span", { class: "mono" }, layer.name));
    return button;
  }

  hub.on("pass", (row) => { fields.set({ text: "", pass: techniques(m).includes(row.name) ? row.name : "" }); show(); });
  hub.on("layer", (name) => { fields.set({ text: name, pass: "" }); show(); });
  show();
  return part("layers", "Layer by layer", "What each technique did where, and what was left alone.",
    heatMap(layers, hub), h("div", { class: "card", style: { "margin-top": "14px" } }, h("div", { class: "filters", role: "search", "aria-label": "Filter the layers" }, fields.elements, found), table));
}

function fits(layer, filters) {
  const text = filters.text.toLowerCase();
  const words = [layer.name, ...layer.edits.flatMap((e) => [e.pass, e.setting]), ...layer.left.flatMap((r) => [r.pass, r.code])];
  return (!text || words.some((word) => String(word).toLowerCase().includes(text)))
    && (!filters.pass || layer.edits.some((edit) => edit.pass === filters.pass))
    && (!filters.setting || layer.edits.some((edit) => edit.setting === filters.setting))
    && layer.saved >= filters.saved && (layer.loss ?? 0) >= filters.loss
    && (!filters.left || layer.left.length > 0);
}

/** The fields above the table; `set` puts values into them. */
function filterFields(m, filters, changed) {
  const settings = [...new Set((m.edits ?? []).map((edit) => edit.setting).filter(Boolean))].sort(byName);
  const text = h("input", { type: "search", placeholder: "name, technique, reason", oninput: () => { filters.text = text.value; changed(); } });
  const choice = (key, none, values) => {
    const field = h("select", { onchange: () => { filters[key] = typeof filters[key] === "number" ? Number(field.value) : field.value; changed(); } },
      h("option", { value: typeof filters[key] === "number" ? 0 : "" }, none), values.map(([value, title]) => h("option", { value }, title)));
    return field;
  };
  const pass = choice("pass", "all", techniques(m).map((name) => [name, name]));
  const setting = choice("setting", "all", settings.map((name) => [name, clipped(name, 40)]));
  const saved = choice("saved", "any", [[1, "something"], [1e4, "10 kB and more"], [1e5, "100 kB and more"], [1e6, "1 MB and more"]]);
  const loss = choice("loss", "any", [[1e-6, "any loss"], [1e-3, "0.001 and more"], [1e-2, "0.01 and more"], [1e-1, "0.1 and more"]]);
  const left = h("input", { type: "checkbox", onchange: () => { filters.left = left.checked; changed(); } });
  const labelled = (title, field) => h("label", null, title, field);
  const set = (values) => { Object.assign(filters, values); text.value = filters.text; pass.value = filters.pass; };
  return { set, elements: [labelled("Search", text), labelled("Technique", pass), labelled("Setting", setting), labelled("Saves", saved), labelled("Loses", loss), labelled("Left alone", left)] };
}

function doneChips(layer, tones) {
  const seen = new Map();
  for (const edit of layer.edits) seen.set(`${edit.pass} ${edit.setting}`, edit);
  const chips = [...seen.values()].map((edit) => chip(tones, edit.pass, `${edit.pass} ${edit.setting}`.trim()));
  const left = [...new Set(layer.left.map((r) => `${r.code} (${r.pass})`))].map((text) => h("span", { class: "chip" }, text));
  return h("div", { class: "chips" }, chips, left);
}

function kernelCell(layer) {
  if (!layer.kernel) return "";
  return [h("span", { class: "mono small", title: layer.kernel.kernel }, layer.kernel.kernel.replace(/^.*:/, "")), layer.kernel.reason ? h("div", { class: "quiet small" }, layer.kernel.reason) : null];
}

function layerDetails(layer, tones, hub) {
  return h("div", null,
    layer.edits.map((edit) => h("div", { style: { "margin-bottom": "8px" } },
      chip(tones, edit.pass, `${edit.pass} ${edit.setting}`.trim()),
      h("dl", { class: "facts small" }, editFacts(edit).map(([name, value]) => [h("dt", null, name), h("dd", null, value)])))),
    layer.left.map((remark) => h("p", { class: "small" }, h("b", null, `${remark.pass} ${remark.kind === "missed" ? "could not" : "would not"} (${remark.code}): `), remark.sentence)),
    hub.canShow(layer.name) ? h("button", { onclick: () => hub.show(layer.name) }, "Show in the graph") : null);
}

function editFacts(edit) {
  const facts = [["edit", edit.id], ["saved", bytes(number(edit.saving_bytes) ?? 0)]];
  if (number(edit.loss) !== null) facts.push(["loss", lossText(number(edit.loss))]);
  if (number(edit.runtime_loss) !== null) facts.push(["added by the kernel", lossText(number(edit.runtime_loss))]);
  if (edit.lineage && edit.lineage !== "exact") facts.push(["lineage", edit.lineage]);
  for (const [key, value] of Object.entries(edit.details ?? {})) {
    facts.push([key.replace(/_/g, " "), clipped(typeof value === "object" ? JSON.stringify(value) : String(value), 260)]);
  }
  return facts;
}
