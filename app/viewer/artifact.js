// One coloured photograph, the grey original beside it, and what is wrong where.

import { h, key, pane, place } from "./dom.js";
import { arrangeSingle, fullHeight } from "./layout.js";
import { Zoom } from "./zoom.js";

const SMALLEST_MARK = 6; // CSS pixels in each direction; less is a slip of the hand
const PANEL = { narrow: 290, wide: 340, height: 390, gap: 18 };
const ARTIFACT_KEYS = "1234567890-=";
const SEVERITY_KEYS = "qwertyuio";
const SVG = "http://www.w3.org/2000/svg";

export class ArtifactView {
  constructor(images, { answer, used, changed, zoom, study }) {
    Object.assign(this, { answer, changed, study });
    this.marks = [];
    this.current = null; // the mark that still lacks something, or was picked from the list
    this.chosen = { artifact: null, severity: null };

    this.panes = ["stimulus", "reference"]
      .filter((role) => images[role])
      .map((role) => pane(role, role === "stimulus" ? "Coloured" : "Original", images[role]));
    const [stimulus] = this.panes;
    this.drawn = document.createElementNS(SVG, "svg");
    this.drawn.setAttribute("preserveAspectRatio", "none");
    stimulus.frame.append(this.drawn);

    this.field = h("div.field", {}, ...this.panes.flatMap(({ frame, label }) => [frame, label]));
    this.panel = this.#panel();
    this.element = h("div.stage.artifact", {}, this.field, this.panel);
    this.zoom = new Zoom(this.panes, {
      onUse: used,
      onChange: (view) => {
        // The marks follow the photograph; their lines keep their width.
        this.drawn.setAttribute("viewBox", `${view.x} ${view.y} ${1 / view.scale} ${1 / view.scale}`);
        changed();
      },
      onClick: () => {},
      onDrag: (target, event) => target === stimulus && !this.spaceHeld && this.#draw(event),
      enabled: zoom,
    });
    const { naturalWidth, naturalHeight } = images.stimulus;
    this.aspect = naturalWidth / naturalHeight;
    this.#refresh();
  }

  #panel() {
    const choice = (list, keys, kind, id, tag) =>
      list.map((entry, index) =>
        h(
          `button.${tag}`,
          {
            type: "button",
            title: entry.description ?? "",
            onclick: () => this.#choose(kind, entry[id]),
          },
          keys[index] ? key(keys[index].toUpperCase()) : null,
          h("span", {}, entry.label),
        ),
      );
    const { artifacts, severities } = this.study;
    this.artifactButtons = choice(artifacts, ARTIFACT_KEYS, "artifact", "name", "chip");
    this.severityButtons = choice(severities, SEVERITY_KEYS, "severity", "value", "chip");
    this.hint = h("p.hint", { role: "status" });
    this.list = h("ol.marks");
    this.whole = h(
      "button.quiet",
      { type: "button", onclick: () => this.#add({ x: 0, y: 0, width: 1, height: 1 }) },
      key("A"),
      h("span", {}, "Whole photograph"),
    );
    this.none = h(
      "button.answer",
      { type: "button", onclick: (event) => this.answer({ value: "none" }, event) },
      key("N"),
      h("span", {}, "None seen"),
    );
    this.save = h(
      "button.answer",
      { type: "button", onclick: (event) => this.answer(this.#marked(), event) },
      key("⏎"),
      h("span", {}, "Save"),
    );
    this.none.dataset.value = "none";
    this.save.dataset.value = "marks";
    return h(
      "div.panel",
      {},
      h("div.group.artifacts", { role: "group", ariaLabel: "What" }, ...this.artifactButtons),
      h("div.group.severities", { role: "group", ariaLabel: "How bad" }, ...this.severityButtons),
      h("div.row", {}, this.hint, this.whole),
      this.list,
      h("div.controls", {}, this.none, this.save),
    );
  }

  ask() {}

  #choose(kind, value) {
    this.chosen[kind] = value;
    if (this.current) {
      this.current[kind] = value;
      if (complete(this.current)) this.current = null;
    }
    this.#refresh();
  }

  #add(rectangle) {
    if (this.current && !complete(this.current)) this.#remove(this.current);
    const mark = { ...this.chosen, ...rectangle };
    this.marks.push(mark);
    this.current = complete(mark) ? null : mark;
    this.#refresh();
  }

