// Draws a board of /v1/live from its event stream. Waits go on counting between two events; the age of the figures is always shown.

const number = new Intl.NumberFormat("en");
const percent = new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 0 });
const RECONNECT_MS = 5_000;
const LEVELS = ["", "warn", "alarm"];

let board = null; // what /v1/live says of the chosen board
let shown = null; // the last event
let receivedAt = 0; // by this page's own clock, which need not be right
let problem = null;
let stream = null;
const rowsById = new Map();

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

const byId = (id) => document.getElementById(id);

// Only what has changed is written: a screen reader announces each change of a live region.
function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const two = (part) => String(part).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

function plural(count, one, many) {
  return `${number.format(count)} ${count === 1 ? one : many}`;
}

// ---- figures

function age() {
  return shown === null ? null : shown.ageSeconds + (performance.now() - receivedAt) / 1000;
}

function isOld() {
  return age() > shown.staleAfterSeconds;
}

// The wait by the server's clock: from its beginning to the moment of the figures, and on from there while they are not old.
function waitSeconds(row) {
  if (row.waitingSince === null || row.waitingSince === undefined) return null;
  return (Date.parse(shown.observedAt) - Date.parse(row.waitingSince)) / 1000 + (isOld() ? 0 : age());
}

function level(name, value, isReached) {
  const threshold = board.thresholds[name];
  if (!threshold || value === null || value === undefined) return 0;
  if (threshold.alarm !== undefined && isReached(value, threshold.alarm)) return 2;
  return threshold.warn !== undefined && isReached(value, threshold.warn) ? 1 : 0;
}

const atLeast = (value, limit) => value >= limit;
const atMost = (value, limit) => value <= limit;

function figures(row) {
  const wait = waitSeconds(row);
  const list = [
    ["Waiting", row.waiting, number.format, level("waiting", row.waiting, atLeast)],
    ["Longest wait", wait, clock, level("longest_wait_seconds", wait, atLeast)],
    ["Interacting", row.interacting, number.format, 0],
    // That no agent is free matters only while calls wait.
    ["Free agents", row.idle, number.format, row.waiting ? level("idle_agents", row.idle, atMost) : 0],
  ];
  if (board.hasServiceLevel)
    list.push(["Service level today", row.serviceLevel, percent.format, level("service_level", row.serviceLevel, atMost)]);
  return list;
}

const columns = () => ["Queue", "Waiting", "Longest wait", "Interacting", "Free agents", ...(board.hasServiceLevel ? ["Service level today"] : []), "Agents by state"];

// ---- rows

function makeRow(id) {
  const names = columns().slice(1);
  const head = element("th", { scope: "row" });
  const cells = names.map((name) => element("td", { "data-label": name, className: name === "Agents by state" ? "agents-cell" : "figure" }));
  return { id, head, cells, node: element("tr", {}, head, ...cells) };
}

function drawMark(cell, value, format, rank) {
  const missing = value === null || value === undefined;
  const text = missing ? "–" : format(value);
  const key = `${text} ${rank}`;
  if (cell.dataset.key === key) return;
  cell.dataset.key = key;
  const mark = element("span", { className: `mark ${LEVELS[rank]}` }, text);
  if (rank) mark.append(element("small", {}, LEVELS[rank]));
  cell.replaceChildren(mark);
}

function drawAgents(cell, agents) {
  const states = Object.entries(agents).filter(([, count]) => count > 0);
  const key = JSON.stringify(states);
  if (cell.dataset.key === key) return;
  cell.dataset.key = key;
  const parts = states.map(([state, count]) => element("span", {}, element("b", {}, number.format(count)), ` ${state}`));
  cell.replaceChildren(element("div", { className: "agents" }, ...(parts.length ? parts : ["no agents"])));
}

function ranked(rows) {
  return rows
    .map((row) => ({ row, rank: Math.max(...figures(row).map(([, , , rank]) => rank)) }))
    .sort((one, other) => other.rank - one.rank || one.row.name.localeCompare(other.row.name));
}

function wanted(row) {
  return row.name.toLocaleLowerCase().includes(byId("find").value.trim().toLocaleLowerCase());
}

function drawRows() {
  const found = ranked(shown.rows.filter(wanted));
  const place = byId("rows");
  let body = place.querySelector("tbody");
  if (body === null) {
    rowsById.clear();
    body = element("tbody");
    const heads = columns().map((name) => element("th", { scope: "col" }, name));
    place.replaceChildren(element("table", {}, element("thead", {}, element("tr", {}, ...heads)), body));
  }
  const nodes = found.map(({ row }) => {
    const made = rowsById.get(row.id) ?? makeRow(row.id);
    rowsById.set(row.id, made);
    say(made.head, row.name);
    figures(row).forEach(([, value, format, rank], at) => drawMark(made.cells[at], value, format, rank));
    drawAgents(made.cells.at(-1), row.agents);
    return made.node;
  });
  if (nodes.length !== body.children.length || nodes.some((node, at) => body.children[at] !== node)) body.replaceChildren(...nodes);
  return found;
}

