// Answers in the making: one request each, several at once, on whichever conversation is shown meanwhile.

import { ServerError, chat } from "./api.js";
import { ALTERNATIVES, tokensOf } from "./tokens.js";

const ENDS = { length: "length", content_filter: "filtered" }; // an answer's state by the server's finish_reason
const STAYED_MS = 3000; // after which a page that should be left is still there

export class Writing {
  /** `onChange(conversation, answer)` is called with every piece, `onEnd(conversation, answer, error)` once; error may be null. */
  constructor(onChange, onEnd) {
    this.onChange = onChange;
    this.onEnd = onEnd;
    this.running = new Map(); // answer -> {conversation, controller}
    this.isLeaving = false; // a page that is left ends its requests before it ends itself
    addEventListener("beforeunload", () => {
      this.isLeaving = true;
      setTimeout(() => (this.isLeaving = false), STAYED_MS);
    });
  }

  /** The answers being written of a conversation. */
  of(conversation) {
    return [...this.running].filter(([, job]) => job.conversation === conversation).map(([answer]) => answer);
  }

  /** Ids of the conversations that are being written to. */
  busy() {
    return new Set([...this.running.values()].map((job) => job.conversation.id));
  }

  /** End the answers of a conversation where they are; what came is kept. */
  stop(conversation) {
    for (const answer of this.of(conversation)) this.running.get(answer).controller.abort();
  }

  /** Ask for an answer and write it as it comes. `request` is all but the model. */
  async write(conversation, answer, request, key, withTokens) {
    const controller = new AbortController();
    this.running.set(answer, { conversation, controller });
    const body = { model: answer.model, ...request, ...(withTokens && { logprobs: true, top_logprobs: ALTERNATIVES }) };
    const begin = performance.now();
    const passed_s = () => (performance.now() - begin) / 1000;
    let failure = null;
    answer.tokens = withTokens ? [] : null;
    try {
      for await (const chunk of chat(body, key, controller.signal)) {
        // A button may have ended this answer while a chunk was on its way.
        if (controller.signal.aborted) throw new DOMException("stopped", "AbortError");
        this.take(answer, chunk, passed_s());
        this.onChange(conversation, answer);
      }
      if (answer.state === "writing") answer.state = "stop";
    } catch (error) {
      if (controller.signal.aborted) answer.state = "stopped";
      else if (this.isLeaving) answer.state = "broken";
      else {
        failure = error;
        Object.assign(answer, { state: "error", error: lineOf(error), field: error.field ?? "" });
      }
    }
    this.running.delete(answer);
    this.onEnd(conversation, answer, failure);
  }

  /** One chunk of the stream. Until the server says how many tokens there were, each piece of text counts as one. */
  take(answer, chunk, now_s) {
    const choice = chunk.choices?.[0];
    const piece = choice?.delta?.content ?? "";
    const tokens = tokensOf(choice?.logprobs);
    const calls = (choice?.delta?.tool_calls ?? []).map((call) => `${call.function?.name ?? ""}${call.function?.arguments ?? ""}`).join("");
    const text = piece + calls;
    answer.text += text;
    answer.tokens?.push(...tokens);
    if (text || tokens.length) {
      answer.speed ??= { first_s: now_s, total_s: now_s, tokens: 0, exact: false };
      answer.speed.total_s = now_s;
      answer.speed.tokens += tokens.length || 1;
    }
    if (chunk.usage && answer.speed) Object.assign(answer.speed, { tokens: chunk.usage.completion_tokens, exact: true });
    if (choice?.finish_reason) answer.state = ENDS[choice.finish_reason] ?? "stop";
  }
}

const lineOf = (error) => (error instanceof ServerError ? error.message : `The page failed: ${error.message}. Reload it and try again.`);