  #remove(mark) {
    this.marks = this.marks.filter((kept) => kept !== mark);
    if (this.current === mark) this.current = null;
    this.#refresh();
  }

  /** Follow the pointer until it is lifted; a second finger means zoom, not a mark. */
  #draw(event) {
    const [{ frame }] = this.panes;
    const start = this.zoom.locate(this.panes[0], event);
    const from = { x: event.clientX, y: event.clientY };
    const end = new AbortController();
    let mark = null;
    const move = (moved) => {
      if (this.zoom.pointers.size > 1) return stop();
      if (moved.pointerId !== event.pointerId) return undefined;
      const width = Math.abs(moved.clientX - from.x);
      const height = Math.abs(moved.clientY - from.y);
      const wide = width >= SMALLEST_MARK && height >= SMALLEST_MARK;
      mark = wide ? between(start, this.zoom.locate(this.panes[0], moved)) : null;
      this.#paint(mark);
      return undefined;
    };
    const stop = (lifted) => {
      end.abort();
      this.#paint();
      if (lifted?.type === "pointerup" && mark) this.#add(mark);
    };
    frame.addEventListener("pointermove", move, { signal: end.signal });
    frame.addEventListener("pointerup", stop, { signal: end.signal });
    frame.addEventListener("pointercancel", stop, { signal: end.signal });
    return true;
  }

  #paint(pending = null) {
    const rectangles = pending ? [...this.marks, pending] : this.marks;
    this.drawn.replaceChildren(
      ...rectangles.flatMap((mark) =>
        ["under", "over"].map((tone) => {
          const rectangle = document.createElementNS(SVG, "rect");
          for (const name of ["x", "y", "width", "height"]) {
            rectangle.setAttribute(name, mark[name]);
          }
          const open = mark === pending || mark === this.current;
          rectangle.setAttribute("class", `${tone}${open ? " open" : ""}`);
          if (mark === this.pointed) rectangle.classList.add("pointed");
          return rectangle;
        }),
      ),
    );
  }

  #refresh() {
    const shown = this.current ?? this.chosen;
    this.study.artifacts.forEach(({ name }, index) => {
      this.artifactButtons[index].ariaPressed = String(shown.artifact === name);
    });
    this.study.severities.forEach(({ value }, index) => {
      this.severityButtons[index].ariaPressed = String(shown.severity === value);
    });
    const lacking = this.current && (this.current.artifact ? "severity" : "artifact");
    this.panel.dataset.lacking = lacking || "";
    this.hint.textContent = lacking
      ? { artifact: "What is it?", severity: "How bad is it?" }[lacking]
      : this.marks.length
        ? "Draw another box, or save."
        : "Draw a box around each fault.";
    this.list.replaceChildren(...this.marks.map((mark) => this.#item(mark)));
    this.list.lastChild?.scrollIntoView({ block: "nearest" });
    this.none.disabled = this.marks.length > 0;
    this.save.disabled = !this.marks.length || Boolean(lacking);
    this.#paint();
    this.changed();
  }

  #item(mark) {
    const { artifacts, severities } = this.study;
    const label = artifacts.find(({ name }) => name === mark.artifact)?.label ?? "New mark";
    const severity = severities.find(({ value }) => value === mark.severity)?.label;
    const point = (pointed) => () => {
      this.pointed = pointed;
      this.#paint();
    };
    return h(
      "li",
      { onmouseenter: point(mark), onmouseleave: point(null), ariaCurrent: String(mark === this.current) },
      h(
        "button.name",
        {
          type: "button",
          title: "Change",
          onclick: () => {
            this.current = mark;
            this.#refresh();
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
  }

  #marked() {
    return {
      value: "marks",
      marks: this.marks.map(({ artifact, severity, x, y, width, height }) => ({
        artifact,
        severity,
        shape: "rectangle",
        ...{ x, y, width, height },
      })),
    };
  }

  arrange() {
    const W = this.element.clientWidth;
    const H = this.element.clientHeight;
    if (!W) return;
    // Controls beside the photograph or below it, whichever leaves it larger.
    const { aspect } = this;
    const panel = Math.min(PANEL.wide, Math.max(PANEL.narrow, 0.28 * W));
    const beside = { width: W - panel - PANEL.gap, height: H };
    const below = { width: W, height: H - PANEL.height - PANEL.gap };
    const column = arrangeSingle(beside, aspect).width >= arrangeSingle(below, aspect).width;
    below.height = Math.min(below.height, fullHeight(W, aspect));
    const [stimulus, reference] = this.panes;
    stimulus.place(arrangeSingle(column ? beside : below, aspect));

    // What is left for the original and the controls: a column or a row.
    const rest = column
      ? { x: beside.width + PANEL.gap, y: 0, width: panel, height: H }
      : { x: 0, y: below.height + PANEL.gap, width: W, height: H - below.height - PANEL.gap };
    if (reference) {
      const corner = column
        ? { width: rest.width, height: Math.min(H * 0.3, fullHeight(rest.width, aspect)) }
        : { width: W * 0.32, height: Math.min(rest.height, fullHeight(W * 0.32, aspect)) };
      const box = arrangeSingle(corner, aspect);
      reference.place({ ...box, x: box.x + rest.x, y: box.y + rest.y });
      const [dx, dy] = column ? [0, corner.height + PANEL.gap] : [corner.width + PANEL.gap, 0];
      rest.x += dx;
      rest.width -= dx;
      rest.y += dy;
      rest.height -= dy;
    }
    place(this.panel, rest);
    this.panel.classList.toggle("wide", !column);
  }

  answerOf(name) {
    const artifact = this.study.artifacts[ARTIFACT_KEYS.indexOf(name)];
    const severity = this.study.severities[SEVERITY_KEYS.indexOf(name)];
    if (artifact) this.#choose("artifact", artifact.name);
    else if (severity) this.#choose("severity", severity.value);
    else if (name === "a") this.whole.click();
    else if (name === "n" && !this.none.disabled) return { value: "none" };
    else if (name === "enter" && !this.save.disabled) return this.#marked();
    return null;
  }

  /** Take back the last mark; false if there is none, so that undo means the last answer. */
  takeBack() {
    if (!this.marks.length) return false;
    this.#remove(this.marks.at(-1));
    return true;
  }

  hold(event) {
    if (event.key === " ") this.spaceHeld = event.type === "keydown";
  }

  confirm({ value }) {
    (value === "none" ? this.none : this.save).classList.add("chosen");
  }

  destroy() {
    this.zoom.destroy();
  }
}

const complete = ({ artifact, severity }) => artifact !== null && severity !== null;

/** The rectangle between two points, inside the photograph. */
function between(a, b) {
  const inside = (value) => Math.min(1, Math.max(0, value));
  const [left, right] = [inside(a.x), inside(b.x)].sort((p, q) => p - q);
  const [top, bottom] = [inside(a.y), inside(b.y)].sort((p, q) => p - q);
  return { x: left, y: top, width: right - left, height: bottom - top };
}
