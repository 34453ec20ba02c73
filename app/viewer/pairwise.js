// Two colourings of one photograph, the grey original with them, and a question.

import { h, key, pane } from "./dom.js";
import { arrangePair } from "./layout.js";
import { Zoom } from "./zoom.js";

const SIDE_BY_SIDE = { left: "Left", right: "Right" };
const STACKED = { left: "Upper", right: "Lower" };
// Digits always mean the same; arrows only where they point at what they choose.
const DIGITS = { 1: "left", 2: "right", 3: "tie" };
const ARROWS = { arrowleft: "left", arrowright: "right", arrowdown: "tie" };

export class PairView {
  constructor(images, { answer, used, changed, zoom }) {
    this.answer = answer;
    this.panes = ["left", "reference", "right"]
      .filter((role) => images[role])
      .map((role) => pane(role, SIDE_BY_SIDE[role] ?? "Original", images[role]));
    this.field = h("div.field", {}, ...this.panes.flatMap(({ frame, label }) => [frame, label]));
    this.buttons = {};
    this.controls = h("div.controls.answers");
    this.element = h("div.stage.pairwise", {}, this.field, this.controls);
    this.zoom = new Zoom(this.panes, {
      onUse: used,
      onChange: changed,
      onClick: ({ role }, event) => role !== "reference" && this.answer({ value: role }, event),
      enabled: zoom,
    });
    this.aspect = images.left.naturalWidth / images.left.naturalHeight;
  }

  /** Show a question's answers. */
  ask({ answers }) {
    this.buttons = {};
    for (const { value } of answers) {
      if (value === "skip") continue;
      this.buttons[value] = h(
        "button.answer",
        { type: "button", onclick: (event) => this.answer({ value }, event) },
        key(""),
        h("span", {}),
      );
    }
    this.#label();
  }

  #label() {
    const names = { ...(this.stacked ? STACKED : SIDE_BY_SIDE), tie: "No difference" };
    const caps = this.stacked
      ? { left: "1", right: "2", tie: "3" }
      : { left: "←", tie: "↓", right: "→" };
    const order = Object.keys(caps).filter((value) => this.buttons[value]);
    this.controls.replaceChildren(...order.map((value) => this.buttons[value]));
    for (const value of order) {
      const button = this.buttons[value];
      button.firstChild.textContent = caps[value];
      button.lastChild.textContent = names[value];
      button.dataset.value = value;
    }
    for (const { role, label, frame } of this.panes) {
      label.textContent = names[role] ?? "Original";
      frame.ariaLabel = label.textContent;
    }
  }

  arrange() {
    const area = { width: this.field.clientWidth, height: this.field.clientHeight };
    if (!area.width) return;
    const boxes = arrangePair(area, this.aspect, this.panes.length === 3);
    for (const each of this.panes) each.place(boxes[each.role]);
    this.stacked = boxes.stacked;
    this.#label();
  }

  /** @returns {object | null} the answer that a key stands for */
  answerOf(name) {
    const value = DIGITS[name] ?? (this.stacked ? undefined : ARROWS[name]);
    return value && this.buttons[value] ? { value } : null;
  }

  /** A short sign that the answer was taken, before the photographs go. */
  confirm({ value }) {
    this.buttons[value]?.classList.add("chosen");
  }

  destroy() {
    this.zoom.destroy();
  }
}
