// Marks on a photograph: where (a box or a brush), what, and how bad.

import { h, key, quiet, svg } from "./dom.js";
import { Mask } from "./mask.js";

const SMALLEST_MARK = 6; // CSS pixels in each direction; less is a slip of the hand
const BRUSHES = [0.008, 0.02, 0.05]; // radius, fraction of the longer side
const NUDGE = 0.02; // of the photograph, for arrow keys
const ARTIFACT_KEYS = "1234567890-=";
const SEVERITY_KEYS = "qwertghjk";
const ARROWS = { arrowleft: [-1, 0], arrowright: [1, 0], arrowup: [0, -1], arrowdown: [0, 1] };
const FREE = "other"; // the artifact that needs words

export class Marker {
  /**
   * @param {object} pane the photograph that is marked
   * @param {object} options
   * @param {object} options.study its `artifacts` and `severities`
   * @param {() => void} options.changed called whenever the marks have changed
   * @param {boolean} [options.keys] whether digits and letters choose what and how bad
   */
  constructor(pane, { study, changed, keys = true }) {
    Object.assign(this, { pane, study, changed, keys });
    const { naturalWidth, naturalHeight } = pane.image;
    this.aspect = naturalWidth / naturalHeight;
    this.marks = [];
    this.current = null; // the mark that still lacks something, or was picked from the list
    this.chosen = { artifact: null, severity: null };
    this.tool = "box";
    this.brush = 1;
    this.drawn = svg("svg", { preserveAspectRatio: "none", "aria-hidden": "true" });
    pane.frame.append(this.drawn);
    this.parts = this.#build();
    this.refresh();
  }

  #build() {
    const choice = (list, caps, kind, id) =>
      list.map((entry, index) =>
        h(
          "button.chip",
          {
            type: "button",
            title: entry.description ?? "",
            onclick: () => this.#choose(kind, entry[id]),
          },
          this.keys && caps[index] ? key(caps[index].toUpperCase()) : null,
          h("span", {}, entry.label),
        ),
      );
    const { artifacts, severities } = this.study;
    this.artifactButtons = choice(artifacts, ARTIFACT_KEYS, "artifact", "name");
    this.severityButtons = choice(severities, SEVERITY_KEYS, "severity", "value");
    this.hint = h("p.hint", { role: "status" });
    this.list = h("ol.marks");
    this.toolButtons = {
      box: quiet("", "Box", () => this.#use("box")),
      brush: quiet("", "Brush", () => this.#use("brush")),
    };
    this.sizes = BRUSHES.map((_, index) =>
      h("button.size", {
        type: "button",
        ariaLabel: ["Fine brush", "Medium brush", "Broad brush"][index],
        onclick: () => this.#size(index),
      }),
    );
    this.whole = quiet("A", "Whole", () => this.#add({ x: 0, y: 0, width: 1, height: 1 }));
    this.whole.title = "Mark the whole photograph";
    return [
      h(
        "div.row.tools",
        {},
        h("div.segments", { role: "group", ariaLabel: "Tool" }, key("B"), ...Object.values(this.toolButtons)),
        h("div.sizes", { role: "group", ariaLabel: "Brush" }, ...this.sizes),
        this.whole,
      ),
      h("div.group.artifacts", { role: "group", ariaLabel: "What" }, ...this.artifactButtons),
      h("div.group.severities", { role: "group", ariaLabel: "How bad" }, ...this.severityButtons),
      this.hint,
      this.list,
    ];
  }

  /** What the first incomplete mark lacks, or "". */
  get lacking() {
    const { current } = this;
    if (!current) return this.marks.some((mark) => !complete(mark)) ? "note" : "";
    if (current.artifact === null) return "artifact";
    if (current.severity === null) return "severity";
    return complete(current) ? "" : "note";
  }

  /** The marks as the server takes them. */
  values() {
    return this.marks.map(({ artifact, severity, shape, note, ...where }) => {
      const { x, y, width, height, mask } = shape === "mask" ? where.painted.encode() : where;
      return {
        ...{ artifact, severity, shape, x, y, width, height },
        ...(mask ? { mask } : {}),
        ...(artifact === FREE ? { note: note.trim() } : {}),
      };
    });
  }

  follow({ x, y, scale }) {
    // The marks follow the photograph; their lines keep their width.
    this.drawn.setAttribute("viewBox", `${x} ${y} ${1 / scale} ${1 / scale}`);
  }

  /** Take a key; true if it meant something here. */
  press(name, event) {
    const artifact = this.keys && this.study.artifacts[ARTIFACT_KEYS.indexOf(name)];
    const severity = this.keys && this.study.severities[SEVERITY_KEYS.indexOf(name)];
    if (artifact) this.#choose("artifact", artifact.name);
    else if (severity) this.#choose("severity", severity.value);
    else if (name === "a") this.whole.click();
    else if (name === "b") this.#use(this.tool === "box" ? "brush" : "box");
    else if (name === "[" || name === "]") this.#size(this.brush + (name === "]" ? 1 : -1));
    else if (name in ARROWS) this.#nudge(...ARROWS[name], event.shiftKey);
    else return false;
    return true;
  }

  takeBack() {
    const last = this.marks.at(-1);
    if (!last) return false;
    if (last.before?.length) {
      last.painted = last.before.pop();
      this.refresh();
    } else {
      this.#remove(last);
    }
    return true;
  }

  // -- what and how bad -------------------------------------------------------------------------

  #choose(kind, value) {
    this.chosen[kind] = value;
    const { current } = this;
    if (current) {
      current[kind] = value;
      if (complete(current)) this.current = null;
    }
    this.refresh();
    if (this.lacking === "note") this.list.querySelector("input:invalid")?.focus();
  }

  #add(where) {
    if (this.current && !complete(this.current)) this.#remove(this.current);
    const mark = { ...this.chosen, note: "", shape: "rectangle", ...where };
    this.marks.push(mark);
    this.current = complete(mark) ? null : mark;
    this.refresh();
    if (this.lacking === "note") this.list.querySelector("input:invalid")?.focus();
  }

