// What the browser keeps and how it talks to the server: the session, the answers that are not
// acknowledged yet, and a short queue of decoded photographs. No page is involved.

const API = new URL("api/v1/", document.baseURI);
const SEND_AFTER_MS = 30;
const RETRY_MS = [500, 1000, 2000, 4000, 8000, 15000];

/** An answer of the server that is not 2xx; `status` 0 means that no answer came. */
export class ApiError extends Error {
  constructor(status, code, message, completion) {
    super(message || code || `HTTP ${status}`);
    this.status = status;
    this.code = code || "";
    this.completion = completion; // a code for people whom the study turns away
  }
  /** Worth another try: no connection, server trouble, or too many requests. */
  get temporary() {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Random 128 bits as hex; `crypto.randomUUID` exists on https and localhost only. */
export function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const memory = new Map(); // where the browser refuses local storage: lasts as long as the page

/** What is kept for one study, in local storage. */
class Cupboard {
  constructor(study) {
    this.prefix = `percept/${study}/`;
  }
  get(name, otherwise = null) {
    const key = this.prefix + name;
    try {
      const text = localStorage.getItem(key);
      if (text !== null) return JSON.parse(text);
    } catch {
      // refused or damaged
    }
    return memory.has(key) ? memory.get(key) : otherwise;
  }
  set(name, value) {
    const key = this.prefix + name;
    memory.set(key, value);
    try {
      localStorage.setItem(key, JSON.stringify(value));
    } catch {
      // full or refused: memory has it
    }
  }
  remove(name) {
    const key = this.prefix + name;
    memory.delete(key);
    try {
      localStorage.removeItem(key);
    } catch {
      // nothing to remove
    }
  }
}

/** One observer in one study. */
export class Client extends EventTarget {
  constructor(study) {
    super();
    this.study = study;
    this.cupboard = new Cupboard(study);
    this.sending = null;
    this.failures = 0;
    this.events = [];
    this.closed = false;
  }

  close() {
    this.closed = true;
    this.#tell("closed");
  }

  get session() {
    return this.cupboard.get("session");
  }

  async request(method, path, body, { keepalive = false } = {}) {
    const headers = {};
    if (this.session) headers.Authorization = `Bearer ${this.session}`;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    let response;
    try {
      response = await fetch(new URL(path, API), {
        method,
        headers,
        keepalive,
        cache: "no-store",
        body: body === undefined ? undefined : JSON.stringify(body),
      });
    } catch {
      throw new ApiError(0, "offline", "no connection");
    }
    let answer = null;
    try {
      answer = await response.json();
    } catch {
      // an empty body, or a proxy's error page
    }
    if (!response.ok) {
      const { code, message, completion } = answer?.error ?? {};
      throw new ApiError(response.status, code, message, completion);
    }
    return answer ?? {};
  }

  /** Join the study, or come back to it: the same browser always gets the same session. */
  async join(facts) {
    let clientId = this.cupboard.get("client");
    if (!clientId) {
      clientId = randomId();
      this.cupboard.set("client", clientId);
    }
    const { session } = await this.request("POST", "sessions", {
      client_id: clientId,
      study: this.study,
      ...facts,
    });
    this.cupboard.set("session", session);
  }

  /** Have everything erased that this browser's session holds, there and here. */
  async withdraw() {
    await this.request("POST", "session/withdraw", { confirm: true });
    for (const name of ["session", "client", "outbox", "held"]) this.cupboard.remove(name);
  }

  /** The trials after a position; without one, from the first unanswered trial. */
  trials(after = null) {
    return this.request("GET", after === null ? "trials" : `trials?after=${after}`);
  }

  // -- answers ------------------------------------------------------------------------------

  /** Answers that the server has not acknowledged, oldest first. */
  get outbox() {
    return this.cupboard.get("outbox", []);
  }

  /**
   * Keep an answer until the server says that it is durable. It is sent in a moment, when the
   * next photographs are on the screen; whatever happens in between, it is kept.
   */
  submit(rating) {
    this.cupboard.set("outbox", [...this.outbox, rating]);
    setTimeout(() => this.closed || this.flush(), SEND_AFTER_MS);
  }

  /** Keep a vote that may still get marks. Whatever happens next, it will be sent. */
  hold(rating) {
    this.cupboard.set("held", rating);
  }

  /** Send the vote that is held, if there is one, with what was marked. */
  release(more = {}) {
    const rating = this.cupboard.get("held");
    if (!rating) return;
    this.cupboard.set("outbox", [...this.outbox, { ...rating, ...more }]);
    this.cupboard.remove("held");
    this.flush();
  }

  /** Send what is kept, in order, until nothing is left; resolves then. */
  flush() {
    this.sending ??= this.#send().finally(() => {
      this.sending = null;
    });
    return this.sending;
  }

