// Draws what /v1/status returns, every ten seconds while the page is visible.

const REFRESH_MS = 10_000;
const MAX_REPORTS_SHOWN = 8;
const MAX_AD_HOC_SHOWN = 20;
const number = new Intl.NumberFormat("en");

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// A name may break after each underscore, and nowhere else.
function breakable(name) {
  return name.split(/(?<=_)/).flatMap((part) => [part, element("wbr")]);
}

function show(id, ...children) {
  document.getElementById(id).replaceChildren(...children);
}

function instant(text) {
  return text === null ? "–" : `${text.slice(0, 10)} ${text.slice(11, 16)} UTC`;
}

function duration(seconds) {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86_400)} days`;
}

function plural(count, one, many) {
  return `${number.format(count)} ${count === 1 ? one : many}`;
}

function unreadable(status, part) {
  return element("p", { className: "unreadable" }, `Cannot be read: ${status.unavailable[part] ?? "no reason is known"}`);
}

// ---- what needs attention

function lackingDays(report) {
  return Object.entries(report.days)
    .filter(([, state]) => state === "missing" || state === "partial")
    .map(([day]) => day);
}

function attention(status) {
  const found = Object.entries(status.unavailable).map(([part, reason]) => `${part} cannot be read: ${reason}`);
  for (const report of status.reports ?? []) {
    const days = lackingDays(report);
    if (days.length)
      found.push(`${report.report} lacks ${plural(days.length, "day", "days")}, the first ${days[0]}: fetch them with a backfill in Dagster`);
    if (report.stale) found.push(`${report.report}: provisional figures are due to be fetched again`);
  }
  for (const client of status.quota?.clients ?? []) {
    if (client.throttledForSeconds > 0)
      found.push(`${client.client}: the vendor asked to wait for ${duration(client.throttledForSeconds)}`);
    else if (client.state === "refused") found.push(`${client.client}: the vendor refuses its login`);
  }
  for (const month of status.quota?.months ?? [])
    if (month.runsOutAt !== null)
      found.push(`${month.account}: at this pace the month's requests are used up on ${instant(month.runsOutAt)}`);
  if (status.workers !== null) {
    if (status.workers.alive === 0) found.push("no worker is running, so nothing that is missing is fetched for callers");
    if (status.workers.lost > 0) found.push(`${plural(status.workers.lost, "worker was", "workers were")} lost lately`);
  }
  return found;
}

function drawHeadline(status) {
  const found = attention(status);
  const panel = document.getElementById("headline");
  const text = found.join("\n");
  if (panel.dataset.text === text) return; // A screen reader announces only what has changed.
  panel.dataset.text = text;
  panel.className = found.length ? "attention" : "calm";
  if (!found.length) {
    panel.replaceChildren(element("p", {}, element("strong", {}, "Nothing needs attention."), " All past days are stored."));
    return;
  }
  const list = element("ul", {}, ...found.map((each) => element("li", {}, each)));
  panel.replaceChildren(element("p", {}, element("strong", {}, `${plural(found.length, "thing needs", "things need")} attention`)), list);
}

// ---- reports

function calendar(days) {
  const counts = {};
  for (const state of Object.values(days)) counts[state] = (counts[state] ?? 0) + 1;
  const summary = Object.entries(counts).map(([state, count]) => `${plural(count, "day", "days")} ${state}`);
  const squares = Object.entries(days).map(([day, state]) =>
    element("span", { className: `day ${state}`, title: `${day}: ${state}` }),
  );
  return element("div", { className: "calendar", role: "img", "aria-label": summary.join(", ") || "no days" }, ...squares);
}

function provisional(report, now) {
  if (report.fetchedAt === null) return "none";
  const age = `${duration((now - Date.parse(report.fetchedAt)) / 1000)} old`;
  return report.stale ? element("strong", { className: "bad" }, `${age}, due to be fetched again`) : age;
}

