// The list of conversations, and the panels at both sides: beside the conversation on a wide screen, over it on a narrow one.

import { titleOf } from "./conversation.js";
import { byId, element, iconButton, keepingFocus } from "./dom.js";

const NARROW = matchMedia("(max-width: 60rem)");
const PANELS = ["sidebar", "settings"];

/** Show the list. `open(conversation)` and `remove(conversation)` are what can be done; `busy` are ids being written to. */
export function showList(conversations, current, busy, open, remove) {
  keepingFocus(() => byId("list").replaceChildren(...conversations.map((conversation) => {
    const { id } = conversation;
    const title = titleOf(conversation);
    const isCurrent = id === current.id;
    const name = element("button", {
      type: "button", class: "title", dir: "auto", "data-key": `open-${id}`, "aria-current": isCurrent && "true", click: () => open(conversation),
    }, title);
    const writing = busy.has(id) ? element("span", { class: "writing", role: "img", "aria-label": "is being written", title: "Is being written" }) : null;
    return element("li", {}, name, writing, iconButton("bin", `Delete: ${title}`, () => remove(conversation), { "data-key": `remove-${id}` }));
  })));
}

/** Make the panels open and close; returns {open, close}, where close says whether there was one to close. */
export function panels() {
  const opener = (name) => byId(`open-${name}`);
  const isOpen = (name) => opener(name).getAttribute("aria-expanded") === "true";
  const set = (name, open) => {
    byId(name).hidden = !open;
    opener(name).setAttribute("aria-expanded", String(open));
    document.querySelector("main").inert = NARROW.matches && PANELS.some(isOpen);
  };
  const open = (name) => {
    if (NARROW.matches) PANELS.filter((other) => other !== name).forEach((other) => set(other, false));
    set(name, true);
    byId(name).querySelector(".closes").focus();
  };
  const close = (name) => {
    const hadFocus = byId(name).contains(document.activeElement);
    set(name, false);
    if (hadFocus) opener(name).focus();
  };
  for (const name of PANELS) {
    opener(name).addEventListener("click", () => (isOpen(name) ? close(name) : open(name)));
    document.querySelector(`[data-closes=${name}]`).addEventListener("click", () => close(name));
  }
  const fit = () => {
    set("sidebar", !NARROW.matches);
    set("settings", !NARROW.matches && isOpen("settings"));
  };
  NARROW.addEventListener("change", fit);
  fit();
  const cover = () => NARROW.matches && PANELS.find(isOpen);
  byId("shade").addEventListener("click", () => {
    const name = cover();
    close(name);
    opener(name).focus();
  });
  return {
    open,
    /** Close the panel that has the focus or lies over the conversation. */
    close() {
      const name = cover() || PANELS.find((panel) => panel === "settings" && byId(panel).contains(document.activeElement));
      if (name) close(name);
      return Boolean(name);
    },
    /** On a narrow screen a choice made in a panel closes it. */
    chosen() {
      if (cover()) close(cover());
    },
  };
}
