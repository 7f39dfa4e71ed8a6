// The page of a hosted application. What people and models write becomes text nodes, never HTML.
const $ = id => document.getElementById(id);
const LIMIT = Number(document.body.dataset.limit), REMEMBERS = document.body.dataset.history === "yes";
const HINT = $("hint").textContent, CONVERSATION = crypto.randomUUID?.() ?? String(Math.random()).slice(2);
const messages = []; // the conversation so far, for applications that want it
let underway = null; // the AbortController of the answer that is coming

// characters that turn the direction of what follows could make a text read as what it is not
const plain = text => text.replace(/[\u202a-\u202e\u2066-\u2069]/g, "\ufffd");

function make(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = plain(text);
  if (className) made.className = className;
  return made;
}

// ---- talking to the server

class Refused extends Error {
  constructor(status, problem) {
    super(problem?.message ?? `The server answered ${status}.`);
    Object.assign(this, { status, next: problem?.next_step, trace: problem?.trace_id });
  }
}

async function post(path, body, signal) {
  const headers = { "Content-Type": "application/json" }, key = sessionStorage.getItem("key");
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, { message: "The server cannot be reached.", next_step: "Check the connection and try again." });
  }
  if (!response.ok) throw new Refused(response.status, (await response.json().catch(() => ({}))).error);
  return response;
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (waiting + value).split("\n\n");
    waiting = parts.pop();
    for (const part of parts) {
      const lines = part.split("\n"), name = lines.find(line => line.startsWith("event: ")), data = lines.find(line => line.startsWith("data: "));
      if (name && data) yield [name.slice(7), JSON.parse(data.slice(6))];
    }
  }
}

// ---- one question and its answer

const atEnd = () => window.innerHeight + window.scrollY > document.documentElement.scrollHeight - 80;
const toEnd = () => window.scrollTo({ top: document.documentElement.scrollHeight });
const say = text => { $("status").textContent = text; };

async function ask(question) {
  const turn = $("turn").content.firstElementChild.cloneNode(true), find = name => turn.querySelector(name);
  find(".asked").textContent = question;
  $("examples").hidden = true;
  $("conversation").append(turn);
  toEnd();
  underway = new AbortController();
  busy(true);
  const draft = find(".text").appendChild(document.createTextNode(""));
  try {
    const body = { question, stream: true, conversation: CONVERSATION };
    if (REMEMBERS) body.messages = [...messages.slice(-20), { role: "user", content: question }];
    const answer = await read(await post("api/chat", body, underway.signal), piece => {
      const follow = atEnd();
      draft.appendData(plain(piece));
      if (follow) toEnd();
    }, find(".waiting"));
    finish(turn, answer);
    messages.push({ role: "user", content: question }, { role: "assistant", content: answer.text });
  } catch (error) {
    refuse(turn, error, question);
  }
  find(".waiting").remove();
  find(".answer").removeAttribute("aria-busy");
  underway = null;
  busy(false);
}

async function read(response, hear, waiting) {
  for await (const [name, data] of events(response)) {
    if (name === "text") { waiting.hidden = true; hear(data.text); }
    if (name === "done") return data;
    if (name === "error") throw new Refused(0, data.error);
  }
  throw new Refused(0, { message: "The answer broke off.", next_step: "Try again." });
}

function busy(is) {
  $("send").hidden = is;
  $("stop").hidden = !is;
  say(is ? "Looking for an answer" : "");
}

function finish(turn, answer) {
  const follow = atEnd(), find = name => turn.querySelector(name);
  find(".text").replaceChildren(...written(answer.text, answer.sources.length, turn));
  find(".after").hidden = false;
  sources(turn, answer);
  feedback(turn, answer);
  find(".copy").onclick = async () => {
    await navigator.clipboard.writeText(answer.text).then(() => { find(".noted").textContent = "Copied"; }, () => { find(".noted").textContent = "This browser does not let the page copy"; });
  };
  if (follow) toEnd();
}

function refuse(turn, error, question) {
  const stopped = error.name === "AbortError", box = make("div", undefined, "refused");
  box.append(make("b", stopped ? "Stopped." : error.message));
  if (!stopped && error.next) box.append(` ${error.next}`);
  const again = make("button", "Ask again", "quiet");
  again.type = "button";
  again.onclick = () => { turn.remove(); submit(question); };
  box.append(make("br"), again);
  if (error.trace) box.append(make("small", `For the people who run this: trace ${error.trace}`));
  turn.querySelector(".answer").append(box);
  if (error.status === 401) access(question, turn);
}

