// What Streamlit's pages ask of the browser; see app/browser.py.

import { Client, screening } from "./client.js";
import { mountDisplay } from "./display.js";
import { mount } from "./viewer.js";

const ACTIONS = { probe, display, join, rate, finish, withdraw };
const running = new WeakMap(); // parentElement: what runs there

/**
 * Streamlit calls this again whenever the page reruns, and the cleanup only when the component
 * leaves the page: the same request must not be carried out twice.
 */
export function act({ data, parentElement, setStateValue, setTriggerValue }) {
  const request = JSON.stringify(data);
  const before = running.get(parentElement);
  if (before?.request === request) return before.cleanup;
  before?.cleanup();
  let undo = null;
  let gone = false;
  const cleanup = () => {
    gone = true;
    undo?.();
  };
  running.set(parentElement, { request, cleanup });
  const go = (page) => gone || leave(page, data.study, setTriggerValue);
  Promise.resolve(ACTIONS[data.action](data, { go, parentElement, setStateValue, setTriggerValue })).then((done) => {
    undo = done ?? null;
    if (gone) undo?.();
  });
  return cleanup;
}

/** Change the page through Streamlit, or by loading it where Streamlit does not answer. */
function leave(page, study, setTriggerValue) {
  const here = location.pathname;
  setTriggerValue("go", page);
  setTimeout(() => {
    if (location.pathname !== here) return;
    const url = new URL(page === "join" ? "." : page, document.baseURI);
    url.searchParams.set("study", study);
    location.assign(url);
  }, 4000);
}

/** Has this browser begun the study before, and how far is it? */
async function probe({ study }, { setStateValue }) {
  const client = new Client(study);
  let known = { joined: false };
  if (client.session) {
    try {
      const { progress, finished } = await client.request("GET", "session");
      known = { joined: true, finished, ...progress };
    } catch (error) {
      if (error.status === 401) client.cupboard.remove("session");
      else known = { joined: true, finished: false, answered: null };
    }
  }
  client.close();
  setStateValue("known", known);
}

async function join({ study, facts }, { go, setTriggerValue }) {
  const client = new Client(study);
  try {
    await client.join({ ...facts, screening: { ...screening(), ...facts.screening } });
    go("instructions");
  } catch (error) {
    setTriggerValue("refused", refusal(error));
  }
  client.close();
}

function refusal({ status, code, message, completion }) {
  if (!status) return { code: "offline", message: "The server does not answer. Please try again in a moment." };
  return { code, message, ...(completion && { completion }) };
}

/** What the screen shows, and what its owner sees on it. */
function display(_, { parentElement, setStateValue }) {
  return mountDisplay(parentElement, (told) => setStateValue("display", { ...screening(), ...told }));
}

async function withdraw({ study }, { go, setStateValue, setTriggerValue }) {
  const client = new Client(study);
  if (!client.session) return go("join");
  try {
    await client.withdraw();
    setStateValue("withdrawn", true);
  } catch (error) {
    if (error.status === 401) {
      client.cupboard.remove("session");
      return go("join");
    }
    setTriggerValue("refused", refusal(error));
  }
  return () => client.close();
}

function rate({ study }, { go }) {
  return mount(study, go);
}

/** The completion code is shown only when the server says that every answer is durable. */
async function finish({ study }, { go, setStateValue }) {
  const client = new Client(study);
  if (!client.session) return go("join");
  for (;;) {
    await client.flush();
    try {
      const { state, completion } = await client.trials();
      if (state !== "done") return go("rate");
      setStateValue("completion", completion);
      return () => client.close();
    } catch (error) {
      if (!error.temporary) return go(error.status === 401 ? "join" : "rate");
      await client.patience(2000);
    }
  }
}