  #remove(mark) {
    this.marks = this.marks.filter((kept) => kept !== mark);
    if (this.current === mark) this.current = null;
    this.refresh();
  }

  #use(tool) {
    this.tool = tool;
    this.refresh();
  }

  #size(index) {
    this.brush = Math.min(BRUSHES.length - 1, Math.max(0, index));
    this.#use("brush");
  }

  // -- where ------------------------------------------------------------------------------------

  /** Arrow keys move the newest box; with Shift they change its size. */
  #nudge(dx, dy, resize) {
    const box = this.current ?? this.marks.at(-1);
    if (box?.shape !== "rectangle") return;
    const fit = (value, low, high) => Math.min(high, Math.max(low, value));
    if (resize) {
      box.width = fit(box.width + dx * NUDGE, NUDGE, 1 - box.x);
      box.height = fit(box.height + dy * NUDGE, NUDGE, 1 - box.y);
    } else {
      box.x = fit(box.x + dx * NUDGE, 0, 1 - box.width);
      box.y = fit(box.y + dy * NUDGE, 0, 1 - box.height);
    }
    this.refresh();
  }

  /** Follow the pointer until it is lifted; a second finger means zoom, not a mark. */
  draw(event, zoom) {
    const tool = this.tool === "box" ? this.#box(event, zoom) : this.#paintWith(event, zoom);
    const { frame } = this.pane;
    const end = new AbortController();
    const on = (type, listener) => frame.addEventListener(type, listener, { signal: end.signal });
    const stop = (lifted) => {
      end.abort();
      tool.end(lifted?.type === "pointerup");
      this.#paint();
    };
    on("pointermove", (moved) => {
      if (zoom.pointers.size > 1) stop();
      else if (moved.pointerId === event.pointerId) tool.move(moved);
    });
    on("pointerup", stop);
    on("pointercancel", stop);
    return true;
  }

  #box(event, zoom) {
    const start = zoom.locate(this.pane, event);
    let box = null;
    return {
      move: (moved) => {
        const width = Math.abs(moved.clientX - event.clientX);
        const height = Math.abs(moved.clientY - event.clientY);
        const wide = width >= SMALLEST_MARK && height >= SMALLEST_MARK;
        box = wide ? between(start, zoom.locate(this.pane, moved)) : null;
        this.#paint(box && { shape: "rectangle", ...box });
      },
      end: (lifted) => lifted && box && this.#add(box),
    };
  }

  /** Paint; a stroke that begins on a painted mark, or while it is picked, goes on with it. */
  #paintWith(event, zoom) {
    let from = zoom.locate(this.pane, event);
    const masks = this.marks.filter(({ shape }) => shape === "mask");
    const mark =
      masks.find((each) => each === this.current) ?? masks.find(({ painted }) => painted.has(from));
    const painted = mark ? mark.painted.copy() : new Mask(this.aspect);
    const pending = { shape: "mask", painted };
    const radius = BRUSHES[this.brush] / zoom.scale; // what is seen is what is painted
    const to = (point) => {
      painted.stroke(from, point, radius);
      from = point;
      this.#paint(pending, mark);
    };
    to(from);
    return {
      move: (moved) => {
        const events = moved.getCoalescedEvents?.() ?? [];
        for (const each of events.length ? events : [moved]) to(zoom.locate(this.pane, each));
      },
      end: (lifted) => {
        if (!lifted || !painted.encode()) return;
        if (mark) {
          mark.before = [...(mark.before ?? []), mark.painted];
          mark.painted = painted;
          this.refresh();
        } else {
          this.#add(pending);
        }
      },
    };
  }

  #paint(pending = null, instead = null) {
    const shapes = this.marks.filter((mark) => mark !== instead);
    if (pending) shapes.push(pending);
    this.drawn.replaceChildren(
      ...shapes.flatMap((mark) => {
        const open = mark === pending || mark === this.current;
        return ["under", "over"].map((tone) => {
          const { x, y, width, height, painted } = mark;
          const shape = painted
            ? svg("path", { d: painted.outline() })
            : svg("rect", { x, y, width, height });
          shape.setAttribute("class", `${tone}${open ? " open" : ""}`);
          if (mark === this.pointed) shape.classList.add("pointed");
          return shape;
        });
      }),
    );
  }

  // -- what is on view --------------------------------------------------------------------------

  refresh() {
    const shown = this.current ?? this.chosen;
    this.study.artifacts.forEach(({ name }, index) => {
      this.artifactButtons[index].ariaPressed = String(shown.artifact === name);
    });
    this.study.severities.forEach(({ value }, index) => {
      this.severityButtons[index].ariaPressed = String(shown.severity === value);
    });
    for (const [name, button] of Object.entries(this.toolButtons)) {
      button.ariaPressed = String(this.tool === name);
    }
    this.sizes.forEach((button, index) => {
      button.ariaPressed = String(this.brush === index);
      button.parentElement?.classList.toggle("off", this.tool !== "brush");
    });
    this.list.replaceChildren(...this.marks.map((mark) => this.#item(mark)));
    this.list.scrollTop = this.list.scrollHeight;
    this.#hint();
    this.#paint();
    this.changed();
  }

  #hint() {
    const { lacking } = this;
    const draw = this.tool === "box" ? "Draw a box around" : "Paint over";
    this.hint.textContent =
      { artifact: "What is it?", severity: "How bad is it?", note: "Say what it is." }[lacking] ??
      (this.marks.length ? "Mark another one, or save." : `${draw} each fault.`);
    for (const part of this.parts) {
      part.classList.toggle("lacking", Boolean(lacking) && part.classList.contains(`${KINDS[lacking]}`));
    }
  }

  #item(mark) {
    const { artifacts, severities } = this.study;
    const label = artifacts.find(({ name }) => name === mark.artifact)?.label ?? "New mark";
    const severity = severities.find(({ value }) => value === mark.severity)?.label;
    const point = (pointed) => () => {
      this.pointed = pointed;
      this.#paint();
    };
    const item = h(
      "li",
      { onmouseenter: point(mark), onmouseleave: point(null), ariaCurrent: String(mark === this.current) },
      h(
        "button.name",
        {
          type: "button",
          title: "Change",
          onclick: () => {
            this.current = this.current === mark ? null : mark;
            this.refresh();
          },
        },
        label,
        severity && h("span.how", {}, severity),
      ),
      h(
        "button.remove",
        { type: "button", ariaLabel: `Remove ${label}`, onclick: () => this.#remove(mark) },
        "×",
      ),
    );
    if (mark.artifact === FREE) {
      item.append(
        h("input.note", {
          type: "text",
          required: true,
          maxLength: 500,
          placeholder: "What is it?",
          ariaLabel: "What is it?",
          value: mark.note,
          oninput: ({ target }) => {
            mark.note = target.value;
            if (mark === this.current && complete(mark)) this.current = null;
            this.#hint();
            this.changed();
          },
        }),
      );
    }
    return item;
  }
}

const KINDS = { artifact: "artifacts", severity: "severities", note: "marks" };

const complete = ({ artifact, severity, note }) =>
  artifact !== null && severity !== null && (artifact !== FREE || note.trim() !== "");

/** The rectangle between two points, inside the photograph. */
function between(a, b) {
  const inside = (value) => Math.min(1, Math.max(0, value));
  const [left, right] = [inside(a.x), inside(b.x)].sort((p, q) => p - q);
  const [top, bottom] = [inside(a.y), inside(b.y)].sort((p, q) => p - q);
  return { x: left, y: top, width: right - left, height: bottom - top };
}
