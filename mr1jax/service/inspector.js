// The inspector. Whatever comes from the server or the user becomes text of a node (textContent), never markup; the server's policy forbids both
// HTML from strings and any other origin. A token stays in this window: it is kept nowhere.

const PAGE = 1000; // events in one response
const byId = (id) => document.getElementById(id);
const state = { user: "", token: "", events: [], last: new Map(), answer: null, asked: 0 };

// Nodes ----------------------------------------------------------------------------------------------------------------------------

/** Makes an element; strings among its children become text. */
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** What somebody wrote: set apart, so that text from right to left turns nothing around it. */
function text(written, kind = "") {
  return make("bdi", { class: `text ${kind}`.trim(), dir: "auto" }, written);
}

const DAY = { day: "numeric", month: "short", year: "numeric" };
const MINUTE = { ...DAY, hour: "2-digit", minute: "2-digit" };

/** A time of the server, which is UTC: what was done to the minute, in the reader's zone; what was said to the day, as it was said. */
function when(time, format = MINUTE) {
  return make("time", { datetime: time }, new Date(time).toLocaleString("en-GB", format));
}

/** Before and after of an operation. */
function change(before, after) {
  const lines = [];
  if (before) lines.push(make("span", { class: "before" }, make("span", { class: "sign", "aria-hidden": "true" }, "\u2212"), hidden("before: "), text(before)));
  if (after) lines.push(make("span", { class: "after" }, make("span", { class: "sign", "aria-hidden": "true" }, "+"), hidden("after: "), text(after)));
  return lines;
}

function hidden(words) {
  return make("span", { class: "hidden" }, words);
}

function say(message, wrong = false) {
  byId("status").textContent = message;
  byId("status").classList.toggle("wrong", wrong);
}

// The server -----------------------------------------------------------------------------------------------------------------------

async function ask(method, path, values) {
  const headers = state.token ? { Authorization: `Bearer ${state.token}` } : {};
  const options = { method, headers };
  let url = path;
  if (method === "GET") url += `?${new URLSearchParams(values)}`;
  else {
    headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(values);
  }
  const response = await fetch(url, options);
  const answer = await response.json();
  if (response.status === 401) byId("token-field").hidden = false;
  if (!response.ok) throw new Error(answer.error.message);
  return answer;
}

/** Runs what a button asks for: buttons rest meanwhile, and what goes wrong is said. */
async function run(work, done = "") {
  document.querySelectorAll("form button").forEach((button) => { button.disabled = true; });
  say("working\u2026");
  const patience = setTimeout(() => say("working\u2026 the first fact and the first question wait for a program to be compiled"), 3000);
  try {
    await work();
    clearTimeout(patience);
    say(done);
  } catch (error) {
    clearTimeout(patience);
    say(error.message, true);
  } finally {
    document.querySelectorAll("form button").forEach((button) => { button.disabled = false; });
  }
}

/** Reads the log from where it was left. Starts from its end once more where it was read for another user. */
async function readEvents() {
  for (let count = PAGE; count === PAGE;) {
    const after = state.events.length ? state.events.at(-1).id : 0;
    const { results } = await ask("GET", "/v1/events", { user_id: state.user, after, limit: PAGE });
    count = results.length;
    for (const event of results) {
      state.events.push(event);
      state.last.set(event.memory_id, event.id);
    }
  }
}

// Time and the bank ----------------------------------------------------------------------------------------------------------------

/** Draws the bank as it was after so many operations; what is asked for later overtakes what was asked for before. */
async function showBank() {
  const moment = Number(byId("moment").value);
  const number = ++state.asked;
  const event = state.events[moment - 1];
  describeMoment(moment, event);
  const { results } = event ? await ask("GET", "/v1/state", { user_id: state.user, event: event.id }) : { results: [] };
  if (number !== state.asked) return;
  const rows = results.map((memory) => memoryRow(memory, event));
  if (event && event.event === "DELETE" && event.old_memory) rows.push(goneRow(event));
  byId("memories").dataset.moment = moment;
  byId("memories").replaceChildren(...(rows.length ? rows : [make("li", { class: "empty" }, state.user ? "No memories at this time." : "Open a user to see what is remembered.")]));
}

function describeMoment(moment, event) {
  const all = state.events.length;
  const now = moment === all ? "now" : "then";
  const words = event ? `${now}: after operation ${moment} of ${all}, ${event.event} by ${event.actor}` : `before the first of ${all} operations`;
  byId("moment-says").replaceChildren(words, ...(event ? [", ", when(event.created_at)] : []));
  byId("moment").setAttribute("aria-valuetext", words);
  byId("earlier").disabled = moment === 0;
  byId("later").disabled = moment === all;
  for (const card of byId("events").children) card.classList.toggle("later", Number(card.dataset.number) > moment);
}

function memoryRow(memory, event) {
  const row = make("li", { class: "memory" }), about = make("span", { class: "meta" });
  if (event.memory_id === memory.id) {
    row.classList.add("touched");
    about.append(tag(event.event.toLowerCase()));
  }
  const shown = state.answer && state.answer.get(memory.id);
  if (shown && shown.memory === memory.memory) { // what it says now, not what it said at another time
    row.classList.toggle("selected", shown.selected);
    about.append(shown.selected ? tag("\u2713 selected", "selected") : tag("ignored"));
  }
  about.append(make("span", { class: "soft" }, when(memory.updated_at, { ...DAY, timeZone: "UTC" })));
  row.append(text(memory.memory), about);
  return row;
}

