// Numbers for readers. The data spells floats that JSON does not have as texts: "inf", "nan".

/** A number of the data, null where there is none. */
function number(value) {
  if (value === null || value === undefined || value === "") return null;
  if (typeof value === "number") return value;
  const known = { inf: Infinity, "-inf": -Infinity, nan: NaN }[value];
  return known ?? Number(value);
}

/** Three significant digits. */
function three(value) {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "not a number" : value > 0 ? "∞" : "−∞";
  if (Math.abs(value) >= 99.95) return value.toFixed(0);
  return signed(Number(value).toPrecision(3));
}

function signed(text) {
  return text.replace("-", "−");
}

/** `22.9 MB`, in decimal units. */
function bytes(count) {
  for (const [limit, unit] of [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) {
    if (Math.abs(count) >= 0.9995 * limit) return `${three(count / limit)} ${unit}`;
  }
  return `${signed(String(Math.round(count)))} B`;
}

function whole(count) {
  return signed(Math.round(count).toLocaleString("en"));
}

/** A time in the unit in which it is read best. */
function milliseconds(ms) {
  for (const [least, unit] of [[1000, "s"], [0.1, "ms"], [1e-4, "µs"]]) if (ms >= least) return `${three(ms / { s: 1000, ms: 1, µs: 1e-3 }[unit])} ${unit}`;
  return ms > 0 ? `${three(ms * 1e6)} ns` : "0 ms";
}

/** How far outputs moved, the known measures first and in fixed units. */
function driftText(measures) {
  const value = (name) => number(measures[name] ?? null);
  const moved = value("non_finite") || value("reshaped");
  if (value("sqnr_db") === Infinity && !moved) return "equal to the original's";
  const forms = { cosine: (v) => `cosine ${v.toFixed(4)}`, sqnr_db: (v) => `SQNR ${v.toFixed(1)} dB`, top1: (v) => `top-1 ${v.toFixed(1)} %` };
  const shown = Object.entries(forms).filter(([name]) => value(name) !== null).map(([name, form]) => form(value(name)));
  return (shown.length ? shown : Object.keys(measures).map((name) => `${name} ${three(value(name))}`)).join(", ");
}

/** A loss: `0.24`, `8.0e−4`. */
function lossText(value) {
  if (value === 0) return "0";
  return Math.abs(value) >= 0.01 ? Number(value).toPrecision(2) : signed(value.toExponential(1));
}

/** A ratio in few digits: `1.04`, `4.1`, `12`. */
function factor(ratio) {
  return ratio < 10 ? ratio.toFixed(ratio < 2 ? 2 : 1) : ratio.toFixed(0);
}

function percent(share) {
  const value = 100 * share;
  return `${value !== 0 && Math.abs(value) < 9.95 ? value.toFixed(1) : value.toFixed(0)} %`;
}

/** `3 sites`, `1 site`. */
function many(count, word) {
  return `${whole(count)} ${word}${count === 1 ? "" : word.endsWith("s") ? "es" : "s"}`;
}

/** `4.6x smaller`, or what else became of the size. */
function sizeChange(before, after) {
  if (!(before > 0) || !(after > 0) || Math.abs(after - before) < 0.005 * before) return "same size";
  return after < before ? `${factor(before / after)}× smaller` : `${factor(after / before)}× larger`;
}

/** A long name with its middle left out. */
function clipped(text, longest) {
  if (text.length <= longest) return text;
  const half = Math.max(1, Math.floor((longest - 1) / 2));
  return `${text.slice(0, half)}…${text.slice(-half)}`;
}

/** The last parts of a dotted path that fit. */
function tailOf(path, longest) {
  return path.length <= longest ? path : `…${path.slice(path.length - longest + 1)}`;
}

/** A name of a pass or a stage for a reader. */
function stageTitle(name) {
  const known = { imported: "original", legalise: "legalise", model: "handed over", "model.onnx": "handed over" };
  return known[name] ?? name;
}
