// The bar on top, and light or dark: as the system has it until somebody asks for another.

const THEMES = ["", "light", "dark"];

function topBar(title, links) {
  const mark = s("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" },
    s("path", { fill: "currentColor", d: "M3 5.5 14.5 2 22 9.5 18.5 13l-4-4L5 18.5 2 15.5 9.5 8z" }),
    s("path", { fill: "none", stroke: "currentColor", "stroke-width": 2.4, "stroke-linecap": "round", d: "M5 22h14" }));
  const words = { "": "Auto", light: "Light", dark: "Dark" };
  let at = Math.max(0, THEMES.indexOf(remembered()));
  const button = h("button", { class: "plain", onclick: () => { at = (at + 1) % THEMES.length; dress(true); } });
  const dress = (asked) => {
    document.documentElement.style.colorScheme = THEMES[at];
    document.documentElement.dataset.theme = THEMES[at];
    button.textContent = `◐ ${words[THEMES[at]]}`;
    button.setAttribute("aria-label", `Colours: ${words[THEMES[at]].toLowerCase()}; change`);
    if (asked) remember(THEMES[at]);
  };
  dress(false);
  document.getElementById("top").append(
    h("div", { class: "brand" }, mark, "planish"),
    h("nav", { "aria-label": "Parts of this page" }, links.map(([id, text]) => h("a", { href: `#${id}` }, text))),
    button);
  document.title = plain(`${title} · planish`);
}

// A page from a disk may be denied any storage.
function remembered() {
  try { return localStorage.getItem("planish-theme") ?? ""; } catch { return ""; }
}

function remember(theme) {
  try { localStorage.setItem("planish-theme", theme); } catch { /* then not */ }
}