function drawReports(status) {
  if (status.reports === null) return show("reports", unreadable(status, "reports"));
  if (!status.reports.length) return show("reports", element("p", {}, "No report is declared."));
  const now = Date.parse(status.generatedAt);
  const days = status.reports.flatMap((report) => Object.keys(report.days)).sort();
  const heading = (text) => element("th", { scope: "col" }, text);
  const span = days.length ? `${days[0]} to ${days.at(-1)}` : "Days";
  const rows = status.reports.map((report) => {
    const lacking = lackingDays(report);
    const cell = (label, ...content) => element("td", { "data-label": label }, ...content);
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, ...breakable(report.report), element("small", {}, report.platform)),
      cell("Final until", instant(report.completeThrough)),
      cell("Provisional figures", provisional(report, now)),
      cell("Days missing", lacking.length ? element("strong", { className: "bad" }, String(lacking.length)) : "none"),
      cell(span, calendar(report.days)),
    );
  });
  const head = element("tr", {}, ...["Report", "Final until", "Provisional figures", "Days missing", span].map(heading));
  show("reports", element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
}

// ---- requests, quota, jobs

function bar(label, value, most, text) {
  const meter = element("div", { className: "bar", "aria-hidden": "true" }, element("i", {}));
  meter.firstChild.style.setProperty("width", `${most ? Math.min(100, (100 * value) / most) : 0}%`);
  return element("div", { className: "measure" }, element("span", {}, label), element("span", {}, text), meter);
}

function drawToday(status) {
  if (status.today === null) return show("today", unreadable(status, "today"));
  const { answered, vendorRequests, vendorRequestsByReport, byTier } = status.today;
  const figure = (value, text) => element("p", { className: "figure" }, element("strong", {}, number.format(value)), ` ${text}`);
  const saved = answered > vendorRequests ? Math.floor(100 * (1 - vendorRequests / answered)) : null;
  const spent = Object.entries(vendorRequestsByReport);
  const most = Math.max(1, ...spent.map(([, count]) => count));
  show(
    "today",
    figure(answered, `${answered === 1 ? "request" : "requests"} answered with figures`),
    figure(vendorRequests, `${vendorRequests === 1 ? "request" : "requests"} to the vendor for figures that are stored`),
    element(
      "p",
      {},
      saved === null
        ? "Since 00:00 UTC. Figures were stored for later readers."
        : `Since 00:00 UTC. Asking the vendor for each answer would have taken ${number.format(answered - vendorRequests)} more: ${saved} % are saved.`,
    ),
    ...Object.entries(byTier).map(([tier, count]) => bar(`answered: ${tier}`, count, answered, number.format(count))),
    ...spent.slice(0, MAX_REPORTS_SHOWN).map(([report, count]) => bar(`spent: ${report}`, count, most, number.format(count))),
  );
}

function drawQuota(status) {
  if (status.quota === null) return show("quota", unreadable(status, "quota"));
  const { clients, limits, months } = status.quota;
  if (!clients.length) return show("quota", element("p", {}, "No account is configured."));
  const ofClients = clients.flatMap((client) => [
    bar(
      `${client.client} (${client.account})`,
      client.used,
      client.limit,
      `${client.used} of ${client.limit} in ${duration(client.windowSeconds)}`,
    ),
    element(
      "p",
      { className: "lanes" },
      `${client.state}; may send now: `,
      Object.entries(client.remaining)
        .map(([lane, count]) => `${lane} ${count}`)
        .join(", "),
    ),
  ]);
  const shared = limits.map((each) => {
    const span = each.windowSeconds === null ? "at once" : `in ${duration(each.windowSeconds)}`;
    return bar(`${each.name}: ${each.counts} (${each.account})`, each.used, each.limit, `${each.used} of ${each.limit} ${span}`);
  });
  const ofMonths = months.flatMap((month) => [
    bar(
      `this month (${month.account})`,
      month.used,
      month.allotted,
      `${number.format(month.used)} of ${number.format(month.allotted)}`,
    ),
    element(
      "p",
      { className: month.runsOutAt === null ? "lanes" : "bad" },
      month.runsOutAt === null
        ? `at this pace ${number.format(month.expected)} by its end`
        : `at this pace used up on ${instant(month.runsOutAt)}`,
    ),
  ]);
  show("quota", ...ofClients, ...shared, ...ofMonths);
}

