// The graphs of the document: items with their wires, and which of them match.

/** One stage: its nodes, and its inputs and outputs, as items in order. */
class Stage {
  constructor(graph, at) {
    this.graph = graph;
    this.about = graph.stages[at];
    this.items = this.about.nodes.map((row, place) => this.node(row, place));
    this.wires = [];
    this.connect();
  }

  node(row, place) {
    const [name, op, module, attributes, inputs, outputs, body] = this.graph.nodes[row], text = this.graph.texts;
    return { place, row, face: "", name: text[name], op: text[op], module: text[module], attributes: text[attributes], inputs, outputs, body };
  }

  value(at) {
    if (at < 0) return null;
    const [name, type, kind, tensor] = this.graph.values[at];
    return { name: this.graph.texts[name], type: this.graph.texts[type], kind: this.graph.kinds[kind], tensor: tensor < 0 ? null : this.graph.tensors[tensor] };
  }

  /** Wires between items; what the graph takes and gives are items of their own. */
  connect() {
    const makers = new Map();
    for (const item of this.items) for (const value of item.outputs) makers.set(value, item.place);
    const faces = new Map();
    const face = (value, kind) => {
      if (!faces.has(value)) {
        faces.set(value, this.items.length);
        const known = this.value(value);
        this.items.push({ place: this.items.length, row: -1, face: kind, name: known.name, op: known.name, module: "", attributes: "", inputs: [], outputs: [value], body: false });
      }
      return faces.get(value);
    };
    for (const item of [...this.items]) {
      for (const value of item.inputs) {
        if (value < 0) continue;
        const kind = this.value(value).kind;
        if (makers.has(value)) this.wires.push([makers.get(value), item.place]);
        else if (kind === "input" && !item.body) this.wires.push([face(value, "input"), item.place]);
      }
      for (const value of item.outputs) {
        if (this.value(value).kind === "output" && !item.body) this.wires.push([item.place, face(value, "output")]);
      }
    }
  }

  /** The largest constant that an item reads. */
  weight(item) {
    const held = item.inputs.map((value) => this.value(value)?.tensor).filter(Boolean);
    return held.sort((a, b) => b.bytes - a.bytes)[0] ?? null;
  }

  /** Bytes of the constants that items read, each once. */
  bytesOf(items) {
    const seen = new Map();
    for (const item of items) for (const value of item.inputs) {
      const tensor = this.value(value)?.tensor;
      if (tensor) seen.set(tensor.digest, tensor.bytes);
    }
    return [...seen.values()].reduce((a, b) => a + b, 0);
  }
}

/** The first stage against another: what became of each item, and where its counterparts are. */
class Comparison {
  constructor(before, after) {
    this.before = before;
    this.after = after;
    this.hunks = after.about.hunks ?? [];
    this.mates = [new Map(), new Map()];
    this.status = [new Map(), new Map()];
    this.hunkOf = [new Map(), new Map()];
    const pairs = after.about.pairs ?? before.about.nodes.map((_, at) => [at, at]);
    for (const [a, b] of pairs) this.join(a, b);
    this.hunks.forEach((hunk) => this.take(hunk));
    this.joinFaces();
  }

  join(a, b) {
    this.mates[0].set(a, [...(this.mates[0].get(a) ?? []), b]);
    this.mates[1].set(b, [...(this.mates[1].get(b) ?? []), a]);
  }

  take(hunk) {
    const changed = [new Set(hunk.changed.map((pair) => pair[0])), new Set(hunk.changed.map((pair) => pair[1]))];
    const sides = [hunk.before, hunk.after], words = ["gone", "new"], items = [this.before.items, this.after.items];
    sides.forEach((places, side) => {
      const others = sides[1 - side].filter((other) => !changed[1 - side].has(other));
      const left = others.length ? others : sides[1 - side];
      for (const place of places) {
        this.hunkOf[side].set(place, hunk);
        this.status[side].set(place, changed[side].has(place) ? "changed" : words[side]);
        if (this.mates[side].has(place)) continue;
        const module = items[side][place].module, of = (other) => items[1 - side][other].module;
        const inside = left.filter((other) => within(of(other), module)), near = inside.length ? inside : left.filter((other) => kin(of(other), module));
        this.mates[side].set(place, near.length ? near : left);
      }
    });
  }

  joinFaces() {
    const after = new Map(this.after.items.filter((item) => item.face).map((item) => [item.name, item.place]));
    for (const item of this.before.items) if (item.face && after.has(item.name)) this.join(item.place, after.get(item.name));
  }

  /** "", "gone", "new" or "changed". side: 0 before, 1 after. */
  statusOf(side, place) {
    return this.status[side].get(place) ?? "";
  }

  matesOf(side, place) {
    return this.mates[side].get(place) ?? [];
  }
}

/** Whether a module is another one, or a part of it. */
function within(part, whole) {
  return whole !== "" && (part === whole || part.startsWith(`${whole}.`));
}

/** Whether two modules are one layer, or one of them a part of the other. */
function kin(one, other) {
  return within(one, other) || within(other, one);
}
