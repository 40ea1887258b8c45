// A page about two models that somebody compares.

function diffPage(doc, hub) {
  const [before, after] = [doc.graph.stages[0], doc.graph.stages.at(-1)];
  return [h("section", { class: "hero", id: "verdict", "aria-label": "Summary" },
    h("div", { class: "eyebrow" }, h("span", { class: "mono" }, doc.before), "→", h("span", { class: "mono" }, doc.after)),
    h("h1", null, after.hunks.length ? `${many(after.hunks.length, "place")} differ${after.hunks.length === 1 ? "s" : ""}` : "No difference")),
  safely(() => graphPart(hub.view, null))];
}
