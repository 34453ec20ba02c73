// Zoom and pan that all photographs of a trial share. Positions are fractions of the photograph,
// so that photographs shown at different sizes stay on the same spot.

const LARGEST = 8;
const STILL = 6; // a press that moves less (CSS pixels) is a click

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

export class Zoom {
  /**
   * @param {{frame: HTMLElement, layers: HTMLElement[]}[]} panes the frame clips, the layers move
   * @param {object} options
   * @param {() => void} options.onUse called when the view is changed by hand
   * @param {(view: Zoom) => void} options.onChange called whenever the view has changed
   * @param {(pane: object, event: PointerEvent) => void} options.onClick a press without a drag
   * @param {(pane: object, event: PointerEvent) => boolean} [options.onDrag] true if it takes over
   *   the drag that begins here
   * @param {boolean} options.enabled whether the study allows zoom at all
   */
  constructor(panes, { onUse, onChange, onClick, onDrag, enabled }) {
    Object.assign(this, { panes, onUse, onChange, onClick, onDrag, enabled });
    this.pointers = new Map();
    this.listeners = new AbortController();
    this.home = 1; // scale to begin with and to come back to
    this.native = 1; // scale at which one pixel of the photograph is one of the screen
    this.reset();
    for (const pane of panes) this.#listen(pane);
  }

  destroy() {
    this.listeners.abort();
  }

  /** Whether the photograph reaches beyond its frame. */
  get zoomed() {
    return this.scale > 1.001;
  }

  get away() {
    return Math.abs(this.scale / this.home - 1) > 0.001;
  }

  reset() {
    this.#to(this.home);
  }

  /** Set the scale at which pixels are native, and whether to begin there. */
  calibrate(native, fromThere) {
    const home = fromThere ? Math.max(1, native) : 1;
    const fresh = !this.away;
    Object.assign(this, { native, home });
    if (fresh) this.reset();
    else this.#apply();
  }

  /** Between the native pixels and the beginning. */
  toggleNative() {
    if (!this.enabled) return;
    const there = Math.abs(this.scale / this.native - 1) < 0.001;
    this.#to(there ? 1 : clamp(this.native, 1, LARGEST));
    this.onUse();
  }

  #to(scale) {
    this.scale = scale;
    this.x = (1 - 1 / scale) / 2; // fraction of the photograph at the frame's left edge
    this.y = this.x;
    this.#apply();
  }

  /** Fraction of the photograph under a point of the window. */
  locate(pane, event) {
    const rect = pane.frame.getBoundingClientRect();
    return {
      x: this.x + (event.clientX - rect.left) / rect.width / this.scale,
      y: this.y + (event.clientY - rect.top) / rect.height / this.scale,
    };
  }

  /** Change the scale, keeping the spot under the point (fractions of the frame) in place. */
  zoomBy(factor, u = 0.5, v = 0.5) {
    if (!this.enabled) return;
    const scale = clamp(this.scale * factor, 1, Math.max(LARGEST, this.home));
    if (scale === this.scale) return;
    this.x += u / this.scale - u / scale;
    this.y += v / this.scale - v / scale;
    this.scale = scale;
    this.#apply();
    this.onUse();
  }

  /** Move by fractions of the frame. */
  panBy(du, dv) {
    this.x -= du / this.scale;
    this.y -= dv / this.scale;
    this.#apply();
    if (this.zoomed) this.onUse();
  }

  #apply() {
    const room = 1 - 1 / this.scale;
    this.x = clamp(this.x, 0, room);
    this.y = clamp(this.y, 0, room);
    for (const { frame, layers } of this.panes) {
      for (const layer of layers) layer.style.transform = this.#transform(layer);
      frame.classList.toggle("zoomed", this.zoomed);
    }
    this.onChange(this);
  }

  #transform({ naturalWidth, naturalHeight }) {
    if (!this.zoomed) return "";
    let { x, y } = this;
    if (naturalWidth && Math.abs(this.scale / this.native - 1) < 0.001) {
      // Pixel on pixel: nothing is resampled.
      x = Math.round(x * naturalWidth) / naturalWidth;
      y = Math.round(y * naturalHeight) / naturalHeight;
    }
    return `scale(${this.scale}) translate(${-100 * x}%, ${-100 * y}%)`;
  }

  #listen(pane) {
    const { frame } = pane;
    const on = (type, listener, options = {}) =>
      frame.addEventListener(type, listener, { signal: this.listeners.signal, ...options });

    on(
      "wheel",
      (event) => {
        event.preventDefault();
        const rect = frame.getBoundingClientRect();
        const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
        this.zoomBy(
          Math.exp(clamp(-event.deltaY * lines, -240, 240) / 400),
          (event.clientX - rect.left) / rect.width,
          (event.clientY - rect.top) / rect.height,
        );
      },
      { passive: false },
    );
    on("dblclick", () => this.away && this.reset());
    on("contextmenu", (event) => event.preventDefault());

    on("pointerdown", (event) => {
      event.preventDefault();
      frame.setPointerCapture(event.pointerId);
      const first = this.pointers.size === 0;
      const taken = first && event.button === 0 && Boolean(this.onDrag?.(pane, event));
      this.pointers.set(event.pointerId, {
        x: event.clientX,
        y: event.clientY,
        moved: 0,
        taken,
        alone: first,
        zoomed: this.zoomed,
      });
      if (!first) for (const pointer of this.pointers.values()) pointer.alone = false;
    });
    on("pointermove", (event) => {
      const pointer = this.pointers.get(event.pointerId);
      if (!pointer) return;
      const rect = frame.getBoundingClientRect();
      const before = [...this.pointers.values()].map(({ x, y }) => ({ x, y }));
      const dx = event.clientX - pointer.x;
      const dy = event.clientY - pointer.y;
      pointer.moved += Math.hypot(dx, dy);
      pointer.x = event.clientX;
      pointer.y = event.clientY;
      if (this.pointers.size === 2) {
        const after = [...this.pointers.values()];
        const spread = ([a, b]) => Math.hypot(a.x - b.x, a.y - b.y) || 1;
        this.zoomBy(
          spread(after) / spread(before),
          ((after[0].x + after[1].x) / 2 - rect.left) / rect.width,
          ((after[0].y + after[1].y) / 2 - rect.top) / rect.height,
        );
        this.panBy(dx / 2 / rect.width, dy / 2 / rect.height);
      } else if (!pointer.taken && pointer.moved >= STILL) {
        this.panBy(dx / rect.width, dy / rect.height);
      }
    });
    const up = (event) => {
      const pointer = this.pointers.get(event.pointerId);
      this.pointers.delete(event.pointerId);
      if (event.type !== "pointerup" || !pointer || event.button !== 0) return;
      if (pointer.alone && !pointer.taken && !pointer.zoomed && pointer.moved < STILL) {
        this.onClick(pane, event);
      }
    };
    on("pointerup", up);
    on("pointercancel", up);
  }
}
