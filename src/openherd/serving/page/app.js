// The page: its parts, and what happens between them.

import { alive, models } from "./api.js";
import { Composer } from "./composer.js";
import { blank, fresh, isEmpty, messagesBefore, shown, titleOf } from "./conversation.js";
import { announce, byId, element, notice } from "./dom.js";
import { conversationRows, conversationsIn, pairRows, ratingRows, save } from "./files.js";
import { Settings, samplingOf } from "./settings.js";
import { panels, showList } from "./sidebar.js";
import { Store } from "./store.js";
import { Tabs } from "./tabs.js";
import { Thread } from "./thread.js";
import { close as closeAlternatives } from "./tokens.js";
import { Writing } from "./writing.js";

const UNDO_S = 12;
const ASK_AGAIN_MS = 2000;
const THEMES = { "": "as the system", light: "light", dark: "dark" };

const store = new Store((line) => notice("storage", line));
const settings = new Settings(store, changeSystem, loadModels);
const side = panels();
const writing = new Writing(changed, ended);
const composer = new Composer(send, () => writing.stop(current), (text) => {
  current.draft = text;
  store.save(current);
  list();
});
const thread = new Thread({
  regenerate: (index, at) => write(index, withAnswer(index, at, blank(modelOf(at))), [at]),
  retry: (index, at) => write(index, withAnswer(index, at, blank(modelOf(at)), true), [at]),
  editPrompt: (index, prompt) => write(index, exchangeOf(prompt)),
  editAnswer,
  step,
  vote: (answer, vote) => {
    answer.vote = vote;
    store.save(current);
  },
  hasField: (field) => settings.controlOf(field) !== null,
  toField: (field) => {
    side.open("settings");
    settings.controlOf(field).setAttribute("aria-invalid", "true");
    settings.controlOf(field).focus();
  },
}, () => store.settings.tokens);
const tabs = new Tabs(isAtWork, giveUp, (id) => {
  if (id !== current.id) return;
  store.takeBack(id);
  leave("is being written in another tab.");
});

let current = null;
let available = [];
let isAsking = false;
let loading = null; // a promise while the server is asked for its models

// Conversations

/** Open a conversation, which another tab gives up; `insists`: even if it is at work on it. */
function open(conversation, insists = false) {
  notice("tabs", "");
  tabs.open(conversation.id, insists);
  show(conversation);
}

function show(conversation) {
  current = conversation;
  history.replaceState(null, "", `#${conversation.id}`);
  composer.show(conversation.draft);
  settings.show(conversation.system);
  refresh();
}

/** Whether a conversation has something here that another tab cannot read. */
function isAtWork(id) {
  store.flush();
  return writing.busy().has(id) || store.unsaved.has(id) || thread.isEditing(store.conversations.get(id));
}

/** Another tab has this conversation from now on. */
function giveUp(id) {
  const conversation = store.conversations.get(id);
  if (conversation) writing.stop(conversation);
  if (id === current.id) leave("was opened in another tab.");
}

/** Leave the conversation to another tab. */
function leave(why) {
  const { id } = current;
  const title = titleOf(current);
  notice("undo", "");
  open(fresh(store.settings.system));
  const again = () => open(store.conversations.get(id) ?? current, true);
  notice("tabs", `“${title}” ${why}`, { label: "Open it here", run: again });
}

/** Show everything anew. */
function refresh() {
  thread.show(current);
  composer.setBusy(writing.of(current).length > 0);
  list();
}

function list() {
  const conversations = store.sorted().filter((c) => !isEmpty(c));
  const opened = (conversation) => {
    open(conversation);
    side.chosen();
  };
  showList(conversations, current, writing.busy(), opened, remove);
  document.title = isEmpty(current) ? "openherd" : `${titleOf(current)} · openherd`;
}

function startNew() {
  open(fresh(store.settings.system));
  side.chosen();
  byId("draft").focus();
}

function remove(conversation) {
  writing.stop(conversation);
  store.remove(conversation.id);
  if (conversation === current) open(store.sorted()[0] ?? fresh(store.settings.system));
  else list();
  byId("new").focus();
  notice("undo", "The conversation is deleted.", { label: "Undo", run: () => (store.save(conversation, false), open(conversation)) }, UNDO_S);
}

