// Small helpers for building elements.

const SVG = "http://www.w3.org/2000/svg";

/** `h("button.primary", {onclick}, "Save")`: an element with classes, properties and children. */
export function h(selector, properties = {}, ...children) {
  const [tag, ...classes] = selector.split(".");
  const element = document.createElement(tag);
  element.className = classes.join(" ");
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** An SVG element with attributes and children. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Key caps as the reader finds them on the keyboard. */
export const key = (cap) => h("kbd", { ariaHidden: "true" }, cap);

/** A button with a key cap that pages and views use for everything that is no answer. */
export const quiet = (cap, text, onclick) =>
  h("button.quiet", { type: "button", onclick }, cap ? key(cap) : null, h("span", {}, text));

const ICONS = {
  flicker: "M3 3h9v9h-9z M6 6h9v9h-9z",
  slider: "M2.5 4h13v10h-13z M9 1.5v15",
  original: "M9 2.5a6.5 6.5 0 1 0 0 13a6.5 6.5 0 1 0 0-13 M9 2.5v13 M9 6h6 M9 9h6.5 M9 12h6",
  native: "M4 5v8 M14 5v8 M2.6 6.4l1.4-1.4 M12.6 6.4l1.4-1.4 M9 7v.6 M9 11v.6",
};

/** A drawing for a button that has no room for words. */
export const icon = (name) =>
  svg("svg", { class: "icon", viewBox: "0 0 18 18", "aria-hidden": "true" }, svg("path", { d: ICONS[name] }));

/** Set position and size, in CSS pixels. */
export function place(element, { x, y, width, height }) {
  Object.assign(element.style, {
    left: `${x}px`,
    top: `${y}px`,
    width: `${width}px`,
    height: `${height}px`,
  });
}

/** A frame that clips one photograph, with its caption above. */
export function pane(role, caption, image) {
  const label = h("span.caption", {}, caption);
  image.alt = "";
  image.className = "photograph";
  const frame = h("div.frame", { role: "img", ariaLabel: caption }, image);
  frame.dataset.role = role;
  return {
    role,
    frame,
    image,
    layers: [image], // what moves together when the view is zoomed
    label,
    place(box) {
      this.box = box;
      place(frame, box);
      place(label, { x: box.x, y: box.y - 22, width: box.width, height: 18 });
    },
    caption(text) {
      label.textContent = text;
      frame.ariaLabel = text;
    },
  };
}
