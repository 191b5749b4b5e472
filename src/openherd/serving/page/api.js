// The server's interface: OpenAI's, with streams of server-sent events.

const at = (path) => new URL(path, document.baseURI);
const headers = (key) => ({ "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) });

/** What the server, or the way to it, refused. `status` is 0 where nothing came back; `field` names what was wrong in a request. */
export class ServerError extends Error {
  constructor(message, { status = 0, field = "", wait_s = 0 } = {}) {
    super(message);
    Object.assign(this, { status, field, wait_s });
  }
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(at(path), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server does not answer. See whether openherd serve still runs, then try again.");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw refusal(response.status, body?.error ?? {}, Number(response.headers.get("Retry-After")) || 0);
}

/** One line for a refusal: what the server said, and what to do where it is not plain from that. */
function refusal(status, error, wait_s = 0) {
  const said = typeof error?.message === "string" ? error.message : "";
  const field = typeof error?.param === "string" ? error.param : "";
  const line = {
    401: "The server asks for an API key: enter it in the settings, then try again.",
    413: said || "The message is too large for the server: shorten it.",
    503: "The server is shutting down. Try again when it is back.",
    429: `The server has as many requests as it takes. Try again${wait_s ? ` in ${wait_s} s` : " in a moment"}.`,
  }[status];
  const other = status >= 500 ? `The server failed (${status}${said && `: ${said}`}). Try again; its log says more.` : said;
  return new ServerError(line ?? (other || `The server refused the request (${status}).`), { status, field, wait_s });
}

/** Names of the models that the server has. */
export async function models(key) {
  const { data } = await (await request("v1/models", { headers: headers(key) })).json();
  return data.map((model) => model.id);
}

/** Whether the server answers, and is not shutting down. */
export async function alive() {
  try {
    return (await fetch(at("health"), { cache: "no-store" })).status !== 503;
  } catch {
    return false;
  }
}

/** The chunks of a chat completion, as they come. Throws ServerError where the stream breaks off, AbortError by `signal`. */
export async function* chat(body, key, signal) {
  const streamed = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await request("v1/chat/completions", {
    method: "POST", headers: headers(key), body: JSON.stringify(streamed), signal,
  });
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ServerError(`The server ended the answer: ${chunk.error.message}.`, { status: 500 });
      yield chunk;
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ServerError) throw error;
  }
  throw new ServerError("The connection broke off before the answer ended. What came is kept; try again when the server is back.");
}

/** The data of each server-sent event in a stream of bytes. */
export async function* events(stream) {
  let rest = "";
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const blocks = (rest + part.value).split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      if (lines.length) yield lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
    }
  }
}
