// A table that is sorted by its headings; what does not fit is shown on demand.

const SHOWN_ROWS = 150;

/**
 * columns: [{title, numeric, value(row) for sorting, cell(row) -> child, label}].
 * The element has `.show(rows)` to put other rows into it, sorted as asked for.
 */
function sortable(columns, { caption, name, onrow, sorted = 0, down = false } = {}) {
  const state = { rows: [], by: sorted, down, limit: SHOWN_ROWS };
  const body = h("tbody");
  const heads = columns.map((column, at) => h("th", { scope: "col", class: column.numeric ? "num" : null },
    h("button", { onclick: () => turn(at) }, column.title, h("span", { "aria-hidden": "true" }))));
  const more = h("div", { class: "more-rows", hidden: true },
    h("button", { onclick: () => { state.limit = Infinity; draw(); } }, "Show all rows"));
  const table = h("table", { class: `grid ${name ?? ""}` },
    caption ? h("caption", { class: "unseen" }, caption) : null, h("thead", null, h("tr", null, heads)), body);
  const element = h("div", null, h("div", { class: "wrap", tabindex: 0, role: "region", "aria-label": caption }, table), more);

  function turn(at) {
    state.down = state.by === at ? !state.down : Boolean(columns[at].numeric);
    state.by = at;
    draw();
    say(`sorted by ${columns[at].title}, ${state.down ? "descending" : "ascending"}`);
  }

  function draw() {
    heads.forEach((head, at) => {
      const on = at === state.by;
      head.setAttribute("aria-sort", on ? (state.down ? "descending" : "ascending") : "none");
      head.querySelector("span").textContent = on ? (state.down ? " ↓" : " ↑") : "";
    });
    const ordered = [...state.rows].sort((a, b) => compared(columns[state.by].value(a), columns[state.by].value(b), state.down));
    body.replaceChildren(...ordered.slice(0, state.limit).map((row) => {
      const cells = columns.map((column, at) => h(at ? "td" : "th", { scope: at ? null : "row", class: column.numeric ? "num" : null }, column.cell(row)));
      const line = h("tr", null, cells);
      onrow?.(line, row);
      return line;
    }));
    if (!ordered.length) body.append(h("tr", null, h("td", { colspan: columns.length, class: "quiet" }, "Nothing fits these filters.")));
    more.hidden = ordered.length <= state.limit;
  }

  element.show = (rows) => { state.rows = rows; state.limit = SHOWN_ROWS; draw(); };
  return element;
}

/** Rows without a value come last, whichever way it is sorted. */
function compared(a, b, down) {
  const none = (value) => value === null || value === undefined || Number.isNaN(value);
  if (none(a) || none(b)) return Number(none(a)) - Number(none(b));
  const found = typeof a === "number" && typeof b === "number" ? a - b : byName(String(a), String(b));
  return down ? -found : found;
}
