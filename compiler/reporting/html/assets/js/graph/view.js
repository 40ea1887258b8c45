// Both graphs side by side: the slider over the passes, linked opening, choosing, finding.

class GraphView {
  constructor(doc, tones) {
    Object.assign(this, { doc, tones, manifest: doc.compile ?? doc, single: doc.graph.stages.length === 1, slides: doc.kind === "compile" && doc.graph.stages.length > 1, graph: doc.graph, at: doc.graph.stages.length - 1, linked: true });
    this.stages = new Map();
    this.panels = [0, 1].map((side) => new Panel(side, { press: (panel, box) => this.press(panel, box) }));
    this.about = h("div", { class: "about", role: "region", "aria-label": "About what is chosen", "aria-live": "polite" });
    this.element = h("div", { class: "card wide", "data-graph": "" }, this.toolbar(), h("div", { class: `pair${this.single ? " single" : ""}` }, this.panels.slice(0, this.single ? 1 : 2).map((panel) => panel.element), this.about), legend(this.single, this.slides));
  }

  /** A stage by its place; the first is the original. */
  stage(at) {
    if (!this.stages.has(at)) this.stages.set(at, new Stage(this.graph, at));
    return this.stages.get(at);
  }

  toolbar() {
    const names = this.graph.stages.map((stage) => stageTitle(stage.name.replace(/^\d+-/, "")));
    this.slider = h("input", { type: "range", min: 0, max: names.length - 1, step: 1, value: this.at, "aria-label": "The graph after which pass", oninput: () => this.slide(Number(this.slider.value)) });
    this.marksOf = names.map((name) => h("li", null, tailOf(name, 14)));
    const step = (by, text, label) => h("button", { "aria-label": label, onclick: () => this.slide(this.at + by) }, text);
    const link = h("input", { type: "checkbox", checked: true, onchange: () => { this.linked = link.checked; } });
    return h("div", { class: "bar" },
      this.slides ? h("div", { class: "slider" }, step(-1, "‹", "The pass before"), h("div", { class: "track" }, this.slider, h("ol", { "aria-hidden": "true" }, this.marksOf)), step(1, "›", "The next pass")) : null,
      this.single ? null : h("button", { onclick: () => this.openChanges() }, "Open what changed"), h("button", { onclick: () => this.collapse() }, "Close all"),
      this.single ? null : h("label", { class: "small quiet" }, link, " open both sides"), searchField(() => this.everything()));
  }

  start() {
    this.slide(this.at, true);
    requestAnimationFrame(() => this.panels.forEach((panel) => panel.fit()));
  }

  /** Show the graph after another pass. */
  slide(to, quiet = false) {
    this.at = Math.min(Math.max(0, to), this.graph.stages.length - 1);
    this.slider.value = String(this.at);
    this.slider.setAttribute("aria-valuetext", this.nameOf(this.at));
    this.marksOf.forEach((mark, index) => mark.classList.toggle("on", index === this.at));
    this.comparison = new Comparison(this.stage(0), this.stage(this.at));
    const chosen = this.panels.map((panel) => panel.marks.chosen);
    const fresh = this.at ? this.brought(this.at) : new Set();
    [this.stage(0), this.stage(this.at)].forEach((stage, side) => {
      this.panels[side].choose("", []);
      this.panels[side].show(stage, (place) => this.comparison.statusOf(side, place), side ? fresh : new Set());
      this.headline(side, stage);
    });
    this.about.replaceChildren(aboutNothing(this.single));
    const kept = [0, 1].find((side) => chosen[side] && this.panels[side].tree.boxes.get(chosen[side])?.leaf);
    if (kept !== undefined) this.choose(this.panels[kept], this.panels[kept].tree.boxes.get(chosen[kept]), true);
    if (!quiet) say(`After ${this.nameOf(this.at)}: ${this.panels[1].title.textContent}`);
  }

  nameOf(at) {
    return stageTitle(this.graph.stages[at].name.replace(/^\d+-/, ""));
  }

  /** Rows of nodes that the stage before did not have. */
  brought(at) {
    const old = new Set(this.graph.stages[at - 1].nodes);
    return new Set(this.graph.stages[at].nodes.filter((row) => !old.has(row)));
  }

