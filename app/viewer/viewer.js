// The rating page: shows one trial after the other, takes the answers, keeps none for itself.
//
// Nothing on the way from one trial to the next waits for the network: the next photographs are
// loaded and decoded beforehand, and an answer is kept in local storage and sent in the
// background until the server says that it is durable.

import { ArtifactView } from "./artifact.js";
import { ApiError, Client, decode, randomId, sleep } from "./client.js";
import { h, key } from "./dom.js";
import { PairView } from "./pairwise.js";

const AHEAD = 4; // trials whose photographs are decoded beforehand
const VIEWS = { pairwise: PairView, artifact: ArtifactView };

/** Resolves when what was drawn before the call is on the screen, with the time. */
const painted = () =>
  new Promise((resolve) => {
    requestAnimationFrame(() => requestAnimationFrame(() => resolve(performance.now())));
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
    this.client.close();
    this.client.sendEvents();
    this.view?.destroy();
    this.root.replaceChildren();
  }

  // -- the course of a session ------------------------------------------------------------------

  async #run() {
    if (!this.client.session) return this.go("join");
    this.client.cupboard.set("active", this.tab);
    this.study = await persist(
      this.client,
      () => this.client.request("GET", `studies/${encodeURIComponent(this.client.study)}`),
      () => this.#notice("Waiting for the connection …"),
    );
    // Answers from before a reload go first: the server then knows where we are.
    await Promise.race([this.client.flush(), sleep(1500)]);
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
    this.#lookAhead();
    if (step.rest) {
      step.rest = false;
      await this.#rest(step);
    }
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
    this.fetching ??= persist(
      this.client,
      () => this.client.trials(this.held),
      () => this.#notice("Waiting for the connection …"),
    )
      .then((answer) => this.#hold(answer))
      .finally(() => {
        this.fetching = null;
      });
    return this.fetching;
  }

  #hold({ state, trials, progress }) {
    this.total = progress.total;
    this.complete = state === "done" || !trials.length;
    const kept = this.client.outbox;
    let rest = state === "break";
    for (const trial of trials) {
      this.held = trial.position;
      const entry = { trial, decoding: null, images: null };
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
        const entry = [...coming].slice(0, AHEAD).find(({ images }) => !images);
        if (entry) await this.#decoded(entry);
        else if (coming.size < AHEAD && !this.complete) await this.#fetch();
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

    if (this.shown !== entry) this.#show(entry);
    this.view.ask(attribute);
    this.#head(step);
    this.view.arrange();
    this.element.dataset.state = "shown";
    const from = await painted();
    if (this.client.closed) return;
    const presentedAt = new Date().toISOString();

    const answer = await new Promise((resolve) => {
      this.open = { from, earliest: from + trial.min_view_ms, resolve };
      this.element.dataset.trial = trial.trial;
      this.element.dataset.state = "open";
      this.opening = setTimeout(() => this.#ready(), trial.min_view_ms);
    });
    clearTimeout(this.opening);
    this.open = null;
    this.element.dataset.state = "closed";
    if (answer.undo) {
      this.cursor = this.back;
      this.undone = true;
      return;
    }
    this.back = this.cursor;
    this.undone = false;
    do {
      const answered = this.steps[this.cursor];
      answered.revision += 1;
      this.client.submit({
        response_id: randomId(),
        trial: trial.trial,
        attribute: answered.attribute.name,
        revision: answered.revision,
        value: answer.value,
        ...(answer.reason ? { reason: answer.reason } : {}),
        ...(answer.marks ? { marks: answer.marks } : {}),
        response_time_ms: Math.max(0, Math.round((answer.at - from) * 10) / 10),
        presented_at: presentedAt,
      });
      this.cursor += 1;
      // A photograph that cannot be judged is skipped with all its questions.
    } while (answer.value === "skip" && this.steps[this.cursor]?.entry === entry);
    if (this.steps[this.cursor]?.entry !== entry) await this.#interval(trial.isi_ms, answer);
  }

  /** Show that an answer would be taken now. */
  #ready() {
    if (this.open && !this.card.open) this.element.dataset.state = "ready";
  }

  /** The grey field between two trials. */
  async #interval(ms, answer) {
    if (ms > 0) {
      this.view.confirm(answer);
      this.element.dataset.state = "interval";
      await sleep(ms);
    }
  }

  #show(entry) {
    this.view?.destroy();
    this.shown = entry;
    this.view = new VIEWS[this.study.method](entry.images, {
      answer: (answer, event) => this.#answer(answer, event.timeStamp),
      zoom: this.study.aids.includes("zoom"),
      study: this.study,
      used: () => this.#once("zoom"),
      changed: () => this.#buttons(),
    });
    this.logged = new Set();
    this.stage.replaceChildren(this.view.element);
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
    on(window, "keyup", (event) => this.view?.hold?.(event));
    on(document, "visibilitychange", () => {
      this.#log(document.hidden ? "focus_lost" : "focus_back");
      if (document.hidden) this.client.sendEvents();
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
    this.resizing = new ResizeObserver(() => this.view?.arrange());
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
    this.view?.hold?.(event);
    const onButton = this.root.getRootNode().activeElement?.tagName === "BUTTON";
    if (onButton && ["enter", " "].includes(name)) return; // presses that button
    if (name.startsWith("arrow") || [" ", "backspace"].includes(name)) take();
    if (event.repeat || !this.open) {
      if (!["tab", "shift"].includes(name)) {
        this.#log(event.repeat ? "key_repeat" : "key_between", { key: event.key });
      }
      return;
    }
    if (name === "z") this.view.zoom.reset();
    else if (name === "+") this.view.zoom.zoomBy(1.5);
    else if (name === "u" || name === "backspace") this.#takeBack();
    else if (name === "s" && !this.skip.hidden) this.#chooseSkip();
    else {
      const answer = this.view.answerOf(name);
      if (answer) this.#answer(answer, event.timeStamp);
    }
  }

  #takeBack() {
    if (!this.view?.takeBack?.()) this.#undo();
  }

  // -- what stands around the photographs -----------------------------------------------------------

  #build() {
    const quiet = (cap, text, onclick) =>
      h("button.quiet", { type: "button", onclick }, key(cap), h("span", {}, text));
    this.undo = quiet("U", "Undo", () => this.#takeBack());
    this.skip = quiet("S", "Skip", () => this.#chooseSkip());
    this.unzoom = quiet("Z", "Zoom out", () => this.view?.zoom.reset());
    this.question = h("h1.question", { ariaLive: "polite" });
    this.context = h("p.context");
    this.practice = h("span.practice", {}, "Practice");
    this.count = h("span.count");
    this.offline = h("p.offline", { role: "status" });
    this.bar = h("div.bar");
    this.stage = h("main.stagebox");
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
        h("div.side.end", {}, this.practice, this.count),
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
    this.question.textContent = attribute.question;
    this.context.textContent = Object.values(trial.context ?? {})
      .filter(Boolean)
      .join(" · ");
    this.practice.hidden = !trial.practice;
    this.skip.hidden = !this.study.skip_reasons.length;
    this.#buttons();
    this.count.textContent = `${trial.position} of ${this.total}`;
    this.bar.style.width = `${(100 * (trial.position - 1)) / this.total}%`;
  }

  #buttons() {
    this.undo.hidden = !this.study.undo && !this.view?.takeBack;
    this.undo.disabled = !this.undoable && !this.view?.marks?.length;
    this.unzoom.hidden = !this.view?.zoom?.zoomed;
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
    this.element.dataset.state = "ready";
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
