// What is known of the chosen node or module: shapes, weights before and after, the hunk, its edits.

function aboutNothing(single) {
  if (single) return h("p", { class: "quiet" }, "Choose a node or a module: what is known of it is shown here.");
  return h("p", { class: "quiet" }, "Choose a node or a module on either side: its counterpart is found on the other, and what is known of it is shown here.");
}

function aboutModule(panel, box) {
  const stage = panel.tree.stage, tally = box.tally;
  const alone = stage.graph.stages.length === 1, counts = [["only before", tally.gone], ["only after", tally.new], ["changed", tally.changed], ["the same", tally.same]].filter(([, n]) => n);
  return h("div", null, h("h3", null, `Module ${box.title}`, alone ? null : h("span", { class: "quiet small" }, panel.side ? "after" : "before")),
    h("dl", { class: "facts small" }, h("dt", null, "nodes"), h("dd", null, whole(box.items.length) + (alone ? "" : `: ${counts.map(([word, n]) => `${whole(n)} ${word}`).join(", ")}`)),
      h("dt", null, "weights"), h("dd", null, bytes(stage.bytesOf(box.items))),
      h("dt", null, "operators"), h("dd", null, kindsIn(box.items))));
}

function kindsIn(items) {
  const counts = new Map();
  for (const item of items) if (!item.face) counts.set(item.op, (counts.get(item.op) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1]).map(([op, n]) => `${n} ${op}`).join(", ");
}

/** comparison: of both stages; manifest: of the compile, for the edits; jump: to a counterpart. */
function aboutNode(panel, item, comparison, manifest, tones, jump) {
  if (item.face) return h("div", null, h("h3", null, `${capital(item.face)} ${item.name}`), valueList("type", item.outputs, panel.tree.stage));
  const hunk = comparison.hunkOf[panel.side].get(item.place), stage = panel.tree.stage;
  const status = comparison.statusOf(panel.side, item.place), alone = stage.graph.stages.length === 1;
  const words = { gone: "only before", new: "only after", changed: "changed", "": "the same on both sides" };
  return h("div", null,
    h("h3", null, item.op, h("span", { class: "mono small" }, item.name || "(no name)"), alone ? null : h("span", { class: "quiet small" }, `${panel.side ? "after" : "before"} · ${words[status]}`)),
    h("div", { class: "cols" },
      h("div", null, h("dl", { class: "facts small" },
        item.module ? [h("dt", null, "module"), h("dd", { class: "mono" }, item.module)] : null,
        item.attributes ? [h("dt", null, "attributes"), h("dd", { class: "mono" }, item.attributes)] : null),
      valueList("in", item.inputs, stage), valueList("out", item.outputs, stage)),
      hunk ? h("div", null, hunkAbout(hunk, item, manifest, tones), countersOf(panel, item, comparison, jump)) : alone ? null : h("div", null, countersOf(panel, item, comparison, jump)),
      weightsOf(panel, item, comparison, hunk)));
}

function valueList(title, values, stage) {
  return h("dl", { class: "facts small" }, values.filter((value) => value >= 0).map((at) => {
    const value = stage.value(at);
    return [h("dt", null, `${title}${value.kind === "computed" ? "" : ` · ${value.kind}`}`), h("dd", { class: "mono" }, clipped(value.name, 60), h("span", { class: "quiet" }, ` ${value.type}`))];
  }));
}

/** What changed together with a node: the edits at its own layer, where there are some. */
function hunkAbout(hunk, item, manifest, tones) {
  const all = hunk.edits.map((at) => manifest?.edits?.[at]).filter(Boolean), near = all.filter((edit) => kin(edit.site, item.module));
  const edits = near.length ? near : all;
  return h("div", null,
    h("p", { class: "small" }, hunk.title !== hunk.kind ? h("b", null, `${capital(hunk.title)}. `) : null, h("b", null, `${capital(hunk.kind)}: `), `${many(hunk.before.length, "node")} before, ${many(hunk.after.length, "node")} after`, hunk.bytes ? `, ${hunk.bytes < 0 ? "−" : "+"}${bytes(Math.abs(hunk.bytes))}` : "",
      hunk.passes.length ? " by " : "", hunk.passes.map((name) => [chip(tones, name), " "])),
    hunk.details.length ? h("ul", { class: "small" }, hunk.details.slice(0, 12).map((detail) => h("li", null, detail))) : null,
    edits.length ? h("dl", { class: "facts small" }, edits.map((edit) => [h("dt", null, `${edit.pass} ${edit.setting}`.trim()),
      h("dd", null, edit.site === item.module ? null : h("div", { class: "mono quiet", title: edit.site }, tailOf(edit.site, 24)), [number(edit.loss) === null ? "no loss" : `loss ${lossText(number(edit.loss))}`, number(edit.saving_bytes) ? `${bytes(number(edit.saving_bytes))} saved` : ""].filter(Boolean).join(", "))])) : null,
    all.length > edits.length ? h("p", { class: "quiet small" }, `and ${many(all.length - edits.length, "edit")} at other layers of this hunk`) : null);
}

