// The chunk inspector. The kernel holds document and sizes and sends the drawing as HTML it has made harmless; this shows it and sends what a person changes.

let inspectors = 0; // ids must be the view's own: a notebook may show several

function render({ model, el }) {
  const id = `ops-chunks-${++inspectors}`;
  const state = () => model.get("shown");
  let asked = null; // one question at a time: while the kernel answers, only the latest wish is kept
  let wish = null;
  let waiting, keeping;
  let selection = 0; // keys may be faster than the kernel

  function ask(values) {
    wish = { ...wish, ...values };
    if (asked) return;
    [asked, wish] = [wish, null];
    waiting = setTimeout(() => (status.textContent = "waiting for the kernel…"), 1000);
    model.send({ set: asked });
    clearTimeout(keeping);
    keeping = setTimeout(() => model.send({ do: "keep" }), 800); // the picture in the saved notebook follows when it is quiet
  }

  const slider = (name, label, step) => {
    const own = `${id}-${name}`;
    const input = make("input", { type: "range", id: own, step, min: name === "overlap" ? 0 : 16, max: 1024, "data-lm-suppress-shortcuts": "true",
      input: () => ((value.textContent = input.value), ask({ [name]: Number(input.value) })) });
    const value = make("output", { for: own });
    return { input, value, node: make("div", { class: "ops-field" }, make("label", { for: own }, label, value), input) };
  };
  const size = slider("max_tokens", "Tokens in a chunk, at most", 8);
  const overlap = slider("overlap", "Tokens repeated, at most", 2);
  const names = make("select", { id: `${id}-document`, "data-lm-suppress-shortcuts": "true", change: () => ask({ document: Number(names.value), selection: 0 }) },
    ...model.get("names").map((name, place) => make("option", { value: place }, name)));
  const chooser = make("div", { class: "ops-field ops-wide" }, make("label", { for: `${id}-document` }, "Document"), names);
  const facts = make("p", { class: "ops-head", "aria-live": "polite" });
  const problem = make("p", { class: "ops-error", role: "alert" });
  const code = make("pre", { tabindex: "0", "aria-label": "the same as code" });
  const rows = make("div", { class: "ops-rows", tabindex: "0", role: "document", "aria-label": "The document with its chunks", "aria-keyshortcuts": "ArrowUp ArrowDown Home End ?",
    "data-lm-suppress-shortcuts": "true", keydown: keys, click: (event) => pick(Number(event.target.closest(".ops-stretch")?.dataset.chunk ?? selection)) });
  const turn = (by) => () => (ask({ page: state().page + by, selection: by > 0 ? state().after : Math.max(0, state().first - 1) }), (rows.scrollTop = 0));
  const back = make("button", { type: "button", click: turn(-1) }, "earlier part");
  const on = make("button", { type: "button", click: turn(1) }, "later part");
  const part = make("span", { class: "ops-small" });
  const paging = make("div", { class: "ops-turn" }, back, on, part);
  const status = make("p", { class: "ops-small", role: "status" });
  const help = make("p", { class: "ops-small", role: "status", hidden: true }, "↑ ↓ next chunk · Home End first and last · Tab to the controls · arrows move a slider");
  const root = make("div", { class: "ops-view ops-chunks ops-live tex2jax_ignore mathjax_ignore", role: "region", "aria-label": "Chunks" },
    make("div", { class: "ops-controls" }, chooser, size.node, overlap.node), facts, problem, make("div", { class: "ops-code" }, code, copier(code)), rows, paging, status, help);

  function keys(event) {
    const { first, after } = state();
    const to = { ArrowDown: selection + 1, ArrowUp: selection - 1, Home: first, End: after - 1 }[event.key];
    if (event.key === "?") help.hidden = !help.hidden;
    else if (event.key === "Escape") help.hidden = true;
    else if (to === undefined) return;
    else pick(Math.max(first, Math.min(after - 1, to)), true);
    event.preventDefault();
    event.stopPropagation();
  }

  function pick(chunk, follow = false) {
    if (chunk !== selection) ask({ selection: chunk });
    selection = chunk;
    mark(chunk, follow);
  }

  function mark(chunk, follow) {
    const has = (row) => Number(row.dataset.first) <= chunk && chunk <= Number(row.dataset.chunk);
    const chosen = [...rows.children].filter(has);
    for (const row of rows.children) {
      row.classList.toggle("ops-chosen", has(row));
      row.classList.toggle("ops-named", Number(row.dataset.chunk) === chunk);
    }
    if (follow && chosen.length) rows.scrollTop = chosen[0].offsetTop;
  }

  /** The offset in the document that is at the top of the view now, so that it is there again after the next cut. */
  function top() {
    const seen = [...rows.children].find((row) => row.offsetTop + row.offsetHeight > rows.scrollTop + 1);
    return seen && rows.scrollTop > 0 ? Number(seen.dataset.start) : 0;
  }

  function scroll(offset) {
    const found = [...rows.children].findLast((row) => Number(row.dataset.start) <= offset);
    if (offset && found) rows.scrollTop = found.offsetTop;
  }

  let drawn = "";
  function draw() {
    const now = state();
    clearTimeout(waiting);
    status.textContent = "";
    asked = null;
    if (now.html !== drawn) {
      const offset = top();
      const stays = rows.dataset.document === `${now.document}/${now.page}`;
      rows.innerHTML = now.html;
      drawn = now.html;
      rows.dataset.document = `${now.document}/${now.page}`;
      stays ? scroll(offset) : (rows.scrollTop = 0);
    }
    if (!wish || !("selection" in wish)) selection = now.selection;
    mark(selection, false);
    size.input.max = Math.max(1024, now.max_tokens);
    size.input.min = Math.min(16, now.max_tokens);
    overlap.input.max = Math.max(now.overlap, Math.floor(now.max_tokens / 2));
    for (const [control, name] of [[size, "max_tokens"], [overlap, "overlap"]]) {
      if (!wish || !(name in wish)) [control.input.value, control.value.textContent] = [now[name], now[name]];
    }
    names.value = now.document;
    chooser.hidden = names.options.length < 2;
    facts.textContent = now.facts;
    problem.textContent = now.problem;
    problem.hidden = !now.problem;
    code.textContent = now.code;
    paging.hidden = now.pages < 2;
    part.textContent = `chunks ${now.first} to ${now.after - 1} of ${now.count}`;
    [back.disabled, on.disabled] = [now.page < 1, now.page >= now.pages - 1];
    if (wish) {
      const next = wish;
      wish = null;
      ask(next);
    }
  }

  model.on("change:shown", draw);
  draw();
  el.append(root);
  return () => (clearTimeout(waiting), clearTimeout(keeping), model.off("change:shown", draw));
}

export default { render };
