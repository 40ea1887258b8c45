// Boxes and wires as SVG. What is too small to be read is not written.

/** Draw a layout into a group; on: {press(box), arrow(box, key)}; marks: {chosen, mates, fresh, status}. */
function drawn(layer, layout, marks, on) {
  const places = [...layout.places.values()].sort((a, b) => depthOf(a.box) - depthOf(b.box));
  layer.replaceChildren();
  for (const at of places) {
    if (at.box.parent) layer.append(boxElement(at, marks, on));
    for (const wire of at.wires) layer.append(wireElement(at, wire));
  }
}

function depthOf(box) {
  let depth = 0;
  for (let at = box.parent; at; at = at.parent) depth += 1;
  return depth;
}

function wireElement(at, wire) {
  const points = wire.points.map((p) => [p.x + at.x, p.y + at.y]);
  let path = `M${points[0].map(round).join(",")}`;
  for (let i = 1; i < points.length - 1; i++) {
    const middle = [(points[i][0] + points[i + 1][0]) / 2, (points[i][1] + points[i + 1][1]) / 2];
    path += `Q${points[i].map(round).join(",")} ${(i === points.length - 2 ? points[i + 1] : middle).map(round).join(",")}`;
  }
  if (points.length === 2) path += `L${points[1].map(round).join(",")}`;
  return s("path", { class: "wire", d: path, "data-from": wire.from.id, "data-to": wire.to.id, "marker-end": "url(#tip-mark)" });
}

function round(value) {
  return Math.round(10 * value) / 10;
}

function boxElement(at, marks, on) {
  const { box } = at, status = statusOfBox(box, marks);
  const kind = box.leaf ? (box.item.face ? "leaf face" : "leaf") : at.open ? "module open" : "module";
  const names = ["box", kind, status, marks.chosen === box.id ? "chosen" : "", marks.mates.has(box.id) ? "mate" : "", freshIn(box, marks) ? "fresh" : ""];
  const element = s("g", {
    class: names.filter(Boolean).join(" "), transform: `translate(${round(at.x)},${round(at.y)})`, role: "button", tabindex: -1,
    "data-id": box.id, "aria-label": saidOf(box, status, at.open), "aria-expanded": box.leaf ? null : String(at.open), "aria-pressed": box.leaf ? String(marks.chosen === box.id) : null,
    onclick: (event) => { event.stopPropagation(); on.press(box); }, onkeydown: (event) => on.key(event, box),
  }, s("rect", { class: "frame", width: at.width, height: at.height, rx: box.leaf ? 7 : 10 }));
  element.append(...(box.leaf ? leafTexts(at, status) : at.open ? openTexts(at) : moduleTexts(at, marks.alone)));
  return element;
}

const RULER = document.createElement("canvas").getContext("2d");

/** A text with its middle left out where it is wider than the room, in pixels. `font`: weight and size. */
function fitted(text, room, font) {
  RULER.font = `${font} ${getComputedStyle(document.body).fontFamily}`;
  const wide = RULER.measureText(text).width;
  let count = wide > room ? Math.ceil(text.length * room / wide) + 2 : text.length;
  while (count > 3 && RULER.measureText(clipped(text, count)).width > room) count -= 1;
  return clipped(text, count);
}

const TITLE = "620 12.5px", DETAIL = "400 11px";  // as .op and .sub are drawn
const SIGNS = { gone: "−", new: "+", changed: "~" };

function leafTexts({ box, width, height }, status) {
  const title = s("text", { class: "op", x: width / 2, y: box.item.face || !leafDetail(box) ? height / 2 + 4 : 18, "text-anchor": "middle" }, fitted(leafTitle(box), width - (status ? 36 : 12), TITLE));
  const detail = box.item.face || !leafDetail(box) ? null : s("text", { class: "sub", x: width / 2, y: 33, "text-anchor": "middle" }, fitted(leafDetail(box), width - 12, DETAIL));
  return [title, detail, status ? s("text", { class: "sign", x: width - 6, y: 13 }, SIGNS[status]) : null].filter(Boolean);
}

function openTexts({ box, width }) {
  return [s("text", { class: "op", x: 12, y: 18 }, fitted(`▾ ${box.title}`, width - 24, TITLE))];
}

function moduleTexts({ box, width }, alone) {
  const sum = Object.values(box.tally).reduce((a, b) => a + b, 0) || 1, room = width - 24;
  let x = 12;
  const share = ["gone", "new", "changed", "same"].map((name) => {
    const wide = room * box.tally[name] / sum;
    const bar = wide > 0 ? s("rect", { class: `share ${name}`, x: round(x), y: 43, width: round(wide), height: 5 }) : null;
    x += wide;
    return bar;
  });
  const count = box.tally.gone + box.tally.new + box.tally.changed;
  return [s("text", { class: "op", x: 12, y: 19 }, fitted(`▸ ${box.title}`, room, TITLE)),
    s("text", { class: "sub", x: 12, y: 35 }, `${many(sum, "node")}${count ? `, ${whole(count)} differ` : ""}`), ...(alone ? [] : share)].filter(Boolean);
}

function statusOfBox(box, marks) {
  if (box.leaf) return box.item.face ? "" : marks.status(box.item.place);
  if (!box.changes) return "";
  for (const name of ["gone", "new"]) if (box.tally[name] === box.items.length) return name;
  return "changed";
}

function freshIn(box, marks) {
  return box.leaf && !box.item.face && marks.fresh.has(box.item.row);
}

function saidOf(box, status, open) {
  const words = { gone: "only before", new: "only after", changed: "changed", "": "" }[status];
  if (box.leaf) return [box.item.face || "node", leafTitle(box), box.item.face ? "" : box.item.name, leafDetail(box), words].filter(Boolean).join(", ");
  return [`module ${box.title}`, many(box.items.length, "node"), box.changes ? `${whole(box.changes)} differ` : "nothing differs", open ? "open" : "closed"].join(", ");
}
