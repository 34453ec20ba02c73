// Two colourings of one photograph, or the true photograph and a colouring, and a question.

import { h, key, pane } from "./dom.js";
import { arrangePair, arrangeSingle } from "./layout.js";
import { View, onView } from "./view.js";

const SIDE_BY_SIDE = { left: "Left", right: "Right" };
const STACKED = { left: "Upper", right: "Lower" };
// Digits always mean the same; arrows only where they point at what they choose.
const DIGITS = { 1: "left", 2: "right", 3: "tie" };
const ARROWS = { arrowleft: "left", arrowright: "right", arrowdown: "tie" };

export class PairView extends View {
  constructor(images, options) {
    const roles = onView(images, options.study);
    const panes = ["left", "reference", "right"]
      .filter((role) => roles.includes(role))
      .map((role) => pane(role, SIDE_BY_SIDE[role] ?? "Original", images[role]));
    super("pairwise", images, panes, ["left", "right"], options, {
      onClick: ({ role }, event) => {
        if (role !== "reference" && !this.aids.inPlace) this.answer({ value: role }, event);
      },
    });
    this.displayMs = options.trial.display_ms ?? options.study.display_ms ?? 0;
    this.buttons = {};
    this.controls = h("div.controls.answers");
    this.element.append(this.controls);
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
    for (const each of this.panes) each.caption(names[each.role] ?? "Original");
  }

  arrange() {
    const area = { width: this.field.clientWidth, height: this.field.clientHeight };
    if (!area.width) return;
    const boxes = arrangePair(area, this.aspect, Boolean(this.reference), this.tallest);
    if (this.aids.inPlace) {
      const single = arrangeSingle(area, this.aspect, this.tallest);
      Object.assign(boxes, { left: single, right: single });
    }
    for (const each of this.panes) each.place(boxes[each.role]);
    for (const part of this.reference ? [this.reference.frame, this.reference.label] : []) {
      part.hidden = this.aids.inPlace;
    }
    const stacked = boxes.stacked && !this.aids.inPlace;
    if (this.stacked !== stacked) {
      this.stacked = stacked;
      this.#label();
    }
    this.calibrate();
  }

  answerOf(name) {
    const value = DIGITS[name] ?? (this.stacked ? undefined : ARROWS[name]);
    return value && this.buttons[value] ? { value } : null;
  }

  /**
   * The photographs are on the screen since `from`. Where the study shows them for a time only,
   * hide them at the frame that comes closest; the answer may come later.
   */
  shown(from, over) {
    if (!this.displayMs) return;
    let last = from;
    const frame = (now) => {
      const length = Math.min(50, Math.max(0, now - last)); // of one frame of this screen
      last = now;
      if (now - from + length / 2 < this.displayMs) {
        this.timer = requestAnimationFrame(frame);
      } else {
        this.element.classList.add("over");
        over(now - from);
      }
    };
    this.timer = requestAnimationFrame(frame);
  }

  /** A short sign that the answer was taken, before the photographs go. */
  confirm({ value }) {
    this.buttons[value]?.classList.add("chosen");
  }

  destroy() {
    cancelAnimationFrame(this.timer);
    super.destroy();
  }
}
