// The first screen: what came of it, in figures with their intervals, and what to beware of.

const GOOD = new Set(["faster", "within-budget"]), BAD = new Set(["slower", "over-budget"]);

function verdictPart(doc) {
  const m = doc.compile;
  const goal = `goal ${m.goal}`;
  const found = m.resolved_target && m.resolved_target !== m.target ? ` (found to be ${m.resolved_target})` : "";
  return h("section", { id: "verdict", class: "hero", "aria-label": "Verdict" },
    h("div", { class: "eyebrow" }, h("span", { class: "mono" }, lastPart(m.source)), "compiled for", h("b", null, m.target + found), `· ${goal}`),
    h("h1", null, heroText(m)),
    h("ul", { class: "badges" }, [m.speed.verdict, m.quality.verdict].map(badge), m.run_on_target === false ? badge("not run on the target") : null),
    h("p", { class: "quiet" }, m.headline),
    notices(m).map(([tone, text]) => h("p", { class: `notice ${tone}`, role: "note" }, text)),
    h("div", { class: "cards" }, speedCard(doc), sizeCard(doc), qualityCard(m)),
    atAGlance(m));
}

function lastPart(path) {
  return String(path ?? "").replace(/\\/g, "/").replace(/\/+$/, "").split("/").pop();
}

function heroText(m) {
  const size = sizeChange(number(m.bytes_before), number(m.bytes_after));
  const ratio = number(m.speed.ratio);
  if (untouched(m)) return "Your own file, unchanged";
  if (ratio === null) return capital(size);
  const speed = m.speed.verdict === "no-gain" ? "No faster" : ratio >= 1 ? `${three(ratio)}× faster` : `${three(1 / ratio)}× slower`;
  return `${speed}, ${size}`;
}

/** Whether what is handed over is the user's own file. */
function untouched(m) {
  return m.speed.verdict === "no-gain" && number(m.speed.ratio) === null && !(m.edits ?? []).length;
}

function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function badge(verdict) {
  const tone = GOOD.has(verdict) ? "good" : BAD.has(verdict) ? "bad" : "warn";
  const sign = { good: "✓", warn: "!", bad: "✕" }[tone];
  return h("li", { class: `badge ${tone}` }, h("span", { "aria-hidden": "true" }, sign), verdict.replace(/-/g, " "));
}

/** What a reader must not miss, worst first. */
function notices(m) {
  const told = [];
  const quality = m.quality;
  if (quality.verdict === "over-budget") told.push(["bad", `Quality is over budget: ${quality.sentence || quality.gate}.`]);
  if (m.speed.verdict === "slower") told.push(["bad", "The compiled model is slower than the original."]);
  if (m.memory?.bounded) told.push(["", "No whole model was run: it is too large for the memory of the machine that compiled it. Edits were checked on the regions that they changed."]);
  else if (m.run_on_target === false) told.push(["", `Not run on the target${m.not_on_target ? `: ${m.not_on_target}` : ""}. The answers are those of ${m.reference_runtime || "the reference runtime"}; speed was not measured.`]);
  if (quality.verdict === "unverified") told.push(["", `Quality was not verified${quality.sentence ? `: ${quality.sentence}` : ""}. Measure it on your own data before you use this model.`]);
  if (quality.verdict === "undecided") told.push(["", `Quality is undecided: ${quality.sentence}${quality.samples_needed ? `; about ${whole(quality.samples_needed)} samples would decide` : ""}.`]);
  if (m.shortfall) told.push(["", `Less than was asked for: ${m.shortfall}.`]);
  if (quality.warning) told.push(["", quality.warning]);
  for (const sentence of quality.apart ?? []) told.push(["", sentence]);
  if (m.speed.verdict === "no-gain" && !(m.edits ?? []).some((e) => e.loss !== null)) told.push(["info", "Nothing that loses anything was done: no quantized or pruned model was worth it here."]);
  return told;
}

function speedCard(doc) {
  const speed = doc.compile.speed, ratio = number(speed.ratio), predicted = speed.predicted;
  if (ratio === null && number(predicted?.ratio) !== null) {
    return card("Speed, predicted", [`${three(number(predicted.ratio))}×`, "predicted, not measured"],
      twoBars(number(predicted.before), number(predicted.after), milliseconds, "predicted time"),
      h("p", { class: "quiet small" }, `${predicted.basis}: ${predicted.note}`));
  }
  if (ratio === null) {
    return card("Speed", [untouched(doc.compile) ? "no change" : "not measured", ""], null, h("p", { class: "quiet small" }, speed.reason || "nothing was timed"));
  }
  const bounds = number(speed.low) === null ? "" : `95 %: ${three(number(speed.low))} to ${three(number(speed.high))}`;
  const lossless = (doc.compile.trials ?? []).find((t) => t.lossless && !t.chosen && number(t.speedup) !== null);
  return card("Speed", [`${three(ratio)}×`, bounds],
    twoBars(number(speed.before), number(speed.after), milliseconds, "latency"),
    beforeAfter(),
    h("p", { class: "quiet small" }, `Medians of ${many(speed.rounds, "alternating round")} over ${many(speed.feeds, "feed")}, ${speed.threads || "default"} ${speed.threads === 1 ? "thread" : "threads"}.`,
      lossless ? ` ${three(number(lossless.speedup))}× comes without any loss.` : ""));
}