// text with its code blocks, and its citations as links to the sources; everything else as it is
function written(text, count, turn) {
  return text.split(/^```[^\n]*\n([\s\S]*?)^```[ \t]*$\n?/m).flatMap((part, place) => place % 2 ? [make("pre", part.replace(/\n$/, ""))] : cited(part, count, turn));
}

function cited(text, count, turn) {
  return text.split(/\[(\d+)\]/).map((part, place) => {
    if (place % 2 === 0 || part < 1 || part > count) return document.createTextNode(place % 2 ? `[${part}]` : plain(part));
    const link = make("a", `[${part}]`);
    link.href = "#";
    link.setAttribute("aria-label", `source ${part}`);
    link.onclick = event => {
      event.preventDefault();
      const all = turn.querySelector(".sources"), one = all.querySelectorAll("li > details")[part - 1];
      all.open = one.open = true;
      one.querySelector("summary").focus({ preventScroll: true });
      one.scrollIntoView({ block: "nearest" });
    };
    return link;
  });
}

function sources(turn, answer) {
  const box = turn.querySelector(".sources"), used = new Set(answer.text.match(/(?<=\[)\d+(?=\])/g));
  box.hidden = !answer.sources.length;
  box.querySelector("summary").textContent = answer.sources.length === 1 ? "1 source" : `${answer.sources.length} sources`;
  box.querySelector("ol").replaceChildren(...answer.sources.map(source => {
    const item = make("li"), one = make("details"), head = make("summary"), quoted = used.has(String(source.number));
    head.append(make("span", `[${source.number}]`, "number"), make("span", source.id, "name"), make("span", quoted ? "cited" : "", "used"));
    one.append(head, make("div", source.text, "passage"));
    one.querySelector(".passage").tabIndex = 0;
    item.className = quoted ? "cited" : "";
    item.append(one);
    return item;
  }));
}

function feedback(turn, answer) {
  const find = name => turn.querySelector(name), comment = find(".comment"), field = comment.querySelector("input");
  let value = null;
  const send = async said => {
    find(".noted").textContent = "";
    try {
      await post("api/feedback", { trace_id: answer.trace_id, value, comment: field.value.trim() });
      find(".noted").textContent = said;
      return true;
    } catch (error) {
      find(".noted").textContent = `Not saved. ${error.message}`;
      return false;
    }
  };
  for (const [name, meaning] of [[".yes", 1], [".no", 0]]) {
    find(name).onclick = async () => {
      value = meaning;
      for (const other of [".yes", ".no"]) find(other).setAttribute("aria-pressed", String(other === name));
      comment.hidden = false;
      comment.scrollIntoView({ block: "nearest" });
      if (!await send("Thank you")) for (const other of [".yes", ".no"]) find(other).setAttribute("aria-pressed", "false");
    };
  }
  comment.onsubmit = async event => {
    event.preventDefault();
    if (await send("Thank you for the comment")) { comment.hidden = true; find(value ? ".yes" : ".no").focus(); }
  };
}

// ---- the form

function submit(question) {
  if (underway || !question.trim() || question.length > LIMIT) return;
  ask(question.trim());
}

function access(question, turn) {
  $("ask").hidden = true;
  $("access").hidden = false;
  $("key").focus();
  $("access").onsubmit = event => {
    event.preventDefault();
    sessionStorage.setItem("key", $("key").value);
    $("access").hidden = true;
    $("ask").hidden = false;
    turn.remove();
    $("question").focus();
    submit(question);
  };
}

function grow() {
  const field = $("question"), left = LIMIT - field.value.length;
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + 2}px`;
  $("send").disabled = left < 0;
  $("hint").classList.toggle("over", left < 0);
  $("hint").textContent = left < 0 ? `${-left} characters too long` : left < LIMIT / 10 ? `${left} characters left` : HINT;
}

$("question").addEventListener("input", grow);
$("question").addEventListener("keydown", event => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); $("ask").requestSubmit(); }
});
$("ask").addEventListener("submit", event => {
  event.preventDefault();
  if (underway || $("question").value.length > LIMIT) return;
  submit($("question").value);
  $("question").value = "";
  grow();
});
$("stop").addEventListener("click", () => { underway?.abort(); $("question").focus(); });
document.addEventListener("keydown", event => { if (event.key === "Escape" && underway) { underway.abort(); $("question").focus(); } });
for (const example of document.querySelectorAll("#examples button")) example.addEventListener("click", () => { submit(example.textContent); $("question").focus(); });
$("question").focus();
