// A page about one model: what its modules cost, its sites, its graph, what each target would do.

const OPERATIONS = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];

function operations(count) {
  const [limit, unit] = OPERATIONS.find(([least]) => count >= least) ?? [1, ""];
  return `${limit === 1 ? whole(count) : three(count / limit)} ${unit}FLOP`;
}

function inspectPage(doc, hub) {
  const total = doc.totals, stored = Object.values(total.bytes).reduce((a, b) => a + b, 0);
  return [
    h("section", { id: "verdict", class: "hero", "aria-label": "Summary" },
      h("div", { class: "eyebrow" }, h("span", { class: "mono" }, doc.model), doc.workload && doc.workload !== "as it is" ? `for ${doc.workload}` : null),
      h("h1", null, `${bytes(stored)}, ${many(doc.sites.length, "site")}`),
      h("p", { class: "quiet" }, `${whole(total.nodes)} nodes, ${whole(total.parameters)} parameters, ${total.flops ? `${total.unknown.length ? "at least " : ""}${operations(total.flops)} a run` : "operations unknown"}.`),
      total.unknown.length ? h("p", { class: "quiet small" }, `Not counted: ${total.unknown.join(", ")}. Where axes are open, sizes for --workload tell more.`) : null,
      h("dl", { class: "facts small" }, [...doc.inputs.map((text) => ["input", text]), ...doc.outputs.map((text) => ["output", text])].map(([name, text]) => [h("dt", null, name), h("dd", { class: "mono" }, text)]))),
    safely(() => modulesPart(doc, hub)), safely(() => sitesPart(doc, hub)),
    hub.view ? safely(() => graphPart(hub.view, "Modules are closed until you open them.")) : null,
    safely(() => targetsPart(doc))];
}

const COSTS = {
  bytes: { title: "Bytes", value: (row) => row.bytes, text: (row) => bytes(row.bytes) },
  flops: { title: "FLOPs", value: (row) => row.flops, text: (row) => (row.flops === null ? "unknown" : operations(row.flops)) },
  ms: { title: "Predicted time", value: (row) => row.ms, text: (row) => (row.ms === null ? "unknown" : milliseconds(row.ms)) },
};

/** A tree of modules with a bar for each; `at`: which cost the bars show. */
function modulesPart(doc, hub) {
  const rows = doc.modules;
  if (!rows.length) return null;
  const costs = Object.entries(COSTS).filter(([, cost]) => rows.some((row) => cost.value(row)));
  const open = new Set(rows.filter((row) => row.depth < 2 || (row.depth < 3 && row.sites > rows[0].sites / 3)).map((row) => row.name));
  let at = costs.some(([key]) => key === "ms") ? "ms" : costs[0]?.[0] ?? "bytes";
  const buttons = costs.map(([key, cost]) => h("button", { onclick: () => { at = key; draw(); say(`bars show ${cost.title}`); } }, cost.title));
  const body = h("tbody");

  function draw() {
    const most = Math.max(...rows.map((row) => COSTS[at].value(row) ?? 0)) || 1, names = [];
    buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(costs[index][0] === at)));
    const lines = [];
    let hidden = Infinity;
    for (const [place, row] of rows.entries()) {
      if (row.depth > hidden) continue;
      hidden = open.has(row.name) ? Infinity : row.depth;
      names.length = row.depth;
      const above = names.at(-1) ?? "";
      names.push(row.depth ? row.name : "");
      lines.push(line(row, above, rows[place + 1]?.depth > row.depth, most));
    }
    body.replaceChildren(...lines);
  }

  function line(row, above, parent, most) {
    const title = above && row.name.startsWith(`${above}.`) ? row.name.slice(above.length + 1) : row.name;
    const turn = () => { if (open.has(row.name)) open.delete(row.name); else open.add(row.name); draw(); body.querySelector(`[data-row="${CSS.escape(row.name)}"]`)?.focus(); };
    if (!row.sites) return cells(row, h("span", { class: "rowhead" }, h("span", { class: "turn" }), title), most);
    const button = h("button", { class: "rowhead", "data-row": row.name, "aria-expanded": parent ? String(open.has(row.name)) : null, onclick: () => (parent ? turn() : hub.show(row.name)) },
      h("span", { class: "turn", "aria-hidden": "true" }, parent ? "▸" : "·"), h("span", { class: row.depth ? "mono" : null }, title));
    return cells(row, button, most);
  }

  function cells(row, head, most) {
    return h("tr", null, h("th", { scope: "row", style: { "padding-left": `${12 + 18 * row.depth}px` } }, head),
      h("td", { class: "num" }, whole(row.parameters)), h("td", { class: "num" }, bytes(row.bytes)),
      costs.filter(([key]) => key !== "bytes").map(([, cost]) => h("td", { class: "num" }, cost.text(row))),
      h("td", { class: "bars" }, meter((COSTS[at].value(row) ?? 0) / most, row.leaf ? "var(--after)" : "var(--before)")));
  }

  draw();
  const heads = ["Module", "Parameters", "Bytes", ...costs.filter(([key]) => key !== "bytes").map(([, cost]) => cost.title)];
  return part("modules", "Cost by module", doc.target ? (rows.some((row) => row.ms !== null) ? `Times are predicted for ${doc.target}.` : `No times are known for ${doc.target}.`) : null, h("div", { class: "card passes" },
    buttons.length > 1 ? h("div", { class: "filters" }, h("div", { class: "seg", role: "group", "aria-label": "What the bars show" }, buttons)) : null,
    h("div", { class: "wrap", tabindex: 0, role: "region", "aria-label": "Cost by module" }, h("table", { class: "grid layers" },
      h("thead", null, h("tr", null, heads.map((title, index) => h("th", { scope: "col", class: index ? "num" : null }, title)), h("th", { scope: "col" }, h("span", { class: "unseen" }, "share")))), body))));
}

