// The conversation as it is seen.

import { shown } from "./conversation.js";
import { byId, copy, element, iconButton, keepingFocus } from "./dom.js";
import { show } from "./markdown.js";
import { close, showTokens } from "./tokens.js";

const ENDS = {
  length: "Ended at the most tokens.",
  filtered: "The server's guard ended this answer.",
  stopped: "Stopped.",
  broken: "The page was closed while this was written. Regenerate it to have all of it.",
};
const NEAR_END_PX = 60;

export class Thread {
  /**
   * `actions`: regenerate(index, side), editPrompt(index, text), editAnswer(index, side, text), step(index, side, by),
   * vote(answer, vote), retry(index, side), hasField(field), toField(field); `withTokens()` says whether answers are shown as tokens.
   */
  constructor(actions, withTokens) {
    this.actions = actions;
    this.withTokens = withTokens;
    this.place = byId("thread");
    this.views = new Map(); // answer -> {body, foot}
    this.editors = new WeakMap(); // conversation -> Map of what is edited (a prompt's index, an answer) -> {text, editor}
    this.changed = new Set();
    this.isAtEnd = true;
    this.place.addEventListener("scroll", () => this.scrolled());
    byId("to-end").addEventListener("click", () => this.toEnd());
  }

  /** Show a conversation. */
  show(conversation) {
    const top = this.place.scrollTop;
    const isSame = this.conversation === conversation;
    this.conversation = conversation;
    if (!this.editors.has(conversation)) this.editors.set(conversation, new Map());
    this.views.clear();
    close();
    keepingFocus(() => {
      const exchanges = conversation.exchanges.map((exchange, index) => this.exchange(exchange, index));
      this.place.replaceChildren(...(exchanges.length ? exchanges : [welcome()]));
    });
    if (isSame && !this.isAtEnd) this.place.scrollTop = top;
    else this.toEnd();
  }

  /** Whether something is being edited in a conversation. */
  isEditing(conversation) {
    return this.editors.get(conversation)?.size > 0;
  }

  /** An answer has more text, or another state; it is drawn with the next frame. */
  update(answer) {
    if (!this.views.has(answer)) return;
    if (!this.changed.size) requestAnimationFrame(() => this.draw());
    this.changed.add(answer);
  }

  draw() {
    const follow = this.isAtEnd;
    for (const answer of this.changed) this.fill(answer);
    this.changed.clear();
    if (follow) this.toEnd();
  }

  toEnd() {
    this.place.scrollTop = this.place.scrollHeight;
    this.scrolled();
  }

  scrolled() {
    this.isAtEnd = this.place.scrollHeight - this.place.scrollTop - this.place.clientHeight < NEAR_END_PX;
    byId("to-end").hidden = this.isAtEnd;
    close();
  }

  exchange(exchange, index) {
    const prompt = element("div", { class: "text", dir: "auto" }, exchange.prompt);
    const article = element("article", { class: "prompt", "aria-label": "You" }, prompt);
    const edit = () => this.edit(article, index, exchange.prompt, "Send", (text) => this.actions.editPrompt(index, text));
    article.append(element("div", { class: "tools" },
      this.button("copy", "Copy your message", `${index}-copy`, (button) => copy(exchange.prompt, button)),
      this.button("pencil", "Edit your message and have it answered anew", `${index}-edit`, edit),
    ));
    this.editAgain(article, index, exchange.prompt);
    const sides = exchange.sides.map((_, side) => this.answer(exchange, index, side));
    return element("div", { class: "exchange" }, article, element("div", { class: sides.length > 1 ? "sides two" : "sides" }, ...sides));
  }

  answer(exchange, index, side) {
    const answer = shown(exchange, side);
    const { answers, at } = exchange.sides[side];
    const body = element("div", { class: "body" });
    const foot = element("p", { class: "speed" });
    const tools = element("div", { class: "tools" });
    const head = element("header", {}, element("strong", {}, answer.edited === null ? answer.model : `${answer.model}, edited`));
    const article = element("article", { class: "answer", "aria-label": `Answer of ${answer.model}`, tabindex: -1 }, head, body, foot, tools);
    if (answers.length > 1) head.append(this.versions(index, side, at, answers.length));
    this.views.set(answer, { article, body, foot, tools, index, side });
    this.fill(answer);
    this.editAgain(article, answer, answer.text);
    return article;
  }

  /** Which of several answers is shown; those of the last exchange can be turned over. */
  versions(index, side, at, count) {
    const line = element("span", { class: "versions" }, `${at + 1} of ${count}`);
    if (index < this.conversation.exchanges.length - 1) return line;
    const step = (by, name, label, isEnd) =>
      this.button(name, label, `${index}-${side}-${name}`, () => this.actions.step(index, side, by), { "aria-disabled": isEnd && "true" });
    line.prepend(step(-1, "left", "The answer before", at === 0));
    line.append(step(1, "right", "The next answer", at === count - 1));
    return line;
  }

