// Put the page together: each part by itself, so that one that fails does not take the others along.

/** How parts ask each other for something. */
class Hub {
  constructor() { this.ears = new Map(); this.view = null; }
  on(name, act) { this.ears.set(name, [...(this.ears.get(name) ?? []), act]); }
  tell(name, value) { for (const act of this.ears.get(name) ?? []) act(value); }

  /** A pass was chosen: its layers, and the graph after it. */
  pass(row) {
    this.tell("pass", row);
    const at = this.view ? this.view.graph.stages.findIndex((stage) => stage.name === row.stage) : -1;
    if (this.view && row.name === "imported") this.view.slide(0);
    else if (at >= 0) this.view.slide(at);
    document.getElementById("layers")?.scrollIntoView();
  }

  layer(name) {
    this.tell("layer", name);
    document.querySelector("#layers .filters")?.scrollIntoView({ block: "center" });
  }

  /** A hunk was chosen: the first of its nodes. */
  hunk(place) {
    const hunk = this.view.comparison.hunks[place], side = hunk.before.length ? 0 : 1;
    document.getElementById("graph").scrollIntoView();
    this.view.jump(side, (side ? hunk.after : hunk.before)[0]);
  }

  canShow(name) { return Boolean(this.view?.placesOf(name).length); }

  show(name) {
    const [place] = this.view.placesOf(name);
    if (place === undefined) return;
    document.getElementById("graph").scrollIntoView();
    this.view.jump(0, place);
  }
}

function safely(make) {
  try { return make(); } catch (error) {
    console.error(error);
    return h("p", { class: "notice bad" }, `This part could not be drawn: ${error.message}`);
  }
}

function compilePage(doc, hub) {
  const tones = new Tones(techniques(doc.compile));
  const view = hub.view;
  return [
    safely(() => verdictPart(doc)), safely(() => passesPart(doc, tones, hub)),
    safely(() => layersPart(doc, tones, hub)), safely(() => qualityPart(doc.compile)),
    view ? safely(() => graphPart(view, "Modules are closed until you open them; what differs is coloured.")) : noGraph(doc),
    safely(() => leftPart(doc.compile, tones, hub)), safely(() => factsPart(doc.compile)),
  ];
}

function noGraph(doc) {
  return doc.no_graph ? part("graph", "The graph, before and after", null, h("p", { class: "notice" }, `The graphs cannot be shown: ${doc.no_graph}`)) : null;
}

const PARTS = [["verdict", "Verdict"], ["passes", "Passes"], ["layers", "Layers"], ["changes", "Changes"], ["modules", "Modules"], ["sites", "Sites"], ["quality", "Quality"], ["graph", "Graph"], ["targets", "Targets"], ["left", "Left alone"], ["facts", "Details"]];

async function main() {
  const doc = await readDocument(), hub = new Hub();
  const tones = new Tones(doc.compile ? techniques(doc.compile) : []);
  if (doc.graph) hub.view = safely(() => new GraphView(doc, tones));
  const pages = { compile: () => compilePage(doc, hub), diff: () => diffPage(doc, hub), inspect: () => inspectPage(doc, hub) };
  const content = document.getElementById("content");
  content.replaceChildren(...pages[doc.kind]().filter(Boolean));
  const named = PARTS.map(([id, title]) => [id, id === "verdict" && doc.kind !== "compile" ? "Summary" : title]);
  topBar(doc.title, named.filter(([id]) => document.getElementById(id)));
  document.getElementById("foot").append(h("span", null, `Written by planish${doc.compile?.environment?.planish ? ` ${doc.compile.environment.planish}` : ""}. This file needs nothing else and loads nothing. `));
  hub.view?.start?.();
  addEventListener("beforeprint", () => { for (const block of document.querySelectorAll("details")) block.open = true; });
  document.documentElement.dataset.ready = "yes";
}

main().catch((error) => {
  console.error(error);
  document.getElementById("content").replaceChildren(h("p", { class: "notice bad" }, `The page could not be drawn: ${error.message}`));
});
