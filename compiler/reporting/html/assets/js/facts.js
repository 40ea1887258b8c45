// How to make it again, where it was made, which kernels run: for who has to rely on it.

function factsPart(m) {
  const block = (title, ...children) => h("details", { class: "block" }, h("summary", null, title), h("div", null, children));
  const list = (pairs) => h("dl", { class: "facts small" }, pairs.map(([name, value]) => [h("dt", null, name), h("dd", { class: "mono" }, String(value))]));
  const notes = notesOf(m);
  return part("facts", "Details", null, h("div", { class: "card" },
    notes.length ? block(`Notes (${notes.length})`, h("ul", null, notes.map((note) => h("li", null, note)))) : null,
    block("Do it again", m.command ? h("pre", { tabindex: 0 }, m.command) : null,
      h("p", { class: "small" }, "The same choices without searching: --plan manifest.json. The pipeline:"), h("pre", { tabindex: 0 }, m.plan?.pipeline || "nothing"),
      m.plan?.spellings?.length ? h("p", { class: "small" }, `Spellings that paid: ${m.plan.spellings.join(", ")}.`) : null),
    kernelBlock(m.kernels, block, list),
    m.engine ? block("Engine", h("p", null, `An engine is ${m.engine.built}.`), h("ul", null, (m.engine.checks ?? []).map((check) => h("li", null, check))),
      list(Object.entries(m.engine.profile ?? {}).map(([name, shapes]) => [name, Object.entries(shapes).map(([k, v]) => `${k} ${v.join("×") || "scalar"}`).join(", ")]))) : null,
    m.provider?.name && !m.engine ? block("ONNX Runtime on the GPU", h("p", null, `provider.json asks for ${m.provider.name}.`),
      h("ul", null, (m.provider.checks ?? []).map((check) => h("li", null, check)))) : null,
    m.session_options?.length ? block("Session options", h("p", null, m.session_options.join(", "))) : null,
    block("Where and when", list(Object.entries(m.environment ?? {})), m.peak_rss_bytes ? h("p", { class: "small" }, `Peak memory ${bytes(m.peak_rss_bytes)}.`) : null,
      list(Object.entries(m.seconds ?? {}).map(([name, value]) => [name, `${three(number(value))} s`]))),
    block("Digests", list(Object.entries(m.digests ?? {})))));
}

function notesOf(m) {
  const remarks = (m.remarks ?? []).filter((r) => r.kind === "note").map((r) => (r.site ? `${r.site}: ${r.sentence}` : r.sentence));
  return [...new Set([...(m.notes ?? []), ...remarks])];
}

function kernelBlock(kernels, block, list) {
  if (!kernels?.counts || !Object.keys(kernels.counts).length) return null;
  const float = (kernels.sites ?? []).filter((site) => !site.integer);
  return block("Kernels that run", list(Object.entries(kernels.counts).sort((a, b) => b[1] - a[1])),
    kernels.surprises?.length ? h("ul", null, kernels.surprises.map((text) => h("li", null, text))) : null,
    float.length ? h("p", { class: "small" }, `In float: ${float.map((site) => `${site.site}${site.reason ? ` (${site.reason})` : ""}`).join("; ")}`) : null);
}