  headline(side, stage) {
    const tally = this.panels[side].tree.root.tally, words = side ? [["new", "only here"], ["changed", "changed"]] : [["gone", "only here"], ["changed", "changed"]];
    const differ = words.filter(([key]) => tally[key]).map(([key, word]) => `${whole(tally[key])} ${word}`).join(", ");
    const title = this.single ? "The model" : this.doc.kind === "diff" ? ["Before", "After"][side] : side ? (this.at ? afterWhat(this.nameOf(this.at)) : "The original again") : "Before";
    this.panels[side].title.replaceChildren(h("b", null, title), h("span", null, `${many(stage.about.nodes.length, "node")}, ${bytes(stage.about.bytes)}`), this.single ? "" : h("span", { class: "quiet" }, differ || "nothing differs"));
  }

  press(panel, box) {
    if (box.leaf) { this.choose(panel, box); return; }
    panel.toggle(box);
    const open = panel.open.has(box.id), other = this.panels[1 - panel.side];
    if (this.linked) this.follow(other, panel, box, open);
    this.about.replaceChildren(aboutModule(panel, box));
  }

  /** Open or close the same module on the other side. */
  follow(other, panel, box, open) {
    const same = other.tree.boxes.get(box.id);
    if (same && !same.leaf) {
      if (other.open.has(same.id) !== open) other.toggle(same);
    } else if (open) {
      const item = box.items.find((one) => this.comparison.matesOf(panel.side, one.place).length);
      if (item) { other.reveal(this.comparison.matesOf(panel.side, item.place)[0]); other.draw(); }
    }
  }

  /** Choose a node: it is marked, its counterparts are shown on the other side. */
  choose(panel, leaf, quiet = false) {
    const other = this.panels[1 - panel.side], places = this.comparison.matesOf(panel.side, leaf.item.place);
    const mates = places.slice(0, 24).map((place) => other.reveal(place)).filter(Boolean).map((box) => box.id);
    panel.choose(leaf.id, []);
    other.choose("", mates);
    panel.redraw(leaf);
    other.draw();
    if (quiet) panel.center(leaf.id);
    if (mates.length) other.center(mates[0]);
    this.about.replaceChildren(aboutNode(panel, leaf.item, this.comparison, this.manifest, this.tones, (side, place) => this.jump(side, place)));
    if (!quiet) say(`${saidOf(leaf, panel.marks.status(leaf.item.place), false)}; ${many(mates.length, "counterpart")}`);
  }

  /** Show a node wherever it is, and choose it. */
  jump(side, place) {
    const panel = this.panels[side], leaf = panel.reveal(place);
    if (!leaf) return;
    panel.draw();
    this.choose(panel, leaf);
    panel.center(leaf.id);
  }

  openChanges() {
    const counts = this.panels.map((panel) => panel.openChanges());
    this.panels.forEach((panel) => panel.fit());
    say(`${counts[0]} nodes differ before, ${counts[1]} after`);
  }

  collapse() {
    this.panels.forEach((panel) => { panel.collapse(); panel.fit(); });
  }

  everything() {
    return (this.single ? [0] : [0, 1]).flatMap((side) => (side ? this.comparison.after : this.comparison.before).items.map((item) => ({
      side, text: [item.op, item.name, item.module].filter(Boolean).join(" · "), pick: () => this.jump(side, item.place),
    })));
  }

  /** Places before whose layer is that site, or below it. */
  placesOf(site) {
    const items = this.stage(0).items, stem = site.replace(/\.(in|out|share)$/, "");
    const found = (name) => items.filter((item) => item.module === name || item.module.startsWith(`${name}.`));
    return (found(site).length ? found(site) : found(stem)).map((item) => item.place);
  }
}

function afterWhat(name) {
  return name === "handed over" ? "Handed over" : `After ${name}`;
}

/** slides: whether there are passes to go through. */
function legend(single, slides) {
  if (single) return h("div", { class: "legend" }, "Click a module to open it, a node for what is known of it. Drag to move; zoom with the buttons, or with the wheel after a click.");
  const entry = (tone, tint, text) => h("span", { style: { "--tone": tone, "--tint": tint } }, h("i"), text);
  return h("div", { class: "legend" },
    entry("var(--gone)", "var(--gone-fill)", "− only before"), entry("var(--new)", "var(--new-fill)", "+ only after"), entry("var(--changed)", "var(--changed-fill)", "~ changed"),
    entry("var(--line)", "var(--card)", "the same"), h("span", null, slides ? "Thick border: brought by this pass. " : "", "Click a module to open it, a node for its counterpart. Drag to move; zoom with the buttons, or with the wheel after a click."));
}

function graphPart(view, lead) {
  return part("graph", view.single ? "The graph" : "The graph, before and after", lead, view.element);
}