function drawTotals(found) {
  const rows = found.map(({ row }) => row);
  const sum = (name) => rows.reduce((total, row) => total + (row[name] ?? 0), 0);
  const longest = Math.max(-1, ...rows.map((row) => waitSeconds(row) ?? -1));
  const facts = [
    ["Waiting", number.format(sum("waiting"))],
    ["Longest wait", longest < 0 ? "–" : clock(longest)],
    ["Interacting", number.format(sum("interacting"))],
    [rows.length === 1 ? "Queue" : "Queues", number.format(rows.length)],
  ];
  const key = JSON.stringify(facts);
  const list = byId("totals");
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  list.replaceChildren(
    ...facts.map(([name, value]) => {
      const figure = element("dd", {}, value);
      figure.style.setProperty("--characters", value.length);
      return element("div", {}, element("dt", {}, name), figure);
    }),
  );
}

function drawAttention(found) {
  const names = (rank) => found.filter((each) => each.rank === rank).map(({ row }) => row.name);
  const [alarms, warnings] = [names(2), names(1)];
  const listed = (all) => all.slice(0, 3).join(", ") + (all.length > 3 ? ` and ${all.length - 3} more` : "");
  const parts = [];
  if (alarms.length) parts.push(`${plural(alarms.length, "queue needs", "queues need")} help now: ${listed(alarms)}.`);
  if (warnings.length) parts.push(`${plural(warnings.length, "queue is", "queues are")} worth a look: ${listed(warnings)}.`);
  say(byId("attention"), parts.join(" "));
}

// ---- how old it is

function drawAge() {
  const seconds = age();
  if (seconds === null) {
    say(byId("age"), problem ? "No figures yet" : "Loading …");
    say(byId("old"), problem ? `The figures cannot be read: ${problem.detail}` : "");
    return;
  }
  document.body.classList.toggle("stale", isOld());
  say(byId("age"), `Figures of ${shown.observedAt.slice(11, 19)} UTC, ${Math.floor(seconds)} s old${delivery()}`);
  const reason = problem ? ` ${problem.detail}` : stream?.readyState === EventSource.OPEN ? "" : " The server cannot be reached.";
  // The number of seconds is beside it and counts; this text stays, so that it is announced once.
  say(byId("old"), isOld() ? `These figures are old: they are of ${shown.observedAt.slice(11, 19)} UTC.${reason}` : "");
}

function delivery() {
  const { mode, since } = shown.delivery;
  if (mode === "push") return "; the vendor reports each change";
  return mode === "polling" ? `; asked for twice a minute, because no changes are told since ${since.slice(11, 19)} UTC` : "";
}

function draw() {
  drawAge();
  if (shown === null) return;
  const found = drawRows();
  drawTotals(found);
  drawAttention(isOld() ? [] : found);
  const level = board.hasServiceLevel
    ? shown.serviceLevelAsOf === null
      ? "The service level of today is being fetched."
      : `Service level of today as of ${shown.serviceLevelAsOf.slice(11, 16)} UTC.`
    : "";
  say(byId("note"), shown.rows.length ? level : "No queue is known.");
}

// ---- the stream

async function follow() {
  stream?.close();
  stream = new EventSource(board.events);
  stream.addEventListener("board", (event) => {
    shown = JSON.parse(event.data);
    receivedAt = performance.now();
    draw();
  });
  stream.addEventListener("age", (event) => {
    Object.assign(shown, JSON.parse(event.data));
    receivedAt = performance.now();
    draw();
  });
  stream.addEventListener("problem", (event) => {
    const found = JSON.parse(event.data);
    problem = found.detail ? found : null;
    draw();
  });
  stream.addEventListener("error", () => {
    draw();
    // The browser itself connects again, but not after a refusal.
    if (stream.readyState === EventSource.CLOSED) setTimeout(start, RECONNECT_MS);
  });
}

function choose(boards) {
  const name = new URLSearchParams(location.search).get("board");
  board = boards.find((each) => each.name === name) ?? boards[0];
  say(byId("title"), board.description);
  document.title = `${board.name} · Live`;
  byId("choice").hidden = boards.length < 2;
  byId("boards").replaceChildren(...boards.map((each) => element("option", { value: each.name, selected: each === board }, each.name)));
}

async function start() {
  try {
    const answer = await fetch("/v1/live", { headers: { Accept: "application/json" } });
    if (answer.status === 401) return location.assign(`/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`);
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.detail);
    if (!found.boards.length) {
      say(byId("age"), "No board is declared, or this key may see none.");
      return;
    }
    choose(found.boards);
    await follow();
  } catch (error) {
    if (shown === null) say(byId("age"), `The server cannot be reached: ${error.message}`);
    setTimeout(start, RECONNECT_MS);
  }
}

byId("find").addEventListener("input", () => shown && draw());
byId("boards").addEventListener("change", (event) => location.assign(`/live?board=${encodeURIComponent(event.target.value)}`));
byId("sign-out").addEventListener("click", async () => {
  await fetch("/v1/session", { method: "DELETE" });
  location.assign("/sign-in?next=/live");
});
setInterval(() => board && draw(), 1000);
start();