function countersOf(panel, item, comparison, jump) {
  const others = comparison.matesOf(panel.side, item.place), stage = [comparison.before, comparison.after][1 - panel.side];
  if (!others.length) return h("p", { class: "quiet small" }, "It has no counterpart on the other side.");
  return h("p", { class: "small" }, `On the other side: `, others.slice(0, 8).map((place) => [h("button", { class: "plain mono", onclick: () => jump(1 - panel.side, place) }, clipped(`${stage.items[place].op} ${stage.items[place].name}`, 48)), " "]),
    others.length > 8 ? `and ${whole(others.length - 8)} more` : null);
}

/** Weights of the node and of its counterparts, the largest of both sides over one another. */
function weightsOf(panel, item, comparison, hunk) {
  const others = comparison.matesOf(panel.side, item.place).map((place) => [comparison.before, comparison.after][1 - panel.side].items[place]);
  const sides = panel.side ? [others, [item]] : [[item], others];
  const [before, after] = [comparison.before, comparison.after].map((stage, side) => weightsIn(stage, sides[side]));
  const same = after.filter((tensor) => before.some((other) => other.digest === tensor.digest));
  const gone = before.filter((tensor) => !same.some((other) => other.digest === tensor.digest)), came = after.filter((tensor) => !same.includes(tensor));
  const pairs = [...same.map((tensor) => [tensor, tensor]), ...Array.from({ length: Math.max(gone.length, came.length) }, (_, at) => [gone[at], came[at]])].slice(0, 3);
  const hidden = [...before, ...after].some((tensor) => !tensor.figures);
  return pairs.length ? h("div", null, pairs.map(([one, other]) => weightPair(one ?? null, other ?? null, errorOf(hunk, one, other, comparison.before.graph))),
    hidden ? h("p", { class: "quiet small" }, "Where there is no histogram the values were not kept: between passes only with --keep-stages, before them only while the original is there.") : null) : null;
}

/** Constants that items read and that are worth a picture, the largest first. */
function weightsIn(stage, items) {
  const found = new Map();
  for (const item of items) for (const value of item.inputs) {
    const tensor = stage.value(value)?.tensor;
    const flat = tensor?.figures && tensor.figures.low === tensor.figures.high;
    if (tensor && tensor.bytes > 64 && !flat) found.set(tensor.digest, tensor);
  }
  return [...found.values()].sort((a, b) => b.bytes - a.bytes);
}

/** What the diff found of two tensors, null where it did not compare them. */
function errorOf(hunk, before, after, graph) {
  const found = (hunk?.tensors ?? []).find((t) => before && after && graph.tensors[t.before] === before && graph.tensors[t.after] === after);
  return found ? number(found.error) : null;
}

function weightPair(before, after, error) {
  const same = before && after && before.digest === after.digest;
  const codes = (tensor) => tensor?.figures?.whole;
  const rows = [before && !same ? { figures: before.figures, name: "" } : null, after ? { figures: after.figures, name: "after" } : null].filter((row) => row?.figures);
  const apart = !same && before && after && Boolean(codes(before)) !== Boolean(codes(after));
  const groups = apart ? rows.map((row) => [row]) : [rows];
  return h("div", { class: "hist-pair" },
    same ? h("div", { class: "small mono" }, tensorLine(after)) : [before ? h("div", { class: "small mono" }, "− ", tensorLine(before)) : null, after ? h("div", { class: "small mono" }, "+ ", tensorLine(after)) : null],
    groups.map((group) => (group.length ? histograms(group, `histogram of ${group.map((row) => (row.name ? "after" : "before")).join(" and ")}`) : null)),
    error !== null && error > 0 ? h("div", { class: "small" }, `relative error of the weights ${lossText(error)}`) : null);
}

function tensorLine(tensor) {
  const f = tensor.figures;
  const figures = f ? ` · mean ${three(f.mean)}, deviation ${three(f.deviation)}${f.zeros > 0.005 ? `, ${percent(f.zeros)} zeros` : ""}${f.whole ? ", stored integers" : ""}` : "";
  return `${clipped(tensor.name, 44)} ${tensor.dtype.toLowerCase()}[${tensor.shape.join(", ")}] ${bytes(tensor.bytes)}${figures}`;
}
