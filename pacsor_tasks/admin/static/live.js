// Keeps a page fresh. The server renders every page whole; when something changed, the page is
// fetched again and the parts marked data-live are replaced where they differ. Without this script
// the pages work all the same.
"use strict";
(() => {
  const body = document.body;
  const live = document.getElementById("live");
  const stale = document.getElementById("stale");
  const MIN_GAP_MS = 1000; // between two fetches, however much happens
  const OPEN_MS = 5000; // a look at what still moves: steps that begin make no event
  const IDLE_MS = 30000;

  // --- times

  let skew = Date.parse(body.dataset.now) - Date.now();
  const local = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

  function span(seconds) {
    if (seconds < 60) return Math.floor(seconds) + " s";
    if (seconds < 3600) return Math.floor(seconds / 60) + " min";
    if (seconds < 2 * 86400) return Math.floor(seconds / 3600) + " h";
    return Math.floor(seconds / 86400) + " days";
  }

  function words(kind, seconds) {
    if (kind === "ago") return seconds < 1 ? "just now" : span(seconds) + " ago";
    if (seconds <= -1) return "in " + span(Math.ceil(-seconds));
    return seconds < 15 ? "now" : span(seconds) + " ago";
  }

  function tick(root = document) {
    const now = Date.now() + skew;
    for (const time of root.querySelectorAll("time[data-rel]")) {
      const at = Date.parse(time.dateTime);
      const seconds = (now - at) / 1000;
      const text = words(time.dataset.rel, seconds);
      if (time.textContent !== text) time.textContent = text;
      if (!time.title) time.title = local.format(at);
      if (time.dataset.rel === "due") time.classList.toggle("overdue", seconds > 60);
    }
  }

  // --- replacing what changed

  const served = new WeakMap(); // element → its HTML as the server sent it

  function remember(root) {
    const parts = root.querySelectorAll("[data-live], [data-keyed] > *");
    for (const part of [root, ...parts]) served.set(part, part.outerHTML);
  }

  // What is pressed stays until it is let go: else a click begun on it would be lost.
  let pressed = null;
  addEventListener("pointerdown", (event) => { pressed = event.target; });
  for (const kind of ["pointerup", "pointercancel"]) {
    addEventListener(kind, () => setTimeout(() => { pressed = null; }));
  }

  function isInUse(element) {
    if (pressed && element.contains(pressed)) return true;
    const chosen = document.getSelection();
    return chosen && !chosen.isCollapsed && chosen.containsNode(element, true);
  }

  function replace(old, fresh) {
    const html = fresh.outerHTML;
    if (served.get(old) === html || isInUse(old)) return old;
    const focused = old.contains(document.activeElement) ? document.activeElement : null;
    const link = focused && focused.getAttribute("href");
    const action = focused && focused.form && focused.form.getAttribute("action");
    const open = [...old.querySelectorAll("details[open][id]")].map((d) => d.id);
    const node = document.importNode(fresh, true);
    old.replaceWith(node);
    remember(node);
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    if (link) node.querySelector(`[href="${CSS.escape(link)}"]`)?.focus({ preventScroll: true });
    if (action) node.querySelector(`form[action="${CSS.escape(action)}"] button`)?.focus({ preventScroll: true });
    return node;
  }

  function patchRows(old, fresh) {
    // Rows keep their place while somebody points at them or has the focus among them.
    const hold = old.matches(":hover") || old.contains(document.activeElement);
    let before = null;
    for (const row of [...fresh.children]) {
      const present = document.getElementById(row.id);
      let node = present ? replace(present, row) : null;
      if (present && node !== present) flash(node);
      if (!present && !hold) {
        node = document.importNode(row, true);
        remember(node);
        flash(node);
      }
      if (!hold && node) {
        const next = before ? before.nextElementSibling : old.firstElementChild;
        if (next !== node) old.insertBefore(node, next);
        before = node;
      }
    }
    if (hold) return;
    while (before && before.nextElementSibling) before.nextElementSibling.remove();
  }

  function flash(node) {
    node.classList.add("fresh");
    setTimeout(() => node.classList.remove("fresh"), 2000);
  }

  function patch(page) {
    for (const fresh of page.querySelectorAll("[data-live]")) {
      const old = document.getElementById(fresh.id);
      if (!old) continue;
      const rows = old.querySelector("[data-keyed]");
      const freshRows = fresh.querySelector("[data-keyed]");
      if (rows && freshRows) {
        patchRows(rows, freshRows);
        const pager = old.querySelector(".pager");
        const freshPager = fresh.querySelector(".pager");
        if (pager && freshPager) pager.replaceWith(document.importNode(freshPager, true));
        else if (pager) pager.remove();
        else if (freshPager) old.append(document.importNode(freshPager, true));
      } else {
        replace(old, fresh);
      }
    }
    tick();
  }

  // --- fetching

  let fetching = false;
  let wanted = false;
  let last = 0;

  async function refresh() {
    wanted = true;
    if (fetching || document.hidden) return;
    fetching = true;
    try {
      while (wanted && !document.hidden) {
        const pause = last + MIN_GAP_MS - Date.now();
        if (pause > 0) await new Promise((done) => setTimeout(done, pause));
        wanted = false;
        last = Date.now();
        await load();
      }
    } finally {
      fetching = false;
    }
  }

  async function load() {
    let answer;
    try {
      answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
    } catch {
      say("The gateway's admin does not answer. What you see may be old.");
      return;
    }
    if (answer.redirected && new URL(answer.url).pathname === "/login") {
      location.reload();
      return;
    }
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (!answer.ok) {
      const health = page.getElementById("health");
      if (health) replace(document.getElementById("health"), health);
      say(answer.status === 503 ? "The ledger does not answer. What you see may be old." : "This page cannot be refreshed.");
      return;
    }
    say("");
    skew = Date.parse(page.body.dataset.now) - Date.now();
    // Another kind of page: what was away is back, or what arrived is a study by now.
    if (body.hasAttribute("data-retry") || body.hasAttribute("data-arriving") !== page.body.hasAttribute("data-arriving")) {
      location.reload();
      return;
    }
    patch(page);
  }

  function say(text) {
    stale.textContent = text;
    stale.hidden = !text;
  }

  // --- live changes

  function status(state, text) {
    live.hidden = false;
    live.dataset.state = state;
    live.textContent = text;
  }

  let latest = body.dataset.event;

  function listen() {
    const source = new EventSource("/api/stream?after=" + encodeURIComponent(latest));
    source.onopen = () => status("live", "Live");
    source.onerror = () => {
      status("away", "Reconnecting…");
      if (source.readyState !== EventSource.CLOSED) return;
      setTimeout(listen, 5000);
      refresh(); // shows the login page when the session is over
    };
    source.addEventListener("changed", (event) => {
      if (event.lastEventId) latest = event.lastEventId;
      const { studies, everything } = JSON.parse(event.data);
      if (everything || body.dataset.scope === "list" || studies.includes(body.dataset.scope)) refresh();
    });
    source.addEventListener("ledger", () => refresh());
    addEventListener("pagehide", () => source.close(), { once: true });
  }

  // --- what an operator does

  const outcome = document.getElementById("outcome");
  const confirm = document.getElementById("confirm");
  const relaunchForm = document.getElementById("relaunch");

  async function act(form, failed, success) {
    const button = form.querySelector("button[type=submit]");
    button.disabled = true;
    let text;
    let tone = "tone-good";
    try {
      const answer = await post(form);
      const said = answer.ok && !form.dataset.action ? null : await answer.json();
      if (!answer.ok) throw new Error(said.detail || answer.statusText);
      text = success(said) + notOn(answer.url);
    } catch (error) {
      tone = "tone-bad";
      text = `${failed}: ${error.message}`;
    }
    outcome.className = "banner " + tone;
    outcome.textContent = text;
    outcome.hidden = false;
    button.disabled = false;
    refresh();
  }

  // Errors come back as JSON; a form that has no route for programs is answered by its page.
  function post(form) {
    return fetch(form.dataset.action || form.action, {
      method: "POST",
      headers: { Accept: "application/json" },
      body: form.dataset.action ? undefined : new URLSearchParams(new FormData(form)),
    });
  }

  // The page that a form leads to says in its address on which cores nothing was done.
  function notOn(address) {
    const cores = new URL(address).searchParams.getAll("not_on");
    return cores.length ? ` Not on ${cores.join(", ")}, where it cannot begin or is under way.` : "";
  }

  function relaunched(said) {
    const n = said.run_ids.length;
    const not = Object.entries(said.refused_on).map(([core, why]) => ` Not on ${core}: ${why}.`);
    return `Relaunched: ${n} new ${n === 1 ? "run" : "runs"}.` + not.join("");
  }

  if (relaunchForm && confirm.showModal) {
    relaunchForm.addEventListener("submit", (event) => {
      event.preventDefault();
      confirm.returnValue = "no";
      confirm.showModal();
    });
    confirm.addEventListener("close", () => {
      if (confirm.returnValue === "yes") act(relaunchForm, "Not relaunched", relaunched);
    });
  }

  // On the document: these forms come and go with the studies they are of.
  document.addEventListener("submit", (event) => {
    if (!event.target.matches("form.complete")) return;
    event.preventDefault();
    act(event.target, "Not completed", () => "Complete: it is closed now as it is.");
  });

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!outcome || !form.matches("form.verb, form.operate")) return;
    event.preventDefault();
    form.closest("dialog")?.close();
    const verb = form.dataset.verb;
    act(form, verb + ": not done", () => verb + ": done.");
  });

  // A link to a form: the form in a dialog, where there is room for what becomes of it.
  const box = document.createElement("dialog");

  document.addEventListener("click", async (event) => {
    const link = event.target.closest?.("a[data-ask]");
    const isPlain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey;
    if (!link || !outcome || !box.showModal || !isPlain) return;
    event.preventDefault();
    const answer = await fetch(link.href, { headers: { Accept: "text/html" } }).catch(() => null);
    const page = answer && new DOMParser().parseFromString(await answer.text(), "text/html");
    const form = page && page.querySelector("form.operate");
    if (!form) {
      location.href = link.href;
      return;
    }
    box.replaceChildren(document.importNode(form, true));
    body.append(box);
    box.showModal();
    box.querySelector("input, select, button")?.focus();
  });

  box.addEventListener("click", (event) => {
    if (!event.target.closest("[data-close]")) return;
    event.preventDefault();
    box.close();
  });

  // --- start

  remember(body);
  tick();
  setInterval(tick, 1000);
  if (body.hasAttribute("data-retry")) {
    setInterval(refresh, 3000);
  } else if (latest !== undefined) {
    listen();
    document.addEventListener("visibilitychange", refresh);
    document.getElementById("list")?.addEventListener("pointerleave", refresh);
    setInterval(() => {
      const gap = document.querySelector("[data-open]") ? OPEN_MS : IDLE_MS;
      if (Date.now() - last >= gap) refresh();
    }, 1000);
  }
})();
