// The page of one device: asks the local API with the token that it was opened with, and shows what it says.

import { WORDS } from "./words.js";
import * as parts from "./parts.js";

const CAPS = ["epsilon_per_round", "epsilon_per_period", "epsilon_lifetime"];
const KINDS = ["view", "purchase", "rating", "dwell", "not_interested"];
const at = (id) => document.getElementById(id);
const shown = {}; // the last answers, so that another language needs no new questions
let words = WORDS[preferred()];
let token = takeToken();

function preferred() {
  const asked = new URLSearchParams(location.search).get("lang") ?? sessionStorage.getItem("language") ?? navigator.language;
  return asked.startsWith("zh") ? "zh" : "en";
}

// The token comes behind the "#", which a browser sends to nobody, and leaves the address bar at once.
function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return given ?? sessionStorage.getItem("token") ?? "";
}

class Refused extends Error {
  constructor(status, reason) {
    super(reason);
    this.status = status;
  }
}

async function call(method, path, body) {
  const headers = { Authorization: `Bearer ${token}`, ...(body && { "Content-Type": "application/json" }) };
  let answer;
  try {
    answer = await fetch(`/v1/${path}`, { method, headers, body: body && JSON.stringify(body) });
  } catch {
    throw new Refused(0, words.unreachable);
  }
  if (!answer.ok) throw new Refused(answer.status, (await answer.json().catch(() => ({}))).error ?? `HTTP ${answer.status}`);
  return answer;
}

const ask = async (path) => (await call("GET", path)).json();
const tell = async (method, path, body) => (await call(method, path, body)).json();

function complain(error, place = at("problem")) {
  if (error.status === 401) return enter(token !== "");
  place.textContent = error.message;
  place.hidden = false;
}

function announce(text) {
  at("said").textContent = text;
}

function enter(wrong) {
  at("whole").hidden = true;
  at("entry").hidden = false;
  at("problem").hidden = !wrong;
  at("problem").textContent = words.entry_wrong;
  at("token").focus();
}

// --- showing

function label() {
  document.documentElement.lang = words.code;
  document.title = words.eyebrow;
  for (const place of document.querySelectorAll("[data-word]")) place.textContent = words[place.dataset.word];
  at("language").textContent = words.other;
  at("language").lang = words.otherCode;
  at("sections").setAttribute("aria-label", words.title);
}

function showStanding({ status, left, budget }) {
  const { taking_part: on, stored } = status;
  const life = budget.caps.at(-1);
  const last = left.released[0];
  at("standing").classList.toggle("on", on);
  at("h-standing").textContent = on ? words.on : words.off;
  at("standing-sentence").textContent = (on ? words.on_sentence : words.off_sentence)(stored.events);
  if (budget.why_not) at("standing-sentence").append(" ", words.no_consent, " ", budget.why_not);
  const spent = parts.epsilon(life.epsilon, words);
  at("standing-facts").replaceChildren(
    parts.fact(words.events, stored.events.toLocaleString(words.code)),
    parts.fact(words.releases, left.released.length.toLocaleString(words.code)),
    parts.fact(words.last_left, last ? parts.dayOf(last.day, words) : words.never),
    parts.fact(words.spent, [life.cap === null ? spent : words.of(spent, life.cap), ...parts.terms(budget, words)]),
  );
  at("switch").textContent = on ? words.switch_off : words.switch_on;
  at("switch").className = on ? "" : "plain";
}

function showStored({ status: { stored } }) {
  const kinds = Object.entries(stored.by_kind).filter(([, count]) => count);
  at("stored-facts").replaceChildren(
    ...kinds.map(([kind, count]) => parts.fact(words[`kind_${kind}`] ?? kind, count.toLocaleString(words.code))),
    parts.fact(words.oldest, parts.moment(stored.oldest, words)),
    parts.fact(words.newest, parts.moment(stored.newest, words)),
    parts.fact(words.size, parts.size(stored.bytes, words)),
  );
}

function showOffers({ answer: { offers, why }, status: { device } }) {
  at("you-why").textContent = words.code === "en" ? why : offers.length ? words[`why_${offers[0].source}`] : words.no_offers;
  if (device.trouble) at("you-why").append(" ", words.trouble, " ", device.trouble);
  at("offers").replaceChildren(...offers.map(offerLine));
}

function offerLine(offer, place) {
  const why = parts.element("div", { className: "why", id: `why-${place}`, hidden: true });
  const asking = parts.element("button", {
    type: "button", className: "plain", "aria-expanded": "false", "aria-controls": why.id,
  }, words.why);
  const refusing = parts.element("button", { type: "button", className: "plain" }, words.not_for_me);
  for (const button of [asking, refusing]) button.setAttribute("aria-label", `${button.textContent} ${offer.title}`);
  asking.addEventListener("click", () => explain(offer, asking, why).catch(complain));
  refusing.addEventListener("click", () => turnDown(offer, refusing).catch(complain));
  const about = parts.element("div", { className: "about" }, `${offer.categories.join(", ")} `,
    parts.element("span", { className: "badge" }, words[`source_${offer.source}`]));
  const what = parts.element("div", {}, parts.element("div", { className: "title" }, offer.title), about);
  return parts.element("li", {}, what, parts.element("div", { className: "acts" }, asking, refusing), why);
}

