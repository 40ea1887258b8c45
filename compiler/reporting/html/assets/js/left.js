// What was refused or could not be done, and why; what was tried and not taken.

const SHOWN_SITES = 60;

function leftPart(m, tones, hub) {
  const groups = reasonsOf(m), trials = m.trials ?? [];
  const back = Object.entries(m.plan?.given_back ?? {}).filter(([, sites]) => sites.length);
  return part("left", "Left alone, and why", groups.length ? null : "No site was refused or missed.",
    groups.length ? h("ul", { class: "card reasons" }, groups.map((group) => h("li", null, h("details", null,
      h("summary", null, chip(tones, group.pass), " ", h("b", null, group.code), h("span", { class: "quiet" }, ` · ${many(group.remarks.length, "site")}, ${group.kind} · ${clipped(group.remarks[0].sentence, 150)}`)),
      h("div", { class: "body small" }, sitesOf(group, hub)))))) : null,
    back.map(([pass, sites]) => h("p", { class: "notice info" }, `Given back by ${pass}, to hold the quality bound or as they cost more than they bring: ${sites.join(", ")}`)),
    trials.length > 1 ? h("details", { class: "card block", style: { "margin-top": "14px" } }, h("summary", null, `What was tried: ${many(trials.length, "pipeline")}`),
      h("div", { class: "wrap" }, trialTable(trials))) : null);
}

function sitesOf(group, hub) {
  const shown = group.remarks.slice(0, SHOWN_SITES);
  const same = new Set(group.remarks.map((remark) => remark.sentence)).size === 1;
  return [same ? h("p", null, group.remarks[0].sentence) : null,
    h("ul", null, shown.map((remark) => h("li", null,
      remark.site ? h("button", { class: "rowhead mono", onclick: () => hub.layer(remark.site) }, remark.site) : null,
      same ? null : `${remark.site ? ": " : ""}${remark.sentence}`))),
    group.remarks.length > shown.length ? h("p", { class: "quiet" }, `and ${whole(group.remarks.length - shown.length)} more: filter the layers by “${group.code}”`) : null];
}

function speedOf(trial) {
  const measured = number(trial.speedup);
  if (measured !== null) return `${three(measured)}×`;
  const predicted = number(trial.predicted_ms ?? null);
  return predicted === null ? "–" : `${three(predicted)} ms (predicted)`;
}

function trialTable(trials) {
  return h("table", { class: "grid" }, h("thead", null, h("tr", null, ["", "Pipeline", "Size", "Speed", "Quality", ""].map((t) => h("th", { scope: "col" }, t)))),
    h("tbody", null, trials.map((trial) => h("tr", { class: trial.chosen ? "on" : null },
      h("td", null, trial.chosen ? h("b", null, "chosen") : ""), h("td", { class: "mono small" }, trial.pipeline),
      h("td", { class: "num" }, bytes(number(trial.bytes))), h("td", { class: "num" }, speedOf(trial)),
      h("td", null, trial.quality), h("td", { class: "quiet small" }, trial.sentence)))));
}