function goneRow(event) {
  return make("li", { class: "memory gone" }, text(event.old_memory), make("span", { class: "meta" }, tag("deleted")));
}

function tag(words, kind = "") {
  return make("span", { class: `tag ${kind}`.trim() }, words);
}

// Operations -----------------------------------------------------------------------------------------------------------------------

function showEvents() {
  const cards = state.events.map((event, index) => eventCard(event, index + 1)).reverse();
  byId("events").replaceChildren(...(cards.length ? cards : [make("li", { class: "empty" }, "No operations.")]));
}

function eventCard(event, number) {
  const title = make("strong", {}, `${number}. ${event.event}`), about = event.new_memory || event.old_memory || "";
  const newest = state.last.get(event.memory_id) === event.id;
  const button = make("button", { type: "button" }, newest ? "Undo" : "Back to this");
  button.addEventListener("click", () => run(() => restore(event, newest), newest ? `operation ${number} is undone` : `back to operation ${number}`));
  button.setAttribute("aria-label", newest ? `Undo operation ${number}: ${about}` : `Take this memory back to operation ${number}: ${about}`);
  const head = make("div", { class: "head" }, make("span", { class: "meta" }, title, make("span", {}, "by ", text(event.actor)), when(event.created_at)), button);
  return make("li", { class: `card ${event.event.toLowerCase()}`, "data-number": number }, head, ...change(event.old_memory, event.new_memory));
}

async function restore(event, newest) {
  const path = `/v1/memories/${encodeURIComponent(event.memory_id)}/restore`;
  await ask("POST", path, newest ? { user_id: state.user } : { user_id: state.user, to_event: event.id });
  await refresh();
}

/** Reads what has happened since and draws it as it is now. */
async function refresh() {
  await readEvents();
  byId("moment").max = state.events.length;
  byId("moment").value = state.events.length;
  showEvents();
  await showBank();
}

// The conversation -----------------------------------------------------------------------------------------------------------------

function addTurn(words, ...below) {
  const turn = make("li", { class: "turn" }, make("div", { class: "bubble own" }, hidden("you: "), text(words)), ...below);
  byId("turns").append(turn);
  byId("no-turns").hidden = true;
  turn.scrollIntoView({ block: "end" });
}

async function tell(words) {
  const { results } = await ask("POST", "/v1/memories", { messages: words, user_id: state.user, timestamp: byId("when").value || null });
  state.answer = null;
  addTurn(words, ...results.map(resultCard));
  await refresh();
}

function resultCard(result) {
  const head = make("div", { class: "head" }, make("strong", {}, result.event));
  if (result.event === "NONE") {
    head.append(make("span", {}, "nothing is to be remembered"));
    return make("div", { class: "card" }, head);
  }
  const after = result.event === "DELETE" ? null : result.memory;
  const before = result.event === "DELETE" ? result.previous_memory || result.memory : result.previous_memory;
  return make("div", { class: `card ${result.event.toLowerCase()}` }, head, ...change(before, after));
}

async function question(words) {
  const { answer, memories } = await ask("POST", "/v1/answer", { question: words, user_id: state.user, timestamp: byId("when").value || null });
  state.answer = new Map(memories.map((memory) => [memory.id, memory]));
  addTurn(words, make("div", { class: "bubble reply" }, hidden("answer: "), text(answer || "(no answer)")), shownCard(memories));
  await refresh();
}

function shownCard(memories) {
  const selected = memories.filter((memory) => memory.selected).length;
  const lines = memories.map((memory) => make("li", {}, text(memory.memory), memory.selected ? tag("\u2713 selected", "selected") : tag("ignored")));
  const summary = make("summary", {}, `${memories.length} memories retrieved, ${selected} selected, ${memories.length - selected} ignored`);
  return make("details", { class: "card", open: "" }, summary, make("ul", { class: "shown" }, ...lines));
}

// What the user does ---------------------------------------------------------------------------------------------------------------

byId("open").addEventListener("submit", (event) => {
  event.preventDefault();
  state.token = byId("token").value;
  run(async () => {
    Object.assign(state, { user: byId("user").value, events: [], last: new Map(), answer: null });
    byId("turns").replaceChildren();
    byId("no-turns").hidden = false;
    await refresh();
  });
});

byId("say").addEventListener("submit", (event) => {
  event.preventDefault();
  const words = byId("text").value.trim();
  const act = event.submitter && event.submitter.value === "ask" ? question : tell;
  if (!state.user) return say("open a user first", true);
  if (!words) return undefined;
  return run(async () => {
    await act(words);
    byId("text").value = "";
    byId("text").focus();
  });
});

byId("text").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  const asks = byId("text").value.trim().endsWith("?");
  byId("say").requestSubmit(document.querySelector(`#say button[value=${asks ? "ask" : "tell"}]`));
});

byId("moment").addEventListener("input", () => showBank().catch((error) => say(error.message, true)));
for (const [id, step] of [["earlier", -1], ["later", 1]]) {
  byId(id).addEventListener("click", () => {
    byId("moment").value = Number(byId("moment").value) + step;
    showBank().catch((error) => say(error.message, true));
  });
}

for (const button of byId("tabs").children) {
  button.addEventListener("click", () => {
    document.querySelector("main").dataset.part = button.dataset.part;
    for (const each of byId("tabs").children) each.setAttribute("aria-pressed", String(each === button));
  });
}

showEvents();
showBank();
