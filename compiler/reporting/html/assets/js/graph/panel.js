// One side: a graph that can be moved, opened, walked through with the keys, and asked for a node.

const MOST_BOXES = 700;

class Panel {
  /** on: {press(panel, box), walk}; side: 0 before, 1 after. */
  constructor(side, on) {
    Object.assign(this, { side, on, open: null, tree: null, layout: null });
    this.marks = { chosen: "", mates: new Set(), fresh: new Set(), status: () => "" };
    this.layer = s("g");
    this.svg = s("svg", { class: "canvas", role: "group", tabindex: 0, "aria-label": `Graph ${side ? "after" : "before"}; arrow keys walk, Enter opens, plus and minus zoom`, onkeydown: (event) => this.key(event) },
      s("defs", null, s("marker", { id: "tip-mark", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto-start-reverse" }, s("path", { class: "tips", d: "M0,1L7,4L0,7Z" }))),
      this.layer);
    this.title = h("header");
    const button = (text, label, act) => h("button", { onclick: act, "aria-label": label, title: label }, text);
    this.element = h("div", { class: `side ${side ? "right" : "left"}` }, this.title, this.svg,
      h("div", { class: "zoom" }, button("+", "Zoom in", () => this.scaleBy(1.4)), button("−", "Zoom out", () => this.scaleBy(1 / 1.4)), button("⤢", "Fit", () => this.fit())));
    this.zoom = d3.zoom().scaleExtent([0.04, 3]).extent(() => [[0, 0], [this.size.width, this.size.height]])
      .filter((event) => !event.button && (event.type !== "wheel" || event.ctrlKey || event.metaKey || this.svg.contains(document.activeElement)))
      .on("zoom", (event) => this.moved(event.transform));
    d3.select(this.svg).call(this.zoom).on("dblclick.zoom", null);
  }

  moved(transform) {
    this.layer.setAttribute("transform", String(transform));
    this.svg.classList.toggle("far", transform.k < 0.55);
    this.svg.classList.toggle("farther", transform.k < 0.3);
  }

  /** Show a stage. status(place): what became of an item; fresh: rows that this stage brought. */
  show(stage, status, fresh) {
    this.tree = new Tree(stage, status);
    this.marks = { ...this.marks, status, fresh, alone: stage.graph.stages.length === 1 };
    const kept = this.open ? [...this.open].filter((id) => this.tree.boxes.has(id)) : [];
    this.open = kept.length > 1 ? new Set(kept) : this.tree.opening();
    this.draw();
  }

  draw() {
    this.layout = laidOut(this.tree, this.open);
    drawn(this.layer, this.layout, this.marks, { press: (box) => this.on.press(this, box), key: (event, box) => this.walk(event, box) });
    this.element.dataset.boxes = String(this.layout.places.size);
    const first = this.layer.querySelector(".chosen") ?? this.layer.querySelector(".box");
    first?.setAttribute("tabindex", "0");
    this.light();
  }

  /** Draw again with a box where it stood on the screen. */
  redraw(box) {
    const before = box ? this.screenOf(box.id) : null;
    this.draw();
    const after = box ? this.screenOf(box.id) : null;
    if (!before || !after) return;
    const now = d3.zoomTransform(this.svg);
    d3.select(this.svg).call(this.zoom.transform, d3.zoomIdentity.translate(now.x + before.x - after.x, now.y + before.y - after.y).scale(now.k));
  }

  screenOf(id) {
    const at = this.layout.places.get(id), now = d3.zoomTransform(this.svg);
    return at ? { x: now.applyX(at.x), y: now.applyY(at.y) } : null;
  }

  /** Whether it was opened; not where too much would be drawn. */
  expand(box) {
    if (box.leaf || this.open.has(box.id)) return true;
    if (this.layout.places.size + box.children.length > MOST_BOXES) {
      say("Too many boxes are open: close some first.");
      return false;
    }
    this.open.add(box.id);
    return true;
  }

  toggle(box) {
    if (this.open.has(box.id)) {
      for (const id of [...this.open]) if (id === box.id || this.tree.pathOf(this.tree.boxes.get(id)).includes(box)) this.open.delete(id);
    } else this.expand(box);
    this.redraw(box);
    say(`${box.title} ${this.open.has(box.id) ? "opened" : "closed"}`);
  }

  /** Open what holds an item; its box, which is to be seen then. */
  reveal(place) {
    const leaf = this.tree.leaves.get(place);
    if (!leaf) return null;
    for (const box of this.tree.pathOf(leaf).slice(0, -1)) if (!this.open.has(box.id)) this.open.add(box.id);
    return leaf;
  }

  /** Close everything but what holds changes, one after the other down to the nodes, while there is room. */
  openChanges() {
    this.open = new Set([this.tree.root.id]);
    let seen = this.tree.root.children.length;
    const queue = [...this.tree.root.children];
    while (queue.length) {
      const box = queue.shift();
      if (box.leaf || !box.changes) continue;
      if (seen + box.children.length > MOST_BOXES / 2) continue;
      this.open.add(box.id);
      seen += box.children.length;
      queue.unshift(...box.children);
    }
    this.draw();
    return this.tree.root.changes;
  }

  collapse() {
    this.open = this.tree.opening();
    this.draw();
  }

  choose(id, mates) {
    this.marks.chosen = id;
    this.marks.mates = new Set(mates);
  }

  /** Wires of the chosen box stand out. */
  light() {
    for (const wire of this.layer.querySelectorAll(".wire")) {
      wire.classList.toggle("lit", wire.dataset.from === this.marks.chosen || wire.dataset.to === this.marks.chosen);
    }
  }

  get size() {
    const box = this.svg.getBoundingClientRect();
    return { width: box.width || 600, height: box.height || 500 };
  }

  fit() {
    const { width, height } = this.size, whole = Math.min(width / this.layout.width, height / this.layout.height);
    const k = Math.min(1, Math.max(whole, Math.min(0.5, width / this.layout.width), 0.08)) * 0.96;
    const y = k * this.layout.height < height ? (height - k * this.layout.height) / 2 : 8;
    this.go(d3.zoomIdentity.translate((width - k * this.layout.width) / 2, y).scale(k));
  }

  /** Bring a box into the middle. */
  center(id) {
    const at = this.layout.places.get(id);
    if (!at) return;
    const { width, height } = this.size, k = Math.min(1.1, Math.max(0.7, d3.zoomTransform(this.svg).k));
    this.go(d3.zoomIdentity.translate(width / 2 - k * (at.x + at.width / 2), height / 2 - k * (at.y + at.height / 2)).scale(k));
  }

  go(transform) {
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const chosen = d3.select(this.svg);
    (still ? chosen : chosen.transition().duration(260)).call(this.zoom.transform, transform);
  }

  scaleBy(ratio) {
    d3.select(this.svg).call(this.zoom.scaleBy, ratio);
  }

  key(event) {
    const act = { "+": () => this.scaleBy(1.3), "=": () => this.scaleBy(1.3), "-": () => this.scaleBy(1 / 1.3), 0: () => this.fit() }[event.key];
    if (act) { act(); event.preventDefault(); return; }
    if (event.target === this.svg && event.key.startsWith("Arrow")) { this.focus(this.layer.querySelector('.box[tabindex="0"]')?.dataset.id); event.preventDefault(); }
  }

  walk(event, box) {
    if (event.key === "Enter" || event.key === " ") { this.on.press(this, box); this.focus(box.id); }
    else if (event.key === "Escape" && box.parent?.parent) this.focus(box.parent.id);
    else if (event.key.startsWith("Arrow")) this.focus(this.nearest(box.id, event.key));
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** The next box in a direction, from middle to middle. */
  nearest(id, key) {
    const from = this.layout.places.get(id), [dx, dy] = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[key] ?? [0, 1];
    let best = null, least = Infinity;
    for (const at of this.layout.places.values()) {
      if (at === from || !at.box.parent || (at.open && at.box !== from.box.parent)) continue;
      const x = at.x + at.width / 2 - from.x - from.width / 2, y = at.y + at.height / 2 - from.y - from.height / 2;
      const along = x * dx + y * dy, across = Math.abs(x * dy) + Math.abs(y * dx);
      if (along > 4 && along + 2.2 * across < least) { best = at.box.id; least = along + 2.2 * across; }
    }
    return best ?? id;
  }

  focus(id) {
    const element = this.elementOf(id);
    if (!element) return;
    for (const old of this.layer.querySelectorAll('.box[tabindex="0"]')) old.setAttribute("tabindex", "-1");
    element.setAttribute("tabindex", "0");
    element.focus({ preventScroll: true });
    const at = this.screenOf(id), { width, height } = this.size;
    if (at && (at.x < 10 || at.y < 10 || at.x > width - 80 || at.y > height - 40)) this.center(id);
  }

  elementOf(id) {
    return [...this.layer.querySelectorAll(".box")].find((element) => element.dataset.id === id) ?? null;
  }
}
