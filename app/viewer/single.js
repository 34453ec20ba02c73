// One photograph that is judged alone: rated, reviewed, or marked where something is wrong.

import { h, key, pane, place } from "./dom.js";
import { arrangePair, arrangeSingle, fullHeight } from "./layout.js";
import { Marker } from "./marks.js";
import { View, onView } from "./view.js";

const PANEL = { narrow: 290, wide: 340, height: 390, gap: 18 };
const REASON_KEYS = "qwertghjkxvm";
const LONGEST_COMMENT = 500;

const answerButton = (cap, text, onclick) =>
  h("button.answer", { type: "button", onclick }, key(cap), h("span", {}, text));

/** The photograph and, where it is on view, the original (in DCR: the true colours). */
function panesOf(images, study, caption) {
  const captions = { stimulus: caption, reference: study.reference_label ?? "Original" };
  const roles = onView(images, study);
  return ["stimulus", "reference"]
    .filter((role) => roles.includes(role))
    .map((role) => pane(role, captions[role], images[role]));
}

/** A score; the photograph and what it is compared with are equally large. */
export class RatingView extends View {
  constructor(images, options) {
    // The true colours first, as in DCR; else the photograph that is rated.
    const panes = panesOf(images, options.study, "Coloured");
    const dcr = images.reference && !options.study.original;
    super("rating", images, dcr ? panes.toReversed() : panes, ["stimulus", "reference"], options);
    this.controls = h("div.controls.scores");
    this.element.append(this.controls);
  }

  ask({ answers }) {
    const scores = answers.filter(({ value }) => value !== "skip");
    this.buttons = Object.fromEntries(
      scores.map(({ value, label }) => [
        value,
        answerButton(value, label, (event) => this.answer({ value }, event)),
      ]),
    );
    for (const [value, button] of Object.entries(this.buttons)) button.dataset.value = value;
    this.controls.replaceChildren(...Object.values(this.buttons));
  }

  arrange() {
    const area = { width: this.field.clientWidth, height: this.field.clientHeight };
    if (!area.width) return;
    if (this.panes.length === 1) {
      this.panes[0].place(arrangeSingle(area, this.aspect, this.tallest));
    } else {
      const { left, right } = arrangePair(area, this.aspect, false, this.tallest);
      const single = this.aids.inPlace && arrangeSingle(area, this.aspect, this.tallest);
      this.panes[0].place(single || left);
      this.panes[1].place(single || right);
    }
    this.calibrate();
  }

  answerOf(name) {
    return this.buttons[name] ? { value: name } : null;
  }

  confirm({ value }) {
    this.buttons[value]?.classList.add("chosen");
  }
}

/** The photograph large, the original and a panel beside it. */
class PanelView extends View {
  constructor(name, images, options, { caption = "Coloured", marks = true, keys = true, needed = 540 } = {}) {
    const panes = panesOf(images, options.study, caption);
    super(`panelled.${name}`, images, panes, ["stimulus", "reference"], options, {
      onDrag: (target, event) =>
        this.marker !== undefined &&
        target.role === "stimulus" &&
        !this.spaceHeld &&
        this.marker.draw(event, this.zoom),
    });
    this.needed = needed; // CSS pixels, height of the panel
    if (marks) {
      this.marker = new Marker(panes[0], {
        study: options.study,
        keys,
        changed: () => {
          this.refresh?.();
          this.changed();
        },
      });
      this.marker.follow(this.zoom);
    }
    this.panel = h("div.panel");
    this.element.append(this.panel);
  }

