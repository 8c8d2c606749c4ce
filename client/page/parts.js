// What the page shows, as elements. Texts are set as text, never as markup: a title from a catalogue is nobody's code.

export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

// Upper bounds are rounded up: to two decimals, never down.
export const epsilon = (value, words) => (value === null ? words.unbounded : (Math.ceil(value * 100) / 100).toFixed(2));

export const moment = (seconds, words) =>
  seconds === null ? words.none : new Date(seconds * 1000).toLocaleDateString(words.code, { dateStyle: "medium" });

export const dayOf = (text, words) =>
  text ? new Date(`${text}T00:00:00Z`).toLocaleDateString(words.code, { dateStyle: "medium", timeZone: "UTC" }) : "—";

export function size(bytes, words) {
  const [scale, unit] = bytes < 1e6 ? [1e3, "kilobyte"] : [1e6, "megabyte"];
  return new Intl.NumberFormat(words.code, { style: "unit", unit, maximumFractionDigits: 1 }).format(bytes / scale);
}

export const fact = (name, value) => element("div", {}, element("dt", {}, name), element("dd", {}, ...[value].flat()));

// On a narrow screen each row stands as a block, each cell under its own head; roles keep it a table for a reader.
function table(label, heads, rows) {
  const head = heads.map(([text, kind]) => element("th", { scope: "col", role: "columnheader", className: kind }, text));
  const body = rows.map((cells) =>
    element("tr", { role: "row" }, ...cells.map((cell, at) =>
      element("td", { role: "cell", className: heads[at][1], "data-head": heads[at][0] }, element("span", {}, ...[cell].flat())))),
  );
  return element("table", { role: "table", "aria-label": label },
    element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...head)),
    element("tbody", { role: "rowgroup" }, ...body));
}

const SHOWN = 20; // rows; the download holds all of them

function rest(count, words) {
  return count > SHOWN ? [element("p", { className: "soft" }, words.more(count - SHOWN))] : [];
}

const deltaOf = (budget) => budget.delta.toExponential().replace("e-", "e−");

// What an epsilon means nothing without; nothing where nothing has left.
export function terms(budget, words) {
  if (!budget.runs.length) return [];
  const all = ["unit", "adjacency", "trust"].map((name) => [...new Set(budget.runs.map((run) => run[name]))].join("/"));
  return [element("p", { className: "soft" }, words.terms(...all, deltaOf(budget), budget.accountant.split(";")[0]))];
}

export function releasedTable(released, budget, words) {
  if (!released.length) return [element("p", { className: "soft" }, words.nothing_left)];
  const heads = [[words.day, "nowrap"], [words.what, ""], [words.task, "nowrap"], [words.cost, "n"]];
  const rows = released.slice(0, SHOWN).map((one) => [
    dayOf(one.day, words),
    [
      words[`release_${one.release}`] ?? one.release,
      ...(one.noise === "seeded" ? [" ", element("span", { className: "badge bad" }, words.seeded)] : []),
      ...(one.sealed ? [] : [" ", element("span", { className: "badge" }, words.unsent)]),
    ],
    `${one.run}, ${one.round}`,
    epsilon(one.epsilon, words),
  ]);
  return [table(words.left, heads, rows), ...rest(released.length, words), element("p", { className: "soft" }, words.alone), ...terms(budget, words)];
}

export function declinedTable(declined, words) {
  if (!declined.length) return [element("p", { className: "soft" }, words.nothing_declined)];
  const heads = [[words.when, "nowrap"], [words.what, ""], [words.reason, "text"]];
  const rows = declined.slice(0, SHOWN).map((one) => [
    dayOf(one.since, words),
    one.release ? words[`release_${one.release}`] ?? one.release : words.release_none,
    element("span", { lang: "en" }, one.clause),
  ]);
  return [table(words.declined, heads, rows), ...rest(declined.length, words)];
}

