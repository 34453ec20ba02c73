// The rating page: shows one trial after the other, takes the answers, keeps none for itself.
//
// Nothing on the way from one trial to the next waits for the network: the next photographs are
// loaded, decoded and laid out beforehand, under an opaque cover, so that the browser has them
// rastered when their turn comes. An answer is kept in local storage and sent in the background
// until the server says that it is durable.
//
// `data-state` of the viewer: `loading`; `shown` (handed to the browser); `open` (painted; the
// time runs, `data-trial` is the trial on the screen); `ready` (an answer is taken now); `closed`;
// `interval` (the grey field); `card` (a sheet covers it).

import { ApiError, Client, decode, randomId, sleep } from "./client.js";
import { h, icon, quiet } from "./dom.js";
import { PairView } from "./pairwise.js";
import { ArtifactView, RatingView, ReviewView, WhyView } from "./single.js";

const AHEAD = 4; // trials whose photographs are ready beforehand
const NOTICED_MS = 250; // a shorter minimum viewing time needs no sign
const AFTER_PAINT_MS = 40; // until then the frame with the new photographs is certainly out
const ANTICIPATION_MS = 100; // nobody has judged anything sooner; the second half of a double tap
const VIEWS = {
  pairwise: PairView,
  real_or_fake: PairView,
  artifact: ArtifactView,
  rating: RatingView,
  review: ReviewView,
};
const AIDS = { f: "flicker", d: "slider" };
const OTHER = { left: "right", right: "left" };

/**
 * Resolves, with the time, when what was drawn before the call has been handed to the screen:
 * in the first task after the frame that contains it.
 */
const painted = () =>
  new Promise((resolve) => {
    requestAnimationFrame(() => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => resolve(performance.now());
      port2.postMessage(null);
    });
  });

/** Try until the server answers; `onWait` hears of every failure. Other errors are thrown. */
async function persist(client, attempt, onWait) {
  for (let ms = 500; ; ms = Math.min(2 * ms, 15000)) {
    try {
      return await attempt();
    } catch (error) {
      if (client.closed || (error instanceof ApiError && !error.temporary)) throw error;
      onWait(error);
      await client.patience(ms);
    }
  }
}

