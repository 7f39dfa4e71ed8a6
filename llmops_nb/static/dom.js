// What the live views share; put before each view's own script.

/** An element with attributes, listeners (functions) and children. */
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

/** Make `old` say what `next` says, touching only what differs: focus, selection, scrolling and opened details stay. */
function patch(old, next) {
  if (old.nodeType !== next.nodeType || old.nodeName !== next.nodeName) return old.replaceWith(next);
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== next.data) old.data = next.data;
    return;
  }
  for (const { name } of [...old.attributes]) if (!next.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  for (const { name, value } of next.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const [have, want] = [[...old.childNodes], [...next.childNodes]];
  want.forEach((node, place) => (have[place] ? patch(have[place], node) : old.append(node)));
  have.slice(want.length).forEach((node) => node.remove());
}

/** Make `node` hold this HTML, which Python has made harmless. */
function fill(node, html) {
  const next = node.cloneNode(false);
  next.innerHTML = html;
  patch(node, next);
}

/** A button that copies what `node` says. */
function copier(node) {
  const button = make("button", { type: "button", "data-lm-suppress-shortcuts": "true", click: copied }, "copy");

  async function copied() {
    try {
      await navigator.clipboard.writeText(node.textContent);
    } catch {
      getSelection().selectAllChildren(node); // where pages may not write to the clipboard, the text is ready for Ctrl+C
    }
    button.textContent = "copied";
    setTimeout(() => (button.textContent = "copy"), 1500);
  }

  return button;
}
