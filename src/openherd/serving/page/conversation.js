// What a conversation is: plain objects, and pure functions over them.
//
// A conversation is a list of exchanges: a prompt, and one or two sides (one for each model) that each hold the answers made so far, of
// which one is shown. The answers shown make up the dialog that the next prompt continues.

/** @typedef {{model: string, text: string, tokens: ?Array, state: string, error: string, field: string, vote: number, edited: ?number,
 *             speed: ?{first_s: number, total_s: number, tokens: number, exact: boolean}}} Answer */
/** @typedef {{answers: Answer[], at: number}} Side */
/** @typedef {{prompt: string, sides: Side[]}} Exchange */
/** @typedef {{id: string, created: number, updated: number, system: string, draft: string, exchanges: Exchange[]}} Conversation */

// Why an answer ended, or "writing". "filtered": a guard ended it; "broken": the page was closed meanwhile.
export const STATES = ["writing", "stop", "length", "filtered", "stopped", "error", "broken"];

/** A conversation without exchanges. */
export function fresh(system = "") {
  const now = Date.now();
  const id = Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  return { id, created: now, updated: now, system, draft: "", exchanges: [] };
}

/** An answer that has yet to be written. */
export function blank(model) {
  return { model, text: "", tokens: null, state: "writing", error: "", field: "", vote: 0, edited: null, speed: null };
}

/** Whether there is nothing in it that could be lost. */
export function isEmpty(conversation) {
  return conversation.exchanges.length === 0 && conversation.draft.trim() === "";
}

/** What it is called in the list. */
export function titleOf(conversation) {
  const text = (conversation.exchanges[0]?.prompt ?? conversation.draft).trim().replace(/\s+/g, " ");
  return text.length > 60 ? `${text.slice(0, 59)}…` : text || "New conversation";
}

/** The answer of an exchange that is shown on a side; a side that it does not have is that of the first. */
export function shown(exchange, side) {
  const { answers, at } = exchange.sides[side] ?? exchange.sides[0];
  return answers[at];
}

/** The messages that the answers of an exchange on a side continue, its prompt the last. */
export function messagesBefore(conversation, index, side) {
  const messages = conversation.system.trim() ? [{ role: "system", content: conversation.system }] : [];
  conversation.exchanges.slice(0, index + 1).forEach((exchange, i) => {
    messages.push({ role: "user", content: exchange.prompt });
    const answer = shown(exchange, side);
    if (i < index && answer.text) messages.push({ role: "assistant", content: answer.text });
  });
  return messages;
}

/** The whole dialog as it is shown on the first side. */
export function dialogOf(conversation) {
  const last = conversation.exchanges.length - 1;
  const messages = messagesBefore(conversation, last, 0);
  const answer = last >= 0 && shown(conversation.exchanges[last], 0);
  return answer?.text ? [...messages, { role: "assistant", content: answer.text }] : messages;
}

/** The answers that continue the same messages, for each exchange and each such messages: [{prompt, answers}]. */
function rivals(conversation) {
  return conversation.exchanges.flatMap((exchange, index) => {
    const groups = new Map();
    exchange.sides.forEach((side, i) => {
      const prompt = messagesBefore(conversation, index, i);
      const key = JSON.stringify(prompt);
      if (!groups.has(key)) groups.set(key, { prompt, sides: [] });
      groups.get(key).sides.push(side.answers);
    });
    return [...groups.values()];
  });
}

const said = (answer) => [{ role: "assistant", content: answer.text }];

/**
 * Preference pairs: of two answers to the same messages the one with the better thumb is chosen (up, none, down); an answer that was
 * edited is chosen over what it was made from. Rows are TRL's: prompt, chosen and rejected are lists of messages.
 */
