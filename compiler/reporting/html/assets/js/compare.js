// A page about two models that somebody compares: sums, what was done how often, both graphs.

function diffPage(doc, hub) {
  const [before, after] = [doc.graph.stages[0], doc.graph.stages.at(-1)];
  const tones = new Tones([...new Set(doc.families.flatMap((family) => family.passes))]);
  const differs = after.hunks.length || after.face.length;
  return [
    h("section", { id: "verdict", class: "hero", "aria-label": "Summary" },
      h("div", { class: "eyebrow" }, h("span", { class: "mono" }, doc.before), "→", h("span", { class: "mono" }, doc.after)),
      h("h1", null, differs ? `${many(after.hunks.length, "place")} ${after.hunks.length === 1 ? "differs" : "differ"}` : "No difference"),
      h("p", { class: "quiet" }, `${many(doc.unchanged, "node")} ${doc.unchanged === 1 ? "is" : "are"} the same on both sides.`),
      after.face.map((sentence) => h("p", { class: "notice" }, capital(sentence))), sumsCards(before, after)),
    doc.families.length ? safely(() => familiesPart(doc, tones, hub)) : null,
    safely(() => graphPart(hub.view, "Modules are closed until you open them; what differs is coloured."))];
}

function sumsCards(before, after) {
  const nodes = (stage) => stage.nodes.length;
  return h("div", { class: "cards" },
    card("Nodes", [whole(nodes(after)), `from ${whole(nodes(before))}`], twoBars(nodes(before), nodes(after), whole, "nodes"), beforeAfter(), h("p", { class: "quiet small" }, changedCounts(before.operators, after.operators))),
    card("Weights", [sizeChange(before.bytes, after.bytes), `${bytes(before.bytes)} → ${bytes(after.bytes)}`], typeBars(before, after)),
    card("Parameters", [whole(after.parameters), `from ${whole(before.parameters)}`], twoBars(before.parameters, after.parameters, whole, "parameters"), beforeAfter()));
}

/** Operators whose number changed: `MatMul 36 → 0, …`. */
function changedCounts(before, after) {
  const names = [...new Set([...Object.keys(before), ...Object.keys(after)])].filter((name) => before[name] !== after[name]);
  const shown = names.sort((a, b) => Math.abs((after[b] ?? 0) - (before[b] ?? 0)) - Math.abs((after[a] ?? 0) - (before[a] ?? 0))).slice(0, 8);
  return shown.map((name) => `${name} ${before[name] ?? 0} → ${after[name] ?? 0}`).join(", ") + (names.length > shown.length ? `, and ${names.length - shown.length} more` : "");
}

function familiesPart(doc, tones, hub) {
  const table = sortable([
    { title: "Places", numeric: true, value: (f) => f.hunks.length, cell: (f) => whole(f.hunks.length) },
    { title: "What", value: (f) => f.title, cell: (f) => h("div", { style: { "min-width": "170px" } }, capital(f.title), f.title === f.kind ? null : h("div", { class: "quiet small" }, f.kind)) },
    { title: "Operators", value: (f) => `${f.before} ${f.after}`, cell: (f) => h("span", { class: "mono small" }, f.kind === "modified" || f.kind === "moved" ? f.before : [f.before, f.after].filter(Boolean).join(" → ")) },
    { title: "By", value: (f) => f.passes.join(" ") || null, cell: (f) => h("div", { class: "chips" }, f.passes.map((name) => chip(tones, name))) },
    { title: "Weights", numeric: true, value: (f) => f.bytes || null, cell: (f) => (f.bytes ? `${f.bytes < 0 ? "−" : "+"}${bytes(Math.abs(f.bytes))}` : "") },
    { title: "Where", value: (f) => f.modules[0] ?? null, cell: (f) => h("button", { class: "rowhead mono small where", onclick: () => hub.hunk(f.hunks[0]) }, f.modules[0] || "show", f.hunks.length > 1 ? h("span", { class: "quiet" }, ` and ${whole(f.hunks.length - 1)} more`) : null) },
  ], { caption: "What was done how often", sorted: 0, down: true });
  table.show(doc.families);
  return part("changes", "What changed, and how often", null, h("div", { class: "card" }, table));
}
