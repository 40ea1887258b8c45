// Elements of the page. A text becomes a text node and never markup: names come from models that
// nobody vouches for.

const SVG = "http://www.w3.org/2000/svg";

// Signs that nobody sees, and those that turn a line around: a name must look like what it is.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

/** A text whose every character can be seen: others are written out. */
function plain(text) {
  return String(text).replace(UNSEEN, (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** An HTML element. on…: listeners; style: an object; null, undefined and false are left out. */
function h(tag, attributes, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
function s(tag, attributes, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name.replace(/^on/, ""), value);
    else if (name === "style") for (const [key, text] of Object.entries(value)) element.style.setProperty(key, text);
    else element.setAttribute(name, value === true ? "" : plain(value));
  }
  const kept = children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false);
  element.append(...kept.map((child) => (child instanceof Node ? child : plain(child))));
  return element;
}

/** Say something to who listens to the page instead of looking at it. */
function say(text) {
  document.getElementById("said").textContent = plain(text);
}

/** A section with its heading and a line under it. */
function part(id, title, lead, ...children) {
  return h("section", { id, "aria-labelledby": `${id}-title` },
    h("div", { class: "head" }, h("h2", { id: `${id}-title` }, title), lead ? h("p", null, lead) : null),
    ...children);
}

/** A tip that follows the pointer and the focus: `text` is asked for when it is shown. */
function tipped(element, text) {
  const show = () => {
    const box = element.getBoundingClientRect();
    const tip = tipBox();
    tip.textContent = plain(text());
    tip.hidden = false;
    const width = tip.offsetWidth, height = tip.offsetHeight;
    const left = Math.min(Math.max(8, box.left + box.width / 2 - width / 2), innerWidth - width - 8);
    const above = box.top - height - 8;
    tip.style.setProperty("left", `${left}px`);
    tip.style.setProperty("top", `${above > 4 ? above : box.bottom + 8}px`);
  };
  const hide = () => { tipBox().hidden = true; };
  for (const name of ["pointerenter", "focus"]) element.addEventListener(name, show);
  for (const name of ["pointerleave", "blur", "click"]) element.addEventListener(name, hide);
  return element;
}

function tipBox() {
  let tip = document.getElementById("tip");
  if (!tip) {
    tip = h("div", { id: "tip", class: "tip", hidden: true, "aria-hidden": "true" });
    document.body.append(tip);
  }
  return tip;
}
