// The settings: the conversation's system prompt, how to sample, the API key. An empty field leaves its value to the server.

import { announce, byId, element } from "./dom.js";

// Names are those of the request; `kind` says what a field's text becomes.
const FIELDS = [
  { name: "temperature", label: "Temperature", kind: "number", step: 0.1, hint: "0 takes the likeliest token" },
  { name: "top_p", label: "Top-p", kind: "number", step: 0.05, hint: "keeps the likeliest tokens with this probability together" },
  { name: "top_k", label: "Top-k", kind: "integer", step: 1, hint: "keeps the k likeliest tokens" },
  { name: "min_p", label: "Min-p", kind: "number", step: 0.01, hint: "keeps tokens with this share of the likeliest's probability" },
  { name: "repetition_penalty", label: "Repetition penalty", kind: "number", step: 0.05, hint: "1 does nothing" },
  { name: "presence_penalty", label: "Presence penalty", kind: "number", step: 0.1, hint: "-2 to 2, 0 does nothing" },
  { name: "frequency_penalty", label: "Frequency penalty", kind: "number", step: 0.1, hint: "-2 to 2, 0 does nothing" },
  { name: "max_tokens", label: "Most tokens", kind: "integer", step: 1, hint: "where an answer ends at the latest" },
  { name: "seed", label: "Seed", kind: "integer", step: 1, hint: "the same seed gives the same answer again" },
  { name: "stop", label: "Stop at", kind: "lines", hint: "one text a line, \\n for a line end; 16 at most" },
];
// What can be sent: HTTP has no other characters in a header, and JavaScript no larger whole numbers without rounding them.
const NOT_IN_A_KEY = /[^!-~]/u;
const LARGEST = Number.MAX_SAFE_INTEGER;

/** The fields of a request that these settings, texts by name, ask for. */
export function samplingOf(texts) {
  const found = {};
  for (const { name, kind } of FIELDS) {
    const text = texts[name] ?? "";
    if (kind === "lines") {
      const lines = text.split("\n").filter((line) => line).map((line) => line.replaceAll("\\n", "\n"));
      if (lines.length) found[name] = lines;
    } else if (text.trim() && Number.isFinite(Number(text))) {
      found[name] = Number(text);
    }
  }
  return found;
}

export class Settings {
  /** `onSystem` is given the system prompt as it is typed, `onKey` is called when the API key changed. */
  constructor(store, onSystem, onKey) {
    this.store = store;
    this.system = element("textarea", { id: "system", dir: "auto", rows: 4, placeholder: "None", input: () => onSystem(this.system.value) });
    const keyChanged = () => {
      const key = this.key.value.trim();
      const other = NOT_IN_A_KEY.exec(key);
      flag(this.key, other && `Not kept: ${nameOf(other[0])} at place ${other.index + 1} cannot be sent. Keys are of ASCII letters, digits and signs.`);
      store.setKey(other ? "" : key);
      if (!other) onKey();
    };
    this.key = element("input", { id: "key", type: "password", autocomplete: "off", placeholder: "None", change: keyChanged });
    this.key.value = store.apiKey;
    byId("fields").append(
      labelled("System prompt", this.system, "of this conversation; new ones begin with it"),
      ...FIELDS.map((field) => labelled(field.label, this.control(field), field.hint)),
      element("button", { type: "button", id: "reset", click: () => this.reset() }, "Leave all of these to the server"),
      labelled("API key", this.key, "where the server asks for one; kept until this tab is closed"),
    );
    byId("fields").addEventListener("submit", (event) => event.preventDefault());
  }

  control({ name, kind, step }) {
    const change = () => {
      flag(control, problemOf(control, kind));
      this.store.set({ sampling: { ...this.store.settings.sampling, [name]: problemOf(control, kind) ? "" : control.value } });
    };
    const shared = { id: `set-${name}`, name, placeholder: "Server's default", input: change };
    const control = kind === "lines"
      ? element("textarea", { ...shared, rows: 2, placeholder: "Nothing" })
      : element("input", { ...shared, type: "number", step: kind === "integer" ? step : "any", inputmode: "decimal", autocomplete: "off" });
    const kept = this.store.settings.sampling[name];
    control.value = typeof kept === "string" ? kept : "";
    return control;
  }

  /** All of the sampling to the server's defaults. */
  reset() {
    for (const { name } of FIELDS) {
      const control = byId(`set-${name}`);
      control.value = "";
      flag(control, "");
    }
    this.store.set({ sampling: {} });
  }

  /** Show a conversation's system prompt. */
  show(system) {
    if (this.system.value !== system) this.system.value = system;
  }

  /** The control of a request's field (`stop.0`: of `stop`) that the server refused; null where there is none. */
  controlOf(field) {
    return byId(`set-${field.split(".")[0]}`);
  }
}

/** Why a control's text is not sent; nothing where it is. */
function problemOf(control, kind) {
  if (control.validity.badInput) return "Not sent: this is no number.";
  if (kind === "integer" && Math.abs(Number(control.value)) > LARGEST) return `Not sent: whole numbers go up to ${LARGEST} here.`;
  return "";
}

/** Say at a control what is wrong with it, in the place of its hint; an empty text takes that back. */
function flag(control, problem) {
  const hint = byId(`${control.id}-hint`);
  if (problem && problem !== hint.textContent) announce(problem);
  hint.textContent = problem || hint.dataset.hint;
  hint.classList.toggle("error", Boolean(problem));
  if (problem) control.setAttribute("aria-invalid", "true");
  else control.removeAttribute("aria-invalid");
}

/** A character, which may be invisible. */
function nameOf(character) {
  const code = `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
  return /[\p{L}\p{N}\p{P}\p{S}]/u.test(character) ? `${character} (${code})` : code;
}

function labelled(label, control, hint) {
  const about = element("small", { id: `${control.id}-hint`, "data-hint": hint }, hint);
  control.setAttribute("aria-describedby", about.id);
  return element("div", { class: "field" }, element("label", { for: control.id }, label), control, about);
}
