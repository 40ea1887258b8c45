// The document inside the page, and what several parts of the page ask of it.

/** The document: plain JSON, or compressed where it is large. */
async function readDocument() {
  const block = document.getElementById("data");
  if (block.type === "application/json") return JSON.parse(block.textContent);
  const binary = atob(block.textContent);
  const packed = Uint8Array.from(binary, (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

/** A colour for each technique, the same all over the page. */
class Tones {
  constructor(names) { this.known = new Map(names.map((name, at) => [name, `var(--t${at % 7})`])); }
  of(name) { return this.known.get(name) ?? "var(--quiet)"; }
}

/** A chip with the colour of its technique. */
function chip(tones, name, text) {
  return h("span", { class: "chip", style: { "--tone": tones.of(name) } }, h("i"), text ?? name);
}

/** Techniques in the order of the pipeline. */
function techniques(manifest) {
  return [...new Set((manifest.edits ?? []).map((edit) => edit.pass))];
}

/** How many sites a pass edited, and how often where that is more: `2 sites (3 edits)`. */
function sitesEdited(edits, sites) {
  return many(sites, "site") + (edits === sites ? "" : ` (${many(edits, "edit")})`);
}

/**
 * Layers: what was done at each site and what was left alone there.
 * Each has name, edits, left (remarks), saved (bytes), loss (largest, or null), kernel.
 */
function layersOf(manifest) {
  const found = new Map();
  const at = (name) => {
    if (!found.has(name)) found.set(name, { name, edits: [], left: [], saved: 0, loss: null, kernel: null });
    return found.get(name);
  };
  for (const edit of manifest.edits ?? []) {
    const layer = at(edit.site || "graph");
    layer.edits.push(edit);
    layer.saved += number(edit.saving_bytes) ?? 0;
    const loss = number(edit.loss);
    if (loss !== null) layer.loss = Math.max(layer.loss ?? 0, loss);
  }
  for (const remark of manifest.remarks ?? []) {
    if (remark.site && (remark.kind === "refused" || remark.kind === "missed")) at(remark.site).left.push(remark);
  }
  for (const kernel of manifest.kernels?.sites ?? []) at(kernel.site).kernel = kernel;
  return [...found.values()].sort((a, b) => byName(a.name, b.name));
}

const COLLATOR = new Intl.Collator("en", { numeric: true });

function byName(a, b) {
  return COLLATOR.compare(a, b);
}

/** Reasons why sites were left alone: by pass and code, the largest group first. */
function reasonsOf(manifest) {
  const groups = new Map();
  for (const remark of manifest.remarks ?? []) {
    if (remark.kind !== "refused" && remark.kind !== "missed") continue;
    const key = `${remark.kind}|${remark.pass}|${remark.code}`;
    if (!groups.has(key)) groups.set(key, { kind: remark.kind, pass: remark.pass, code: remark.code, remarks: [] });
    groups.get(key).remarks.push(remark);
  }
  return [...groups.values()].sort((a, b) => b.remarks.length - a.remarks.length || byName(a.code, b.code));
}