function changeSystem(text) {
  current.system = text;
  store.set({ system: text });
  if (!isEmpty(current)) store.save(current);
}

// Answers

function modelOf(at) {
  const wanted = store.settings.models[at];
  return available.includes(wanted) || !available.length ? wanted : available[at] ?? available[0];
}

const exchangeOf = (prompt) => ({
  prompt, sides: (store.settings.compare ? [0, 1] : [0]).map((at) => ({ answers: [blank(modelOf(at))], at: 0 })),
});

/** An exchange with one more answer on a side; `instead` puts it in the place of the one shown. */
function withAnswer(index, at, answer, instead = false) {
  const exchange = current.exchanges[index];
  const sides = exchange.sides.map((side, i) => {
    if (i !== at) return side;
    return instead ? { ...side, answers: side.answers.with(side.at, answer) } : { answers: [...side.answers, answer], at: side.answers.length };
  });
  return { ...exchange, sides };
}

/** Put an exchange in the place of the one at `index` and of all behind it, which can be undone. */
function replaceFrom(index, exchange) {
  const before = current.exchanges;
  const conversation = current;
  writing.stop(conversation);
  conversation.exchanges = [...before.slice(0, index), exchange];
  store.save(conversation);
  const isLost = before.length > index + 1 || (before[index] && before[index].prompt !== exchange.prompt);
  if (!isLost) return;
  const undo = () => {
    writing.stop(conversation);
    conversation.exchanges = before;
    store.save(conversation);
    open(conversation);
  };
  notice("undo", "What stood from here on is replaced.", { label: "Undo", run: undo }, UNDO_S);
}

/** Have an exchange answered, on these sides. */
function write(index, exchange, sides = exchange.sides.keys()) {
  replaceFrom(index, exchange);
  for (const at of sides) {
    const request = { messages: messagesBefore(current, index, at), ...samplingOf(store.settings.sampling) };
    writing.write(current, shown(exchange, at), request, store.apiKey, store.settings.tokens);
  }
  thread.isAtEnd = true;
  refresh();
  byId("draft").focus();
}

/** Returns whether the message was taken: one that comes before the names of the models waits in its field for them. */
function send(text) {
  if (loading && !modelOf(0)) {
    loading.then(() => composer.send());
    return false;
  }
  current.draft = "";
  write(current.exchanges.length, exchangeOf(text));
  return true;
}

function editAnswer(index, at, text) {
  const source = shown(current.exchanges[index], at);
  const answer = { ...blank(source.model), text, state: "stop", edited: current.exchanges[index].sides[at].at };
  replaceFrom(index, withAnswer(index, at, answer));
  refresh();
}

function step(index, at, by) {
  const chosen = current.exchanges[index].sides[at];
  chosen.at = Math.min(Math.max(chosen.at + by, 0), chosen.answers.length - 1);
  store.save(current);
  refresh();
}

function changed(conversation, answer) {
  store.save(conversation);
  thread.update(answer);
}

function ended(conversation, answer, error) {
  store.save(conversation);
  store.flush();
  thread.update(answer);
  if (conversation === current) composer.setBusy(writing.of(current).length > 0);
  list();
  announce(error ? answer.error : `${answer.model}: ${answer.text}`);
  if (error?.status === 401) askForKey();
  if (error?.status === 404) loadModels(); // the server was started again with others
  if (isGone(error)) askUntilBack();
}

// The server

function loadModels() {
  loading = askForModels().finally(() => (loading = null));
  return loading;
}

async function askForModels() {
  try {
    available = await models(store.apiKey);
    // The names are known from the first moment when the page is opened again.
    store.set({ models: store.settings.models.map((name, at) => name || modelOf(at)) });
    notice("server", "");
  } catch (error) {
    if (error.status === 401) askForKey();
    else if (isGone(error)) askUntilBack();
    else notice("server", error.message, { label: "Try again", run: loadModels });
  }
  showModels();
}

function askForKey() {
  notice("server", "The server asks for an API key.", { label: "Enter it", run: () => (side.open("settings"), byId("key").focus()) });
}

const isGone = (error) => error?.status === 0 || error?.status === 503;