function sizeCard(doc) {
  const m = doc.compile, before = number(m.bytes_before), after = number(m.bytes_after), stages = doc.graph?.stages;
  const chart = stages ? typeBars(stages[0], stages.at(-1)) : [twoBars(before, after, bytes, "size"), beforeAfter()];
  return card("Size", [sizeChange(before, after), `${bytes(before)} → ${bytes(after)}`], chart,
    h("p", { class: "quiet small" }, `${whole(number(m.parameters_before))} parameters before, ${whole(number(m.parameters_after))} after.`));
}

/** What weights are stored as, before and after; types that hold next to nothing are left out. */
function typeBars(before, after) {
  const most = Math.max(before.bytes, after.bytes) || 1;
  const kept = (dtypes) => Object.fromEntries(Object.entries(dtypes).filter(([, count]) => count > most / 500));
  const rows = [{ label: "before", parts: kept(before.dtypes) }, { label: "after", parts: kept(after.dtypes) }];
  const types = [...new Set(rows.flatMap((row) => Object.keys(row.parts)))].sort((a, b) => (b === "FLOAT") - (a === "FLOAT") || byName(a, b));
  const tones = new Tones(types);
  return [stacked(rows, tones, bytes), h("div", { class: "keyline" }, types.map((type) => h("span", { style: { "--tone": tones.of(type) } }, h("i"), type.toLowerCase())))];
}

function qualityCard(m) {
  const quality = m.quality, row = quality.rows?.[0];
  if (!row) {
    return card("Quality", [quality.verdict.replace(/-/g, " "), ""], driftList(quality.drift ?? {}),
      h("p", { class: "quiet small" }, quality.sentence || "no metric was given"));
  }
  const budget = allowedDrop(quality), scale = dropScale([row], budget, 300);
  const bounds = number(row.low) === null ? "no interval" : `95 %: ${three(number(row.low))} to ${three(number(row.high))}`;
  return card("Quality", [`drop ${three(number(row.drop))}`, bounds],
    whisker(row, budget, scale, 300, 36, true),
    h("p", { class: "quiet small" }, `${row.name}: ${Number(row.before).toPrecision(4)} → ${Number(row.after).toPrecision(4)}`,
      row.samples ? ` on ${whole(row.samples)} samples` : "", quality.gate ? `; required: ${quality.gate}.` : ". A positive drop is worse."));
}

/** The bound on the drop in the metric's own units, null where the gate is another one. */
function allowedDrop(quality) {
  const stated = /allowed is ([\d.eE+-]+)/.exec(quality.sentence ?? "") ?? /^drop <= ([\d.eE+-]+)$/.exec(quality.gate ?? "");
  const value = stated ? Number(stated[1].replace(/\.$/, "")) : NaN;
  return Number.isFinite(value) ? value : null;
}

function driftList(drift) {
  return h("dl", { class: "facts small" }, Object.entries(drift).map(([name, measures]) => [
    h("dt", { class: "mono" }, clipped(name, 30)),
    h("dd", null, driftText(measures)),
  ]));
}

function card(title, [figure, beside], ...children) {
  return h("div", { class: "card" }, h("h2", null, title), h("div", { class: "figure" }, figure, beside ? h("small", null, beside) : null), children);
}

function beforeAfter() {
  return h("div", { class: "keyline" },
    h("span", { style: { "--tone": "var(--before)" } }, h("i"), "before"), h("span", { style: { "--tone": "var(--after)" } }, h("i"), "after"));
}

/** In two lines: what was done, and what was left alone, with the way to the rest. */
function atAGlance(m) {
  const done = techniques(m).map((name) => {
    const edits = (m.edits ?? []).filter((edit) => edit.pass === name);
    return `${name} at ${sitesEdited(edits.length, new Set(edits.map((edit) => edit.site)).size)}`;
  });
  const left = reasonsOf(m).slice(0, 3).map((g) => `${g.remarks.length} × ${g.code} (${g.pass})`);
  return h("div", { class: "quiet glance" },
    h("p", null, h("b", null, "Done: "), done.join(", ") || "nothing", "."),
    h("p", null, h("b", null, "Left alone: "), left.join(", ") || "nothing", ". ", left.length ? h("a", { href: "#left" }, "Why") : null));
}
