// The token view: an answer as its tokens, each shaded by how unlikely it was, with the likeliest others beside it.
//
// A token is [text, logprob, [[text, logprob], ...]]: natural logarithms, under the model alone (before temperature and cuts).

import { byId, element } from "./dom.js";

export const ALTERNATIVES = 5; // asked for beside each token
const UNKNOWN = "\ufffd"; // a part of a character

/** Tokens of a chunk's `logprobs`. */
export function tokensOf(logprobs) {
  return (logprobs?.content ?? []).map((entry) => [
    spelt(entry), rounded(entry.logprob), (entry.top_logprobs ?? []).map((other) => [spelt(other), rounded(other.logprob)]),
  ]);
}

const rounded = (logprob) => Math.max(Math.round(logprob * 1000) / 1000, -100);

/** A token's text; of one that is a part of a character its bytes. */
function spelt({ token, bytes }) {
  if (!token.includes(UNKNOWN) || !bytes) return token;
  return bytes.map((byte) => `<${byte.toString(16).padStart(2, "0").toUpperCase()}>`).join("");
}

/** A probability as it is read: 83 %, 0.4 %. */
function percent(logprob) {
  const value = 100 * Math.exp(logprob);
  if (value > 0 && value < 0.1) return "< 0.1 %";
  return `${value >= 99.95 || value === 0 ? Math.round(value) : value.toFixed(value < 10 ? 1 : 0)} %`;
}

/** A token's text with its blanks to be seen. */
const visible = (text) => text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥") || "(empty)";

/** Show an answer's tokens in `place`; those that are there already stay. */
export function showTokens(tokens, place) {
  let row = place.firstElementChild;
  if (!row?.classList.contains("tokens")) {
    row = element("p", { class: "tokens", dir: "auto", role: "group", "aria-label": "Tokens: arrow keys go from one to the next" });
    place.replaceChildren(row, legend());
    row.addEventListener("keydown", walk);
    row.addEventListener("pointerover", (event) => open(event.target));
    row.addEventListener("pointerleave", () => open(document.activeElement));
    row.addEventListener("focusin", (event) => open(event.target));
    row.addEventListener("focusout", () => close());
  }
  while (row.children.length > tokens.length) row.lastElementChild.remove();
  for (const token of tokens.slice(row.children.length)) row.append(tokenElement(token, row.children.length === 0));
}

function tokenElement(token, first) {
  const [text, logprob] = token;
  // A line end stands for itself behind its sign.
  const made = element(
    "span",
    { class: "token", role: "button", tabindex: first ? 0 : -1, "aria-label": `${visible(text)}, ${percent(logprob)}` },
    text.replaceAll("\n", "↵\n"),
  );
  made.token = token;
  made.style.setProperty("--doubt", (1 - Math.exp(logprob)).toFixed(3));
  return made;
}

function legend() {
  const steps = [1, 0.75, 0.5, 0.25, 0].map((p) => {
    const step = element("span", { class: "token" }, `${100 * p} %`);
    step.style.setProperty("--doubt", String(1 - p));
    return step;
  });
  return element("p", { class: "legend" }, "Probability of each token: ", ...steps);
}

function walk(event) {
  const tokens = [...event.currentTarget.children];
  const from = tokens.indexOf(document.activeElement);
  const to = { ArrowRight: from + 1, ArrowLeft: from - 1, Home: 0, End: tokens.length - 1 }[event.key];
  if (to === undefined || !tokens[to]) return;
  event.preventDefault();
  tokens[from]?.setAttribute("tabindex", "-1");
  tokens[to].setAttribute("tabindex", "0");
  tokens[to].focus();
}

/** Show what else could have stood in a token's place. */
function open(target) {
  const popup = byId("alternatives");
  if (!target?.token) {
    close();
    return;
  }
  const [text, logprob, others] = target.token;
  const rows = others.some(([other]) => other === text) ? others : [[text, logprob], ...others];
  popup.replaceChildren(
    ...rows.map(([other, value]) => {
      const bar = element("span", { class: "share" });
      bar.style.setProperty("--share", Math.exp(value).toFixed(4));
      return element(
        "span", { class: other === text ? "alternative taken" : "alternative" },
        element("code", {}, visible(other)), bar, element("span", { class: "number" }, percent(value)),
      );
    }),
  );
  popup.hidden = false;
  target.setAttribute("aria-describedby", popup.id);
  const [line, own] = [target.getClientRects()[0], popup.getBoundingClientRect()];
  const below = line.bottom + own.height + 8 < innerHeight;
  popup.style.left = `${Math.max(Math.min(line.left, innerWidth - own.width - 8), 8)}px`;
  popup.style.top = `${below ? line.bottom + 4 : line.top - own.height - 4}px`;
}

/** Put the alternatives away; returns whether they were shown. */
export function close() {
  const wasShown = !byId("alternatives").hidden;
  byId("alternatives").hidden = true;
  return wasShown;
}
