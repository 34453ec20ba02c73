// The display check: how large, how bright, how tinted. It asks what only its owner can see, and
// tells what the browser knows.

import { h } from "./dom.js";

const CARD = { width: 85.6, height: 53.98 }; // mm, ISO/IEC 7810 ID-1
const LIKELY = 96 / 25.4; // CSS pixels per mm, where a screen is what CSS takes it for
const STEPS = [2, 4, 6, 9, 13, 20]; // of 255, from black and from white
const NIGHT = { off: "Off", on: "On", unknown: "I do not know" };
const ROOM = { dim: "Dim", even: "Evenly lit", bright: "Bright, or sun on the screen" };

/** @param {(told: object) => void} done called once, with what was told */
export function mountDisplay(parent, done) {
  const told = { px_per_mm: null, dark_steps: null, light_steps: null, night_mode: null, room: null };
  const form = h("form.display");
  const styles = h("link", { rel: "stylesheet", href: new URL("./display.css", import.meta.url).href });

  const card = h("div.bankcard", { ariaHidden: "true" }, h("span"));
  const size = h("input", {
    type: "range",
    min: "2.2",
    max: "9",
    step: "0.02",
    value: String(LIKELY),
    ariaLabel: "Width of the card",
    oninput: () => resize(),
  });
  const resize = () => {
    const scale = Number(size.value);
    card.style.width = `${scale * CARD.width}px`;
    card.style.height = `${scale * CARD.height}px`;
    told.px_per_mm = Math.round(100 * scale) / 100;
  };

  const choice = (name, options) =>
    h(
      "div.options",
      { role: "radiogroup", ariaLabel: name },
      Object.entries(options).map(([value, label]) =>
        h(
          "label",
          {},
          h("input", { type: "radio", name, value, required: true, onchange: () => note(name, value) }),
          label,
        ),
      ),
    );
  const note = (name, value) => {
    told[name] = name.endsWith("_steps") ? Number(value) : value;
    next.disabled = Object.entries(told).some(([key, known]) => known === null && key !== "px_per_mm");
  };
  const steps = (base, sign) =>
    h(
      `div.steps${sign > 0 ? ".dark" : ".light"}`,
      { ariaHidden: "true" },
      STEPS.map((step) => {
        const level = base + sign * step;
        const square = h("i");
        square.style.background = `rgb(${level} ${level} ${level})`;
        return square;
      }),
    );
  const counts = Object.fromEntries([...STEPS.keys(), STEPS.length].map((n) => [n, String(n)]));
  const section = (title, text, ...parts) => h("section", {}, h("h3", {}, title), h("p", {}, text), ...parts);

  const skip = h("input", {
    type: "checkbox",
    onchange: () => {
      size.disabled = skip.checked;
      card.classList.toggle("off", skip.checked);
      if (skip.checked) told.px_per_mm = null;
      else resize();
    },
  });
  const next = h("button", { type: "submit", disabled: true }, "Continue");

  const zoom = h("p.warning", { role: "status", hidden: true });
  const look = () => {
    const percent = Math.round((100 * outerWidth) / innerWidth);
    zoom.hidden = percent > 90 && percent < 112;
    zoom.textContent =
      `Your browser seems to be zoomed to ${percent} %. Please set it to 100 %: ` +
      "Ctrl and 0, or ⌘ and 0.";
  };
  addEventListener("resize", look);

  form.append(
    zoom,
    section(
      "Size",
      "Hold a bank card flat against the screen and move the handle until the frame is as large as the card.",
      h("div.bench", {}, card),
      size,
      h("label.skip", {}, skip, "I have no such card here"),
    ),
    section(
      "Shadows and highlights",
      "Set the screen to the brightness you normally use. How many squares do you see in the black strip, and how many in the white one?",
      h("div.strips", {}, h("div", {}, steps(0, 1), choice("dark_steps", counts)), h("div", {}, steps(255, -1), choice("light_steps", counts))),
    ),
    section(
      "Night mode",
      "Is a night mode or blue-light filter (Night Shift, Night Light, f.lux) on? Please switch it off if you can.",
      choice("night_mode", NIGHT),
    ),
    section("Room", "How is the light around you?", choice("room", ROOM)),
    next,
  );
  form.onsubmit = (event) => {
    event.preventDefault();
    next.disabled = true;
    done(told);
  };
  parent.append(styles, form);
  resize();
  look();
  return () => {
    removeEventListener("resize", look);
    form.remove();
    styles.remove();
  };
}
