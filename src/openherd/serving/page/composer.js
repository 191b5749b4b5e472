// The field in which a message is written.

import { byId } from "./dom.js";

const MOST_LINES = 12;

export class Composer {
  /** `onSend(text)` returns whether the text was taken; `onDraft(text)` is told of every change. */
  constructor(onSend, onStop, onDraft) {
    this.field = byId("draft");
    this.onSend = onSend;
    this.isBusy = false;
    this.field.addEventListener("input", () => {
      this.fit();
      onDraft(this.field.value);
    });
    this.field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.send();
    });
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    byId("stop-writing").addEventListener("click", () => {
      onStop();
      this.field.focus();
    });
  }

  /** Send what is written, where there is something and nothing is being answered. */
  send() {
    if (!this.isBusy && this.field.value.trim() && this.onSend(this.field.value)) this.show("");
  }

  /** Put a draft into the field. */
  show(text) {
    if (this.field.value !== text) this.field.value = text;
    this.fit();
  }

  /** While answers are written the button stops them. */
  setBusy(busy) {
    this.isBusy = busy;
    byId("send").hidden = busy;
    byId("stop-writing").hidden = !busy;
  }

  /** As high as its text. */
  fit() {
    this.field.rows = 1;
    const line = Number.parseFloat(getComputedStyle(this.field).lineHeight);
    const pad = this.field.clientHeight - line;
    this.field.rows = Math.min(Math.max(Math.round((this.field.scrollHeight - pad) / line), 1), MOST_LINES);
  }
}
