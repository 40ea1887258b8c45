// Where boxes stand. Each open box lays out what is in it by itself, from the inside out.

const LEAF = { height: 42, least: 92, most: 190 }, MODULE = { height: 56, least: 132, most: 230 };
const HEADER = 26, PAD = 14;

/** Sizes and places of all boxes to be seen: a map from id to {box, x, y, width, height, open, wires}. */
function laidOut(tree, open) {
  const found = new Map();
  const size = measured(tree, tree.root, open, found);
  place(tree.root, 0, 0, found);
  return { places: found, width: size.width, height: size.height };
}

function measured(tree, box, open, found) {
  if (box.leaf || !open.has(box.id)) {
    const made = { box, open: false, ...sizeOf(box), wires: [] };
    found.set(box.id, made);
    return made;
  }
  const graph = new dagre.graphlib.Graph();
  graph.setGraph({ rankdir: "TB", nodesep: 16, ranksep: 24, marginx: PAD, marginy: PAD });
  graph.setDefaultEdgeLabel(() => ({}));
  const names = new Map(box.children.map((child, at) => [child, String(at)]));
  for (const child of box.children) {
    const size = measured(tree, child, open, found);
    graph.setNode(names.get(child), { width: size.width, height: size.height });
  }
  const wires = [...(tree.links.get(box.id)?.values() ?? [])];
  for (const wire of wires) graph.setEdge(names.get(wire.from), names.get(wire.to));
  dagre.layout(graph);
  const header = box.parent ? HEADER : 0, about = graph.graph();
  const made = { box, open: true, width: Math.max(about.width || 0, box.parent ? titleWidth(box.title) + 40 : 0), height: (about.height || 0) + header, inner: [], wires: [] };
  const shift = (made.width - (about.width || 0)) / 2;
  for (const child of box.children) {
    const at = graph.node(names.get(child));
    made.inner.push({ id: child.id, x: at.x - at.width / 2 + shift, y: at.y - at.height / 2 + header });
  }
  made.wires = wires.map((wire) => ({
    ...wire, points: graph.edge(names.get(wire.from), names.get(wire.to)).points.map((p) => ({ x: p.x + shift, y: p.y + header })),
  }));
  found.set(box.id, made);
  return made;
}

function place(box, x, y, found) {
  const at = found.get(box.id);
  at.x = x;
  at.y = y;
  for (const inner of at.inner ?? []) place(found.get(inner.id).box, x + inner.x, y + inner.y, found);
}

function sizeOf(box) {
  const kind = box.leaf ? LEAF : MODULE;
  const wide = box.leaf ? Math.max(titleWidth(leafTitle(box)), 6 * clipped(leafDetail(box), 26).length + 24) + 12 : titleWidth(box.title) + 34;
  return { width: Math.min(kind.most, Math.max(kind.least, wide)), height: box.item?.face ? 30 : kind.height };
}

function titleWidth(text) {
  return 7.4 * Math.min(30, text.length) + 24;
}

function leafTitle(box) {
  return box.item.face ? box.item.name : box.item.op.split(".").pop();
}

/** What the second line of a node says: the module that it alone is, or its largest weight. */
function leafDetail(box) {
  return box.detail ?? "";
}
