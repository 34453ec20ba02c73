// Small helpers for building elements.

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

/** Key caps as the reader finds them on the keyboard. */
export const key = (cap) => h("kbd", { ariaHidden: "true" }, cap);

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
    label,
    place(box) {
      place(frame, box);
      place(label, { x: box.x, y: box.y - 22, width: box.width, height: 18 });
    },
  };
}
