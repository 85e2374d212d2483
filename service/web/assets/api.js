"use strict";
/* Asks the service, with the token where it wants one, and hears what happens. */

const api = {
  token: sessionStorage.getItem("token") || "",
  asking: null,

  /* A header holds bytes: those of the token in UTF-8. */
  bearer: (token) => `Bearer ${String.fromCharCode(...new TextEncoder().encode(token))}`,

  headers(more) {
    return api.token ? { ...more, Authorization: api.bearer(api.token) } : { ...more };
  },

  /* The answer as JSON. Throws an Error with the service's own words. */
  async get(path) {
    const headers = api.headers({ Accept: "application/json" });
    const response = await fetch(path, { headers, signal: AbortSignal.timeout(20000), cache: "no-store" });
    if (response.status === 401) {
      await api.ask();
      return api.get(path);
    }
    const said = await response.json().catch(() => ({}));
    if (!response.ok && !(said.status && path === "/readyz")) {
      const error = new Error(said.error ? said.error.message : `HTTP ${response.status}`);
      error.status = response.status;
      throw error;
    }
    return said;
  },

  /* Ask for the token until it is right; one question at a time. */
  ask() {
    api.asking ||= new Promise((resolve) => {
      const dialog = $("ask");
      const hadOne = api.token !== "";
      $("ask-error").hidden = !hadOne;
      dialog.onclose = () => { if (api.asking) dialog.showModal(); }; // there is nothing to see without
      $("ask-form").onsubmit = async (event) => {
        event.preventDefault();
        const token = $("token").value.trim();
        const response = await fetch("/jobs?limit=1", { headers: { Authorization: api.bearer(token) } }).catch(() => null);
        if (response === null || response.status === 401) {
          $("ask-error").hidden = false;
          $("token").select();
          return;
        }
        api.token = token;
        sessionStorage.setItem("token", token);
        api.asking = null;
        dialog.close();
        resolve();
      };
      if (!dialog.open) dialog.showModal();
    });
    return api.asking;
  },
};

/* Server-sent events by fetch, which can send the token (EventSource cannot). Goes on after the
   last event that was heard; `changed` is told whether it hears anything. */
function listen(heard, changed) {
  let lastId = "", heardAt = 0, controller = null, pause = 500, timer = 0, isAgain = false, isOpen = false;
  const SILENT_MS = 25000; // two heartbeats and a half

  async function connect() {
    controller = new AbortController();
    heardAt = Date.now(); // it has its time to answer, too
    isOpen = true;
    try {
      const headers = api.headers({ Accept: "text/event-stream", ...(lastId ? { "Last-Event-ID": lastId } : {}) });
      const response = await fetch("/events", { headers, signal: controller.signal, cache: "no-store" });
      if (response.status === 401) await api.ask();
      if (!response.ok || !response.body) throw new Error(`HTTP ${response.status}`);
      pause = 500;
      await read(response.body.pipeThrough(new TextDecoderStream()).getReader());
    } catch {
      /* told below */
    }
    isOpen = false;
    changed("stale");
    timer = setTimeout(connect, pause * (0.5 + Math.random()));
    pause = Math.min(pause * 2, 8000);
  }

  async function read(reader) {
    let rest = "", isFirst = true;
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      heardAt = Date.now();
      if (isFirst) changed("live", isAgain);
      isFirst = false;
      isAgain = true;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      blocks.forEach(tell);
    }
  }

  function tell(block) {
    const event = {};
    for (const line of block.split("\n")) {
      const colon = line.indexOf(":");
      if (colon > 0) event[line.slice(0, colon)] = line.slice(colon + 1).replace(/^ /, "");
    }
    if (event.id) lastId = event.id;
    if (event.data) heard(event.event, JSON.parse(event.data));
  }

  setInterval(() => {
    if (isOpen && Date.now() - heardAt > SILENT_MS) controller.abort();
  }, 2000);
  addEventListener("online", () => {
    if (isOpen) return;
    clearTimeout(timer);
    connect();
  });
  connect();
}
