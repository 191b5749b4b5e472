// Making elements. Text only ever becomes text nodes: nothing that a model or a file says is read as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/**
 * An element. `attributes` become attributes (false and null leave one out, true sets it empty), functions become listeners
 * of the event they are named for, and `children` are elements or text.
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== false && value != null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

/** One of the drawings in index.html. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  svg.setAttribute("aria-hidden", "true");
  return svg;
}

/** A button that shows a drawing; `label` is what it is called. */
export function iconButton(name, label, click, attributes = {}) {
  return element("button", { type: "button", class: "icon", "aria-label": label, title: label, click, ...attributes }, icon(name));
}

/** Run `change`, which makes elements anew, and put the focus back on the one with the same `data-key`. */
export function keepingFocus(change) {
  const key = document.activeElement?.closest("[data-key]")?.dataset.key;
  change();
  if (key && document.activeElement === document.body) document.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
}

/** Have a screen reader say something. */
export function announce(text) {
  byId("announcer").textContent = text;
}

/**
 * A line above the message field, in place of the one of the same name; empty text takes that away. `action` is a {label, run}
 * that is offered; with `seconds` the line goes by itself.
 */
export function notice(name, text, action = null, seconds = 0) {
  const place = byId("notice");
  place.querySelector(`[data-name="${name}"]`)?.remove();
  if (!text) return;
  const line = element("p", { "data-name": name }, element("span", {}, text));
  if (action) line.append(element("button", { type: "button", click: () => (line.remove(), action.run()) }, action.label));
  line.append(iconButton("close", "Dismiss", () => line.remove()));
  place.append(line);
  if (seconds) setTimeout(() => line.remove(), 1000 * seconds);
}

/** Put text on the clipboard and say so on the button. */
export async function copy(text, button) {
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // A page that was not opened by https or from this machine has no clipboard of its own: the old way, by a selection.
    const area = element("textarea", { class: "unseen" });
    area.value = text;
    document.body.append(area);
    area.select();
    done = document.execCommand("copy");
    area.remove();
    button.focus();
  }
  button.classList.add(done ? "done" : "failed");
  announce(done ? "Copied" : "The browser does not let this page copy");
  setTimeout(() => button.classList.remove("done", "failed"), 1500);
}
