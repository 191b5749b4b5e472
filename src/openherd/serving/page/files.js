// What goes out as files and comes in: JSON Lines, one object a line.

import { dialogOf, fresh, fromMessages, pairsOf, ratingsOf, restored } from "./conversation.js";
import { element } from "./dom.js";

/** Conversations: `messages` is the dialog as training reads it, `conversation` everything that the page knows. */
export function conversationRows(conversations) {
  return conversations.map((conversation) => ({ messages: dialogOf(conversation), conversation }));
}

/** Preference pairs of all conversations: prompt, chosen, rejected. */
export const pairRows = (conversations) => conversations.flatMap(pairsOf);

/** Answers with a thumb, of all conversations: prompt, completion, label. */
export const ratingRows = (conversations) => conversations.flatMap(ratingsOf);

/** Have the browser save rows as a file. */
export function save(name, rows) {
  const text = rows.map((row) => `${JSON.stringify(row)}\n`).join("");
  const url = URL.createObjectURL(new Blob([text], { type: "application/jsonl" }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/**
 * The conversations of an exported file, or of a file of dialogs with `messages`. Ids that are taken are replaced, unless it is the
 * same conversation. Throws an Error that names the line.
 */
export function conversationsIn(text, existing) {
  const found = [];
  text.split(/\r?\n/).forEach((line, i) => {
    if (!line.trim()) return;
    try {
      found.push(conversationIn(JSON.parse(line)));
    } catch (error) {
      const what = error instanceof SyntaxError ? "not JSON: one object a line is expected" : error.message;
      throw new Error(`line ${i + 1}: ${what}`);
    }
  });
  if (!found.length) throw new Error("no conversation in it");
  const isHere = (c) => existing.get(c.id)?.updated === c.updated;
  return found.filter((c) => !isHere(c)).map((c) => (existing.has(c.id) ? { ...c, id: fresh().id } : c));
}

function conversationIn(row) {
  const conversation = restored(row?.conversation);
  return conversation ?? fromMessages(row?.messages);
}
