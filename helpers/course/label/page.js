"use strict";
// What anybody wrote is put into the page as text, never as markup.
const $ = id => document.getElementById(id);
const token = location.hash.slice(1);
let annotator = sessionStorage.getItem("annotator") || "";
let item = null;
let busy = false;

async function ask(path, body) {
  const options = { headers: { "X-Token": token } };
  if (body) {
    options.method = "POST";
    options.headers["X-Label"] = "1";
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let reply;
  try {
    reply = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Your last answer is not stored yet: start it again, then choose once more.");
  }
  const found = await reply.json();
  if (!reply.ok) throw new Error(found.error);
  return found;
}

function show(pair) {
  item = pair;
  $("pair").hidden = !pair;
  $("done").hidden = Boolean(pair);
  if (!pair) return;
  for (const part of ["prompt", "left", "right"]) $(part).textContent = pair[part];
  for (const side of ["left", "right"])
    $(side).parentElement.classList.toggle("chosen", pair.choice === side || pair.choice === "tie");
  window.scrollTo(0, 0);
}

function state(found) {
  show(found.item);
  $("progress").textContent = `${found.done} of ${found.of}`;
  const facts = [];
  if (found.agreement)
    facts.push(`agreement of all raters: alpha ${found.agreement.alpha.toFixed(2)} on ${found.agreement.pairs} pairs`);
  if (found.gold && !found.item)
    facts.push(`test questions: ${found.gold.right} of ${found.gold.of} as known`);
  $("facts").textContent = facts.join(" · ");
  $("export").hidden = false;
}

async function act(what) {
  if (busy) return;
  busy = true;
  $("error").textContent = "";
  try {
    await what();
  } catch (error) {
    $("error").textContent = error.message;
  } finally {
    busy = false;
  }
}

const next = () => ask(`api/next?annotator=${encodeURIComponent(annotator)}`).then(found => {
  $("who").hidden = true;
  state(found);
});
const choose = choice => act(async () => {
  if (item) state(await ask("api/answer", { annotator, item: item.id, choice }));
});
const back = () => act(async () => {
  const found = await ask(`api/last?annotator=${encodeURIComponent(annotator)}`);
  if (found.item) show(found.item);
});

$("who").addEventListener("submit", event => {
  event.preventDefault();
  annotator = $("name").value;
  act(async () => {
    await next();
    sessionStorage.setItem("annotator", annotator);
  });
});
for (const button of document.querySelectorAll("[data-choice]"))
  button.addEventListener("click", () => choose(button.dataset.choice));
$("back").addEventListener("click", back);
$("export").addEventListener("click", () => act(async () => {
  const reply = await fetch("api/export", { headers: { "X-Token": token } });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await reply.blob());
  link.download = "answers.csv";
  link.click();
}));
document.addEventListener("keydown", event => {
  if (!annotator || !$("who").hidden || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const choice = { 1: "left", 2: "right", 0: "tie", ArrowLeft: "left", ArrowRight: "right" }[event.key];
  if (choice) {
    event.preventDefault();
    choose(choice);
  } else if (event.key.toLowerCase() === "u") back();
});
if (annotator) act(next);