function showLeft({ left, budget }) {
  at("released").replaceChildren(...parts.releasedTable(left.released, budget, words));
  at("refused").replaceChildren(...parts.declinedTable(left.declined, words));
}

function showBudget({ budget }) {
  at("caps").replaceChildren(...parts.capBars(budget, words));
  at("covers").replaceChildren(...parts.covered(budget, words));
}

function showConsent({ consent: { consent } }) {
  at("consent").hidden = at("clauses").parentElement.hidden = consent === null;
  if (consent === null) return;
  at("kinds").replaceChildren(...KINDS.map((kind) => parts.element("label", { className: "choice" },
    parts.element("input", { type: "checkbox", name: kind, checked: consent.behaviour.includes(kind) }),
    words[`kind_${kind}`])));
  at("numbers").replaceChildren(...CAPS.map((name) => {
    const text = typeof words[name] === "function" ? words[name](consent.period_days) : words[name];
    const input = parts.element("input", { type: "number", name, min: "0.01", max: "1000", step: "any", value: consent[name] });
    return parts.element("label", {}, text, input);
  }));
  at("clauses").replaceChildren(parts.clauseTable(consent, words));
}

function showAll() {
  label();
  if (!shown.status) return;
  for (const show of [showStanding, showStored, showOffers, showLeft, showBudget, showConsent]) show(shown);
}

async function look() {
  const names = ["status", "left", "budget", "consent", "answer"];
  const answers = await Promise.all([...names.slice(0, 4), "recommendations?k=10"].map(ask));
  names.forEach((name, place) => { shown[name] = answers[place]; });
  at("problem").hidden = at("entry").hidden = true;
  at("whole").hidden = false;
  showAll();
}

// --- doing

async function explain(offer, button, place) {
  const open = place.hidden;
  if (open) place.replaceChildren(...parts.reasons(await ask(`items/${encodeURIComponent(offer.id)}/explanation`), offer.source, words));
  place.hidden = !open;
  button.setAttribute("aria-expanded", String(open));
  button.textContent = open ? words.hide : words.why;
  button.setAttribute("aria-label", `${button.textContent} ${offer.title}`);
}

async function turnDown(offer, button) {
  button.disabled = true;
  await tell("POST", "events", { events: [{ item: offer.id, kind: "not_interested" }] });
  await look();
  announce(words.turned_down(offer.title));
  at("offers").querySelector("button")?.focus();
}

async function toggle() {
  const on = shown.status.taking_part;
  await tell("PUT", "consent", { enabled: !on });
  await look();
  announce(on ? words.switched_off : words.switched_on);
}

async function save(form) {
  const data = new FormData(form);
  const changes = { behaviour: KINDS.filter((kind) => data.has(kind)) };
  for (const name of CAPS) changes[name] = Number(data.get(name));
  at("consent-problem").hidden = true;
  await tell("PUT", "consent", changes);
  await look();
  at("saved").textContent = words.saved;
}

async function download() {
  const content = await (await call("GET", "export")).blob();
  const link = parts.element("a", { href: URL.createObjectURL(content), download: "fedrecall-export.json" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  announce(words.downloaded);
}

function chosen() {
  if (at("oblivion").elements.what.value === "everything")
    return { request: { everything: true }, text: words.sure_everything(shown.status.stored.events) };
  const day = at("before").valueAsDate;
  return day && { request: { before: day.getTime() / 1000 }, text: words.sure_before(parts.dayOf(at("before").value, words)) };
}

function confirmed(text) {
  const dialog = at("sure");
  at("sure-what").textContent = text;
  dialog.returnValue = "";
  dialog.showModal();
  // One handler, and deaf while a question stands: the late "close" of an earlier one is no answer to this one.
  return new Promise((done) => { dialog.onclose = () => { if (!dialog.open) done(dialog.returnValue === "yes"); }; });
}

async function forget() {
  const choice = chosen();
  at("before").setAttribute("aria-invalid", String(!choice));
  if (!choice) return at("before").focus();
  if (!(await confirmed(choice.text))) return;
  const done = await tell("POST", "forget", choice.request);
  await look();
  at("proof").replaceChildren(...parts.proofOf(done, words));
  at("proof").hidden = false;
  at("proof").focus();
}

// --- listening

function on(id, kind, act, place) {
  at(id).addEventListener(kind, (event) => {
    event.preventDefault();
    Promise.resolve(act(event.currentTarget)).catch((error) => complain(error, place));
  });
}

on("language", "click", () => {
  words = WORDS[words === WORDS.en ? "zh" : "en"];
  sessionStorage.setItem("language", words.code);
  history.replaceState(null, "", location.pathname); // a language that the address asked for gives way
  showAll();
});
on("entry", "submit", () => {
  token = at("token").value.trim();
  sessionStorage.setItem("token", token);
  return look();
});
on("switch", "click", toggle);
on("download", "click", download);
on("consent", "submit", save, at("consent-problem"));
on("oblivion", "submit", forget);
at("oblivion").addEventListener("change", () => { at("before-field").hidden = at("oblivion").elements.what.value !== "before"; });

label();
if (token) look().catch(complain);
else enter(false);
