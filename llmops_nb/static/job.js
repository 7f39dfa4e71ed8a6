// A job's panel, kept up to date. The kernel sends the drawing as HTML it has already made harmless; this shows it, and adds the two buttons.

const ACTIONS = { running: "stop", starting: "stop", stopped: "resume", failed: "resume", lost: "resume" };

function render({ model, el }) {
  const panel = make("div");
  const ask = () => {
    button.disabled = true;
    button.textContent = `${ACTIONS[model.get("state")]} asked…`;
    model.send({ action: ACTIONS[model.get("state")] });
  };
  const button = make("button", { type: "button", class: "ops-action", click: ask });
  el.classList.add("ops-live");
  const draw = () => fill(panel, model.get("html"));
  const label = () => {
    const action = ACTIONS[model.get("state")];
    button.hidden = !action;
    button.disabled = false;
    button.textContent = action ?? "";
    button.setAttribute("aria-label", `${action} the job ${model.get("name")}`);
  };
  model.on("change:html", draw);
  model.on("change:state", label);
  draw();
  label();
  el.append(panel, button);
  return () => {
    model.off("change:html", draw);
    model.off("change:state", label);
  };
}

export default { render };