  /** Height for the original in a column: what the panel can spare. */
  #share(height) {
    return Math.min(0.3 * height, Math.max(0.15 * height, height - this.needed));
  }

  get marks() {
    return this.marker?.marks ?? [];
  }

  zoomed(zoom) {
    this.marker?.follow(zoom);
  }

  takeBack() {
    return this.marker?.takeBack() ?? false;
  }

  hold(event) {
    if (event.key === " ") this.spaceHeld = event.type === "keydown";
  }

  arrange() {
    const W = this.element.clientWidth;
    const H = this.element.clientHeight;
    if (!W) return;
    // Controls beside the photograph or below it, whichever leaves it larger.
    const { aspect, tallest } = this;
    const panel = Math.min(PANEL.wide, Math.max(PANEL.narrow, 0.28 * W));
    const beside = { width: W - panel - PANEL.gap, height: H };
    const below = { width: W, height: H - PANEL.height - PANEL.gap };
    const column = arrangeSingle(beside, aspect).width >= arrangeSingle(below, aspect).width;
    below.height = Math.min(below.height, fullHeight(W, aspect));
    const [stimulus, reference] = this.panes;
    stimulus.place(arrangeSingle(column ? beside : below, aspect, tallest));

    // What is left for the original and the controls: a column or a row.
    const rest = column
      ? { x: beside.width + PANEL.gap, y: 0, width: panel, height: H }
      : { x: 0, y: below.height + PANEL.gap, width: W, height: H - below.height - PANEL.gap };
    if (reference) {
      const corner = column
        ? { width: rest.width, height: Math.min(this.#share(H), fullHeight(rest.width, aspect)) }
        : { width: W * 0.32, height: Math.min(rest.height, fullHeight(W * 0.32, aspect)) };
      const box = arrangeSingle(corner, aspect);
      const there = { ...box, x: box.x + rest.x, y: box.y + rest.y };
      reference.place(this.aids.inPlace ? stimulus.box : there);
      const [dx, dy] = column ? [0, corner.height + PANEL.gap] : [corner.width + PANEL.gap, 0];
      rest.x += dx;
      rest.width -= dx;
      rest.y += dy;
      rest.height -= dy;
    }
    place(this.panel, rest);
    this.panel.classList.toggle("wide", !column);
    this.calibrate();
  }
}

/** What is wrong, where, how bad; or nothing. */
export class ArtifactView extends PanelView {
  constructor(images, options) {
    super("artifact", images, options);
    this.none = answerButton("N", "None seen", (event) => this.answer({ value: "none" }, event));
    this.save = answerButton("⏎", "Save", (event) => this.answer(this.#marked(), event));
    this.none.dataset.value = "none";
    this.save.dataset.value = "marks";
    this.panel.append(...this.marker.parts, h("div.controls", {}, this.none, this.save));
    this.refresh();
  }

  refresh() {
    if (!this.save) return;
    this.none.disabled = this.marks.length > 0;
    this.save.disabled = !this.marks.length || Boolean(this.marker.lacking);
  }

  #marked() {
    return { value: "marks", marks: this.marker.values() };
  }

  answerOf(name, event) {
    if (name === "n" && !this.none.disabled) return { value: "none" };
    if (name === "enter" && !this.save.disabled) return this.#marked();
    this.marker.press(name, event);
    return null;
  }

  confirm({ value }) {
    (value === "none" ? this.none : this.save).classList.add("chosen");
  }
}

/** Why one of two lost: marks on it, after the vote is already kept. */
export class WhyView extends PanelView {
  constructor(images, options) {
    super("artifact", images, options, { caption: "Not chosen" });
    this.required = options.study.why === "required";
    this.save = answerButton("⏎", "", (event) => this.answer(this.#marked(), event));
    this.panel.append(...this.marker.parts, h("div.controls", {}, this.save));
    this.refresh();
  }

  refresh() {
    if (!this.save) return;
    const { length } = this.marks;
    this.save.lastChild.textContent = length || this.required ? "Save" : "Continue without marks";
    this.save.disabled = Boolean(this.marker.lacking) || (this.required && !length);
  }

  #marked() {
    return { value: "why", marks: this.marker.values() };
  }

  answerOf(name, event) {
    if (name === "enter" && !this.save.disabled) return this.#marked();
    this.marker.press(name, event);
    return null;
  }

  confirm() {
    this.save.classList.add("chosen");
  }
}

/** Accept, fix or reject, with reasons. */
export class ReviewView extends PanelView {
  constructor(images, options) {
    const marks = options.study.artifacts.length > 0;
    super("review", images, options, { marks, keys: false, needed: marks ? 640 : 400 });
    this.reasons = new Set();
    this.verdict = null;
    this.comment = h("textarea.comment", {
      rows: 2,
      maxLength: LONGEST_COMMENT,
      placeholder: "Comment (optional)",
      ariaLabel: "Comment, optional",
    });
    this.chips = options.study.reasons.map(({ name, label, description }, index) => {
      const chip = h(
        "button.chip",
        { type: "button", title: description ?? "", onclick: () => this.#toggle(name) },
        REASON_KEYS[index] ? key(REASON_KEYS[index].toUpperCase()) : null,
        h("span", {}, label),
      );
      return chip;
    });
    this.hint = h("p.hint", { role: "status" });
    this.verdicts = h("div.controls.verdicts");
    this.save = answerButton("⏎", "Save", (event) => this.answer(this.#reviewed(), event));
    this.panel.append(
      this.verdicts,
      h("div.group.reasons", { role: "group", ariaLabel: "Reasons" }, ...this.chips),
      ...(this.marker?.parts ?? []),
      this.comment,
      h("div.row", {}, this.hint, this.save),
    );
  }

  ask({ answers }) {
    const verdicts = answers.filter(({ value }) => value !== "skip");
    this.buttons = Object.fromEntries(
      verdicts.map(({ value, label }, index) => [
        value,
        answerButton(String(index + 1), label, (event) => this.#judge(value, event)),
      ]),
    );
    for (const [value, button] of Object.entries(this.buttons)) button.dataset.value = value;
    this.verdicts.replaceChildren(...Object.values(this.buttons));
    this.refresh();
  }

  /** Accepting needs no more; the other verdicts need a reason, and wait for "Save". */
  #judge(value, event) {
    this.verdict = value;
    this.refresh();
    this.panel.scrollTop = 0; // the reasons are there
    if (value === "accept" && !this.save.disabled) this.answer(this.#reviewed(), event);
  }

  #toggle(name) {
    if (!this.reasons.delete(name)) this.reasons.add(name);
    if (this.reasons.size && this.verdict === "accept") this.verdict = null;
    this.refresh();
  }

  refresh() {
    if (!this.buttons) return;
    const { verdict, reasons, marks } = this;
    this.panel.classList.toggle("unmarked", !marks.length);
    for (const [value, button] of Object.entries(this.buttons)) {
      button.ariaPressed = String(verdict === value);
    }
    this.buttons.accept.disabled = reasons.size > 0 || marks.length > 0;
    this.study.reasons.forEach(({ name }, index) => {
      this.chips[index].ariaPressed = String(reasons.has(name));
    });
    const needsReason = verdict && verdict !== "accept" && !reasons.size;
    this.panel.classList.toggle("unreasoned", Boolean(needsReason));
    this.hint.textContent = needsReason ? "Why? Choose at least one reason." : "";
    const finished = verdict && (verdict === "accept" ? !reasons.size && !marks.length : reasons.size);
    this.save.disabled = !finished || Boolean(this.marker?.lacking);
  }

  #reviewed() {
    const comment = this.comment.value.trim();
    const marks = this.marker?.values() ?? [];
    return {
      value: this.verdict,
      reasons: [...this.reasons],
      ...(comment ? { comment } : {}),
      ...(marks.length ? { marks } : {}),
    };
  }

  answerOf(name, event) {
    const verdict = Object.keys(this.buttons)[Number(name) - 1];
    const reason = this.study.reasons[REASON_KEYS.indexOf(name)];
    if (verdict && !this.buttons[verdict].disabled) this.#judge(verdict, event);
    else if (reason) this.#toggle(reason.name);
    else if (name === "enter" && !this.save.disabled) return this.#reviewed();
    else this.marker?.press(name, event);
    return null;
  }

  confirm({ value }) {
    this.buttons[value]?.classList.add("chosen");
  }
}
