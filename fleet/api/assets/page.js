// Keeps the page of a running job up to date. The server says what stands there, word by word; nothing here makes HTML of a
// text. When the page has to look different, it is asked for anew and its parts are put in place of those that are here.
"use strict";

(() => {
  const RETRY_MS = 5000, MOST_RETRIES = 120, SAY_EVERY_MS = 15000;
  const main = document.getElementById("main");
  const said = document.getElementById("said");
  if (!main || !main.dataset.liveFrom || "ended" in main.dataset) return;

  let words = new Map(), bars = new Map();
  let source = null, renewing = false, again = false, ended = false, retries = 0, saidAt = 0;

  function find() {
    words = new Map();
    bars = new Map();
    for (const [name, places] of [["live", words], ["bar", bars]]) {
      for (const element of main.querySelectorAll(`[data-${name}]`)) {
        const key = element.dataset[name];
        places.set(key, [...(places.get(key) ?? []), element]);
      }
    }
  }

  function draw(bar, shares) {
    let begin = 0;
    // The first part is the track.
    [...bar.children].slice(1).forEach((part, place) => {
      part.setAttribute("x", `${begin}%`);
      part.setAttribute("width", `${shares[place]}%`);
      begin += shares[place];
    });
  }

  function show(values) {
    for (const [key, value] of Object.entries(values)) {
      for (const element of words.get(key) ?? []) if (element.textContent !== value) element.textContent = value;
      for (const bar of bars.get(key) ?? []) draw(bar, value);
    }
    if (values.summary && (Date.now() - saidAt > SAY_EVERY_MS)) say(values.summary);
  }

  // For who does not see the page: now and then, not at every number.
  function say(text) {
    saidAt = Date.now();
    said.textContent = text;
  }

  function liveness(text) {
    const place = document.getElementById("liveness");
    if (!place) return;
    place.textContent = text;
    place.hidden = !text;
    place.classList.toggle("off", text !== "live");
  }

  function renew() {
    if (renewing) { again = true; return; }
    renewing = true;
    const request = new XMLHttpRequest();
    request.open("GET", location.href);
    request.responseType = "document";
    request.timeout = 30000;
    request.onloadend = () => {
      renewing = false;
      const fresh = request.status === 200 && request.response ? request.response.getElementById("main") : null;
      if (!fresh) { liveness("not up to date: reload the page"); return; }
      const open = [...main.querySelectorAll("details[open]")].map((one) => one.id);
      const scrolled = [...main.querySelectorAll(".scroll")].map((one) => [one.getAttribute("aria-label"), one.scrollLeft]);
      if ("ended" in fresh.dataset) ended = true;
      main.replaceChildren(...fresh.childNodes);
      main.dataset.shape = fresh.dataset.shape;
      for (const id of open) document.getElementById(id)?.setAttribute("open", "");
      for (const [label, left] of scrolled) {
        for (const one of main.querySelectorAll(".scroll")) if (one.getAttribute("aria-label") === label) one.scrollLeft = left;
      }
      find();
      liveness(ended ? "" : "live");
      document.dispatchEvent(new Event("fleet:renewed"));
      if (again) { again = false; renew(); }
    };
    request.send();
  }

  function listen() {
    if (ended || document.hidden || (source && source.readyState !== EventSource.CLOSED)) return;
    source = new EventSource(main.dataset.liveFrom);
    source.addEventListener("open", () => { retries = 0; liveness("live"); });
    source.addEventListener("state", (event) => {
      const state = JSON.parse(event.data);
      show(state.values);
      if (state.shape !== main.dataset.shape) {
        if (state.values.summary) say(state.values.summary);
        renew();
      }
    });
    source.addEventListener("end", () => {
      ended = true;
      source.close();
      liveness("");
      renew();
    });
    source.addEventListener("error", () => {
      if (ended) return;
      liveness("reconnecting");
      if (source.readyState !== EventSource.CLOSED) return; // the browser comes back by itself
      if (++retries > MOST_RETRIES) { liveness("not up to date: reload the page"); return; }
      // An answer without a stream: the job may have ended meanwhile.
      if (retries === 1) renew();
      setTimeout(listen, RETRY_MS);
    });
  }

  // A browser keeps few connections to one host: a page that nobody sees needs none.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden && source) {
      source.close();
      liveness("");
    }
    listen();
  });

  find();
  listen();
})();
