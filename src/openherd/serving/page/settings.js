// The settings: the conversation's system prompt, how to sample, the API key. An empty field leaves its value to the server.

import { byId, element } from "./dom.js";

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
  { name: "stop", label: "Stop at", kind: "lines", hint: "one text a line, \\n for a line end; four at most" },
];

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
    this.system = element("textarea", { id: "system", rows: 4, placeholder: "None", input: () => onSystem(this.system.value) });
    this.key = element("input", {
      id: "key", type: "password", autocomplete: "off", placeholder: "None", change: () => (store.setKey(this.key.value.trim()), onKey()),
    });
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
      control.removeAttribute("aria-invalid");
      this.store.set({ sampling: { ...this.store.settings.sampling, [name]: control.value } });
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
      byId(`set-${name}`).value = "";
      byId(`set-${name}`).removeAttribute("aria-invalid");
    }
    this.store.set({ sampling: {} });
  }

  /** Show a conversation's system prompt. */
  show(system) {
    if (this.system.value !== system) this.system.value = system;
  }

  /** The control of a request's field that the server refused; null where there is none. */
  controlOf(field) {
    return byId(`set-${field}`);
  }
}

function labelled(label, control, hint) {
  const about = element("small", { id: `${control.id}-hint` }, hint);
  control.setAttribute("aria-describedby", about.id);
  return element("div", { class: "field" }, element("label", { for: control.id }, label), control, about);
}