/** Ask whether the server is back, until it is. */
async function askUntilBack() {
  if (isAsking) return;
  isAsking = true;
  notice("server", "The server does not answer. Conversations and drafts are kept here; this line goes when it is back.");
  // The pause comes first: a server that is alive, but not for this page's requests, is not asked without end.
  do {
    await new Promise((resolve) => setTimeout(resolve, ASK_AGAIN_MS));
  } while (!(await alive()));
  isAsking = false;
  announce("The server is back.");
  await loadModels();
}

function showModels() {
  const sides = store.settings.compare ? [0, 1] : [0];
  byId("models").replaceChildren(...sides.map((at) => {
    const label = at ? "Second model" : "Model";
    const select = element("select", { "aria-label": label, title: label, "data-key": `model-${at}`, change: () => {
      store.set({ models: store.settings.models.with(at, select.value) });
    } }, ...(available.length ? available : [modelOf(at) || "No model yet"]).map((name) => element("option", { value: name }, name)));
    select.value = modelOf(at);
    return select;
  }));
  byId("compare").setAttribute("aria-pressed", String(store.settings.compare));
}

// Buttons and keys

function showTheme() {
  const { theme } = store.settings;
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  byId("theme").title = `Theme: ${THEMES[theme] ?? theme}`;
  byId("theme").setAttribute("aria-label", byId("theme").title);
}

function onClick(id, run) {
  byId(id).addEventListener("click", run);
}

onClick("new", startNew);
onClick("compare", () => (store.set({ compare: !store.settings.compare }), showModels()));
onClick("token-view", () => {
  store.set({ tokens: !store.settings.tokens });
  byId("token-view").setAttribute("aria-pressed", String(store.settings.tokens));
  refresh();
});
onClick("theme", () => {
  const names = Object.keys(THEMES);
  store.set({ theme: names[(names.indexOf(store.settings.theme) + 1) % names.length] });
  showTheme();
});
onClick("export-one", () => saveRows("conversation.jsonl", conversationRows([current].filter((c) => !isEmpty(c))), "a conversation"));
onClick("export-all", () => saveRows("conversations.jsonl", conversationRows(store.sorted().filter((c) => !isEmpty(c))), "a conversation"));
onClick("export-pairs", () => saveRows("preferences.jsonl", pairRows(store.sorted()), "a thumb on one of two answers, or an edited answer"));
onClick("export-ratings", () => saveRows("ratings.jsonl", ratingRows(store.sorted()), "a thumb"));
onClick("import", () => byId("import-file").click());

function saveRows(name, rows, needed) {
  if (rows.length) save(name, rows);
  notice("files", rows.length ? `${rows.length} saved in ${name}.` : `There is nothing to export yet: that takes ${needed}.`, null, UNDO_S);
}

byId("import-file").addEventListener("change", async ({ target }) => {
  const [file] = target.files;
  try {
    const found = conversationsIn(await file.text(), store.conversations);
    for (const conversation of found) store.save(conversation, false);
    if (found.length) open(found[0]);
    notice("files", found.length ? `Conversations imported: ${found.length}.` : "All of these conversations are here already.", null, UNDO_S);
  } catch (error) {
    notice("files", `${file.name}: ${error.message}`);
  }
  target.value = "";
});

document.addEventListener("keydown", (event) => {
  if (event.key === "k" && (event.ctrlKey || event.metaKey) && !event.altKey && !event.shiftKey) {
    event.preventDefault();
    startNew();
  } else if (event.key === "Escape" && !event.isComposing) {
    if (!closeAlternatives() && !side.close()) writing.stop(current);
  }
});
addEventListener("storage", (event) => {
  if (!store.takeIn(event, writing.busy())) return;
  const same = store.conversations.get(current.id);
  if (same && same !== current) {
    same.draft = current.draft || same.draft;
    show(same);
  } else list();
});
// What a browser kept when the page was left ("back") does not know what other tabs wrote since.
addEventListener("pageshow", (event) => event.persisted && location.reload());
addEventListener("hashchange", () => {
  const conversation = store.conversations.get(location.hash.slice(1));
  if (conversation) open(conversation);
});

byId("token-view").setAttribute("aria-pressed", String(store.settings.tokens));
showTheme();
showModels();
open(store.conversations.get(location.hash.slice(1)) ?? fresh(store.settings.system));
if (matchMedia("(hover: hover)").matches) byId("draft").focus();
loadModels();