export function capBars(budget, words) {
  const bars = budget.caps.map((cap) => {
    const name = words[`span_${cap.span}`];
    const title = typeof name === "function" ? name(budget.period_days) : name;
    const value = epsilon(cap.epsilon, words);
    const said = cap.epsilon === null ? value : cap.cap === null ? words.spent_only(value) : words.spent_of(value, cap.cap);
    const share = cap.epsilon === null ? 1 : cap.cap === null ? 0 : Math.min(1, cap.epsilon / cap.cap);
    const bar = element("div");
    bar.style.width = `${share * 100}%`;
    const meter = element("div", {
      className: cap.epsilon === null ? "meter full" : "meter", role: "meter", "aria-label": title,
      "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(share * 100), "aria-valuetext": said,
    }, bar);
    return element("div", { className: "cap" }, element("p", {}, element("span", {}, title), element("strong", {}, said)), meter);
  });
  return [...bars, ...terms(budget, words)];
}

function promise(run, words) {
  if (run.epsilon === null) return [words.no_privacy];
  const unit = words.unit(words[`unit_${run.unit}`], run.adjacency);
  if (run.trust !== "distributed") return [unit, words[`trust_${run.trust}`]];
  return [unit, words.trust_distributed(run.colluders, run.smallest_cohort, epsilon(run.if_others_collude, words))];
}

export function covered(budget, words) {
  if (!budget.runs.length) return [element("p", { className: "soft" }, words.nothing_spent)];
  const made = [element("h3", {}, words.covers)];
  for (const run of budget.runs) {
    const used = Object.entries(run.used).map(([kind, [count, most]]) =>
      element("li", {}, words.pair(words[`release_${kind}`] ?? kind, words.of(count, most))));
    made.push(
      element("p", {}, element("strong", {}, words.pair(words.of_run(run.run), words.spent_only(epsilon(run.epsilon, words))))),
      element("ul", {},
        ...promise(run, words).map((text) => element("li", {}, text)),
        element("li", {}, words.participations, element("ul", {}, ...used))),
    );
  }
  made.push(element("p", {}, words.delta(deltaOf(budget)), " ", words.accountant(budget.accountant)), element("p", {}, words.uncovered));
  return made;
}

function effects(pairs, intro, words) {
  if (!pairs.length) return [];
  const lines = pairs.map(([title, effect]) => element("li", {}, `${title} (${words.logits(Math.abs(effect).toFixed(2))})`));
  return [element("p", {}, intro), element("ul", {}, ...lines)];
}

const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}${/[.。]$/.test(text) ? "" : "."}`;

export function reasons(said, source, words) {
  const english = words.code === "en";
  const sentences = english && said.sentences.length ? said.sentences.map(sentence) : [words[`why_${source}`] ?? words[`source_${source}`]];
  const parts = Object.entries(said.parts).map(([name, value]) => `${name} ${value.toFixed(2)}`).join(" + ");
  return [
    ...sentences.map((text) => element("p", {}, text)),
    ...effects(said.because, words.lower, words),
    ...effects(said.despite, words.higher, words),
    ...(parts ? [element("p", { className: "soft" }, words.pair(words.parts, `${parts} = ${words.logits(said.score.toFixed(2))}`))] : []),
    ...(said.policy_version === null ? [] : [element("p", { className: "soft" }, words.policy(said.policy_version))]),
  ];
}

export function proofOf({ number, forgotten: done }, words) {
  if (!done.events) return [element("p", { className: "notice" }, words.proof_nothing)];
  return [
    element("h3", {}, words.proof),
    element("p", { className: "notice good" }, words.proof_lead(number)),
    element("dl", { className: "facts" }, ...Object.entries(done).map(([name, value]) =>
      fact(words[`proof_${name}`] ?? name, value.toLocaleString(words.code)))),
  ];
}

export function clauseTable(consent, words) {
  const rows = Object.entries(consent).map(([name, value]) => [element("code", {}, name), JSON.stringify(value)]);
  return table(words.clauses, [[words.clause, ""], [words.value, "text"]], rows);
}
