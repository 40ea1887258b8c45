// A graph as boxes in boxes: modules by the dots of their names, and nothing with more than a few
// dozen boxes in it, however large the graph.

const MOST_CHILDREN = 40;
const SHORT_RUN = 5;

/** A box. leaf: an item; else children in order. id: the same on both sides for the same module. */
class Box {
  constructor(id, title, parent) {
    Object.assign(this, { id, title, parent, children: [], item: null, first: 0, items: [], tally: { gone: 0, new: 0, changed: 0, same: 0 } });
  }
  get leaf() { return this.item !== null; }
}

class Tree {
  /** stage: its items; status(place): what became of an item. */
  constructor(stage, status) {
    this.stage = stage;
    this.status = status;
    this.boxes = new Map();
    this.leaves = new Map();
    this.root = this.box("", "", null);
    for (const item of stage.items) this.plant(item);
    this.fold(this.root);
    this.count(this.root);
    this.links = this.linked();
  }

  box(id, title, parent) {
    const made = new Box(id, title, parent);
    this.boxes.set(id, made);
    return made;
  }

  plant(item) {
    let at = this.root, path = "";
    for (const part of item.module ? item.module.split(".") : []) {
      path = path ? `${path}.${part}` : part;
      const id = plain(`m:${path}`);
      if (!this.boxes.has(id)) at.children.push(this.box(id, part, at));
      at = this.boxes.get(id);
    }
    const leaf = this.box(plain(item.face ? `f:${item.face}:${item.name}` : `n:${item.row}`), item.op, at);
    leaf.item = item;
    leaf.detail = item.face ? "" : weightText(this.stage.weight(item));
    this.leaves.set(item.place, leaf);
    at.children.push(leaf);
  }

  /** From the leaves up: one in another is one, a module of one node is that node, what is long is cut. */
  fold(box) {
    box.children.filter((child) => !child.leaf).forEach((child) => this.fold(child));
    box.children = box.children.map((child) => this.thin(child));
    for (const child of box.children) child.parent = box;
    const firsts = new Map(box.children.map((child) => [child, firstOf(child)]));
    box.children.sort((a, b) => firsts.get(a) - firsts.get(b));
    if (box.children.length > 12 && box.children.some((child) => !child.leaf)) box.children = this.runs(box);
    if (box.children.length > MOST_CHILDREN) box.children = this.cut(box);
  }

  thin(child) {
    if (child.leaf || child.children.length !== 1) return child;
    const [only] = child.children;
    this.boxes.delete(child.id);
    if (!only.leaf) only.title = `${child.title}.${only.title}`;
    else if (!only.item.face) only.detail = [child.title, only.detail].filter(Boolean).join(" · ");
    return only;
  }

  /** Runs of nodes between modules that nothing happened to become one box. */
  runs(box) {
    const found = [];
    let run = [];
    const close = () => {
      if (run.length >= SHORT_RUN) found.push(this.group(box, run, kindsOf(run)));
      else found.push(...run);
      run = [];
    };
    for (const child of box.children) {
      if (child.leaf && !child.item.face && !this.status(child.item.place)) run.push(child);
      else { close(); found.push(child); }
    }
    close();
    return found;
  }

  cut(box) {
    const faces = box.children.filter((child) => child.item?.face), rest = box.children.filter((child) => !child.item?.face);
    const size = Math.max(16, Math.ceil(rest.length / MOST_CHILDREN)), groups = [];
    for (let at = 0; at < rest.length; at += size) {
      const part = rest.slice(at, at + size);
      if (part.length === 1) { groups.push(part[0]); continue; }
      const group = this.group(box, part, `${part[0].title} … ${part.at(-1).title}`);
      if (part.length > MOST_CHILDREN) group.children = this.cut(group);
      groups.push(group);
    }
    const shown = faces.length > MOST_CHILDREN ? [this.group(box, faces, "inputs and outputs")] : faces;
    return [...shown, ...groups];
  }

  group(box, children, title) {
    const made = this.box(`g:${box.id}:${children[0].id}`, title, box);
    made.children = children;
    for (const child of children) child.parent = made;
    return made;
  }

  count(box) {
    if (box.leaf) {
      box.items = [box.item];
      if (!box.item.face) box.tally[this.status(box.item.place) || "same"] += 1;
    } else {
      for (const child of box.children) {
        this.count(child);
        for (const item of child.items) box.items.push(item);
        for (const key of Object.keys(box.tally)) box.tally[key] += child.tally[key];
      }
    }
    box.changes = box.tally.gone + box.tally.new + box.tally.changed;
  }

  /** Wires between the boxes that stand in one box: by its id, pairs of children with a count. */
  linked() {
    const found = new Map();
    for (const [from, to] of this.stage.wires) {
      const a = this.pathOf(this.leaves.get(from)), b = this.pathOf(this.leaves.get(to));
      let depth = 0;
      while (a[depth + 1] && a[depth + 1] === b[depth + 1]) depth += 1;
      if (!a[depth + 1] || !b[depth + 1]) continue;
      const inside = found.get(a[depth].id) ?? new Map(), key = `${a[depth + 1].id}\u0000${b[depth + 1].id}`;
      const wire = inside.get(key) ?? { from: a[depth + 1], to: b[depth + 1], count: 0 };
      wire.count += 1;
      inside.set(key, wire);
      found.set(a[depth].id, inside);
    }
    return found;
  }

  /** From the root down to a box. */
  pathOf(box) {
    const path = [];
    for (let at = box; at; at = at.parent) path.unshift(at);
    return path;
  }

  /** What is open at first: boxes that hold a good part of everything. */
  opening() {
    const open = new Set([this.root.id]), enough = Math.max(4, this.root.items.length / 4);
    const walk = (box) => {
      for (const child of box.children) {
        if (child.leaf || child.items.length < enough) continue;
        open.add(child.id);
        walk(child);
      }
    };
    walk(this.root);
    return open;
  }
}

function firstOf(box) {
  return box.leaf ? (box.item.face === "output" ? Infinity : box.item.face ? -1 : box.item.place) : Math.min(...box.children.map(firstOf));
}

/** `int8 384×288`: what kind of weight a node holds, if it is one worth a word. */
function weightText(tensor) {
  return !tensor || tensor.shape.length === 0 || tensor.bytes <= 64 ? "" : `${tensor.dtype.toLowerCase()} ${tensor.shape.join("×")}`;
}

/** `Unsqueeze, And, …` */
function kindsOf(leaves) {
  const counts = new Map();
  for (const leaf of leaves) counts.set(leaf.item.op, (counts.get(leaf.item.op) ?? 0) + 1);
  const top = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 2).map(([op]) => op).join(", ");
  return `${top}${counts.size > 2 ? ", …" : ""}`;
}