function sitesPart(doc, hub) {
  if (!doc.sites.length) return null;
  const most = Math.max(...doc.sites.map((site) => site.bytes)) || 1;
  const table = sortable([
    { title: "Site", value: (site) => site.name, cell: (site) => h("button", { class: "rowhead mono", onclick: () => hub.show(site.name) }, site.name) },
    { title: "Kind", value: (site) => site.kind, cell: (site) => site.kind + (site.uses > 1 ? ` (${site.uses} uses)` : "") },
    { title: "Shape", value: (site) => site.shape.reduce((a, b) => a * b, 1), cell: (site) => site.shape.join(" × ") },
    { title: "Bytes", numeric: true, value: (site) => site.bytes, cell: (site) => (site.bytes ? [bytes(site.bytes), meter(site.bytes / most, "var(--t3)")] : "") },
    { title: "FLOPs", numeric: true, value: (site) => site.flops, cell: (site) => (site.flops === null ? "unknown" : operations(site.flops)) },
    { title: "Holds now", value: (site) => site.facts.join(" "), cell: (site) => h("div", { class: "chips" }, site.facts.map((fact) => h("span", { class: "chip" }, fact))) },
  ], { caption: "Sites", name: "layers", sorted: 3, down: true });
  const field = h("input", { type: "search", placeholder: "name, kind, fact", "aria-label": "Filter the sites", oninput: () => show() });
  const found = h("span", { class: "found", role: "status" });
  const show = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    const kept = doc.sites.filter((site) => words.every((word) => [site.name, site.kind, ...site.facts].some((text) => text.toLowerCase().includes(word))));
    table.show(kept);
    found.textContent = kept.length === doc.sites.length ? many(kept.length, "site") : `${whole(kept.length)} of ${many(doc.sites.length, "site")}`;
  };
  show();
  return part("sites", "Sites", "Named places where a technique can apply.", h("div", { class: "card" }, h("div", { class: "filters" }, h("label", null, "Search", field), found), table));
}

function targetsPart(doc) {
  return part("targets", "What each target would do, and refuse", "With data to calibrate; nothing was run. Targets of which the same is said stand together.",
    h("ul", { class: "card reasons" }, doc.targets.map((row) => h("li", null, h("details", null,
      h("summary", null, h("b", null, row.targets.slice(0, 4).join(", "), row.targets.length > 4 ? ` and ${row.targets.length - 4} more` : ""),
        h("span", { class: "quiet" }, ` · ${row.runtime} · ${row.compiles ? (row.proposals.length ? `tries ${many(row.proposals.length, "pipeline")}` : "nothing to try") : "no backend"}`)),
      h("div", { class: "body small" },
        row.targets.length > 4 ? h("p", null, row.targets.join(", ")) : null,
        row.proposals.length ? [h("b", null, "Would try"), h("ol", null, row.proposals.map(([pipeline, reason]) => h("li", null, h("code", null, pipeline), h("span", { class: "quiet" }, ` ${reason}`))))] : null,
        row.aside.length ? [h("b", null, "Would not"), h("ul", null, row.aside.map(([technique, by, code, sentence]) => h("li", null, h("b", null, technique), ` (${code}, by the ${by}): ${sentence}`)))] : null))))));
}
