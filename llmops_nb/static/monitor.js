// A monitor's live view. The kernel sends each part of the page as HTML it has already made harmless; this puts a part in place when it
// changed, keeps what the reader has open, and adds the choice of window and the flag.

const ORDER = ["head", "figures", "charts", "alerts", "scores", "drift", "new", "groups", "notable"];
const HELP = "Tab: next control. ←/→: another window. Enter: open a request. Escape: close it.";

const parsed = (html) => Object.assign(make("template"), { innerHTML: html }).content;

/** The requests worth a look: those already on the page stay as they are, so that what is open and focused remains so. */
function mergeRequests(section, html) {
  const next = parsed(html);
  const list = section.querySelector(".ops-notables");
  const wanted = next.querySelector(".ops-notables");
  if (!list || !wanted) return section.replaceChildren(next);
  const known = new Map([...list.children].map((row) => [row.dataset.trace, row]));
  for (const row of [...wanted.children]) {
    const old = known.get(row.dataset.trace);
    if (!old) continue;
    const [was, is] = [old.querySelector("summary"), row.querySelector("summary")];
    if (was.innerHTML !== is.innerHTML) was.innerHTML = is.innerHTML;
    row.replaceWith(old);
  }
  const focused = list.contains(document.activeElement) ? document.activeElement : null;
  list.replaceChildren(...wanted.children);
  focused?.focus({ preventScroll: true });
}

/** A part of the page; what was open in it stays open. */
function replacePart(section, html) {
  const open = [...section.querySelectorAll("details")].map((details) => details.open);
  section.replaceChildren(parsed(html));
  section.querySelectorAll("details").forEach((details, place) => { details.open = open[place] ?? details.open; });
}

function windowChoice(model) {
  const group = make("span", { class: "ops-windows", role: "radiogroup", "aria-label": "Window of time" });
  const choose = (name) => { model.set("window", name); model.save_changes(); };
  const draw = () => {
    const held = group.contains(document.activeElement);
    group.replaceChildren(...model.get("windows").map((name) => {
      const chosen = name === model.get("window");
      return make("button", { type: "button", role: "radio", "aria-checked": `${chosen}`, tabindex: chosen ? "0" : "-1", click: () => choose(name) }, name);
    }));
    if (held) group.querySelector('[aria-checked="true"]')?.focus();
  };
  group.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const names = model.get("windows");
    choose(names[(names.indexOf(model.get("window")) + step + names.length) % names.length]);
    event.preventDefault();
    event.stopPropagation();
  });
  model.on("change:window change:windows", draw);
  draw();
  return group;
}

function flagForm(model, row) {
  const reason = make("input", { type: "text", placeholder: "What is wrong with it?", "aria-label": "Reason" });
  const send = make("button", { type: "button" }, "Flag");
  const done = make("span", { class: "ops-small", role: "status" });
  const flag = () => {
    model.send({ trace_id: row.dataset.trace, reason: reason.value });
    done.textContent = "✓ flagged";
  };
  send.addEventListener("click", flag);
  reason.addEventListener("keydown", (event) => {
    if (event.key === "Enter") flag();
    if (event.key !== "Escape" && event.key !== "Tab") event.stopPropagation(); // letters are text here, not the notebook's shortcuts
  });
  return make("div", { class: "ops-flagging" }, reason, send, done);
}

function render({ model, el }) {
  const status = make("span", { class: "ops-small" });
  const help = make("span", { class: "ops-small", hidden: true }, HELP);
  const body = make("div");
  const root = make("div", { class: "ops-view ops-monitor tex2jax_ignore mathjax_ignore", role: "region", "aria-label": "Monitor" },
    parsed(model.get("style_html")), make("div", { class: "ops-bar-top" }, windowChoice(model), status, help), body);
  const drawn = {};

  const drawParts = () => {
    const parts = model.get("parts");
    for (const name of ORDER) {
      let section = body.querySelector(`:scope > [data-part="${name}"]`);
      if (!(name in parts)) { section?.remove(); delete drawn[name]; continue; }
      if (!section) {
        section = make("section", { "data-part": name });
        const after = ORDER.slice(ORDER.indexOf(name) + 1).map((later) => body.querySelector(`:scope > [data-part="${later}"]`)).find(Boolean);
        body.insertBefore(section, after ?? null);
      }
      if (drawn[name] !== parts[name]) name === "notable" ? mergeRequests(section, parts[name]) : replacePart(section, parts[name]);
      drawn[name] = parts[name];
    }
  };
  const drawSteps = () => {
    const { trace_id, html } = model.get("steps");
    const row = trace_id && body.querySelector(`[data-trace="${CSS.escape(trace_id)}"]`);
    row?.querySelector(".ops-steps").replaceChildren(parsed(html));
  };
  const drawStatus = () => { status.textContent = model.get("status"); };

  body.addEventListener("toggle", (event) => {
    const row = event.target;
    if (!row.matches?.(".ops-notable") || !row.open) return;
    if (!row.querySelector(".ops-flagging")) row.querySelector(".ops-steps").before(flagForm(model, row));
    model.set("selection", row.dataset.trace);
    model.save_changes();
  }, true);
  root.addEventListener("keydown", (event) => {
    if (event.key === "?") { help.hidden = !help.hidden; event.stopPropagation(); }
    const open = event.key === "Escape" && event.target.closest?.(".ops-notable[open]");
    if (open) {
      open.open = false;
      open.querySelector("summary").focus();
      event.stopPropagation();
    }
    if (["ArrowDown", "ArrowUp"].includes(event.key) && event.target.matches?.(".ops-notable > summary")) {
      const row = event.target.parentElement;
      const next = event.key === "ArrowDown" ? row.nextElementSibling : row.previousElementSibling;
      next?.querySelector("summary").focus();
      event.preventDefault();
      event.stopPropagation();
    }
    if (["Enter", " "].includes(event.key) && event.target.matches?.("summary, button")) event.stopPropagation();
  });
  const drawAll = () => { drawParts(); drawSteps(); };
  const heard = [["change:parts", drawAll], ["change:steps", drawSteps], ["change:status", drawStatus]];
  for (const [event, draw] of heard) model.on(event, draw);
  drawAll();
  drawStatus();
  el.classList.add("ops-live");
  el.append(root);
  return () => { for (const [event, draw] of heard) model.off(event, draw); };
}

export default { render };