export function pairsOf(conversation) {
  const rows = [];
  for (const { prompt, sides } of rivals(conversation)) {
    const answers = sides.flatMap((list) => list.map((answer) => ({ answer, source: list[answer.edited ?? -1] })));
    for (const chosen of answers) {
      for (const rejected of answers) {
        const mended = chosen.source === rejected.answer;
        const better = mended || (chosen.answer.vote > rejected.answer.vote && rejected.source !== chosen.answer);
        if (!better || !chosen.answer.text || !rejected.answer.text || chosen.answer.text === rejected.answer.text) continue;
        rows.push({
          prompt, chosen: said(chosen.answer), rejected: said(rejected.answer),
          chosen_model: chosen.answer.model, rejected_model: rejected.answer.model, edited: mended,
        });
      }
    }
  }
  return rows;
}

/** Every answer with a thumb, as TRL's unpaired rows: prompt and completion are lists of messages, label is whether it is good. */
export function ratingsOf(conversation) {
  return rivals(conversation).flatMap(({ prompt, sides }) =>
    sides.flat().filter((answer) => answer.vote && answer.text)
      .map((answer) => ({ prompt, completion: said(answer), label: answer.vote > 0, model: answer.model })));
}

const text = (value) => (typeof value === "string" ? value : "");
const number = (value, otherwise) => (Number.isFinite(value) ? value : otherwise);
const list = (value) => (Array.isArray(value) ? value : []);

/** A conversation from what a file or the storage holds, with everything in it of the right kind; null where it is none. */
export function restored(given) {
  if (typeof given?.id !== "string" || !/^[\w-]{1,64}$/.test(given.id) || !Array.isArray(given.exchanges)) return null;
  const exchanges = given.exchanges.map((exchange) => {
    const sides = list(exchange?.sides).slice(0, 2).map((side) => {
      const answers = list(side?.answers).map(restoredAnswer);
      return { answers, at: Math.min(Math.max(Math.trunc(number(side?.at, 0)), 0), answers.length - 1) };
    });
    return { prompt: text(exchange?.prompt), sides: sides.filter((side) => side.answers.length) };
  });
  const created = number(given.created, Date.now());
  return {
    id: given.id, created, updated: number(given.updated, created), system: text(given.system), draft: text(given.draft),
    exchanges: exchanges.filter((exchange) => exchange.sides.length),
  };
}

function restoredAnswer(given) {
  const state = STATES.includes(given?.state) ? given.state : "stop";
  const speed = given?.speed;
  const isSpeed = [speed?.first_s, speed?.total_s, speed?.tokens].every(Number.isFinite);
  return {
    model: text(given?.model), text: text(given?.text), error: text(given?.error), field: text(given?.field),
    state: state === "writing" ? "broken" : state,
    vote: Math.sign(number(given?.vote, 0)),
    edited: Number.isInteger(given?.edited) ? given.edited : null,
    tokens: Array.isArray(given?.tokens) && given.tokens.every(isToken) ? given.tokens : null,
    speed: isSpeed ? speed : null,
  };
}

const isPair = (value) => typeof value?.[0] === "string" && Number.isFinite(value[1]);
const isToken = (value) => isPair(value) && Array.isArray(value[2]) && value[2].every(isPair);

/** A conversation from a dialog's messages. Throws an Error that says what cannot be shown. */
export function fromMessages(messages) {
  if (!Array.isArray(messages)) throw new Error("neither a conversation nor a dialog with `messages`");
  const conversation = fresh();
  messages.forEach((message, i) => {
    const { role, content } = message ?? {};
    const exchange = conversation.exchanges.at(-1);
    if (typeof content !== "string") throw new Error(`messages[${i}].content is not text`);
    if (role === "system" && i === 0) conversation.system = content;
    else if (role === "user") conversation.exchanges.push({ prompt: content, sides: [] });
    else if (role === "assistant" && exchange && !exchange.sides.length) {
      exchange.sides.push({ answers: [{ ...blank("imported"), text: content, state: "stop" }], at: 0 });
    } else throw new Error(`messages[${i}] of role ${JSON.stringify(role)}: the page shows a system's message, then users and assistants by turns`);
  });
  const open = conversation.exchanges.findIndex((exchange) => !exchange.sides.length);
  if (open >= 0 && open < conversation.exchanges.length - 1) throw new Error("two messages of the user behind each other");
  if (open >= 0) conversation.draft = conversation.exchanges.pop().prompt;
  return conversation;
}