/** Change a text only where it changes: the browser lays out again whatever is touched. */
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export class Viewer {
  /**
   * @param {HTMLElement} root where to build; it should cover the window
   * @param {string} study name of the study
   * @param {(page: "join" | "finish") => void} go leave for another page
   */
  constructor(root, study, go) {
    this.root = root;
    this.go = go;
    this.client = new Client(study);
    this.tab = randomId();
    this.listeners = new AbortController();
    this.steps = []; // one question about one trial each, in order
    this.cursor = 0; // the question that is asked
    this.back = 0; // the one that was answered last
    this.held = null; // position of the last trial that was fetched
    this.complete = false; // every trial was fetched
    this.open = null; // the question that takes answers now
    this.#build();
    this.#listen();
    this.ended = this.#run().catch((error) => this.#fail(error));
  }

  destroy() {
    this.listeners.abort();
    this.resizing.disconnect();
    this.client.release();
    this.client.flush();
    this.client.sendEvents();
    this.client.close();
    this.view?.destroy();
    this.root.replaceChildren();
  }

  // -- the course of a session ------------------------------------------------------------------

  async #run() {
    if (!this.client.session) return this.go("join");
    this.client.cupboard.set("active", this.tab);
    this.client.release(); // a vote whose marks were left open by a reload
    this.study = await persist(
      this.client,
      () => this.client.request("GET", `studies/${encodeURIComponent(this.client.study)}`),
      () => this.#notice("Waiting for the connection …"),
    );
    // Answers from before a reload go first: the server then knows where we are.
    await Promise.race([this.client.flush(), sleep(1500)]);
    await this.#clock();
    for (;;) {
      const step = await this.#next();
      if (this.client.closed) return undefined;
      if (!step) return this.#finish();
      await this.#ask(step);
    }
  }

  /** The next question, its photographs decoded; null when all are answered. */
  async #next() {
    while (this.cursor >= this.steps.length) {
      if (this.client.closed || this.complete) return null;
      await this.#fetch();
    }
    const step = this.steps[this.cursor];
    if (!step.entry.view) this.#lookAhead();
    if (step.rest) {
      step.rest = false;
      await this.#rest(step);
    }
    if (performance.now() > this.deadline) await this.#overtime(step);
    if (this.client.closed) return null;
    const waiting = setTimeout(() => {
      this.element.dataset.state = "loading";
      this.#notice("Loading photographs …");
    }, 400);
    await this.#decoded(step.entry);
    clearTimeout(waiting);
    this.#notice("");
    return step;
  }

  /** Get the trials after the last one held. */
  #fetch() {
    // What was kept when the server was asked: it may be saved, and gone, before the server replies.
    const kept = this.client.outbox;
    this.fetching ??= persist(
      this.client,
      () => this.client.trials(this.held),
      () => this.#notice("Waiting for the connection …"),
    )
      .then((answer) => this.#hold(answer, kept))
      .finally(() => {
        this.fetching = null;
      });
    return this.fetching;
  }

  #hold({ state, trials, progress }, kept) {
    this.total = progress.total;
    this.complete = state === "done" || !trials.length;
    let rest = state === "break";
    for (const trial of trials) {
      this.held = trial.position;
      const entry = { trial, decoding: null, images: null, view: null };
      for (const attribute of trial.attributes) {
        const waiting = kept.some((one) => one.trial === trial.trial && one.attribute === attribute.name);
        if (waiting || attribute.name in trial.answered) continue;
        this.steps.push({ entry, attribute, revision: 0, rest });
        rest = false;
      }
    }
  }

  /** Fetch and decode what comes next, one trial at a time, while the observer looks. */
  async #lookAhead() {
    if (this.looking) return;
    this.looking = true;
    try {
      while (!this.client.closed) {
        const coming = new Set(this.steps.slice(this.cursor).map(({ entry }) => entry));
        const entry = [...coming].slice(0, AHEAD).find(({ view }) => !view);
        if (entry) {
          await this.#decoded(entry);
          this.#prepare(entry);
        } else if (coming.size < AHEAD && !this.complete) await this.#fetch();
        else break;
      }
    } catch {
      // told where the photographs are needed
    } finally {
      this.looking = false;
    }
    // A long session does not keep what it has shown; undo goes back one answer.
    const needed = new Set(this.steps.slice(this.back).map(({ entry }) => entry));
    for (const { entry } of this.steps.slice(0, this.back)) {
      if (!needed.has(entry)) Object.assign(entry, { images: null, decoding: null });
    }
  }

  #decoded(entry) {
    entry.decoding ??= persist(
      this.client,
      () =>
        decode(entry.trial.images).catch((error) => {
          throw new ApiError(0, "image", String(error));
        }),
      () => this.#notice("Waiting for the connection …"),
    ).then((images) => {
      entry.images = images;
      return images;
    });
    return entry.decoding;
  }

  async #ask(step) {
    const { entry, attribute } = step;
    const { trial } = entry;
    if (this.wasPractice && !trial.practice) await this.#practiceOver();
    this.wasPractice = Boolean(trial.practice);

    this.#show(entry, attribute);
    this.#head(step);
    const { answer, from, presentedAt } = await this.#answered(trial, trial.min_view_ms);
    if (this.client.closed) return;
    if (answer.undo) {
      this.#undone();
      return;
    }
    this.back = this.cursor;
    this.undone = false;
    const { at, ...given } = answer;
    const rating = () => {
      const answered = this.steps[this.cursor++];
      answered.revision += 1;
      return {
        response_id: randomId(),
        trial: trial.trial,
        attribute: answered.attribute.name,
        revision: answered.revision,
        ...given,
        response_time_ms: Math.max(0, Math.round((at - from) * 10) / 10),
        presented_at: presentedAt,
      };
    };
    const asksWhy = this.#asksWhy(step, answer);
    if (asksWhy) this.client.hold(rating());
    else this.client.submit(rating());
    // A photograph that cannot be judged is skipped with all its questions.
    while (answer.value === "skip" && this.steps[this.cursor]?.entry === entry) {
      this.client.submit(rating());
    }
    const expected = trial.feedback?.[attribute.name];
    if (expected) await this.#feedback(attribute, answer.value, expected);
    if (asksWhy && !(await this.#why(step, OTHER[answer.value]))) return;
    if (this.steps[this.cursor]?.entry !== entry) await this.#interval(trial.isi_ms, answer);
  }

  /** Open the question on the screen, once it is painted, and wait for its answer. */
  async #answered(trial, minViewMs) {
    this.element.dataset.state = "shown";
    const from = await painted();
    const presentedAt = new Date().toISOString();
    if (this.client.closed) return {};
    const viewMs = Math.max(minViewMs, ANTICIPATION_MS);
    const answer = await new Promise((resolve) => {
      this.open = { from, earliest: from + viewMs, resolve };
      this.element.dataset.trial = trial.trial;
      this.element.dataset.state = "open";
      this.opening = setTimeout(() => this.#ready(), viewMs);
      this.view.shown?.(from, (ms) => this.#log("hidden", { ms: Math.round(ms) }));
      this.#afterwards(() => {
        this.#sweep();
        this.#lookAhead();
      });
    });
    clearTimeout(this.opening);
    this.open = null;
    this.element.dataset.state = "closed";
    return { answer, from, presentedAt };
  }

  /** What can wait for the screen: loading and decoding compete with it for the processor. */
  #afterwards(work) {
    clearTimeout(this.later);
    this.later = setTimeout(() => this.client.closed || work(), AFTER_PAINT_MS);
  }

  /** Show that an answer would be taken now. */
  #ready() {
    if (this.open && !this.card.open) this.element.dataset.state = "ready";
  }

  #undone() {
    this.cursor = this.back;
    this.undone = true;
  }

  /** Is this vote followed by marks on the image that lost? */
  #asksWhy({ attribute }, { value }) {
    const { why, attributes } = this.study;
    return why && why !== "off" && attribute.name === attributes[0].name && value in OTHER;
  }

  /** Marks on the image that lost; the vote itself is kept already. False if it was taken back. */
  async #why({ entry }, losing) {
    const { stimulus = entry.images[losing], reference } = entry.images;
    entry.view = this.#make(WhyView, entry, { stimulus, ...(reference && { reference }) });
    this.#display(entry.view);
    this.question.textContent = "What is wrong with the one that you did not choose?";
    this.skip.hidden = true;
    this.#buttons();
    const { answer } = await this.#answered(entry.trial, 0);
    if (this.client.closed) return false;
    const marks = (answer.marks ?? []).map((mark) => ({ ...mark, image: losing }));
    this.client.release(marks.length ? { marks } : {});
    this.shown = null; // another question about this pair shows it anew
    entry.view = null;
    if (answer.undo) this.#undone();
    return !answer.undo;
  }

  /** The grey field between two trials. */
  async #interval(ms, answer) {
    if (ms > 0) {
      this.view.confirm(answer);
      this.element.dataset.state = "interval";
      await sleep(ms);
    }
  }

  /** A view of some photographs, laid out under the cover. */
  #make(kind, entry, images) {
    const view = new kind(images, {
      answer: (answer, event) => this.#answer(answer, event.timeStamp),
      study: this.study,
      trial: entry.trial,
      used: (aid) => this.#once(aid),
      changed: () => this.#buttons(),
    });
    view.entry = entry;
    view.element.inert = true;
    view.element.ariaHidden = "true";
    this.stage.append(view.element);
    view.asked = this.#questionOf(entry);
    view.ask(view.asked);
    view.arrange();
    return view;
  }

  #questionOf(entry) {
    const coming = this.steps.slice(this.cursor).find((step) => step.entry === entry);
    return coming?.attribute ?? entry.trial.attributes[0];
  }

  #prepare(entry) {
    entry.view ??= this.#make(VIEWS[this.study.method], entry, entry.images);
  }

  #show(entry, attribute) {
    if (this.shown === entry) {
      this.view.ask(attribute);
      this.view.arrange();
      this.view.asked = attribute;
      return;
    }
    this.#prepare(entry);
    if (entry.view.asked !== attribute) {
      entry.view.ask(attribute);
      entry.view.asked = attribute;
    }
    this.shown = entry;
    this.#display(entry.view);
  }

  /** Uncover a view. What was on the screen is removed later, off the way to the next paint. */
  #display(view) {
    if (this.view) {
      this.view.element.classList.remove("current");
      this.gone = [...(this.gone ?? []), this.view];
    }
    this.view = view;
    this.logged = new Set();
    view.element.inert = false;
    view.element.ariaHidden = null;
    view.element.classList.add("current");
  }

  /** Remove the views that are no longer shown. */
  #sweep() {
    const gone = this.gone ?? [];
    this.gone = [];
    for (const view of gone) {
      if (view.entry.view === view) view.entry.view = null;
      view.destroy();
    }
  }

  #finish() {
    const saving = setTimeout(() => this.#notice("Saving your last answers …"), 300);
    return this.client.flush().then(() => {
      clearTimeout(saving);
      if (!this.client.closed) this.go("finish");
    });
  }

  // -- answers ----------------------------------------------------------------------------------

  #answer(answer, at) {
    const { open } = this;
    if (!open || at < open.earliest) {
      // Too early, or for a pair that is gone or not there yet: nobody can have judged it.
      this.#log(open ? "early_answer" : "answer_between", { value: answer.value });
      return;
    }
    this.open = null; // a second press belongs to no question
    open.resolve({ ...answer, at });
  }

  get undoable() {
    return this.study?.undo && this.cursor > 0 && !this.undone;
  }

  #undo() {
    if (!this.open || !this.undoable) return;
    this.#log("undo");
    this.open.resolve({ undo: true });
    this.open = null;
  }

  #log(name, detail) {
    this.client.log(name, this.shown?.trial.trial, detail);
  }

  #once(name) {
    if (this.logged.has(name)) return;
    this.logged.add(name);
    this.#log(name);
  }

  #listen() {
    const on = (target, type, listener) =>
      target.addEventListener(type, listener, { signal: this.listeners.signal, capture: true });
    on(window, "keydown", (event) => this.#keydown(event));
    // A button that was clicked must not take the next Enter for itself.
    on(this.root, "click", ({ detail, target }) => detail && target.closest("button")?.blur());
    on(window, "keyup", (event) => this.#held(event));
    on(document, "visibilitychange", () => {
      this.#log(document.hidden ? "focus_lost" : "focus_back");
      if (document.hidden) this.client.sendEvents();
    });
    on(window, "blur", () => {
      this.view?.aids.hold(false);
      this.#log("window_blur");
    });
    on(window, "focus", () => this.#log("window_focus"));
    on(window, "pagehide", () => {
      this.client.release();
      this.client.flush();
    });
    on(window, "storage", ({ key: name, newValue }) => {
      const active = this.client.cupboard.prefix + "active";
      if (name === active && newValue && newValue !== JSON.stringify(this.tab)) this.#elsewhere();
    });
    this.client.addEventListener("connection", ({ detail }) => this.#connection(detail));
    this.client.addEventListener("refused", ({ detail: { error } }) => {
      this.#log("refused", { status: error.status, code: error.code });
      if (error.code === "closed") this.#fail(error);
    });
    this.client.addEventListener("lost", ({ detail }) => this.#fail(detail));
    this.resizing = new ResizeObserver(() => {
      this.view?.arrange();
      for (const { entry } of this.steps.slice(this.cursor)) entry.view?.arrange();
    });
    this.resizing.observe(this.stage);
  }

  #keydown(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    // The digit row counts as digits on keyboards where they need Shift, too.
    const digit = /^Digit([0-9])$/.exec(event.code)?.[1];
    const name = digit ?? event.key.toLowerCase();
    const take = () => {
      event.preventDefault();
      event.stopPropagation();
    };
    if (this.card.open) {
      const wanted = { enter: "primary", " ": "primary", escape: "cancel" }[name];
      const button = wanted && this.card.querySelector(`button.${wanted}`);
      if (button && !event.repeat) {
        take();
        button.click();
      }
      return;
    }
    const focused = this.root.getRootNode().activeElement;
    if (["INPUT", "TEXTAREA"].includes(focused?.tagName)) {
      // Words are being written; Enter or Escape ends that.
      if (name === "escape" || (name === "enter" && !event.shiftKey)) {
        take();
        focused.blur();
      }
      return;
    }
    this.#held(event);
    if (focused?.tagName === "BUTTON" && ["enter", " "].includes(name)) return; // presses it
    if (name.startsWith("arrow") || [" ", "backspace"].includes(name)) take();
    if (event.repeat || !this.open) {
      if (!["tab", "shift"].includes(name)) {
        this.#log(event.repeat ? "key_repeat" : "key_between", { key: event.key });
      }
      return;
    }
    if (name === "z") this.#unzoom();
    else if (name === "+") this.view.zoom.zoomBy(1.5);
    else if (name === "p") this.view.zoom.toggleNative();
    else if (name in AIDS && this.view.aids.available.includes(AIDS[name])) {
      this.view.aids.toggle(AIDS[name]);
    } else if (name === "," || name === ".") this.view.aids.slide(name === "." ? 1 : -1);
    else if (name === "o") this.view.aids.hold(true);
    else if (name === "u" || name === "backspace") this.#takeBack();
    else if (name === "s" && !this.skip.hidden) this.#chooseSkip();
    else {
      const answer = this.view.answerOf(name, event);
      if (answer) this.#answer(answer, event.timeStamp);
    }
  }

  #takeBack() {
    if (this.open && !this.view.takeBack()) this.#undo();
  }

  /** Keys that act as long as they are held. */
  #held(event) {
    this.view?.hold?.(event);
    if (event.type === "keyup" && event.key.toLowerCase() === "o") this.view?.aids.hold(false);
  }

  /** Back to how the photographs were shown at first. */
  #unzoom() {
    this.view.aids.toggle(null);
    this.view.zoom.reset();
  }

  // -- what stands around the photographs -----------------------------------------------------------

  #build() {
    this.undo = quiet("U", "Undo", () => this.#takeBack());
    this.skip = quiet("S", "Skip", () => this.#chooseSkip());
    this.unzoom = quiet("Z", "Zoom out", () => this.#unzoom());
    const tool = (name, title, onclick) =>
      h("button.tool", { type: "button", title, ariaLabel: title, onclick }, icon(name));
    this.tools = {
      flicker: tool("flicker", "Flicker (F)", () => this.view.aids.toggle("flicker")),
      slider: tool("slider", "Slider (D)", () => this.view.aids.toggle("slider")),
      original: tool("original", "Hold to see the original (O)"),
      native: tool("native", "Native pixels (P)", () => this.view.zoom.toggleNative()),
    };
    this.tools.original.onpointerdown = () => this.view.aids.hold(true);
    for (const end of ["onpointerup", "onpointercancel", "onpointerleave"]) {
      this.tools.original[end] = () => this.view.aids.hold(false);
    }
    this.aids = h("div.tools", { role: "group", ariaLabel: "Viewing aids" }, ...Object.values(this.tools));
    this.question = h("h1.question", { ariaLive: "polite" });
    this.context = h("p.context");
    this.practice = h("span.practice", {}, "Practice");
    this.count = h("span.count");
    this.offline = h("p.offline", { role: "status" });
    this.bar = h("div.bar");
    this.stage = h("main.stagebox", {}, h("div.cover"));
    this.message = h("p.message", { role: "status" });
    this.card = h("dialog.card");
    this.element = h(
      "div.viewer",
      {},
      h("div.progress", {}, this.bar),
      h(
        "header.head",
        {},
        h("div.side", {}, this.undo, this.skip, this.unzoom),
        h("div.middle", {}, this.question, this.context),
        h("div.side.end", {}, this.aids, this.practice, this.count),
      ),
      this.stage,
      this.offline,
      this.message,
      this.card,
    );
    this.element.dataset.state = "loading";
    this.root.replaceChildren(this.element);
    for (const part of [this.undo, this.skip, this.unzoom, this.practice]) part.hidden = true;
  }

  #head({ entry: { trial }, attribute }) {
    write(this.question, attribute.question);
    write(this.context, Object.values(trial.context ?? {}).filter(Boolean).join(" · "));
    this.element.classList.toggle("patient", trial.min_view_ms > NOTICED_MS);
    this.practice.hidden = !trial.practice;
    this.skip.hidden = !this.study.skip_reasons.length;
    this.#buttons();
    this.count.textContent = `${trial.position} of ${this.total}`;
    this.bar.style.width = `${(100 * (trial.position - 1)) / this.total}%`;
  }

  #buttons() {
    const { view } = this;
    if (!view?.zoom) return; // it is being built
    this.undo.hidden = !this.study.undo && !view.marks;
    this.undo.disabled = !this.undoable && !view.marks?.length;
    const { available, mode } = view.aids;
    this.unzoom.hidden = !view.zoom.away && !mode;
    for (const [name, tool] of Object.entries(this.tools)) {
      tool.hidden = name === "native" ? !view.zoom.enabled : !available.includes(name);
      if (name !== "original") {
        tool.ariaPressed = String(name === mode || (name === "native" && view.zoom.away));
      }
    }
  }

  #connection({ online, waiting }) {
    this.offline.textContent = online
      ? ""
      : `Offline · ${waiting} ${waiting === 1 ? "answer" : "answers"} kept here`;
  }

  #notice(text) {
    this.message.textContent = text;
  }

  /** A sheet over the field; resolves when it is closed with the value of the pressed button. */
  #sheet(title, paragraphs, buttons) {
    this.element.dataset.state = "card";
    return new Promise((resolve) => {
      const close = (value) => {
        this.card.close();
        this.card.replaceChildren();
        resolve(value);
      };
      this.card.replaceChildren(
        h("h2", {}, title),
        ...paragraphs.map((text) => h("p", {}, text)),
        h(
          "div.buttons",
          {},
          buttons.map(({ label, value, kind = "primary" }) =>
            h(`button.${kind}`, { type: "button", onclick: () => close(value) }, label),
          ),
        ),
      );
      this.card.oncancel = (event) => event.preventDefault();
      if (!this.card.open) this.card.showModal();
    });
  }

  #practiceOver() {
    return this.#sheet(
      "That was the practice",
      ["From here on your answers count. Take the time you need; there is no right answer that we wait for."],
      [{ label: "Begin" }],
    );
  }

  async #rest({ entry }) {
    await this.#sheet(
      "Time for a short break",
      [
        `You have done ${entry.trial.position - 1} of ${this.total}. Look away from the screen for a moment.`,
        "Continue whenever you like.",
      ],
      [{ label: "Continue" }],
    );
  }

  /** How long this sitting may still be, where the study limits it. */
  async #clock() {
    this.deadline = Infinity;
    if (!this.study.session_minutes) return;
    const ask = () => this.client.request("GET", "session");
    const { seconds_left: left } = await persist(this.client, ask, () => {});
    if (typeof left === "number") this.deadline = performance.now() + 1000 * left;
  }

  async #overtime({ entry }) {
    this.deadline = Infinity; // said once
    this.#log("time_over");
    const stop = await this.#sheet(
      "Time for today is up",
      [
        `You have done ${entry.trial.position - 1} of ${this.total}, and all of it is saved. A tired eye judges less well.`,
        "You can stop here and come back to the rest with this browser, or go on.",
      ],
      [{ label: "Stop here", value: true }, { label: "Go on", kind: "cancel" }],
    );
    if (!stop) return;
    this.#log("stopped");
    await this.client.flush();
    this.client.sendEvents();
    await this.#sheet(
      "Your answers are saved",
      ["You can close this window. The link that brought you here brings you back to where you stopped."],
      [{ label: "Go on after all" }],
    );
  }

  #feedback(attribute, given, expected) {
    const { label } = attribute.answers.find(({ value }) => value === expected) ?? { label: expected };
    if (given === expected) return this.#sheet("Yes", ["That was right."], [{ label: "Continue" }]);
    if (given === "skip") return undefined;
    return this.#sheet(
      "Not this time",
      [`The right answer was “${label}”. During practice that costs nothing.`],
      [{ label: "Continue" }],
    );
  }

  async #chooseSkip() {
    const { open } = this;
    if (!open || this.card.open) return;
    const reason = await this.#sheet(
      "Skip this one?",
      ["Please say why."],
      [
        ...this.study.skip_reasons.map((text) => ({ label: text, value: text, kind: "choice" })),
        { label: "Back", value: null, kind: "cancel" },
      ],
    );
    this.element.dataset.state = "open";
    this.#ready();
    if (reason) this.#answer({ value: "skip", reason }, performance.now());
  }

  /** Take no answers any more; what is not sent yet stays in local storage. */
  #stop() {
    this.open = null;
    this.client.close();
  }

  async #elsewhere() {
    this.#stop();
    await this.#sheet(
      "This study is open in another window",
      ["Please continue there, or go on here; nothing that you answered is lost."],
      [{ label: "Continue here" }],
    );
    location.reload();
  }

  async #fail(error) {
    if (this.client.closed) return;
    if (error instanceof ApiError && error.status === 401) {
      this.client.cupboard.remove("session");
      this.go("join");
      return;
    }
    this.#stop();
    if (error.code === "closed") {
      await this.#sheet("This study has closed", ["Thank you. What you answered before is saved."], []);
    }
    console.error(error);
    await this.#sheet(
      "This page cannot go on",
      ["Your answers are kept. Please try again; if it does not help, tell the people who run this study."],
      [{ label: "Try again" }],
    );
    location.reload();
  }
}

/**
 * Cover the window with a viewer. It hangs on the body, outside of what Streamlit redraws, so
 * that a rerun or a reconnection of the page neither dims nor restarts it.
 */
export async function mount(study, go) {
  const host = h("div", { id: "percept-viewer" });
  Object.assign(host.style, { position: "fixed", inset: "0", zIndex: "2147483000", background: "#767676" });
  document.body.append(host);
  const shadow = host.attachShadow({ mode: "open" });
  const styles = h("link", { rel: "stylesheet", href: new URL("./viewer.css", import.meta.url).href });
  const root = h("div.root");
  shadow.append(styles, root);
  await new Promise((resolve) => {
    styles.onload = styles.onerror = resolve;
  });
  const viewer = new Viewer(root, study, go);
  return () => {
    viewer.destroy();
    host.remove();
  };
}