function drawJobs(status) {
  const facts = [];
  const add = (part, values) => {
    if (values === null) facts.push(unreadable(status, part));
    else for (const [name, count] of values) facts.push(element("div", {}, element("dt", {}, name), element("dd", {}, count)));
  };
  const counts = (values, suffix) => values && Object.entries(values).map(([name, count]) => [`${name} ${suffix}`, number.format(count)]);
  add("workers", counts(status.workers, "workers"));
  add("jobs", counts(status.jobs, "jobs"));
  add("oldestJobSeconds", status.oldestJobSeconds === null ? null : [["oldest waiting job", duration(status.oldestJobSeconds)]]);
  add("queries", counts(status.queries, "queries at the vendor"));
  show("jobs", element("dl", {}, ...facts));
}

function drawAdHoc(status) {
  if (status.adHocSeries === null) return show("ad-hoc", unreadable(status, "adHocSeries"));
  if (!status.adHocSeries.length) return show("ad-hoc", element("p", {}, "None."));
  const items = status.adHocSeries.slice(0, MAX_AD_HOC_SHOWN).map((each) =>
    element(
      "li",
      {},
      element("p", {}, element("strong", {}, each.name), ` ${plural(each.requests, "request", "requests")}, the last ${instant(each.lastRequestedAt)}`),
      element("p", {}, `${each.queryType} by ${each.groupBy.join(", ") || "nothing"}, ${each.granularity}, ${each.metrics.join(", ")}`),
      ...(each.isAskedOften ? [element("p", {}, "Worth a declaration: /v1/status has it.")] : []),
    ),
  );
  show("ad-hoc", element("ol", {}, ...items));
}

function drawFailures(status) {
  if (status.failedJobs === null) return show("failures", unreadable(status, "failedJobs"));
  if (!status.failedJobs.length) return show("failures", element("p", {}, "None within a day."));
  const items = status.failedJobs.map((job) =>
    element(
      "li",
      {},
      element("p", {}, element("strong", {}, job.report), ` ${instant(job.finishedAt)} · ${job.type.split(":").at(-1)}`),
      element("p", {}, job.detail),
    ),
  );
  show("failures", element("ol", {}, ...items));
}

// ---- the loop

async function refresh() {
  const asOf = document.getElementById("as-of");
  try {
    const answer = await fetch("/v1/status", { headers: { Accept: "application/json" } });
    if (answer.status === 401) return location.assign("/sign-in?next=/operations");
    const status = await answer.json();
    if (!answer.ok) throw new Error(status.detail);
    for (const draw of [drawHeadline, drawReports, drawToday, drawQuota, drawJobs, drawAdHoc, drawFailures]) draw(status);
    asOf.textContent = `As of ${status.generatedAt.slice(11, 19)} UTC`;
    asOf.dataset.shown = asOf.textContent;
    asOf.className = "";
  } catch (error) {
    const shown = asOf.dataset.shown;
    asOf.textContent = shown ? `${shown}; not refreshed since: ${error.message}` : error.message;
    asOf.className = "bad";
  }
}

async function keepFresh() {
  if (document.visibilityState === "visible") await refresh();
  setTimeout(keepFresh, REFRESH_MS);
}

document.getElementById("sign-out").addEventListener("click", async () => {
  await fetch("/v1/session", { method: "DELETE" });
  location.assign("/sign-in?next=/operations");
});
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && refresh());
keepFresh();
