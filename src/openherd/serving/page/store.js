// Conversations and settings, kept in the browser: one key of localStorage for each conversation, which one tab at a time writes (see
// tabs.js). Where the browser forbids storage they live as long as the page, where it is full what is new does; either is said.

import { isEmpty, restored } from "./conversation.js";

const CONVERSATION = "openherd.conversation.";
const SETTINGS = "openherd.settings";
const KEY = "openherd.key";
const SAVE_MS = 500;

const DEFAULTS = {
  theme: "", models: ["", ""], compare: false, tokens: false, sampling: {}, system: "",
};

export class Store {
  /** `onTrouble` is told in a line what cannot be kept, and with an empty line that it can again. */
  constructor(onTrouble) {
    this.onTrouble = onTrouble;
    this.trouble = "";
    this.local = storage("localStorage");
    this.session = storage("sessionStorage"); // the API key: gone with the tab
    this.conversations = new Map();
    this.unsaved = new Set();
    this.settings = { ...DEFAULTS, ...settingsFrom(this.local?.getItem(SETTINGS)) };
    this.apiKey = this.session?.getItem(KEY) ?? "";
    for (const name of Object.keys(this.local ?? {}).filter((name) => name.startsWith(CONVERSATION))) {
      const found = parsed(this.local.getItem(name));
      if (found) this.conversations.set(found.id, found);
    }
    if (!this.local) this.say("This browser keeps nothing for this page: export what should outlive it.");
    addEventListener("pagehide", () => this.flush());
    document.addEventListener("visibilitychange", () => document.hidden && this.flush());
  }

  /** All conversations, the last changed first. */
  sorted() {
    return [...this.conversations.values()].sort((a, b) => b.updated - a.updated);
  }

  /** Keep a conversation, soon; `touched` says that it changed now. */
  save(conversation, touched = true) {
    if (touched) conversation.updated = Date.now();
    this.conversations.set(conversation.id, conversation);
    this.unsaved.add(conversation.id);
    this.timer ??= setTimeout(() => this.flush(), SAVE_MS);
  }

  /** Another tab writes this conversation: it is as that tab keeps it. */
  takeBack(id) {
    this.unsaved.delete(id);
    const found = parsed(this.local?.getItem(CONVERSATION + id));
    if (found) this.conversations.set(id, found);
  }

  /** Write what was not yet written. */
  flush() {
    clearTimeout(this.timer);
    this.timer = null;
    for (const id of this.unsaved) {
      const conversation = this.conversations.get(id);
      if (!conversation || isEmpty(conversation)) this.local?.removeItem(CONVERSATION + id);
      else if (!this.write(CONVERSATION + id, JSON.stringify(conversation))) continue;
      this.unsaved.delete(id);
    }
  }

  /** Forget a conversation. */
  remove(id) {
    this.conversations.delete(id);
    this.unsaved.add(id);
    this.flush();
  }

  /** Change settings and keep them. */
  set(changes) {
    Object.assign(this.settings, changes);
    this.write(SETTINGS, JSON.stringify(this.settings));
  }

  /** Keep the API key as long as the tab. */
  setKey(key) {
    this.apiKey = key;
    try {
      this.session?.setItem(KEY, key);
    } catch {
      // It lives as long as the page.
    }
  }

  /** Take in what another tab wrote; returns whether the list changed. `busy` are ids that this tab is writing to. */
  takeIn(event, busy) {
    if (!event.key?.startsWith(CONVERSATION)) return false;
    const id = event.key.slice(CONVERSATION.length);
    if (busy.has(id) || this.unsaved.has(id)) return false;
    const found = parsed(event.newValue);
    if (found) this.conversations.set(id, found);
    else this.conversations.delete(id);
    return true;
  }

  /** Whether it could be written; tokens' probabilities, the largest part and one that can be made again, give way first. */
  write(name, value) {
    if (!this.local) return false;
    for (const giveWay of [null, () => this.lighten()]) {
      try {
        giveWay?.();
        this.local.setItem(name, name.startsWith(CONVERSATION) && giveWay ? light(value) : value);
        this.say("");
        return true;
      } catch {
        // Full, or forbidden meanwhile.
      }
    }
    this.say("The browser's storage is full: what is new is lost when the page closes. Export conversations, then delete some.");
    return false;
  }

  lighten() {
    for (const name of Object.keys(this.local).filter((key) => key.startsWith(CONVERSATION))) {
      this.local.setItem(name, light(this.local.getItem(name)));
    }
  }

  say(line) {
    if (line !== this.trouble) this.onTrouble((this.trouble = line));
  }
}

/** A conversation's text without the probabilities of its tokens. */
function light(value) {
  return JSON.stringify(JSON.parse(value), (name, inner) => (name === "tokens" && Array.isArray(inner) ? null : inner));
}

function storage(name) {
  try {
    const found = window[name];
    found.getItem(SETTINGS);
    return found;
  } catch {
    return null;
  }
}

function parsed(value) {
  try {
    return restored(JSON.parse(value));
  } catch {
    return null;
  }
}

/** Settings of the right kinds; others are left at their defaults. */
function settingsFrom(value) {
  try {
    const found = JSON.parse(value);
    const kind = (x) => (Array.isArray(x) ? "array" : typeof x);
    return Object.fromEntries(Object.entries(found ?? {}).filter(([name, x]) => name in DEFAULTS && x && kind(x) === kind(DEFAULTS[name])));
  } catch {
    return {};
  }
}
