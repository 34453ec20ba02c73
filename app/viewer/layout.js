// Where the photographs stand. Pure functions of sizes in CSS pixels.

const GAP = 14;
const CAPTION = 24; // line above each photograph
const SMALLEST_ORIGINAL = 0.36; // of the pair's scale
const WORTH_STACKING = 1.25; // stack the pair only where it is so much larger

/** Whole device pixels: both photographs must be resampled on the same grid. */
const snap = (value) => Math.floor(value * devicePixelRatio + 1e-6) / devicePixelRatio;

const box = (x, y, width, height) => ({
  x: snap(x),
  y: snap(y),
  width: snap(width),
  height: snap(height),
});

/**
 * The largest pair of equal size in which the grey original still has its place.
 *
 * Tried are: side by side with the original between the two or below them, and one above the
 * other with the original beside. The original then grows into the space that is left.
 *
 * @param {{width: number, height: number}} area
 * @param {number} aspect width / height of the photographs
 * @param {boolean} original whether the grey original is on view
 * @param {number} [tallest] the photographs are not shown higher than this
 * @returns {{stacked: boolean, left: object, right: object, reference: object}} boxes of the
 *   photographs alone; each caption is the line above its box.
 */
export function arrangePair(area, aspect, original, tallest = Infinity) {
  const { width: W, height: H } = area;
  const r = original ? SMALLEST_ORIGINAL : 0;
  const heights = {
    between: Math.min((W - (original ? 2 : 1) * GAP) / (2 + r) / aspect, H - CAPTION),
    below: Math.min((W - GAP) / 2 / aspect, (H - 2 * CAPTION - GAP) / (1 + r)),
    stacked: Math.min((W - GAP) / (1 + r) / aspect, (H - 2 * CAPTION - GAP) / 2),
  };
  let kind = heights.between >= heights.below ? "between" : "below";
  if (heights.stacked > WORTH_STACKING * heights[kind]) kind = "stacked";
  const h = Math.min(heights[kind], tallest);
  const w = h * aspect;

  if (kind === "stacked") {
    const rw = original ? Math.min(w, W - w - GAP) : -GAP;
    const rh = rw / aspect;
    const x = (W - w - GAP - rw) / 2;
    const y = (H - 2 * (h + CAPTION) - GAP) / 2;
    return {
      stacked: true,
      left: box(x, y + CAPTION, w, h),
      right: box(x, y + 2 * CAPTION + h + GAP, w, h),
      reference: box(x + w + GAP, (H - rh - CAPTION) / 2 + CAPTION, rw, rh),
    };
  }
  if (kind === "between") {
    const rw = original ? Math.min(w, W - 2 * w - 2 * GAP) : -GAP;
    const rh = rw / aspect;
    const x = (W - 2 * w - rw - 2 * GAP) / 2;
    const y = (H - h - CAPTION) / 2 + CAPTION;
    return {
      stacked: false,
      left: box(x, y, w, h),
      reference: box(x + w + GAP, y + (h - rh) / 2, rw, rh),
      right: box(x + w + rw + 2 * GAP, y, w, h),
    };
  }
  const rh = Math.min(h, H - h - 2 * CAPTION - GAP);
  const rw = rh * aspect;
  const x = (W - 2 * w - GAP) / 2;
  const y = (H - h - rh - 2 * CAPTION - GAP) / 2 + CAPTION;
  return {
    stacked: false,
    left: box(x, y, w, h),
    right: box(x + w + GAP, y, w, h),
    reference: box((W - rw) / 2, y + h + GAP + CAPTION, rw, rh),
  };
}

/** Height that a photograph of the full width takes with its caption. */
export const fullHeight = (width, aspect) => width / aspect + CAPTION;

/** One photograph as large as the area allows, with its caption above it. */
export function arrangeSingle(area, aspect, tallest = Infinity) {
  const h = Math.min(area.width / aspect, area.height - CAPTION, tallest);
  const w = h * aspect;
  return box((area.width - w) / 2, (area.height - h - CAPTION) / 2 + CAPTION, w, h);
}