  async #send() {
    for (let rating; !this.closed && (rating = this.outbox[0]); ) {
      try {
        await this.request("POST", "ratings", rating, { keepalive: true });
        this.#sent(rating);
      } catch (error) {
        if (error.temporary) {
          await this.#pause();
        } else {
          // 401: the session is gone, nothing can be sent. Else this one answer is refused
          // (already given in another window, for example) and must not hold up the rest.
          if (error.status === 401) {
            this.#tell("lost", error);
            return;
          }
          this.#sent(rating);
          this.#tell("refused", { rating, error });
        }
      }
    }
  }

  #sent(rating) {
    this.cupboard.set(
      "outbox",
      this.outbox.filter((kept) => kept.response_id !== rating.response_id),
    );
    this.failures = 0;
    this.#tell("connection", { online: true, waiting: this.outbox.length });
  }

  async #pause() {
    const ms = RETRY_MS[Math.min(this.failures, RETRY_MS.length - 1)];
    this.failures += 1;
    this.#tell("connection", { online: false, waiting: this.outbox.length });
    await this.patience(ms);
  }

  /** Wait, but no longer than until the browser says that it is online again. */
  patience(ms) {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        removeEventListener("online", done);
        this.removeEventListener("closed", done);
        resolve();
      };
      const timer = setTimeout(done, ms * (0.8 + 0.4 * Math.random()));
      addEventListener("online", done);
      this.addEventListener("closed", done);
    });
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  // -- what happened beside the answers ---------------------------------------------------------

  /** Log something that is no answer (a key too early, zoom used). Sent in batches, best effort. */
  log(name, trial, data = null) {
    this.events.push({ name, trial: trial ?? null, data, at: new Date().toISOString() });
    if (this.events.length > 100) this.events.shift();
    clearTimeout(this.eventTimer);
    this.eventTimer = setTimeout(() => this.sendEvents(), 2000);
  }

  async sendEvents() {
    if (!this.events.length) return;
    const batch = this.events.splice(0);
    try {
      await this.request("POST", "events", { events: batch }, { keepalive: true });
    } catch (error) {
      if (error.temporary) this.events.unshift(...batch);
    }
  }
}

/** Name and main version of the browser, and the system, no more. */
function browser() {
  const known = /(Firefox|Edg|OPR|Chrome|Version)\/(\d+)/g;
  const found = [...navigator.userAgent.matchAll(known)].at(-1);
  const system = /Windows|Android|iPhone|iPad|Mac OS|Linux/.exec(navigator.userAgent)?.[0];
  const name = found ? `${found[1].replace("Version", "Safari")} ${found[2]}` : "unknown";
  return `${name}, ${system ?? "unknown"}`;
}

/** Facts about the window that bear on what colours look like; nothing that names a person. */
export function screening() {
  const gamut = ["rec2020", "p3", "srgb"].find((name) => matchMedia(`(color-gamut: ${name})`).matches);
  return {
    device_pixel_ratio: devicePixelRatio,
    window: [innerWidth, innerHeight],
    screen: [screen.width, screen.height],
    color_gamut: gamut ?? "unknown",
    color_depth: screen.colorDepth,
    // Of the window against its content: the zoom of the browser, where it tells.
    zoom: Math.round((100 * outerWidth) / innerWidth) / 100,
    browser: browser(),
    touch: matchMedia("(pointer: coarse)").matches,
  };
}

/**
 * Load and decode the photographs of one trial. Three requests at a time are enough: asking for
 * a whole session at once stalls browsers, and the next trial is what matters.
 */
export async function decode(images) {
  const entries = await Promise.all(
    Object.entries(images).map(async ([role, token]) => {
        const image = new Image();
        image.decoding = "sync"; // it is decoded below; a late decode would flash
        image.draggable = false;
        image.src = new URL(`stimuli/${token}`, API).href;
        await image.decode();
        return [role, image];
      }),
  );
  return Object.fromEntries(entries);
}