  /** An answer's text, speed and tools, as they are now. */
  fill(answer) {
    const view = this.views.get(answer);
    if (!view) return;
    const { article, body, foot } = view;
    const isWriting = answer.state === "writing";
    article.setAttribute("aria-busy", String(isWriting));
    const asTokens = this.withTokens() && answer.tokens?.length;
    if (body.dataset.as !== (asTokens ? "tokens" : "text")) body.replaceChildren();
    body.dataset.as = asTokens ? "tokens" : "text";
    if (asTokens) showTokens(answer.tokens, body);
    else show(answer.text, body);
    body.classList.toggle("waiting", isWriting && !answer.text);
    foot.replaceChildren(...speedOf(answer), ...this.endOf(answer, view));
    if (this.withTokens() && !asTokens && !isWriting && answer.text) {
      foot.append(element("span", {}, "No probabilities were asked for with this answer: regenerate it to see them."));
    }
    if (!isWriting) this.tools(answer, view);
  }

  endOf(answer, { index, side }) {
    if (answer.state === "error") {
      const retry = element("button", { type: "button", "data-key": `${index}-${side}-retry`, click: () => this.actions.retry(index, side) }, "Try again");
      const line = element("span", { class: "error", role: "alert" }, answer.error, " ", retry);
      if (this.actions.hasField(answer.field)) line.append(" ", element("button", { type: "button", click: () => this.actions.toField(answer.field) }, "Open the settings"));
      return [line];
    }
    if (answer.state === "stop" && !answer.text) return [element("span", {}, "The model ended its answer without a word.")];
    return ENDS[answer.state] ? [element("span", {}, ENDS[answer.state])] : [];
  }

  tools(answer, { tools, article, index, side }) {
    const key = (name) => `${index}-${side}-${name}`;
    const vote = (value) => () => {
      this.actions.vote(answer, answer.vote === value ? 0 : value);
      keepingFocus(() => this.fill(answer));
    };
    const edit = () => this.edit(article, answer, answer.text, "Keep", (text) => this.actions.editAnswer(index, side, text));
    const again = this.button("again", "Regenerate", key("again"), () => this.actions.regenerate(index, side));
    keepingFocus(() => tools.replaceChildren(...(answer.text ? [
      this.button("copy", "Copy the answer", key("copy"), (button) => copy(answer.text, button)),
      again,
      this.button("pencil", "Edit the answer", key("edit"), edit),
      this.button("good", "Good answer", key("good"), vote(1), { "aria-pressed": String(answer.vote > 0) }),
      this.button("bad", "Bad answer", key("bad"), vote(-1), { "aria-pressed": String(answer.vote < 0) }),
    ] : answer.state === "error" ? [] : [again])));
  }

  button(name, label, key, click, attributes = {}) {
    const button = iconButton(name, label, () => button.getAttribute("aria-disabled") || click(button), { "data-key": key, ...attributes });
    return button;
  }

  /** Turn an article into a field with its text; `what` is edited there until it is done or cancelled, however often all is shown anew. */
  edit(article, what, text, label, done) {
    const editors = this.editors.get(this.conversation);
    const key = article.querySelector("[data-key$=edit]").dataset.key;
    const cancel = () => {
      editors.delete(what);
      this.show(this.conversation);
      this.place.querySelector(`[data-key="${key}"]`)?.focus();
    };
    const finish = () => {
      if (!area.value.trim() || area.value === text) return cancel();
      editors.delete(what);
      return done(area.value);
    };
    const keydown = (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        cancel();
      } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing && label === "Send") {
        event.preventDefault();
        finish();
      }
    };
    const area = element("textarea", {
      "aria-label": "Text", dir: "auto", rows: Math.min(text.split("\n").length + 1, 16), "data-key": `${key}or`, keydown,
    });
    area.value = text;
    const editor = element("div", { class: "editor" }, area, element("div", { class: "choices" },
      element("button", { type: "button", class: "main", click: finish }, label),
      element("button", { type: "button", click: cancel }, "Cancel"),
    ));
    editors.set(what, { text, editor });
    article.replaceChildren(editor);
    area.focus();
  }

  /** Put back the field in which an article's text is edited, where it is still that text. */
  editAgain(article, what, text) {
    const open = this.editors.get(this.conversation).get(what);
    if (open?.text === text) article.replaceChildren(open.editor);
  }
}

function welcome() {
  return element("div", { class: "welcome" }, element("h1", {}, "openherd"), element("p", {}, "Write a message below. Conversations are kept in this browser alone; the server keeps none."));
}

/** Time to the first token, tokens a second behind it, and how many there were. */
function speedOf({ speed, state }) {
  if (!speed) return state === "writing" ? [element("span", {}, "Waiting for the first token")] : [];
  const about = speed.exact ? "" : "about ";
  const parts = [element("span", { "data-figure": "first" }, `First token ${seconds(speed.first_s)}`)];
  const took_s = speed.total_s - speed.first_s;
  if (speed.tokens > 1 && took_s > 0) {
    parts.push(element("span", { "data-figure": "rate" }, `${rate((speed.tokens - 1) / took_s)} tokens/s`));
  }
  parts.push(element("span", { "data-figure": "tokens" }, `${about}${speed.tokens} ${speed.tokens === 1 ? "token" : "tokens"}`));
  return parts;
}

const seconds = (s) => (s < 1 ? `${Math.round(1000 * s)} ms` : `${s.toFixed(s < 10 ? 2 : 1)} s`);
const rate = (value) => (value < 10 ? value.toFixed(1) : value.toFixed(0));
