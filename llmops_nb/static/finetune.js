// The fine-tuning form. Python holds every value: this shows them, sends what a person changes, and shows what came of it.
// HTML that arrives was made harmless by Python; everything else is set as text.

let forms = 0; // ids must be the form's own: a notebook may show several

function render({ model, el }) {
  const id = `ops-finetune-${++forms}`;
  const controls = {};
  let waiting;

  const send = (message) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => (status.textContent = "waiting for the kernel…"), 1000);
    model.send(message);
  };
  const change = (name, control) => send({ set: { [name]: control.value } });

  function control(field) {
    const own = { id: `${id}-${field.name}`, "aria-describedby": `${id}-${field.name}-note` };
    let timer;
    const now = () => (clearTimeout(timer), change(field.name, node));
    const soon = () => (clearTimeout(timer), (timer = setTimeout(now, 500)));
    // Lab's one-letter shortcuts would take the letters that choose an option
    const node =
      field.kind === "choice"
        ? make("select", { ...own, change: now, "data-lm-suppress-shortcuts": "true" })
        : make("input", { ...own, type: "text", autocomplete: "off", spellcheck: "false", inputmode: field.kind === "number" ? "decimal" : null,
            list: field.options?.length ? `${id}-${field.name}-options` : null, input: soon, change: now });
    controls[field.name] = node;
    const options = make("datalist", { id: `${id}-${field.name}-options` });
    const note = make("span", { class: "ops-small", id: `${id}-${field.name}-note` });
    return make("div", { class: field.wide ? "ops-field ops-wide" : "ops-field" }, make("label", { for: own.id }, field.label), node,
      ...(field.kind === "choice" ? [] : [options]), note);
  }

  function show(field) {
    const node = controls[field.name];
    const list = field.kind === "choice" ? node : node.parentElement.querySelector("datalist");
    const wanted = (field.options ?? []).map(([value, label]) => `${value}\n${label}`).join("\n\n");
    if (list.dataset.wanted !== wanted) {
      list.replaceChildren(...(field.options ?? []).map(([value, label]) => make("option", { value }, label)));
      list.dataset.wanted = wanted;
    }
    // a value being typed is not replaced by the one that was sent a moment ago
    if (String(field.value) !== node.value && !(node === document.activeElement && node.value.trim() && !field.problem)) node.value = field.value;
    node.disabled = !!field.off;
    node.setAttribute("aria-invalid", !!field.problem);
    const note = node.parentElement.querySelector(".ops-small");
    note.textContent = field.problem ? `✕ ${field.problem}` : (field.note ?? "");
    note.classList.toggle("ops-bad", !!field.problem);
  }

  const fields = make("div", { class: "ops-fields" });
  const said = make("div", { class: "ops-said", "aria-live": "polite" });
  const code = make("pre", { tabindex: "0", "aria-label": "the same as code" });
  const start = make("button", { type: "button", class: "ops-first", "data-lm-suppress-shortcuts": "true", click: () => send({ do: "start" }) }, "Start");
  const stop = make("button", { type: "button", "data-lm-suppress-shortcuts": "true", click: () => send({ do: "stop" }) }, "Stop");
  const status = make("span", { class: "ops-small", role: "status" });
  const job = make("div");
  const preview = make("div");
  const title = make("p", { class: "ops-part" }, "rows as they are trained on");
  const root = make("div", { class: "ops-view ops-finetune ops-live tex2jax_ignore mathjax_ignore", role: "form", "aria-label": "Fine-tuning" },
    fields, said, make("div", { class: "ops-actions" }, start, stop, status), make("p", { class: "ops-part" }, "the same as code"),
    make("div", { class: "ops-code" }, code, copier(code)), job, title, preview);

  function draw() {
    const state = model.get("state");
    clearTimeout(waiting);
    if (Object.keys(controls).join() !== state.fields.map((field) => field.name).join()) fields.replaceChildren(...state.fields.map(control));
    state.fields.forEach(show);
    fill(said, state.said);
    fill(preview, state.preview);
    fill(job, state.job);
    code.textContent = state.code;
    title.hidden = !state.preview;
    start.textContent = state.start;
    start.disabled = !state.ready;
    stop.hidden = !state.running;
    status.textContent = state.busy;
    root.setAttribute("aria-busy", !!state.busy);
  }

  model.on("change:state", draw);
  draw();
  el.append(root);
  return () => model.off("change:state", draw);
}

export default { render };
