// What every way of asking shares: panes with photographs, one zoom, viewing aids.

import { Aids } from "./aids.js";
import { h } from "./dom.js";
import { Zoom } from "./zoom.js";

/** Roles of the photographs on view: the original may be there for the viewing aid alone. */
export function onView(images, { original, aids }) {
  const hidden = !original && aids.includes("original");
  return Object.keys(images).filter((role) => role !== "reference" || !hidden);
}

export class View {
  /**
   * @param {string} name class of the element
   * @param {Record<string, HTMLImageElement>} images decoded photographs by role
   * @param {object[]} panes photographs, in order from left to right
   * @param {string[]} compared roles of the two that viewing aids bring together
   * @param {object} options
   * @param {(answer: object, event: Event) => void} options.answer takes an answer
   * @param {(aid: string) => void} options.used a viewing aid was used
   * @param {() => void} options.changed what the buttons around the view offer has changed
   * @param {object} options.study what is asked, as the server tells it
   * @param {object} [gestures] `onClick` and `onDrag` on a photograph; see Zoom
   */
  constructor(name, images, panes, compared, { answer, used, changed, study }, gestures = {}) {
    Object.assign(this, { panes, answer, changed, study });
    this.field = h("div.field", {}, ...panes.flatMap(({ frame, label }) => [frame, label]));
    this.element = h(`div.stage.${name}`, {}, this.field);
    this.reference = panes.find(({ role }) => role === "reference");
    this.original = images.reference;
    this.compared = panes.filter(({ role }) => compared.includes(role));
    this.aids = new Aids(this, {
      allowed: study.aids,
      onUse: used,
      onChange: () => {
        this.arrange();
        this.changed();
      },
    });
    this.zoom = new Zoom(panes, {
      onUse: () => used("zoom"),
      onChange: (zoom) => {
        this.zoomed?.(zoom);
        changed();
      },
      onClick: () => {},
      enabled: study.aids.includes("zoom"),
      ...gestures,
    });
    const { naturalWidth, naturalHeight } = panes[0].image;
    this.aspect = naturalWidth / naturalHeight;
    /** Where the study wants native pixels, no photograph is shown larger, in CSS pixels. */
    this.tallest = study.fit === "native" ? naturalHeight / devicePixelRatio : Infinity;
  }

  /** Tell the zoom where native pixels are, once the photographs have their size. */
  calibrate() {
    const { image, box } = this.panes[0];
    const native = image.naturalWidth / devicePixelRatio / box.width;
    this.zoom.calibrate(native, this.study.fit === "native");
  }

  ask() {}

  /** @returns {object | null} the answer that a key stands for */
  answerOf() {
    return null;
  }

  /** Take back a part of an answer that is not given yet; false if there is none. */
  takeBack() {
    return false;
  }

  destroy() {
    this.aids.destroy();
    this.zoom.destroy();
    this.element.remove();
  }
}
