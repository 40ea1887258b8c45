// Small charts: bars, an interval against a bound, histograms. Each says in words what it shows.

/** Two bars, before and after, on one scale. */
function twoBars(before, after, text, label) {
  const width = 300, most = Math.max(before, after) || 1, room = width - 92;
  const bar = (y, value, name) => [
    s("rect", { class: `barred ${name}`, x: 0, y, width: Math.max(2, room * value / most), height: 16, rx: 4 }),
    s("text", { x: Math.max(2, room * value / most) + 8, y: y + 12.5 }, text(value)),
  ];
  return s("svg", { viewBox: `0 0 ${width} 42`, width: "100%", role: "img", "aria-label": `${label}: ${text(before)} before, ${text(after)} after` },
    bar(2, before, ""), bar(23, after, "after"));
}

/** Stacked shares of a whole by name, one bar a row; rows: [{label, parts: {name: value}}]. */
function stacked(rows, tones, text) {
  const width = 300, room = width - 82;
  const sum = (parts) => Object.values(parts).reduce((a, b) => a + b, 0);
  const most = Math.max(...rows.map((row) => sum(row.parts))) || 1;
  const drawn = rows.map((row, at) => {
    let x = 0;
    const bars = Object.entries(row.parts).sort((a, b) => b[1] - a[1]).map(([name, value]) => {
      const wide = room * value / most;
      const bar = s("rect", { x, y: 2 + 21 * at, width: Math.max(0.5, wide - 1), height: 16, rx: 3, style: { fill: tones.of(name) } });
      x += wide;
      return tipped(bar, () => `${row.label}: ${name} ${text(value)}`);
    });
    return [bars, s("text", { x: x + 8, y: 14.5 + 21 * at }, text(sum(row.parts)))];
  });
  const words = rows.map((row) => `${row.label}: ${Object.entries(row.parts).map(([n, v]) => `${n} ${text(v)}`).join(", ")}`).join("; ");
  return s("svg", { viewBox: `0 0 ${width} ${21 * rows.length}`, width: "100%", role: "img", "aria-label": words }, drawn);
}

/** The scale for drops: symmetric enough to see zero, wide enough for intervals and the bound. */
function dropScale(rows, budget, width, edge = 14) {
  const all = [0, ...rows.flatMap((row) => [number(row.drop), number(row.low), number(row.high)]), budget]
    .filter((value) => value !== null && Number.isFinite(value));
  const low = Math.min(...all), high = Math.max(...all), span = high - low || 1;
  return (value) => edge + (width - 2 * edge) * (value - low) / span;
}

/** A drop with its interval, zero and the bound; more to the right is worse. */
function whisker(row, budget, scale, width, height = 30, labels = false) {
  const y = labels ? 12 : height / 2, drop = number(row.drop), low = number(row.low), high = number(row.high);
  const middle = (value) => Math.min(Math.max(scale(value), 20), width - 30);
  const said = `drop ${three(drop)}${low === null ? "" : `, 95 % between ${three(low)} and ${three(high)}`}${budget === null ? "" : `; allowed ${three(budget)}`}`;
  return s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, style: { "max-width": "100%" }, role: "img", "aria-label": said },
    s("line", { class: "rule", x1: 0, x2: width, y1: y, y2: y }),
    s("line", { class: "zero", x1: scale(0), x2: scale(0), y1: y - 10, y2: y + 10 }),
    budget === null ? null : s("line", { class: "budget", x1: scale(budget), x2: scale(budget), y1: y - 10, y2: y + 10 }),
    low === null ? null : s("line", { class: "span", x1: scale(low), x2: Math.max(scale(high), scale(low) + 1), y1: y, y2: y }),
    s("circle", { class: "dot", cx: scale(drop), cy: y, r: 6 }),
    labels ? [s("text", { class: "quiet", x: middle(0), y: height - 1, "text-anchor": "middle" }, "0"),
      budget === null ? null : s("text", { class: "quiet", x: middle(budget), y: height - 1, "text-anchor": "middle" }, `allowed ${three(budget)}`)] : null);
}

/** Histograms over one another on one axis: rows of {figures, name: "" or "after"}. */
function histograms(rows, label) {
  const width = 320, height = 84, floor = height - 18;
  const low = Math.min(...rows.map((r) => r.figures.low)), high = Math.max(...rows.map((r) => r.figures.high));
  const span = high - low || 1, x = (value) => width * (value - low) / span;
  const shapes = rows.map(({ figures, name }) => {
    const bars = figures.bars, step = (figures.high - figures.low || span / 40) / bars.length;
    const points = [[x(figures.low), floor]];
    bars.forEach((bar, at) => {
      const y = floor - (floor - 4) * bar / 255;
      points.push([x(figures.low + at * step), y], [x(figures.low + (at + 1) * step), y]);
    });
    points.push([x(figures.low + bars.length * step), floor]);
    return s("path", { class: `hist ${name}`, d: `M${points.map((p) => p.map((v) => v.toFixed(1)).join(",")).join("L")}Z` });
  });
  return s("svg", { viewBox: `0 0 ${width} ${height}`, width: "100%", style: { "max-width": "420px" }, role: "img", "aria-label": label },
    shapes, s("line", { class: "rule", x1: 0, x2: width, y1: floor, y2: floor }),
    s("text", { class: "quiet", x: 0, y: height - 3 }, three(low)),
    s("text", { class: "quiet", x: width, y: height - 3, "text-anchor": "end" }, three(high)));
}

/** A bar of a share between 0 and 1; was: a paler one behind it. */
function meter(share, tone, was) {
  const bar = (value, name) => h("i", { class: name, style: { width: `${(100 * Math.min(1, Math.max(0, value))).toFixed(1)}%` } });
  return h("span", { class: "meter", style: { "--tone": tone }, "aria-hidden": "true" },
    was === undefined ? null : bar(was, "was"), bar(share, ""));
}
