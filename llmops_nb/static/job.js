// A job's panel, kept up to date. The kernel sends the drawing as HTML it has already made harmless; this shows it, and adds the two buttons.

const ACTIONS = { running: "stop", starting: "stop", stopped: "resume", failed: "resume", lost: "resume" };

/** Make `old` say what `next` says, touching only what differs: focus, selection, scrolling and opened details stay. */
function patch(old, next) {
  if (old.nodeType !== next.nodeType || old.nodeName !== next.nodeName) return old.replaceWith(next.cloneNode(true));
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== next.data) old.data = next.data;
    return;
  }
  for (const { name } of [...old.attributes]) if (!next.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  for (const { name, value } of next.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const [have, want] = [[...old.childNodes], [...next.childNodes]];
  want.forEach((node, place) => (have[place] ? patch(have[place], node) : old.append(node.cloneNode(true))));
  have.slice(want.length).forEach((node) => node.remove());
}

function render({ model, el }) {
  const panel = document.createElement("div");
  el.classList.add("ops-live");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "ops-action";
  button.addEventListener("click", () => {
    button.disabled = true;
    button.textContent = `${ACTIONS[model.get("state")]} asked…`;
    model.send({ action: ACTIONS[model.get("state")] });
  });
  const draw = () => {
    const next = document.createElement("div");
    next.innerHTML = model.get("html");
    patch(panel, next);
  };
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
