// Find nodes and modules by name on both sides: a field with a list under it.

const MOST_FOUND = 40;

/** all(): [{text, side, pick}] to look through; the element. */
function searchField(all) {
  let shown = [], at = -1;
  const list = h("ul", { id: "found", role: "listbox", "aria-label": "Found", hidden: true });
  const field = h("input", {
    type: "search", placeholder: "Find a node, operator, module", role: "combobox", "aria-expanded": "false", "aria-controls": "found", "aria-label": "Find in both graphs", autocomplete: "off",
    oninput: () => look(), onkeydown: (event) => key(event), onblur: () => setTimeout(close, 150),
  });

  function look() {
    const words = field.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    shown = words.length ? matches(all(), words) : [];
    at = shown.length ? 0 : -1;
    list.replaceChildren(...shown.map((one, index) => h("li", { id: `found-${index}`, role: "option", onpointerdown: (event) => { event.preventDefault(); pick(index); } },
      h("span", { class: "quiet" }, one.side ? "after  " : "before  "), one.text)));
    list.hidden = !words.length;
    if (words.length && !shown.length) list.append(h("li", { class: "quiet" }, "nothing found"));
    field.setAttribute("aria-expanded", String(!list.hidden));
    mark();
    say(words.length ? `${shown.length} found` : "");
  }

  function mark() {
    [...list.children].forEach((line, index) => line.setAttribute("aria-selected", String(index === at)));
    if (at >= 0) { field.setAttribute("aria-activedescendant", `found-${at}`); list.children[at].scrollIntoView({ block: "nearest" }); } else field.removeAttribute("aria-activedescendant");
  }

  function key(event) {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      at = shown.length ? (at + (event.key === "ArrowDown" ? 1 : -1) + shown.length) % shown.length : -1;
      mark();
      event.preventDefault();
    } else if (event.key === "Enter" && at >= 0) pick(at);
    else if (event.key === "Escape") close();
  }

  function pick(index) {
    const one = shown[index];
    close();
    one.pick();
  }

  function close() {
    list.hidden = true;
    field.setAttribute("aria-expanded", "false");
  }

  return h("div", { class: "find" }, field, list);
}

function matches(rows, words) {
  const found = [];
  for (const row of rows) {
    const text = row.text.toLowerCase();
    if (words.every((word) => text.includes(word))) found.push(row);
    if (found.length >= MOST_FOUND) break;
  }
  return found;
}
