// Ways of looking closer, as the protocol allows them: two photographs in one place, one after
// the other (flicker) or with a dividing line (slider), and the original in place of what was
// coloured, as long as a key is held. All photographs keep one geometry throughout.

import { h } from "./dom.js";

const FLICKER_MS = 700; // each of the two; well below what could trigger a seizure
const STEP = 0.05; // of the width, for the keys that move the dividing line

export class Aids {
  /**
   * @param {object} view
   * @param {object[]} view.compared the two panes that flicker and slider bring together
   * @param {HTMLImageElement | undefined} view.original the original
   * @param {HTMLElement} view.field parent of the panes
   * @param {object} options
   * @param {string[]} options.allowed names of the aids that the protocol allows
   * @param {(name: string) => void} options.onUse called when an aid is used
   * @param {() => void} options.onChange called when the panes must be arranged anew
   */
  constructor({ compared, original, field }, { allowed, onUse, onChange }) {
    Object.assign(this, { compared, onUse, onChange });
    const two = compared.length === 2;
    this.available = allowed.filter(
      (name) => ({ flicker: two, slider: two, original: Boolean(original) })[name],
    );
    this.mode = null; // "flicker" or "slider": both photographs in one place
    this.split = 0.5; // where the dividing line stands, fraction of the width
    this.line = h("div.split", { ariaHidden: "true" });
    field.append(this.line);
    if (this.available.includes("original")) {
      for (const pane of compared.filter(({ image }) => image !== original)) {
        // A copy, so that nothing has to move or be decoded when the key goes down.
        const copy = original.cloneNode();
        copy.className = "photograph original";
        copy.decoding = "sync";
        pane.image.after(copy);
        pane.layers.push(copy);
      }
    }
    field.addEventListener("pointermove", (event) => this.#follow(event));
    field.addEventListener("pointerdown", (event) => this.#follow(event));
    this.#show();
  }

  destroy() {
    clearInterval(this.timer);
  }

  get inPlace() {
    return this.mode !== null;
  }

  /** Switch a mode on, or off again; without a name, whatever is on goes off. */
  toggle(name) {
    if (name && !this.available.includes(name)) return;
    this.mode = this.mode === name ? null : (name ?? null);
    clearInterval(this.timer);
    this.front = 0; // which of the two is on view while they alternate
    if (this.mode === "flicker") {
      this.timer = setInterval(() => {
        this.front = 1 - this.front;
        this.#show();
      }, FLICKER_MS);
    }
    if (this.mode) this.onUse(this.mode);
    this.onChange();
    this.#show();
  }

  /** The original, in the place of what was coloured, while held. */
  hold(held) {
    if (!this.available.includes("original") || this.held === held) return;
    this.held = held;
    if (held) this.onUse("original");
    this.#show();
  }

  /** Move the dividing line by one step, or to a fraction of the width. */
  slide(direction) {
    if (this.mode === "slider") this.#split(this.split + direction * STEP);
  }

  #split(value) {
    this.split = Math.min(1, Math.max(0, value));
    this.#show();
  }

  #follow({ clientX }) {
    if (this.mode !== "slider") return;
    const { left, width } = this.compared[0].frame.getBoundingClientRect();
    this.#split((clientX - left) / width);
  }

  #show() {
    const { mode, split } = this;
    this.compared.forEach((pane, index) => {
      const behind = mode === "flicker" && index !== this.front;
      for (const part of [pane.frame, pane.label]) part.classList.toggle("behind", behind);
      const cut = index ? `inset(0 0 0 ${100 * split}%)` : `inset(0 ${100 - 100 * split}% 0 0)`;
      pane.frame.style.clipPath = mode === "slider" ? cut : "";
      pane.frame.classList.toggle("held", Boolean(this.held));
      pane.label.style.textAlign = mode === "slider" ? ["left", "right"][index] : "";
    });
    this.line.hidden = mode !== "slider";
    const { box } = this.compared[0];
    if (mode === "slider" && box) {
      Object.assign(this.line.style, {
        left: `${box.x + split * box.width - 1}px`,
        top: `${box.y}px`,
        height: `${box.height}px`,
      });
    }
  }
}
